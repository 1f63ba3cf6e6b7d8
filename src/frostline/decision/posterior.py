"""The posterior of the quality over all settings, given the runs at hand.

One model for all of them: `value = f(setting) + seed + rows`. `f` is a Gaussian process (Rasmussen and Williams 2006,
chapter 2), the sum of

- a constant, and a curve over the position on the axis of cost (Matern 5/2), with an independent part for each level;
- a parabola over the *aligned* learning rate, log10 lr less the ridge of the axis: its curvature and the place of its
  top are unknown coefficients that vary slowly along the axis, so that cheap levels show where the best rates of dear
  ones lie;
- what is left: a Matern 5/2 process over position, aligned rate and other keys.

`seed` is independent from run to run. `rows` has the covariance of the runs' results on the held-out rows, so that runs
scored on the same rows are compared in pairs. Hyperparameters are averaged over a grid, weighted by their marginal
likelihood (ibid., section 5.2).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from frostline.decision.kernel import (
    Array,
    CovarianceParts,
    GridFit,
    Hyperparameters,
    KernelInputs,
    kernel_inputs,
    matern,
    square_root,
)
from frostline.decision.runs import Axis, Run, Setting

# Every scale below is relative to the spread of the values, and assumed unless it says otherwise;
# `benchmarks/decision.py` shows what the decisions that follow from them are worth in several simulated worlds.

_POSITION_SCALES = (0.35, 0.8, 2.0)
"""Length scales over the position: a third of the axis to twice all of it."""

_AMPLITUDES = (0.15, 0.35, 0.8, 1.6)
"""Standard deviations of the curve over the position."""

_LEVEL_SHARE = 0.04
"""Variance of each level's independent part, as a share of the curve's."""

_REST_SHARES = {0.15: 0.45, 0.4: 0.45, 1.0: 0.1}
"""Standard deviations of what is left, as shares of the curve's -> prior probability. Short runs may gain most from a
higher rate at one level and lose by it at the next: no parabola fits that, and with small shares alone the seeds would
be blamed. The large share is given little weight, since it says that nothing is known of rates far from the tried."""

_REST_RATE_SCALE = 0.8
"""Length scale of what is left over the aligned rate, in decades."""

_OTHER_SCALE = 1.0
"""Over other keys, whose whole range is 1."""

_OTHER_SHARE = 0.5
"""Variance of a curve over the other keys alone, as a share of the curve's over the position."""

_GROUP_CORRELATION = 0.5
"""Of the quality of two choices of a categorical key."""

_CURVATURE = 0.8
"""Mean of what a decade beside the best rate costs; its standard deviation is half of it. Of an accuracy whose values
spread by 5 points this is 4 points (measured on MiniLM: 3.5 to 6 below the best rate, 6 to 15 above)."""

_COEFFICIENT_SCALE = 2.0
"""Length scale of the parabola's coefficients over the position: they change little along the axis."""

_SEED_NODES = (-1.6, -0.8, 0.0, 0.8, 1.6)
"""Standard normal quantiles at which the seed's standard deviation is tried."""

_SEED_LOG_SD = 0.6
"""Of the log-normal prior of the seed's standard deviation: a factor of 1.8 either way."""

_SEED_CENTRE = 0.9
"""Median of that prior for n training rows: this many standard deviations of one row's result / sqrt(n). For an
accuracy near 0.75 that is 0.4 / sqrt(n) (measured on MiniLM: 3.0 points at 256 rows, 1.2 at 1,024)."""

_LEAST_WEIGHT = 1e-3
"""Hyperparameters with less than this share of the weight are dropped."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What makes two runs of one setting differ.

    Attributes:
        rows: `[N, N]`: covariance of the runs' values from the choice of held-out rows; None: unknown, and everything
            that is said holds for these rows alone.
        seed_sd: Median of the prior of the seed's standard deviation, in the unit of the values.
        seeds: `[N, N]`: correlation of the seeds' effects; None: independent. Folds share training rows.
        num_folds: Into which the rows were dealt; 1: every run was scored on the same rows.
        counts: `[N]`: rows that each run was scored on, some of them the first ones of others'; None: all on as many.
    """

    rows: Array | None
    seed_sd: float
    seeds: Array | None = None
    num_folds: int = 1
    counts: Array | None = None


