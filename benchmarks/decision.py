"""How good is the answer of a sweep, measured against a known truth?

The project's own `search` loop, samplers and decision run over a simulated world: only the training is replaced, by a
draw from a truth that the rule does not see. Many worlds are drawn, so that luck is averaged.

    python benchmarks/decision.py                                # the table: each rule in the standard world
    python benchmarks/decision.py --world off --sweeps 200       # a world by name: `Standard` has them
    python benchmarks/decision.py --world mine.py --rows 2000 --budget 480 --rule frost --json

Names ending in 12 or 24 (`standard12`) have so many blocks. A file of your own defines

    def make(index: int, rows: int) -> World

`World` has: `num_blocks: int`; `truth(depth: int, log10_lr: float) -> float`, the accuracy over all rows and seeds;
`seed_sd: float`; `row_correlation: float`, of two runs' hits on one row; `cost(depth: int) -> float`, seconds of a run;
`collapse_probability(depth: int, log10_lr: float) -> float`; and, optionally, `train_rows: int`. `index` seeds it.

The numbers are in trials (hundredths of the metric). *Regret*: the best true quality of the space less the true quality
of the recommended setting. *Wrong*: a settled answer whose regret is above the margin. *Covers*: the share of answers
whose printed bound on the loss is not below the regret. *Time to half a trial*: simulated seconds until the first
finished run whose setting is truly within half a trial of the best. The last line is one JSON object with `--json`.
"""

from __future__ import annotations

import argparse
import heapq
import importlib.util
import itertools
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
import yaml
from scipy import stats
from scipy.special import ndtri

from frostline import paths
from frostline.advisor import Advisor, Question
from frostline.decision import LevelState, RaceEnd, Standing
from frostline.records.predictions import Evidence, RowScores
from frostline.records.trial import TrialOutcome, TrialRecord, TrialState, ranked
from frostline.search import SearchLimits, Study, TrialEnded, TrialTask, queue_of, search
from frostline.spec import EVAL_SET, Params, SamplerName, Space, SweepSpec, parse_dimension
from frostline.spec.decode import decode
from frostline.sweeps.questions import SeedRace

LR_LOW, LR_HIGH = 1e-5, 3e-3
MARGIN, CONFIDENCE = 0.01, 0.9

# Best accuracy by depth 0..6 (docs/benchmarks.md, docs/study.md) and seconds of an epoch (docs/benchmarks.md).
BEST_512 = (0.806, 0.820, 0.820, 0.806, 0.792, 0.760, 0.668)
BEST_2000 = (0.818, 0.826, 0.831, 0.822, 0.811, 0.805, 0.695)
EPOCH_S = (16.6, 14.5, 10.5, 6.4, 4.4, 1.5, 0.3)
EPOCHS = 3


_ALPHA = 0.05
"""Of the tests of the rule before."""


class World(Protocol):
    """What a simulated sweep trains in. See the module."""

    num_blocks: int
    seed_sd: float
    row_correlation: float

    def truth(self, depth: int, log10_lr: float) -> float:
        """Accuracy over all rows and seeds."""
        ...

    def cost(self, depth: int) -> float:
        """Seconds of a run."""
        ...

    def collapse_probability(self, depth: int, log10_lr: float) -> float:
        """Of a run that says one class."""
        ...


