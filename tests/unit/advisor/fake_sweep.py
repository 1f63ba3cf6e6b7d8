"""A sweep with sampler `frost` over a fake executor."""

from __future__ import annotations

import math

import numpy as np

from frostline.advisor import Advisor, Question
from frostline.records.predictions import RowScores, known
from frostline.records.trial import TrialOutcome, TrialRecord, TrialState
from frostline.search import Journal, SearchLimits, Study, TrialEnded, queue_of, search
from frostline.spec import Space, parse_dimension
from frostline.sweeps.questions import SeedRace
from tests.unit.search.fake_search import Killed, Quiet, make_plan

DEPTH = parse_dimension("freeze.depth", {"low": 0, "high": 4})[0]


RATE = parse_dimension("optimizer.lr", {"low": 1e-5, "high": 1e-2, "log": True})[0]


DECAY = parse_dimension("optimizer.weight_decay", {"low": 0.0, "high": 0.1})[0]


SCHEDULE = parse_dimension("optimizer.schedule", {"choices": ["linear", "cosine"]})[0]


DEAD = RowScores(labels=np.arange(40) % 2, predicted=np.zeros(40, dtype=int), losses=np.zeros(40))
"""What a run says that learnt nothing."""


def question(*dimensions, margin=0.02, **changes):
    fields = {"metric": "accuracy", "maximize": True, "num_blocks": 4, "optimizer": "adamw", "freeze": "depth"}
    return Question(dimensions=dimensions, margin=margin, confidence=0.9, **{**fields, **changes})


def quality(params, seed=0):
    depth, rate = params.get("freeze.depth", 0), math.log10(params.get("optimizer.lr", 1e-4))
    depth = -1 if depth is None else depth
    rng = np.random.default_rng([seed, round(depth) + 1, round(-1000 * rate)])
    ridge = -4 + max(0, depth) / 4
    return 0.85 - (0.1 if depth == 4 else 0.0) - 0.05 * (rate - ridge) ** 2 + rng.normal(0, 0.001)


class Executor:
    """One task at a time, or as many as there are slots, ended in order; dies after so many."""

    def __init__(self, value=quality, slots=1, kill_after=None, broken=(), refused=(), at_hand=20_000):
        self.at_hand = at_hand
        self.value, self.slots, self.kill_after = value, slots, kill_after
        self.broken, self.refused = broken, refused
        self.running, self.done, self.stopped = [], [], False

    @property
    def free(self):
        return 0 if self.stopped else self.slots - len(self.running)

    def submit(self, task):
        self.running.append(task)

    def wait(self):
        if self.kill_after is not None and len(self.done) >= self.kill_after:
            raise Killed
        task = self.running.pop(0)
        self.done.append(task.key)
        seed = 0 if task.seed is None else task.seed
        if task.key in self.refused:
            return [TrialEnded(number=task.number, seed=task.seed, outcome=None, fatal="it can't be had")]
        if task.key in self.broken:
            return [
                TrialEnded(
                    number=task.number, seed=task.seed, outcome=TrialOutcome(state=TrialState.FAILED, reason="x")
                )
            ]
        cost = {"eval_rows": 20_000.0, "train_rows": 20_000.0, "train_s": 1.0}
        cost |= {"scored_rows": 20_000.0, "rows_at_hand": self.at_hand, "trained_per_scoring": 20_000.0}
        outcome = TrialOutcome(state=TrialState.COMPLETE, by_seed={seed: self.value(task.params, seed)}, cost=cost)
        return [TrialEnded(number=task.number, seed=task.seed, outcome=outcome)]

    def answer(self, number, prune):
        pass

    def stop(self):
        self.stopped = True


class Watch(Quiet):
    def replicated(self, trial, seed):
        self.lines.append(("replicated", trial.number, seed))


def sweep(
    folder, executor, dimensions=(DEPTH, RATE), settle=2.0, total=9, asked=None, find=known, listener=None, full=False
):
    folder.mkdir(exist_ok=True)
    plan = make_plan(n_trials=total, sampler="frost", promote_fraction=1.0, settle=settle)
    space = Space(groups=(), variants={(): tuple(dimensions)})
    advisor = Advisor(question=asked or question(*dimensions), find=find)
    study = Study(
        Journal(folder / "journal.log").open(), "test", plan, space, maximize=True,
        propose=lambda trials, number: advisor.propose(trials, number, total, plan.seed),
    )  # fmt: skip
    study.fill(queue_of(plan, space, None))
    race = SeedRace(advisor, settle, (0,)) if settle else None
    summary = search(plan, study, executor, listener or Watch(), SearchLimits(total=total), race=race,
                     baseline=advisor.baseline if full else lambda _trials: None)  # fmt: skip
    return summary, advisor


def table(trials):
    return [(p.number, p.params, p.state, p.by_seed) for p in trials]


def many(count, seed):
    """Trials of which most are at one depth; their results depend on the seed."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        params = {"freeze.depth": number % 5 if number < 100 else 2, "optimizer.lr": 1e-5 * 10 ** (3 * number / count)}
        outcome = TrialOutcome(state=TrialState.COMPLETE, by_seed={0: float(rng.uniform(0.5, 0.9))})
        found.append(TrialRecord(number=number, params=params, state=TrialState.COMPLETE, outcome=outcome))
    return found