def with_pending(posterior: Posterior, pending: Sequence[Setting]) -> Posterior:
    """Returns a posterior as if runs that are under way had given what is expected of them.

    So several runs side by side don't all go to one place (the "kriging believer", Ginsbourger et al. 2010).

    Args:
        posterior: Of the runs that ended.
        pending: Settings under way.
    """
    if not pending:
        return posterior
    mean, _ = posterior.mean_and_sd(pending)
    believed = [Run(setting=setting, seed=0, value=float(value)) for setting, value in zip(pending, mean, strict=True)]
    rows = posterior.noise.rows
    if rows is not None:
        known = len(rows)
        padded = np.eye(known + len(pending)) * float(np.mean(np.diag(rows)))
        padded[:known, :known] = rows
        rows = padded
    seeds = posterior.noise.seeds
    if seeds is not None:
        correlation = np.eye(len(seeds) + len(pending))
        correlation[: len(seeds), : len(seeds)] = seeds
        seeds = correlation
    noise = replace(posterior.noise, rows=rows, seeds=seeds)
    return Posterior([*posterior.runs, *believed], posterior.axis, noise)


def seed_prior(row_sd: float, train_rows: int) -> float:
    """Returns the median of the prior of a seed's standard deviation.

    Args:
        row_sd: Standard deviation of one row's contribution to the metric (of an accuracy p: sqrt(p (1 - p))).
        train_rows: On which runs are trained.
    """
    return _SEED_CENTRE * row_sd / math.sqrt(max(1, train_rows))


