"""A search without training: an executor that answers at once, and what drives it."""

from __future__ import annotations

import math
from pathlib import Path

import optuna
import yaml

from frostline import paths
from frostline.records.result import Cause
from frostline.records.trial import TrialOutcome, TrialState
from frostline.search import (
    Journal,
    SearchLimits,
    Study,
    TrialEnded,
    TrialReported,
    queue_of,
    search,
)
from frostline.spec import Space, SweepSpec, parse_dimension
from frostline.spec.decode import decode


def make_plan(**changes) -> SweepSpec:
    """The shipped plan, changed."""
    text = (paths.sweeps_dir() / "sweep" / "_base" / "plan.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)["sweep"]
    values.pop("space")
    values.pop("enqueue")
    values["name"] = "test"
    values["pruner"].update(changes.pop("pruner", {}))
    return decode(SweepSpec, {**values, "promote_fraction": 0.25, **changes}, "sweep")


SPACE = Space(
    groups=(),
    variants={
        (): (
            parse_dimension("freeze.depth", {"low": 0, "high": 4, "coarse": 3})[0],
            parse_dimension("optimizer.lr", {"low": 1e-5, "high": 1e-2, "log": True, "coarse": 2})[0],
        )
    },
)


EPOCHS = 3


def quality(params, seed=0, epoch=EPOCHS):
    """Peaks at depth 1 and lr 1e-3; more epochs are better; a seed moves it a little."""
    peak = 0.9 - 0.05 * abs(params["freeze.depth"] - 1) - 0.1 * abs(math.log10(params["optimizer.lr"]) + 3)
    return peak - 0.02 * (EPOCHS - epoch) + 0.003 * seed


class Killed(BaseException):
    """The process dies here."""


class FakeExecutor:
    """Trains nothing; `slots` tasks at a time, each making its reports one by one. In a random order on request."""

    def __init__(self, plan, value=quality, slots=1, kill_after=None, order=None, broken=None):
        self.plan, self.value, self.slots = plan, value, slots
        self.kill_after, self.order, self.broken = kill_after, order, broken or {}
        self.running = {}
        self.done = []
        self.cut = set()
        self.events = 0
        self.stopped = False

    @property
    def free(self):
        return 0 if self.stopped else self.slots - len(self.running)

    def submit(self, task):
        first = task.rung == 1 and self.plan.has_rungs
        epochs = self.plan.rung_epochs if first and self.plan.rung_epochs else EPOCHS
        begin = 0 if task.rung == 1 else self.plan.rung_epochs or 0
        self.running[task.number] = (task, list(range(begin + 1, epochs)), first)

    def wait(self):
        self.events += 1
        if self.kill_after is not None and self.events > self.kill_after:
            raise Killed
        numbers = sorted(self.running)
        number = self.order.choice(numbers) if self.order else numbers[0]
        task, steps, first = self.running[number]
        if self.stopped:
            del self.running[number]
            return [TrialEnded(number=number, outcome=None)]
        if steps:
            step = steps.pop(0)
            return [TrialReported(number=number, step=step, value=self.value(task.params, 0, step))]
        del self.running[number]
        return [TrialEnded(number=number, outcome=self.outcome(task, first))]

    def outcome(self, task, first):
        if task.number in self.broken or (task.number, task.rung) in self.broken:
            reason = self.broken.get(task.number) or self.broken[task.number, task.rung]
            cause = reason if isinstance(reason, Cause) else Cause.ERROR
            error = reason.partition(":")[0] if cause is Cause.ERROR else None
            return TrialOutcome(state=TrialState.FAILED, reason=str(reason), cause=cause, error=error)
        if task.number in self.cut:
            return TrialOutcome(state=TrialState.PRUNED, by_seed={0: self.value(task.params, 0, 1)}, reason="pruned")
        self.done.append((task.number, task.rung))
        epoch = self.plan.rung_epochs if first and self.plan.rung_epochs else EPOCHS
        seeds = self.plan.seeds or (0,)
        seeds = seeds[:1] if first else seeds
        by_seed = {seed: self.value(task.params, seed, epoch) for seed in seeds}
        cost = {"num_trainable": float(10 - task.params["freeze.depth"]), "train_s": 1.0}
        return TrialOutcome(state=TrialState.COMPLETE, by_seed=by_seed, cost=cost, paused=first)

    def answer(self, key, prune):
        number = key[0]
        if prune:
            task, _, first = self.running[number]
            self.running[number] = (task, [], first)
            self.cut.add(number)

    def stop(self):
        self.stopped = True


class Quiet:
    def __init__(self):
        self.lines = []

    def started(self, task):
        self.lines.append(("started", task.number, task.rung))

    def reported(self, number, step, value):
        pass

    def ended(self, trial, trials):
        self.lines.append(("ended", trial.number, trial.state))

    def pruned(self, trial, trials):
        self.lines.append(("pruned", trial.number, trial.state))

    def released(self, number):
        self.lines.append(("released", number))


def open_study(folder: Path, plan, space=SPACE, maximize=True) -> Study:
    return Study(Journal(folder / "journal.log").open(), "test", plan, space, maximize=maximize, max_steps=3)


def optuna_trials(folder: Path):
    """The trials as Optuna itself reads them from the journal."""
    storage = Journal(folder / "journal.log").open()
    return optuna.load_study(study_name="test", storage=storage).get_trials(deepcopy=False)


def go(folder, plan, executor=None, total=None, listener=None, space=SPACE, explicit=None, **kwargs):
    study = open_study(folder, plan, space)
    study.fill(queue_of(plan, space, explicit))
    executor = executor or FakeExecutor(plan)
    total = total if total is not None else plan.n_trials
    limits = {name: kwargs.pop(name) for name in ("should_stop", "clock") if name in kwargs}
    return search(plan, study, executor, listener or Quiet(), SearchLimits(total=total, **limits), **kwargs)


def table(trials):
    return [(p.number, p.params, p.state, p.quality, p.rung) for p in trials]
