"""Runs in a store."""

import os
import signal

OFF = "tracking=off"


def runs_of(store, experiment="frostline"):
    found = store.get_experiment_by_name(experiment)
    return store.search_runs([found.experiment_id], order_by=["attributes.start_time"]) if found else []


def interrupt_step_three(monkeypatch):
    """Sends Ctrl-C in the third step of this process; returns a list that grows with every step."""
    from transformers import Trainer

    real, calls = Trainer.training_step, []

    def step(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", step)
    return calls
