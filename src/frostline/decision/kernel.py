"""Covariances of the Gaussian process, and their parts that fits share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from frostline.decision.runs import Axis, Setting


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Hyperparameters of `f`."""

    position_scale: float
    rest: float
    variance: float


@dataclass(frozen=True, kw_only=True)
class CovarianceParts:
    """What a covariance `[N, M]` is put together from; none of it depends on the amplitude or the share of the rest.

    Attributes:
        every: Correlation at all rates.
        rest: Correlation of what is particular to a rate.
        parabola: Covariance of the parabola over the rate.
        groups: Factor of categorical values; None without any.
    """

    every: Array
    rest: Array
    parabola: Array
    groups: Array | None


@dataclass(frozen=True, kw_only=True)
class GridFit:
    """One point of the grid of hyperparameters, and what follows from it.

    Attributes:
        shape: Of `f`.
        seed_sd: Standard deviation of a seed.
        factor: `[N, N]`: Cholesky factor of the runs' covariance, in its lower triangle.
        alpha: `[N]`: that covariance's inverse times the values less their prior mean.
        log_weight: Log of the marginal likelihood times the prior, up to a constant.
    """

    shape: Hyperparameters
    seed_sd: float
    factor: Array
    alpha: Array
    log_weight: float


@dataclass(frozen=True, kw_only=True)
class KernelInputs:
    """Settings as numbers: positions `[N]`, aligned rates `[N]`, other keys `[N, K]`, categorical values `[N, G]`."""

    positions: Array
    rates: Array
    others: Array
    groups: Array


def kernel_inputs(settings: Sequence[Setting], axis: Axis) -> KernelInputs:
    """Returns settings as the numbers that the kernel takes."""
    count = len(settings)
    positions = np.array([axis.position(setting.level) for setting in settings], dtype=np.float64)
    rates = np.zeros(count)
    if axis.ridge is not None:
        rates = np.array([setting.rate for setting in settings]) - axis.ridge.base - axis.ridge.slope * positions
    return KernelInputs(
        positions=positions,
        rates=rates,
        others=np.array([setting.others for setting in settings], dtype=np.float64).reshape(count, -1),
        groups=np.array([setting.groups for setting in settings], dtype=object).reshape(count, -1),
    )


def matern(distances: Array) -> Array:
    """Returns the Matern 5/2 correlation (Rasmussen and Williams 2006, equation 4.17) at distances in length scales."""
    scaled = math.sqrt(5) * distances
    correlation: Array = (1.0 + scaled + scaled**2 / 3.0) * np.exp(-scaled)
    return correlation


def square_root(covariance: Array) -> Array:
    """Returns a matrix `R` with `R R^T` the given covariance, which may be singular."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    root: Array = vectors * np.sqrt(np.maximum(values, 0.0))
    return root


Array = np.ndarray[Any, Any]
