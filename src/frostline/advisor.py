"""A sweep's question put to the decision: its space and trials as an axis of cost, settings and runs.

The decision itself (`frostline.decision`) knows numbers alone. Here is said which key is the axis of cost, where its
best learning rates are expected, what a metric's rows contribute to its noise, and what a run costs beside another.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from frostline.evidence import EvidenceOf, RowScores
from frostline.point import Point, State
from frostline.spec import DEPTH_KEY, EVAL_SET, LR_KEY, Dimension, Params, Value, ordinal

if TYPE_CHECKING:
    import numpy as np

    from frostline.decision import (
        Axis,
        Decision,
        Noise,
        Posterior,
        RaceEnd,
        Replicate,
        Requirement,
        Ridge,
        Run,
        Setting,
    )

    Array = np.ndarray[Any, Any]

P = ParamSpec("P")
R = TypeVar("R")

_CHEAPER_WHEN_LARGER = {DEPTH_KEY: True, "freeze.fraction": True, "freeze.last": False, "freeze.rank": False}
"""Keys that trade quality for cost, and which way."""

_ON_A_LOG_SCALE = frozenset({"freeze.rank"})

_HEAD_COST = 0.06
"""What a run with all blocks frozen takes beside one with none, with the prefix cache (measured on MiniLM: 1.3 s of
17.6 s for an epoch with its evaluation and its share of a trial's start, docs/benchmarks.md)."""

_RIDGE_BASES = ((6, 1e-4, 0.25), (12, 5e-5, 0.35), (10**9, 2.5e-5, 0.35))
"""Blocks at most, best rate of AdamW with nothing frozen but the embeddings, and its uncertainty in decades. Measured
for MiniLM (6 blocks, width 384); assumed for others from published rates of full fine-tuning: 5e-5 at 12 blocks and
width 768 (Devlin et al. 2019), 2e-5 to 3e-5 at 24 blocks and width 1024 (Liu et al. 2019)."""

_RIDGE_SLOPE = 1.0
"""Decades by which the best rate rises from no frozen block to all of them (measured on MiniLM, docs/study.md)."""

_ROW_CORRELATION = 0.5
"""Of two runs' hits on one row, where their predictions are not at hand (measured on MiniLM: 0.4 to 0.6)."""

_NEAR_RATE = 0.15
"""Decades within which a second rate at one level tells less than a second seed would: 0.1 points of accuracy."""

NOTHING_FROZEN = -1.0
"""The level of full fine-tuning on the axis of the frozen depth: at depth 0 the embeddings are frozen still."""

_NUM_LEVELS = 9
"""Levels to choose from of an axis that can't be counted, as `freeze.fraction`."""

_NUM_RANDOM = 1500
"""Random settings among which further keys are searched, drawn anew for each trial."""

_TRAIN_ROWS = 1000
"""Taken for the number of training rows where no run says it."""

_MEANS = frozenset({"accuracy", "loss", "mse", "mae"})
"""Metrics that are means over rows."""


def is_mean_over_rows(metric: str) -> bool:
    """Returns whether a metric is the mean of something that each row has by itself."""
    return metric in _MEANS


def _on_one_thread(method: Callable[P, R]) -> Callable[P, R]:
    """Lets linear algebra of small matrices run on one thread: more only wait for each other while trials train."""

    @functools.wraps(method)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(limits=1, user_api="blas"):
            return method(*args, **kwargs)

    return limited


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a sweep asks, as far as it can be read from its config.

    Attributes:
        dimensions: The swept keys that settings differ in; of one model, if models are swept.
        metric: The objective.
        maximize: Whether more of it is better.
        margin: In the metric's unit.
        confidence: Of every statement.
        num_blocks: Of the model; None if unknown.
        optimizer: Its name: only AdamW's best rates are known beforehand.
        freeze: Name of the way of freezing: adapters want other rates.
        seeds: That every trial is trained with.
        num_folds: Into which the rows were dealt; 1: all runs hold out the same rows.
    """

    dimensions: tuple[Dimension, ...]
    metric: str
    maximize: bool
    margin: float
    confidence: float
    num_blocks: int | None
    optimizer: str
    freeze: str
    seeds: tuple[int, ...] = (0,)
    num_folds: int = 1

    @property
    def axis_key(self) -> str | None:
        """The key that trades quality for cost; None if none is swept."""
        keys = [each.key for each in self.dimensions if each.key in _CHEAPER_WHEN_LARGER and _is_numeric(each)]
        return keys[0] if keys else None

    def axis(self, seen: Sequence[float] = (), *, grid: bool = False) -> Axis:
        """Returns the axis of cost.

        Args:
            seen: Levels that were tried; the only ones of a range that can't be counted.
            grid: Of such a range, some more, to choose from.
        """
        from frostline.decision import Axis

        key = self.axis_key
        rates, ridge = self._rates()
        if key is None:
            return Axis(levels=(0.0,), positions=(0.0,), relative_costs=(1.0,), rates=rates, ridge=ridge)
        dimension = next(each for each in self.dimensions if each.key == key)
        countable = dimension.choices is not None or dimension.whole or dimension.step is not None
        wanted = dimension.values(None if countable else _NUM_LEVELS) if countable or grid or not seen else ()
        levels = sorted({*(float(value) for value in wanted if _is_number(value)), *seen})  # type: ignore[arg-type]
        if not _CHEAPER_WHEN_LARGER[key]:
            levels.reverse()
        positions = self._positions(key, levels)
        costs = [1 + _HEAD_COST - position if key != "freeze.rank" else 1.0 for position in positions]
        return Axis(
            levels=tuple(levels), positions=tuple(positions), relative_costs=tuple(costs), rates=rates, ridge=ridge
        )

    def _positions(self, key: str, levels: Sequence[float]) -> list[float]:
        blocks = self.num_blocks
        if key == DEPTH_KEY and blocks:  # training the embeddings as well changes less than a block (assumed)
            return [max(level, NOTHING_FROZEN / 2) / blocks for level in levels]
        if key == "freeze.last" and blocks:
            return [1 - level / blocks for level in levels]
        if key == "freeze.fraction":
            return list(levels)
        scaled = [math.log(level) if key in _ON_A_LOG_SCALE and level > 0 else level for level in levels]
        span = scaled[-1] - scaled[0]
        return [(value - scaled[0]) / span if span else 0.0 for value in scaled]

    def _rates(self) -> tuple[tuple[float, float] | None, Ridge | None]:
        from frostline.decision import Ridge

        dimension = next((each for each in self.dimensions if each.key == LR_KEY and _is_numeric(each)), None)
        if dimension is None:
            return None, None
        low, high = _range_of(dimension)
        if low <= 0 or low == high:
            return None, None
        rates = (math.log10(low), math.log10(high))
        middle = Ridge(base=sum(rates) / 2, slope=0.0, offset_sd=max(0.5, (rates[1] - rates[0]) / 3))
        if self.optimizer != "adamw" or self.freeze == "lora" or self.num_blocks is None:
            return rates, middle
        base, offset_sd = next((base, sd) for blocks, base, sd in _RIDGE_BASES if self.num_blocks <= blocks)
        slope = _RIDGE_SLOPE if self.axis_key in {DEPTH_KEY, "freeze.last", "freeze.fraction"} else 0.0
        ridge = Ridge(base=math.log10(base), slope=slope, offset_sd=offset_sd)
        # Where the user looks elsewhere, the middle of the user's range is the better guess.
        inside = rates[0] - 0.5 <= ridge.base <= rates[1] + 0.5
        return rates, ridge if inside else middle

    # -- settings ----------------------------------------------------------------------------------------------------

    def setting(self, params: Mapping[str, Value]) -> Setting | None:
        """Returns a trial's parameters as a setting; None if they are not of this question."""
        from frostline.decision import Setting

        others, groups = [], []
        level = rate = 0.0
        rates, _ = self._rates()
        for dimension in self.dimensions:
            if dimension.key not in params:
                return None
            value = params[dimension.key]
            if dimension.key == self.axis_key:
                if dimension.key == DEPTH_KEY and value is None:
                    level = NOTHING_FROZEN
                elif _is_number(value):
                    level = float(value)  # type: ignore[arg-type]
                else:
                    return None
            elif dimension.key == LR_KEY and rates is not None:
                rate = math.log10(float(value))  # type: ignore[arg-type]
            elif _is_numeric(dimension):
                others.append(_scaled(dimension, float(value)))  # type: ignore[arg-type]
            else:
                groups.append(str(value))
        return Setting(level=level, rate=rate, others=tuple(others), groups=tuple(groups))


@dataclass(kw_only=True)
class Fitted:
    """A question with the trials that are at hand.

    Attributes:
        axis: Of cost.
        runs: All, those that collapsed too.
        noise: Of those that didn't.
        posterior: Of those; None if there are none.
        points: Setting -> its trial.
        baseline: Quality of a constant prediction (for an accuracy the majority class), in the metric's sign; None:
            unknown.
        rows: Held-out rows of the search's runs; 0 if unknown.
        most_rows: Of any run.
        num_folds: Into which the rows were dealt; 1: all runs of the search hold out the same rows.
    """

    axis: Axis
    runs: list[Run]
    noise: Noise | None
    posterior: Posterior | None
    points: dict[Setting, Point]
    baseline: float | None
    rows: int
    most_rows: int
    num_folds: int = 1


@dataclass(kw_only=True)
class Advisor:
    """Answers a sweep's question from its trials.

    Attributes:
        question: Of the sweep.
        find: What is known of a trial on a set of rows.
    """

    question: Question
    find: EvidenceOf
    _vectors: dict[tuple[int, int], Array] = field(default_factory=dict)

    def fit(self, points: Sequence[Point], *, grid: bool = False) -> Fitted:
        """Returns the runs of the finished trials and their posterior.

        Args:
            points: All of the sweep.
            grid: Whether settings will be chosen by it: on an axis that can't be counted levels are added.
        """
        from frostline.decision import Noise, Posterior, Run, seed_prior
        from frostline.decision.folds import rows_across, seeds_across
        from frostline.decision.rows import covariance

        question = self.question
        sign = 1.0 if question.maximize else -1.0
        runs: list[Run] = []
        vectors: list[Array | None] = []
        folds: list[int] = []
        baselines: list[float] = []
        numbers: list[int] = []
        own: dict[Setting, Point] = {}
        row_sds: list[float] = []
        for point in points:
            setting = question.setting(point.params)
            if setting is None or point.state is not State.COMPLETE or point.copy_of is not None:
                continue
            evidence = self.find(point, EVAL_SET)
            if evidence is None:
                continue
            own.setdefault(setting, point)
            for seed, value in sorted(evidence.by_seed.items()):
                rows = evidence.rows.get(seed)
                collapsed = not math.isfinite(value) or (rows is not None and _is_collapsed(rows))
                chosen = seed not in point.replicates
                runs.append(Run(setting=setting, seed=seed, value=sign * value, chosen=chosen, collapsed=collapsed))
                if rows is not None:
                    numbers.append(len(rows.labels))
                    baselines.append(_baseline(rows, question.metric))
                if not collapsed:
                    vector = self._vector(point.number, seed, rows)
                    vectors.append(vector)
                    folds.append(ordinal(seed, question.seeds) % question.num_folds)
                    if vector is not None and rows is not None:
                        row_sds.append(math.sqrt(float(vector @ vector) * len(rows.labels)))
        levels = [run.setting.level for run in runs]
        alive = [run for run in runs if not run.collapsed]
        known = [value for value in baselines if math.isfinite(value)]
        fitted = Fitted(
            axis=question.axis(levels, grid=grid), runs=runs, noise=None, posterior=None, points=own,
            baseline=known[0] if known else None, rows=min(numbers, default=0), most_rows=max(numbers, default=0),
            num_folds=question.num_folds,
        )  # fmt: skip
        if not alive:
            return fitted
        train_rows = next((number for p in own.values() if (number := _train_rows(p)) is not None), _TRAIN_ROWS)
        values = [run.value for run in alive]
        if vectors and all(vector is not None for vector in vectors):
            noise_rows: Array | None = covariance([vector for vector in vectors if vector is not None])
            row_sd = sum(row_sds) / len(row_sds)
        else:
            noise_rows, row_sd = _assumed(values, own, question.metric)
        seeds, settings = None, [run.setting for run in alive]
        if question.num_folds > 1:
            seeds = seeds_across(folds, settings, question.num_folds)
            if noise_rows is not None:
                noise_rows = rows_across(noise_rows, folds, settings, question.num_folds)
        fitted.noise = Noise(
            rows=noise_rows, seed_sd=max(seed_prior(row_sd, train_rows), 1e-9), seeds=seeds,
            num_folds=question.num_folds,
        )  # fmt: skip
        fitted.posterior = Posterior(alive, fitted.axis, fitted.noise)
        return fitted

    def _vector(self, number: int, seed: int, rows: RowScores | None) -> Array | None:
        """Returns what the rows contribute to a run's noise, computed once a run."""
        if rows is None:
            return None
        key = (number, seed)
        if key not in self._vectors:
            vector = row_vector(rows, self.question.metric)
            if vector is None:
                return None
            self._vectors[key] = vector
        return self._vectors[key]

    # -- asking ------------------------------------------------------------------------------------------------------

    @_on_one_thread
    def decide(self, points: Sequence[Point]) -> tuple[Decision, Fitted] | None:
        """Returns the answer and what it was made from; None if no run learnt anything."""
        from frostline.decision import decide

        fitted = self.fit(points)
        if fitted.posterior is None or fitted.noise is None:
            return None
        decision = decide(
            fitted.runs, fitted.axis, fitted.noise, margin=self.question.margin, confidence=self.question.confidence,
            posterior=fitted.posterior,
        )  # fmt: skip
        return decision, fitted

    @_on_one_thread
    def judged(self, points: Sequence[Point]) -> list[Point]:
        """Returns the trial that each level is judged by: one of them will be recommended."""
        from frostline.decision import representatives

        fitted = self.fit(points)
        if fitted.posterior is None:
            return []
        return [fitted.points[setting] for setting, tried in representatives(fitted.posterior) if tried]

    @_on_one_thread
    def requirement(self, decision: Decision, fitted: Fitted, more_rows: int | None) -> Requirement | None:
        """Returns what it would take to settle the question. See `frostline.decision.requirement`."""
        from frostline.decision import requirement

        assert fitted.posterior is not None
        rows = fitted.rows or 1
        return requirement(decision, fitted.posterior, rows=rows, more_rows=max(rows, more_rows or 0))

    def search_cost(self, points: Sequence[Point]) -> float:
        """Returns the relative cost of the search's runs that ended."""
        axis = self.question.axis([s.level for p in points if (s := self.question.setting(p.params)) is not None])
        done = [p for p in points if p.outcome is not None and p.copy_of is None and not p.is_baseline]
        settings = [setting for point in done if (setting := self.question.setting(point.params)) is not None]
        return sum(axis.cost(setting.level) for setting in settings)

    @_on_one_thread
    def next_replicate(
        self, points: Sequence[Point], running: Sequence[int], *, settle: float, new_rows: int | None = None
    ) -> tuple[Point, Replicate] | RaceEnd:
        """Returns which trial gets a further seed, or why none does.

        Args:
            points: All of the sweep.
            running: Numbers of the trials of which a further seed is under way, once for each seed.
            settle: The budget, in units of the search's own cost.
            new_rows: Held-out rows that further seeds are scored on; None: as many as the search's.
        """
        from frostline.decision import RaceEnd, Replicate, next_replicate

        answer = self.decide(points)
        if answer is None:
            return RaceEnd.FUTILE
        decision, fitted = answer
        assert fitted.posterior is not None
        by_number = {point.number: point for point in points}
        under_way = [self.question.setting(by_number[number].params) for number in running]
        begun = [setting for setting in under_way if setting is not None]
        spent = sum(fitted.axis.cost(setting.level) for setting in begun)
        for setting, point in fitted.points.items():
            spent += len(point.replicates) * fitted.axis.cost(setting.level)
        found = next_replicate(
            decision, fitted.posterior, budget=settle * self.search_cost(points), spent=spent, rows=fitted.rows or 1,
            new_rows=new_rows, running=begun,
        )  # fmt: skip
        if isinstance(found, Replicate):
            return fitted.points[found.setting], found
        return found

    @_on_one_thread
    def baseline(self, points: Sequence[Point]) -> Params | None:
        """Returns the parameters of full fine-tuning: those that promise most at the shallowest depth, nothing frozen.

        Args:
            points: All of the study.

        Returns:
            None if no frozen depth is swept, or nothing was learnt.
        """
        from frostline.decision import rates_of, representatives

        question = self.question
        if question.axis_key != DEPTH_KEY or question.freeze != "depth":
            return None
        fitted = self.fit(points)
        if fitted.posterior is None:
            return None
        template, _ = representatives(fitted.posterior)[0]
        rates = self._rates(rates_of(fitted.axis)) if fitted.axis.rates is not None else [template.rate]
        candidates = [replace(template, rate=rate) for rate in rates]
        mean, _ = fitted.posterior.mean_and_sd(candidates)
        return {**self._params(candidates[int(mean.argmax())]), DEPTH_KEY: None}

    def opening(self) -> list[Params]:
        """Returns what sampler `frost` tries first, as far as it is known: the rates will follow the runs."""
        import numpy as np

        from frostline.decision import next_opening

        begun: list[tuple[float, float]] = []
        while (found := next_opening(self.question.axis(), begun, None)) is not None:
            begun.append(found)
        template = self._random(np.random.default_rng(0))
        return [self._params(replace(template, level=level, rate=rate)) for level, rate in begun]

    # -- proposing ---------------------------------------------------------------------------------------------------

    @_on_one_thread
    def propose(self, points: Sequence[Point], number: int, total: int, seed: int) -> Params:
        """Returns the parameters of the next trial: the opening first, then expected improvement.

        Args:
            points: All of the study, those that run or failed too, but for the one that asks.
            number: Of the trial that asks.
            total: Trials that the sweep is to have.
            seed: The sweep's, for what is drawn.
        """
        import numpy as np

        from frostline.decision import next_opening, next_setting, rates_of, with_pending

        question = self.question
        fitted = self.fit(points, grid=True)
        digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        begun = [setting for point in points if (setting := question.setting(point.params)) is not None]
        axis = fitted.axis if fitted.runs else question.axis([setting.level for setting in begun], grid=True)
        opening = next_opening(axis, [(setting.level, setting.rate) for setting in begun], fitted.posterior)
        if opening is not None:
            level, rate = opening
            return self._params(replace(self._random(rng), level=level, rate=rate))
        levels, rates = axis.levels, self._rates(rates_of(axis))
        template = self._random(rng)
        if template.others or template.groups:
            candidates = [
                replace(self._random(rng), level=float(rng.choice(levels)), rate=float(rng.choice(rates)))
                for _ in range(_NUM_RANDOM)
            ]
        else:
            candidates = [replace(template, level=level, rate=rate) for level in levels for rate in rates]
        exclude = [setting for setting in candidates if any(_is_near(setting, other) for other in begun)]
        if fitted.posterior is None:  # nothing learnt anything yet: elsewhere, then
            fresh = [setting for setting in candidates if setting not in set(exclude)] or candidates
            return self._params(fresh[int(rng.integers(len(fresh)))])
        running = [point.params for point in points if point.state is State.RUNNING]
        pending = [setting for params in running if (setting := question.setting(params)) is not None]
        posterior = with_pending(fitted.posterior, pending)
        chosen = next_setting(posterior, candidates, progress=len(begun) / max(1, total), exclude=exclude)
        return self._params(chosen)

    def _rates(self, spread: Sequence[float]) -> list[float]:
        """Returns the rates to choose from: those of a discrete range, else some spread over it."""
        dimension = next((each for each in self.question.dimensions if each.key == LR_KEY), None)
        if dimension is None or (dimension.choices is None and dimension.step is None):
            return list(spread)
        return sorted(math.log10(float(value)) for value in dimension.values() if _is_number(value))  # type: ignore[arg-type]

    def _random(self, rng: np.random.Generator) -> Setting:
        """Returns a setting with random values of the further keys."""
        from frostline.decision import Setting

        others, groups = [], []
        rates, _ = self.question._rates()
        for dimension in self.question.dimensions:
            if dimension.key == self.question.axis_key or (dimension.key == LR_KEY and rates is not None):
                continue
            if _is_numeric(dimension):
                others.append(_scaled(dimension, _unscaled(dimension, float(rng.random()))))
            else:
                assert dimension.choices is not None
                groups.append(str(dimension.choices[rng.integers(len(dimension.choices))]))
        return Setting(level=0.0, others=tuple(others), groups=tuple(groups))

    def _params(self, setting: Setting) -> Params:
        """Returns a setting as parameters, inside the space."""
        question = self.question
        others, groups = iter(setting.others), iter(setting.groups)
        rates, _ = question._rates()
        params: Params = {}
        for dimension in question.dimensions:
            if dimension.key == question.axis_key:
                params[dimension.key] = _typed(dimension, setting.level)
            elif dimension.key == LR_KEY and rates is not None:
                params[dimension.key] = _nearest_rate(dimension, 10**setting.rate)
            elif _is_numeric(dimension):
                params[dimension.key] = _typed(dimension, _unscaled(dimension, next(others)))
            else:
                name = next(groups)
                params[dimension.key] = next(value for value in dimension.choices or () if str(value) == name)
        return params


def _is_near(one: Setting, two: Setting) -> bool:
    """Returns whether a setting says nothing that another one wouldn't: a rate beside it, all else alike."""
    alike = (one.level, one.others, one.groups) == (two.level, two.others, two.groups)
    return alike and abs(one.rate - two.rate) < _NEAR_RATE


# -- numbers of dimensions ---------------------------------------------------------------------------------------------


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_numeric(dimension: Dimension) -> bool:
    return dimension.choices is None or all(_is_number(value) for value in dimension.choices)


def _range_of(dimension: Dimension) -> tuple[float, float]:
    if dimension.choices is None:
        return dimension.low, dimension.high
    values = [float(value) for value in dimension.choices]  # type: ignore[arg-type]
    return min(values), max(values)


def _scaled(dimension: Dimension, value: float) -> float:
    low, high = _range_of(dimension)
    if low == high:
        return 0.0
    if dimension.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _unscaled(dimension: Dimension, share: float) -> float:
    """Returns the value of the space next to a place between its ends."""
    low, high = _range_of(dimension)
    value = low * (high / low) ** share if dimension.log else low + (high - low) * share
    if dimension.choices is not None or dimension.whole or dimension.step is not None:
        return min((float(each) for each in dimension.values() if _is_number(each)), key=lambda each: abs(each - value))  # type: ignore[arg-type]
    return min(high, max(low, value))


def _typed(dimension: Dimension, value: float) -> Value:
    if dimension.choices is not None:
        return next(each for each in dimension.choices if float(each) == value)  # type: ignore[arg-type]
    return round(value) if dimension.whole else float(value)


def _nearest_rate(dimension: Dimension, rate: float) -> Value:
    if dimension.choices is not None or dimension.step is not None:
        return min(dimension.values(), key=lambda each: abs(math.log(float(each) / rate)))  # type: ignore[arg-type]
    return min(dimension.high, max(dimension.low, float(f"{rate:.3g}")))


# -- rows --------------------------------------------------------------------------------------------------------------


def _is_collapsed(rows: RowScores) -> bool:
    """Returns whether a run said the same of every row though their labels differ: it learnt nothing."""
    predicted, labels = rows.predicted, rows.labels
    return bool(len(predicted) > 1 and (predicted == predicted[0]).all() and not (labels == labels[0]).all())


def row_vector(rows: RowScores, metric: str) -> Array | None:
    """Returns what the rows contribute to the noise of a run's value; None for a metric that they don't determine."""
    import numpy as np

    from frostline.decision.rows import of_bootstrap, of_mean

    if metric == "accuracy":
        return of_mean(rows.predicted == rows.labels)
    if metric in {"loss", "mse"}:
        return of_mean(-rows.losses.astype(np.float64))
    if metric == "mae":
        return of_mean(-np.abs(rows.predicted - rows.labels))
    compute = _by_rows(metric)
    return None if compute is None else of_bootstrap(compute, rows.labels, rows.predicted)


def _by_rows(metric: str) -> Callable[[Any, Any], float] | None:
    """Returns a metric as a function of labels and predictions; None if they don't determine it."""
    import warnings

    from scipy import stats
    from sklearn import metrics

    def averaged(function: Callable[..., float], average: str) -> Callable[[Any, Any], float]:
        return lambda labels, predicted: float(function(labels, predicted, average=average, zero_division=0))

    known: dict[str, Callable[[Any, Any], float]] = {
        "balanced_accuracy": metrics.balanced_accuracy_score,
        "f1": averaged(metrics.f1_score, "binary"),
        "f1_macro": averaged(metrics.f1_score, "macro"),
        "f1_micro": averaged(metrics.f1_score, "micro"),
        "precision": averaged(metrics.precision_score, "binary"),
        "precision_macro": averaged(metrics.precision_score, "macro"),
        "recall": averaged(metrics.recall_score, "binary"),
        "recall_macro": averaged(metrics.recall_score, "macro"),
        "matthews_correlation": metrics.matthews_corrcoef,
        "pearson": lambda labels, predicted: float(stats.pearsonr(labels, predicted).statistic),
        "spearman": lambda labels, predicted: float(stats.spearmanr(labels, predicted).statistic),
    }
    compute = known.get(metric)
    if compute is None:
        return None

    def quiet(labels: Any, predicted: Any) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a resample without one of the classes
            return compute(labels, predicted)

    return quiet


def _baseline(rows: RowScores, metric: str) -> float:
    """Returns what the best constant prediction comes to; NaN where that is not known."""
    import numpy as np

    labels = rows.labels
    if metric == "accuracy":
        return float(np.unique(labels, return_counts=True)[1].max() / len(labels))
    if metric == "mse":
        return float(np.var(labels))
    if metric == "mae":
        return float(np.abs(labels - np.median(labels)).mean())
    if metric in {"matthews_correlation", "pearson", "spearman"}:
        return 0.0
    return math.nan


def _train_rows(point: Point) -> int | None:
    rows = point.outcome.cost.get("train_rows") if point.outcome is not None else None
    return None if rows is None else int(rows)


def _assumed(values: Sequence[float], points: Mapping[Setting, Point], metric: str) -> tuple[Array | None, float]:
    """Returns the rows' covariance and a row's standard deviation where no predictions are at hand."""
    import numpy as np

    spread = float(np.std(values))
    mean = abs(float(np.mean(values)))
    if metric != "accuracy" or not 0 <= mean <= 1:
        # Seeds are then taken to make a third of what all runs differ by.
        return None, max(spread, 1e-9) / 3 * math.sqrt(_TRAIN_ROWS)
    row_sd = math.sqrt(max(mean * (1 - mean), 1e-4))
    numbers = [int(p.outcome.cost["eval_rows"]) for p in points.values() if p.outcome and "eval_rows" in p.outcome.cost]
    if not numbers:
        return None, row_sd
    count = len(values)
    shared = np.full((count, count), _ROW_CORRELATION) + (1 - _ROW_CORRELATION) * np.eye(count)
    return row_sd**2 / numbers[0] * shared, row_sd