class Posterior:
    """The posterior of `f`; all values are in the unit of the runs' values.

    Args:
        runs: That learnt something: collapsed ones are left out by the caller. At least one.
        axis: Of cost.
        noise: Of these runs, in their order.
    """

    def __init__(self, runs: Sequence[Run], axis: Axis, noise: Noise) -> None:
        if not runs or any(run.collapsed for run in runs):
            raise ValueError("a posterior needs runs that learnt something, and takes no others")
        self.runs = tuple(runs)
        self.axis = axis
        self.noise = noise
        values = np.array([run.value for run in runs], dtype=np.float64)
        rows = np.zeros((len(values), len(values))) if noise.rows is None else noise.rows
        # Of equal values nothing can be learnt of a spread: the noise of a run is the least that is believed.
        floor = math.sqrt(noise.seed_sd**2 + float(np.mean(np.diag(rows))))
        self._spread = max(float(values.std()), floor, 1e-9)
        self._centre = float(values.mean())
        self.kernel_inputs = kernel_inputs([run.setting for run in runs], axis)
        fits: list[GridFit] = []
        log_weights: list[float] = []
        parts: dict[float, CovarianceParts] = {}  # most of a covariance is the same for all but a few of the choices
        for choice in self._choices():
            if choice[0] not in parts:
                parts[choice[0]] = self._parts(choice[0], self.kernel_inputs, self.kernel_inputs)
            fit = self._fit(values, rows, parts[choice[0]], *choice)
            log_weights.append(fit.log_weight)
            if fit.log_weight - max(log_weights) > math.log(_LEAST_WEIGHT):  # each holds a matrix: not one too many
                fits.append(fit)
        total = np.logaddexp.reduce(log_weights)
        self._fits = [fit for fit in fits if fit.log_weight - total > math.log(_LEAST_WEIGHT)]
        total = np.logaddexp.reduce([fit.log_weight for fit in self._fits])
        self._weights = np.exp(np.array([fit.log_weight for fit in self._fits]) - total)

    @cached_property
    def seed_sd(self) -> float:
        """The posterior mean of the seed's standard deviation."""
        return float(sum(weight * fit.seed_sd for weight, fit in zip(self._weights, self._fits, strict=True)))

    def moments(self, settings: Sequence[Setting]) -> tuple[Array, Array]:
        """Returns mean `[M]` and covariance `[M, M]` of `f` at some settings, over the mixture of hyperparameters."""
        means, covariances = self._at(settings)
        mean = np.tensordot(self._weights, means, axes=1)
        gap = means - mean
        covariance = np.tensordot(self._weights, covariances, axes=1)
        covariance += np.einsum("h,hi,hj->ij", self._weights, gap, gap)
        return mean, covariance

    def mean_and_sd(self, settings: Sequence[Setting]) -> tuple[Array, Array]:
        """Returns mean and standard deviation, `[M]` each, of `f` at some settings; cheaper than `moments` for many."""
        inputs = kernel_inputs(settings, self.axis)
        first, second = np.zeros(len(settings)), np.zeros(len(settings))
        for weight, fit in zip(self._weights, self._fits, strict=True):
            mean, half = self._condition(fit, inputs)
            variance = np.maximum(self._variance(fit, inputs) - np.einsum("nm,nm->m", half, half), 0.0)
            first += weight * mean
            second += weight * (variance + (mean - self._centre) ** 2)
        return first, np.sqrt(np.maximum(second - (first - self._centre) ** 2, 0.0))

    def draws(self, settings: Sequence[Setting], count: int, rng: np.random.Generator) -> Array:
        """Returns joint draws `[count, M]` of `f` at some settings."""
        means, covariances = self._at(settings)
        # As many of each mixture component as it deserves; what is rounded away goes to the heaviest.
        numbers = np.floor(self._weights * count).astype(int)
        numbers[int(np.argmax(self._weights))] += count - int(numbers.sum())
        parts = [
            mean + rng.standard_normal((number, len(settings))) @ square_root(covariance).T
            for number, mean, covariance in zip(numbers, means, covariances, strict=True)
            if number
        ]
        return np.concatenate(parts)

    # -- fitting -----------------------------------------------------------------------------------------------------

    def _choices(self) -> list[tuple[float, float, float, float]]:
        """Returns the grid of hyperparameters; what the runs can't determine has one value."""
        one_position = len(set(self.kernel_inputs.positions)) == 1
        positions = _POSITION_SCALES[1:2] if one_position else _POSITION_SCALES
        one_rate = len(set(np.round(self.kernel_inputs.rates, 9))) == 1 and not self.kernel_inputs.others.shape[1]
        rests = list(_REST_SHARES)[:1] if one_rate else list(_REST_SHARES)
        return list(itertools.product(positions, rests, _AMPLITUDES, _SEED_NODES))

    def _fit(
        self,
        values: Array,
        rows: Array,
        parts: CovarianceParts,
        position_scale: float,
        rest: float,
        amplitude: float,
        node: float,
    ) -> GridFit:
        seed_sd = self.noise.seed_sd * math.exp(_SEED_LOG_SD * node)
        shape = Hyperparameters(position_scale=position_scale, rest=rest, variance=(amplitude * self._spread) ** 2)
        covariance = self._assembled(shape, parts) + rows
        if self.noise.seeds is not None:
            covariance += seed_sd**2 * (self.noise.seeds - np.eye(len(values)))
        covariance[np.diag_indices(len(values))] += seed_sd**2 + 1e-10 * self._spread**2
        factor, _ = cho_factor(covariance, lower=True, check_finite=False)
        residual = values - self._centre - self._prior_mean(self.kernel_inputs)
        alpha = cho_solve((factor, True), residual, check_finite=False)
        log_likelihood = -0.5 * float(residual @ alpha) - float(np.log(np.diag(factor)).sum())
        log_prior = math.log(_REST_SHARES[rest]) - 0.5 * node**2
        return GridFit(shape=shape, seed_sd=seed_sd, factor=factor, alpha=alpha, log_weight=log_likelihood + log_prior)

    def _at(self, settings: Sequence[Setting]) -> tuple[Array, Array]:
        """Returns means `[H, M]` and covariances `[H, M, M]` for each of the hyperparameters."""
        inputs = kernel_inputs(settings, self.axis)
        means, covariances = [], []
        for fit in self._fits:
            mean, half = self._condition(fit, inputs)
            means.append(mean)
            covariances.append(self._covariance(fit.shape, inputs, inputs) - half.T @ half)
        return np.array(means), np.array(covariances)

    def _condition(self, fit: GridFit, inputs: KernelInputs) -> tuple[Array, Array]:
        """Returns the mean `[M]` of `f`, and `L^-1 K` `[N, M]`: its square is what the runs take off the covariance."""
        cross = self._covariance(fit.shape, inputs, self.kernel_inputs)
        half = solve_triangular(fit.factor, cross.T, lower=True, check_finite=False)
        return cross @ fit.alpha + self._prior_mean(inputs) + self._centre, half

    # -- the prior of f ----------------------------------------------------------------------------------------------

    @property
    def _curvature(self) -> float:
        return _CURVATURE * self._spread

    @property
    def _slope_sd(self) -> float:
        """Of the parabola's linear coefficient: a top that lies x decades off the ridge makes it 2 * curvature * x."""
        return 0.0 if self.axis.ridge is None else 2 * self._curvature * self.axis.ridge.offset_sd

    def _prior_mean(self, inputs: KernelInputs) -> Array:
        mean: Array = -self._curvature * inputs.rates**2
        return mean

    def _covariance(self, shape: Hyperparameters, first: KernelInputs, second: KernelInputs) -> Array:
        """Returns the covariance `[N, M]` of `f` at two lists of settings."""
        return self._assembled(shape, self._parts(shape.position_scale, first, second))

    def _assembled(self, shape: Hyperparameters, parts: CovarianceParts) -> Array:
        every = shape.variance * (parts.every + shape.rest**2 * parts.rest)
        if parts.groups is not None:
            every = every * parts.groups
        covariance: Array = every + parts.parabola + (3 * self._spread) ** 2
        return covariance

    def _parts(self, position_scale: float, first: KernelInputs, second: KernelInputs) -> CovarianceParts:
        gaps = np.abs(first.positions[:, None] - second.positions[None, :])
        curve = matern(gaps / position_scale)
        rest = curve * matern(np.abs(first.rates[:, None] - second.rates[None, :]) / _REST_RATE_SCALE)
        every = curve + _LEVEL_SHARE * (gaps < 1e-12)
        if first.others.shape[1]:
            others = matern(np.linalg.norm(first.others[:, None, :] - second.others[None, :, :], axis=2) / _OTHER_SCALE)
            every = every + _OTHER_SHARE * others
            rest = rest * others
        groups: Array | None = None
        if first.groups.shape[1]:
            differing = (first.groups[:, None, :] != second.groups[None, :, :]).sum(axis=2)
            groups = _GROUP_CORRELATION**differing
        slowly = matern(gaps / _COEFFICIENT_SCALE)
        products = np.outer(first.rates, second.rates)
        parabola = slowly * (self._slope_sd**2 * products + (self._curvature / 2) ** 2 * products**2)
        return CovarianceParts(every=every, rest=rest, parabola=parabola, groups=groups)

    def _variance(self, fit: GridFit, inputs: KernelInputs) -> Array:
        """Returns the diagonal `[M]` of `_covariance`."""
        own = 1.0 + _LEVEL_SHARE + fit.shape.rest**2 + (_OTHER_SHARE if inputs.others.shape[1] else 0.0)
        parabola = self._slope_sd**2 * inputs.rates**2 + (self._curvature / 2) ** 2 * inputs.rates**4
        variance: Array = fit.shape.variance * own + parabola + (3 * self._spread) ** 2
        return variance