class Standard:
    """MiniLM's depths and rates with everything drawn anew: gaps, ridge, curvature.

    Args:
        index: Seeds it.
        rows: Held out.
        kind: `standard`, `off` (the ridge misplaced by half a decade), `flat` (all depths equal), `step` (two levels of
            depths), `collapse` (half of the shallow runs at high rates learn nothing), `shallow` (each frozen block
            costs: the best depth is 0), `deep` (the deeper the better but for the last block, as where training
            forgets: the best depth of six blocks is 5, or 4 by chance).
        num_blocks: Of the model.
    """

    row_correlation = 0.5

    def __init__(self, index: int, rows: int, kind: str = "standard", num_blocks: int = 6) -> None:
        rng = np.random.default_rng([index, 11])
        few = rows < 1500
        self.num_blocks = num_blocks
        self.kind = kind
        self.seed_sd = 0.03 if rows < 400 else 0.012 if few else 0.006
        self.train_rows = 256 if rows < 400 else 1024 if few else 8000
        share = np.arange(num_blocks + 1) / num_blocks
        best = np.interp(share, np.arange(7) / 6, BEST_512 if few else BEST_2000)
        self._seconds = np.interp(share, np.arange(7) / 6, EPOCH_S) * num_blocks / 6
        gaps = (best.max() - best) * rng.uniform(0.5, 1.4, num_blocks + 1)
        wobble = rng.normal(0, 0.006, num_blocks + 1)
        if kind == "flat":
            gaps, wobble = gaps * 0, wobble * 0
        if kind == "step":
            gaps = np.where(np.arange(num_blocks + 1) >= rng.integers(1, num_blocks + 1), rng.uniform(0.02, 0.06), 0.0)
        if kind == "shallow":
            gaps = np.cumsum(np.append(0.0, rng.uniform(0.004, 0.025, num_blocks) * 6 / num_blocks))
        if kind == "deep":
            slope = np.cumsum(rng.uniform(0.002, 0.012, num_blocks) * 6 / num_blocks)
            gaps = np.append(slope[::-1], rng.uniform(0.02, 0.06))
        self._top = best.max() - gaps + wobble
        offset = rng.normal(0, 0.2) + (rng.choice([-0.5, 0.5]) if kind == "off" else 0.0)
        self._ridge = -4 + offset + rng.uniform(0.75, 1.25) * share
        self._below = rng.uniform(0.035, 0.06)
        self._above = np.interp(share, [0, 1], [0.15, 0.06])

    def truth(self, depth: int, log10_lr: float) -> float:
        """Accuracy over all rows and seeds."""
        gap = log10_lr - self._ridge[depth]
        return float(self._top[depth] - (self._below if gap < 0 else self._above[depth]) * gap**2)

    def cost(self, depth: int) -> float:
        """Seconds of a run."""
        return float(EPOCHS * self._seconds[depth] + 1)

    def collapse_probability(self, depth: int, log10_lr: float) -> float:
        """Of a run that says one class."""
        is_high = log10_lr > self._ridge[depth] + 0.15 and depth <= self.num_blocks / 2
        return 0.5 if self.kind == "collapse" and is_high else 0.0


def make_world(name: str, index: int, rows: int) -> World:
    """Returns the world of a name or of a file."""
    if name.endswith(".py"):
        spec = importlib.util.spec_from_file_location("world", name)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.make(index, rows)  # type: ignore[no-any-return]
    digits = name.lstrip("abcdefghijklmnopqrstuvwxyz")
    return Standard(index, rows, name.removesuffix(digits), int(digits or 6))


