"""A trial whose worker was killed between its last file and the store."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient

from frostline.config import compose_job
from frostline.records.run_context import Sharing
from frostline.records.trial import TrialState
from frostline.sweeps.trial import run_trial
from frostline.sweeps.trial_job import SeedRun, TrialJob
from tests.support.sweep_tools import mlflow_runs


class Channel:
    """Nobody answers."""

    def heartbeat(self):
        pass

    def send(self, value):
        pass

    def ask(self, value):
        return False


def test_it_is_not_trained_again_but_recorded_again(tiny_overrides, in_tmp, tmp_path):
    folder = tmp_path / "000"
    store = f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    job = compose_job([*tiny_overrides, "training.epochs=1", f"tracking.uri={store}"])
    run = SeedRun(job=job, folder=folder, overrides=(), until_epoch=None)
    trial = TrialJob(
        number=0, name="d0", runs=(run,), ask=False, pauses=False, several=False,
        steps_per_run=1, parent=None, params={},
        sharing=Sharing(),
    )  # fmt: skip
    assert run_trial(trial, Channel()).outcome.state is TrialState.COMPLETE
    (reported,) = mlflow_runs(Path.cwd())
    assert (reported.info.status, reported.data.tags["frostline.status"]) == ("FINISHED", "FINISHED")
    stamp = (folder / "result.json").stat().st_mtime_ns
    client = MlflowClient(store)  # as the next command leaves a run whose process died before it could say how it ended
    client.set_tag(reported.info.run_id, "frostline.status", "KILLED")
    client.set_tag(reported.info.run_id, "frostline.reason", "its process died")
    client.set_terminated(reported.info.run_id, status="KILLED")
    assert run_trial(trial, Channel()).outcome.state is TrialState.COMPLETE
    (again,) = mlflow_runs(Path.cwd())
    assert again.info.run_id == reported.info.run_id
    assert (again.info.status, again.data.tags["frostline.status"]) == ("FINISHED", "FINISHED")
    assert "frostline.reason" not in again.data.tags
    assert (folder / "result.json").stat().st_mtime_ns == stamp
    assert again.data.metrics == reported.data.metrics
