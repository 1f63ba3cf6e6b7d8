"""The spec of a sweep: number of trials, sampler, pruner, rungs.

Values live in `sweeps/sweep/_base/`, so no field has a default.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from frostline.errors import SpecError
from frostline.spec.checks import require

SWEEP_SCHEMA = 1
"""Version of `sweep.json`; a sweep of another version is not resumed."""


class SamplerName(StrEnum):
    """How the next trial is chosen."""

    FROST = "frost"
    TPE = "tpe"
    RANDOM = "random"
    GRID = "grid"
    QMC = "qmc"
    GP = "gp"
    CMAES = "cmaes"
    NSGAII = "nsgaii"


class PrunerName(StrEnum):
    """How a run that promises little is stopped after an evaluation."""

    NONE = "none"
    MEDIAN = "median"
    PERCENTILE = "percentile"
    HALVING = "halving"
    HYPERBAND = "hyperband"
    PATIENT = "patient"
    WILCOXON = "wilcoxon"


class CostName(StrEnum):
    """A second objective, to be small."""

    TRAIN_S = "train_s"
    NUM_TRAINABLE = "num_trainable"
    FLOPS = "flops"


class KeepModels(StrEnum):
    """Whose `model/` stays on the disk."""

    RECOMMENDED = "recommended"
    BEST = "best"
    ALL = "all"
    NONE = "none"


class Enqueue(StrEnum):
    """Trials to try before the sampler is asked."""

    COARSE = "coarse"
    NONE = "none"


def ordinal(seed: int, seeds: Sequence[int]) -> int:
    """Returns the place of a run's seed among all that a trial may be trained with.

    Args:
        seed: One of `seeds`, or a further one: those count up from the first of `seeds` and leave out the others.
        seeds: That every trial is trained with.
    """
    if seed in seeds:
        return seeds.index(seed)
    return len(seeds) + sum(each not in seeds for each in range(seeds[0], seed))


@dataclass(frozen=True, kw_only=True, slots=True)
class PrunerSpec:
    """A pruner and its settings; each belongs to the pruners named.

    Attributes:
        name: Which.
        startup_trials: Trials that are never pruned (median, percentile).
        warmup_epochs: Evaluations in which no run is pruned (median, percentile).
        percentile: Share that may continue, in percent (percentile).
        reduction_factor: One in so many is promoted at each rung (halving, hyperband).
        patience: Evaluations without a gain (patient).
        p_threshold: Of the signed-rank test (wilcoxon).
    """

    name: PrunerName
    startup_trials: int
    warmup_epochs: int
    percentile: float
    reduction_factor: int
    patience: int
    p_threshold: float

    def __post_init__(self) -> None:
        require(self.startup_trials >= 0, "sweep.pruner.startup_trials", self.startup_trials, "0 or more")
        require(self.warmup_epochs >= 0, "sweep.pruner.warmup_epochs", self.warmup_epochs, "0 or more")
        require(0 <= self.percentile <= 100, "sweep.pruner.percentile", self.percentile, "0 to 100")
        require(self.reduction_factor >= 2, "sweep.pruner.reduction_factor", self.reduction_factor, "2 or more")
        require(self.patience >= 0, "sweep.pruner.patience", self.patience, "0 or more")
        require(0 < self.p_threshold < 1, "sweep.pruner.p_threshold", self.p_threshold, "between 0 and 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepSpec:
    """A sweep's plan; the space and the trials to try first are read apart. `sweeps/sweep/`.

    Attributes:
        name: Of the study, its folder and its MLflow run.
        new: Begin afresh under a new name although there is a sweep of this one.
        n_trials: How many trials in total, those of earlier commands included; None with sampler grid: all of it.
        timeout_s: Seconds of wall time after which no further trial is started; None: no limit.
        max_failures: Failed trials of one command after which the sweep stops; None: no limit.
        trial_timeout_s: Seconds without a heartbeat (a step, an evaluation) after which a run is killed.
        retry_failed: Try the failed trials of earlier commands once more.
        sampler: How the next trial is chosen.
        seed: Of the sampler. Apart from the runs' seeds.
        pruner: How a run is stopped after an evaluation.
        seeds: A trial is trained once with each; None: once, with the run's `seed`.
        rung_epochs: Epochs of the first seed in rung 1; None: all of them.
        promote_fraction: Share of the trials that is promoted to rung 2, 0 < x <= 1; the best at each frozen depth is,
            too.
        axis: The swept key that trades quality for cost: the cheapest value within the margin is recommended. None: the
            frozen depth or the rank, if one is swept. Of other keys less is cheaper.
        margin: A level this much below the best one still counts as good, in the unit of the objective.
        confidence: Of every statement of the answer, in (0.5, 1).
        settle: After the search, fresh seeds for the contenders until the answer is settled: up to this many times the
            search's own cost; 0: none.
        settle_rows: Held-out rows that those are scored on; None: on all that there are, as long as that
            takes no longer than training.
        baseline: Of a sweep over frozen depth: whether everything is trained (`freeze=none`) besides, at the best rate.
        folds: The rows are dealt into so many folds; the runs of a trial hold out one after the other, those of the
            race too, so that every row is held out once. None: all runs hold out the same rows.
        cost: A second objective to be small; None: quality alone.
        deep_first: Whether trials to try first are sorted by depth, the deepest, cheapest first.
        warm_start: Name or folder of an earlier sweep, whose finished trials of the same space the sampler learns from.
        storage: An Optuna storage URL, on which one parent at a time works; None: a journal in the sweep's folder.
        keep_models: Whose `model/` stays on the disk.
        log_best_model: Whether the best run's model, if it is kept, becomes a model in MLflow when the sweep ends.
    """

    name: str
    new: bool
    n_trials: int | None
    timeout_s: float | None
    max_failures: int | None
    trial_timeout_s: float
    retry_failed: bool
    sampler: SamplerName
    seed: int
    pruner: PrunerSpec
    seeds: tuple[int, ...] | None
    rung_epochs: int | None
    promote_fraction: float
    axis: str | None
    margin: float
    confidence: float
    settle: float
    settle_rows: int | None
    baseline: bool
    folds: int | None
    cost: CostName | None
    deep_first: bool
    warm_start: str | None
    storage: str | None
    keep_models: KeepModels
    log_best_model: bool

    def __post_init__(self) -> None:
        bad = not self.name or self.name in {".", ".."} or any(letter in self.name for letter in "/\\\0\n")
        require(not bad, "sweep.name", self.name, "a name that can be a folder's")
        if self.n_trials is None and self.sampler is not SamplerName.GRID:
            raise SpecError("sweep.n_trials is null: give the total number of trials (only sampler=grid has one)")
        require(self.n_trials is None or self.n_trials >= 1, "sweep.n_trials", self.n_trials, "1 or more")
        for key, number in (("timeout_s", self.timeout_s), ("trial_timeout_s", self.trial_timeout_s)):
            ok = number is None or (math.isfinite(number) and number > 0)
            require(ok, f"sweep.{key}", number, "a number of seconds above 0")
        require(
            self.max_failures is None or self.max_failures >= 1, "sweep.max_failures", self.max_failures, "1 or more"
        )
        require(0 <= self.seed < 2**32, "sweep.seed", self.seed, "0 or more and below 2**32")
        require(
            0 < self.promote_fraction <= 1, "sweep.promote_fraction", self.promote_fraction, "above 0 and at most 1"
        )
        require(self.rung_epochs is None or self.rung_epochs >= 1, "sweep.rung_epochs", self.rung_epochs, "1 or more")
        require(math.isfinite(self.margin) and self.margin > 0, "sweep.margin", self.margin, "above 0")
        require(0.5 < self.confidence < 1, "sweep.confidence", self.confidence, "above 0.5 and below 1")
        require(math.isfinite(self.settle) and self.settle >= 0, "sweep.settle", self.settle, "0 or more")
        require(
            self.settle_rows is None or self.settle_rows >= 1,
            "sweep.settle_rows",
            self.settle_rows,
            "1 or more, or null",
        )
        require(self.folds is None or self.folds >= 2, "sweep.folds", self.folds, "2 or more, or null")
        if self.folds is not None and self.settle_rows is not None:
            raise SpecError(
                f"sweep.settle_rows={self.settle_rows}: with sweep.folds={self.folds} every row is held out once; set "
                "one of them to null"
            )
        if self.seeds is not None:
            require(len(self.seeds) > 0, "sweep.seeds", "[]", "a list of seeds, or null")
            require(len(set(self.seeds)) == len(self.seeds), "sweep.seeds", list(self.seeds), "without repetitions")
        if self.cost is not None and self.sampler in {SamplerName.CMAES, SamplerName.FROST}:
            raise SpecError(
                f"sweep.sampler={self.sampler.value}: has one objective only; with sweep.cost take tpe, nsgaii or gp"
            )
        if self.warm_start is not None and self.sampler is SamplerName.FROST:
            start = f"sweep.warm_start={self.warm_start}"
            raise SpecError(f"{start}: sampler frost learns from its own sweep alone; give sweep.sampler=tpe")
        if self.has_rungs and self.sampler is SamplerName.GP:
            # Checked in optuna 5.0: it learns from COMPLETE trials alone, and a trial left at rung 1 is PRUNED.
            raise SpecError("sweep.sampler=gp: learns from finished trials only; give sweep.promote_fraction=1")
        if self.cost is not None and self.has_rungs:
            raise SpecError("sweep.cost: trials of two rungs have different costs; give sweep.promote_fraction=1")

    @property
    def has_rungs(self) -> bool:
        """Whether some trials may stay behind after rung 1."""
        return self.promote_fraction < 1 and (
            self.rung_epochs is not None or (self.seeds is not None and len(self.seeds) > 1)
        )

    def fold_of(self, seed: int, seeds: Sequence[int]) -> int:
        """Returns which fold a run holds out: a trial's runs take one after the other, further seeds count on.

        Args:
            seed: Of the run.
            seeds: That every trial is trained with.
        """
        if self.folds is None:
            return 0
        return ordinal(seed, seeds) % self.folds

    def describe(self) -> dict[str, Any]:
        """Returns what may not change when a sweep is resumed, as plain data."""
        seeds = None if self.seeds is None else list(self.seeds)
        return {
            "sampler": self.sampler.value,
            "seed": self.seed,
            "pruner": {**asdict(self.pruner), "name": self.pruner.name.value},
            "deep_first": self.deep_first,
            "warm_start": self.warm_start,
            "seeds": seeds,
            "rung_epochs": self.rung_epochs,
            "promote_fraction": self.promote_fraction,
            "folds": self.folds,
            "axis": self.axis,
            "cost": self.cost.value if self.cost else None,
        }