class Simulation:
    """Trains nothing: an executor of one slot whose clock is simulated, and the evidence of what it "trained".

    Args:
        world: The truth.
        rows: Held out.
        plan: The sweep.
        metric: `accuracy`, `loss` or `f1_macro`.
        index: Seeds the rows.
        slots: Trials side by side; each takes as long as it would alone.
    """

    def __init__(self, world: World, rows: int, plan: SweepSpec, metric: str, index: int, slots: int) -> None:
        self.world, self.rows, self.plan, self.metric, self.index = world, rows, plan, metric, index
        self._slots = slots
        self.seconds = 0.0
        self.half_point = math.inf
        self.best = best_of(world)
        self._running: list[tuple[float, int, TrialTask]] = []
        self._order = itertools.count()
        self._scores: dict[tuple[int, int], RowScores] = {}
        rng = np.random.default_rng([index, 23])
        self._labels = np.arange(rows) % 2
        self._shared = rng.standard_normal(rows)
        # Hits are a normal variable below a threshold; of two such hits the correlation is smaller than theirs.
        self._latent = min(0.98, math.sin(math.pi / 2 * world.row_correlation))

    @property
    def free(self) -> int:
        """See `Executor`."""
        return self._slots - len(self._running)

    def submit(self, task: TrialTask) -> None:
        """See `Executor`."""
        heapq.heappush(self._running, (self.seconds + self._takes(task), next(self._order), task))

    def wait(self) -> Sequence[TrialEnded]:
        """See `Executor`."""
        self.seconds, _, task = heapq.heappop(self._running)
        depth, rate = int(task.params["freeze.depth"]), math.log10(float(task.params["optimizer.lr"]))  # type: ignore[arg-type]
        seed = 0 if task.seed is None else task.seed
        first = task.rung == 1 and self.plan.has_rungs
        value = self._run(task.number, seed, depth, rate)
        if first:  # an early accuracy says little of the last one: a rank correlation of some 0.8
            rng = np.random.default_rng([self.index, task.number, 5])
            value = 0.5 + 0.7 * (value - 0.5) + rng.normal(0, 0.02)
        elif self.world.truth(depth, rate) >= self.best - 0.005:
            self.half_point = min(self.half_point, self.seconds)
        cost = {
            "train_s": self._takes(task),
            "eval_rows": float(self.rows),
            "train_rows": float(_train_rows(self.world)),
        }
        outcome = TrialOutcome(state=TrialState.COMPLETE, by_seed={seed: value}, cost=cost, paused=first)
        return [TrialEnded(number=task.number, outcome=outcome, seed=task.seed)]

    def _takes(self, task: TrialTask) -> float:
        """Returns the seconds of a task."""
        first = task.rung == 1 and self.plan.has_rungs
        share = 1 / EPOCHS if first else 1 - 1 / EPOCHS if task.rung == 2 else 1.0
        return self.world.cost(int(task.params["freeze.depth"])) * share  # type: ignore[arg-type]

    def answer(self, key: object, prune: bool) -> None:
        """See `Executor`."""

    def stop(self) -> None:
        """See `Executor`."""

    def _run(self, number: int, seed: int, depth: int, rate: float) -> float:
        rng = np.random.default_rng([self.index, depth, round(-rate * 1e4), seed])
        quality = float(np.clip(self.world.truth(depth, rate) + rng.normal(0, self.world.seed_sd), 0.02, 0.995))
        noise = rng.standard_normal(self.rows)
        own = math.sqrt(self._latent) * self._shared + math.sqrt(1 - self._latent) * noise
        collapsed = rng.random() < self.world.collapse_probability(depth, rate)
        hits = own < ndtri(quality)
        predicted = np.where(hits, self._labels, 1 - self._labels)
        losses = 1 - quality + 0.4 * own
        if collapsed:
            predicted, losses = np.zeros_like(self._labels), np.full(self.rows, 0.7)
        self._scores[number, seed] = RowScores(labels=self._labels, predicted=predicted, losses=losses)
        if self.metric == "loss":
            return float(losses.mean())
        return float((predicted == self._labels).mean())

    def find(self, trial: TrialRecord, name: str) -> Evidence | None:
        """Returns what is known of a trial, as the files of a real one would tell."""
        if name != EVAL_SET or not trial.by_seed:
            return None
        rows = {seed: self._scores[trial.number, seed] for seed in trial.by_seed}
        return Evidence(by_seed=trial.by_seed, rows=rows)


class Unwatched:
    """Does nothing."""

    def started(self, task: TrialTask) -> None:
        """See `Listener`."""

    def reported(self, number: int, step: int, value: float) -> None:
        """See `Listener`."""

    def ended(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        """See `Listener`."""

    def pruned(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        """See `Listener`."""

    def replicated(self, trial: TrialRecord, seed: int) -> None:
        """See `Listener`."""

    def released(self, number: int) -> None:
        """See `Listener`."""


def best_of(world: World) -> float:
    """Returns the best true quality of the space."""
    rates = np.linspace(math.log10(LR_LOW), math.log10(LR_HIGH), 200)
    return max(world.truth(depth, float(rate)) for depth in range(world.num_blocks + 1) for rate in rates)


def _train_rows(world: World) -> int:
    return int(getattr(world, "train_rows", 1024))


def shipped_plan(name: str, **changes: Any) -> SweepSpec:
    """Returns the plan of a ready-made sweep as it is shipped, changed."""
    values: dict[str, Any] = {}
    for file in ("_base/plan", name):
        text = (paths.sweeps_dir() / "sweep" / f"{file}.yaml").read_text(encoding="utf-8")
        values |= yaml.safe_load(text)["sweep"]
    for key in ("space", "enqueue"):
        values.pop(key)
    return decode(SweepSpec, {**values, **changes}, "sweep")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The result of one simulated sweep; qualities are fractions."""

    regret: float
    settled: bool
    at_least: bool
    covers: bool
    bias: float
    interval_covers: bool
    equal_called_out: bool
    half_point: float
    seconds: float
    too_shallow: bool
    end: str


def simulate(options: argparse.Namespace, index: int) -> Sweep:
    """Runs one sweep."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    world = make_world(options.world, index, options.rows)
    depth = parse_dimension("freeze.depth", {"low": 0, "high": world.num_blocks, "coarse": 4})[0]
    rate = parse_dimension("optimizer.lr", {"low": LR_LOW, "high": LR_HIGH, "log": True, "coarse": 3})[0]
    space = Space(groups=(), variants={(): (depth, rate)})
    changes: dict[str, Any] = {"seed": index}
    if options.rule == "frost":
        changes |= {"timeout_s": options.budget / (1 + options.settle) / options.slots, "settle": options.settle}
    else:
        changes |= {"sampler": "tpe", "promote_fraction": 0.25, "n_trials": 28, "settle": 0.0}
    plan = shipped_plan("lr_x_depth", **changes)
    maximize = options.metric != "loss"
    simulation = Simulation(world, options.rows, plan, options.metric, index, options.slots)
    question = Question(
        dimensions=(depth, rate), metric=options.metric, maximize=maximize, margin=MARGIN, confidence=CONFIDENCE,
        num_blocks=world.num_blocks, optimizer="adamw", freeze="depth",
    )  # fmt: skip
    advisor = Advisor(question=question, find=simulation.find)

    def propose(trials: Sequence[TrialRecord], number: int) -> Params:
        return advisor.propose(trials, number, plan.n_trials or 1, plan.seed)

    study = Study(
        optuna.storages.InMemoryStorage(), "simulated", plan, space, maximize=maximize,
        propose=propose if plan.sampler is SamplerName.FROST else None,
    )  # fmt: skip
    study.fill(queue_of(plan, space, None))
    assert plan.n_trials is not None
    limits = SearchLimits(total=plan.n_trials, clock=lambda: simulation.seconds)
    summary = search(plan, study, simulation, Unwatched(), limits)
    if plan.settle:
        started = len(summary.trials)  # the time of the search is over, that of the race is not
        race = SeedRace(advisor, plan.settle, (0,))
        plan = replace(plan, timeout_s=None)
        summary = search(plan, study, simulation, Unwatched(), replace(limits, total=started), race=race)
    return judged(options, world, simulation, advisor, list(summary.trials), str(summary.race or ""))


def judged(
    options: argparse.Namespace,
    world: World,
    simulation: Simulation,
    advisor: Advisor,
    trials: list[TrialRecord],
    end: str,
) -> Sweep:
    """Compares what a rule says with the truth."""
    best = simulation.best

    def truth(trial: TrialRecord) -> float:
        return world.truth(int(trial.params["freeze.depth"]), math.log10(float(trial.params["optimizer.lr"])))  # type: ignore[arg-type]

    rates = np.linspace(math.log10(LR_LOW), math.log10(LR_HIGH), 200)
    tops = [max(world.truth(d, float(rate)) for rate in rates) for d in range(world.num_blocks + 1)]
    deepest = max(d for d, top in enumerate(tops) if best - top <= MARGIN)
    maximize = options.metric != "loss"
    common = {"half_point": simulation.half_point, "seconds": simulation.seconds, "end": end}
    if options.rule != "frost":
        chosen = ranked(trials, maximize)[0] if options.rule == "best" else _old_rule(trials, simulation, maximize)
        value = (chosen.quality or 0.0) if maximize else 1 - (chosen.quality or 0.0)
        return Sweep(
            regret=best - truth(chosen), settled=False, at_least=False, covers=False, bias=value - truth(chosen),
            interval_covers=False, equal_called_out=False, too_shallow=(chosen.depth or 0) < deepest, **common,
        )  # fmt: skip
    answer = advisor.decide(trials)
    assert answer is not None
    decision, fitted = answer
    level = decision.recommended
    true = truth(fitted.trials[level.setting])
    shift = 0.0 if maximize else 1.0
    standing = decision.standing
    return Sweep(
        regret=best - true, settled=standing is Standing.SETTLED, at_least=standing is Standing.AT_LEAST,
        covers=best - true <= level.most_loss + 1e-9, bias=level.mean + shift - true,
        interval_covers=level.low + shift <= true <= level.high + shift,
        equal_called_out=any(
            each.state is LevelState.OUT and best - tops[int(each.level)] < 5e-4 for each in decision.levels
        ),
        too_shallow=level.level < deepest, **common,
    )  # fmt: skip


def _old_rule(trials: Sequence[TrialRecord], simulation: Simulation, maximize: bool) -> TrialRecord:
    """Returns what was recommended before: the deepest whose best trial is not significantly worse (p >= 0.05)."""
    finished = ranked(trials, maximize)
    best = finished[0]
    tops = {depth: next(p for p in finished if p.depth == depth) for depth in {p.depth for p in finished}}
    first = simulation.find(best, EVAL_SET)
    assert first is not None
    chosen = best
    for trial in tops.values():
        second = simulation.find(trial, EVAL_SET)
        assert second is not None
        is_as_good = trial is not best and not _was_worse(first, second, simulation.metric)
        if is_as_good and (trial.depth or 0) > (chosen.depth or 0):
            chosen = trial
    return chosen


def _was_worse(first: Evidence, second: Evidence, metric: str) -> bool:
    """Returns whether the second of two runs on the same rows was called significantly worse: McNemar, or paired t."""
    (one,), (two,) = first.rows.values(), second.rows.values()
    if metric == "loss":
        losses = two.losses.astype(np.float64) - one.losses
        return bool(stats.ttest_1samp(losses, 0.0, alternative="greater").pvalue < _ALPHA)
    hit, other = one.predicted == one.labels, two.predicted == two.labels
    lost, won = int((hit & ~other).sum()), int((~hit & other).sum())
    return bool(lost + won and stats.binomtest(lost, lost + won, 0.5, alternative="greater").pvalue < _ALPHA)


def summary_of(sweeps: Sequence[Sweep]) -> dict[str, Any]:
    """Returns the figures of many sweeps: qualities in trials, shares from 0 to 1."""

    def share(flags: Sequence[bool]) -> float | None:
        return statistics.fmean(flags) if flags else None

    regrets = [100 * sweep.regret for sweep in sweeps]
    settled = [sweep for sweep in sweeps if sweep.settled]
    at_least = [sweep for sweep in sweeps if sweep.at_least]
    times = sorted(sweep.half_point for sweep in sweeps)
    return {
        "sweeps": len(sweeps),
        "seconds": statistics.fmean(sweep.seconds for sweep in sweeps),
        "mean_regret": statistics.fmean(regrets),
        "share_above_half": share([regret > 0.5 for regret in regrets]),
        "share_above_1": share([regret > 1 for regret in regrets]),
        "share_above_2": share([regret > 2 for regret in regrets]),
        "settled": share([sweep.settled for sweep in sweeps]),
        "num_settled": len(settled),
        "settled_wrong": share([sweep.regret > MARGIN for sweep in settled]),
        "at_least": share([sweep.at_least for sweep in sweeps]),
        "at_least_wrong": share([sweep.regret > MARGIN for sweep in at_least]),
        "bound_covers": share([sweep.covers for sweep in sweeps]),
        "winner_bias": 100 * statistics.fmean(sweep.bias for sweep in sweeps),
        "interval_covers": share([sweep.interval_covers for sweep in sweeps]),
        "equal_called_out": share([sweep.equal_called_out for sweep in sweeps]),
        "too_shallow": share([sweep.too_shallow for sweep in sweeps]),
        "time_to_half_point": _quantile(times, 0.5),
        "time_to_half_point_10": _quantile(times, 0.1),
        "time_to_half_point_90": _quantile(times, 0.9),
        "race_ends": {str(end): sum(sweep.end == end for sweep in sweeps) for end in RaceEnd},
    }


def _quantile(values: Sequence[float], share: float) -> float | None:
    value = values[min(len(values) - 1, math.floor(share * len(values)))]
    return value if math.isfinite(value) else None


def measure(options: argparse.Namespace, **changes: Any) -> dict[str, Any]:
    """Simulates many sweeps, on all cores."""
    chosen = argparse.Namespace(**{**vars(options), **changes})
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        sweeps = list(pool.map(_one, [(chosen, chosen.first + number) for number in range(chosen.sweeps)]))
    return summary_of(sweeps)


def _one(job: tuple[argparse.Namespace, int]) -> Sweep:
    return simulate(*job)


HEAD = (
    "| rule | seconds | regret | > 0.5 | > 1 | > 2 | settled (wrong) | at least "
    "(wrong) | bound covers | winner too high by | half a trial after [80 %] |"
)


def line(name: str, found: dict[str, Any]) -> str:
    """Returns a row of the table."""

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.0f}"

    def seconds(value: float | None) -> str:
        return "never" if value is None else f"{value:.0f}"

    claims = "- | - | -"
    if found["bound_covers"]:
        claims = (
            f"{percent(found['settled'])} % ({percent(found['settled_wrong'])}) | "
            f"{percent(found['at_least'])} % ({percent(found['at_least_wrong'])}) | {percent(found['bound_covers'])} %"
        )
    over = [percent(found[f"share_above_{which}"]) for which in ("half", "1", "2")]
    half = [seconds(found[f"time_to_half_point{end}"]) for end in ("", "_10", "_90")]
    return (
        f"| {name} | {found['seconds']:.0f} | {found['mean_regret']:.2f} | {' | '.join(over)} | {claims} | "
        f"{found['winner_bias']:.1f} | {half[0]} [{half[1]}, {half[2]}] |"
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="standard", help="a name, or a file that defines make(index, rows)")
    parser.add_argument("--sweeps", type=int, default=80)
    parser.add_argument(
        "--first", type=int, default=0, help="index of the first world; constants were chosen on 0 to 119"
    )
    parser.add_argument("--rows", type=int, default=512, help="held out")
    parser.add_argument("--budget", type=float, default=500.0, help="simulated seconds, the race included")
    parser.add_argument("--settle", type=float, default=1.0, help="sweep.settle: the race's share of the search's cost")
    parser.add_argument("--metric", default="accuracy", choices=("accuracy", "loss", "f1_macro"))
    parser.add_argument("--slots", type=int, default=1, help="trials side by side; the budget is of all together")
    parser.add_argument("--rule", choices=("frost", "today", "best"), help="one rule alone; else all")
    parser.add_argument("--json", action="store_true", help="a last line with the figures of the last rule")
    options = parser.parse_args()
    began = time.perf_counter()
    print(f"{options.sweeps} sweeps, world {options.world}, {options.rows} held-out rows, {options.metric}", flush=True)
    print(f"{HEAD}\n|{'---|' * (HEAD.count('|') - 1)}")
    names = {
        "today": "deepest with p >= 0.05 (before)",
        "best": "the raw best, same search",
        "frost": f"frost, race x {options.settle:g}",
    }
    found: dict[str, Any] = {}
    for rule in (options.rule,) if options.rule else ("today", "best", "frost"):
        found = measure(options, rule=rule)
        print(line(names[rule], found), flush=True)
    print(f"({time.perf_counter() - began:.0f} s)", file=sys.stderr)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
