"""Samplers and pruners by name, as Optuna's classes."""

from __future__ import annotations

import copy
import hashlib
import warnings
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from frostline.search.study_view import is_paused
from frostline.spec import Dimension, PrunerName, PrunerSpec, SamplerName

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    from frostline.spec import Params

_STARTUP = 10
"""Random trials before TPE and GP trust their model: Optuna's default. A coarse grid of as many takes their place."""


class SeededSampler(BaseSampler):
    """A sampler without memory: made anew for each trial from the sweep's seed and the trial's number.

    So what a trial draws depends on them and on the trials finished before, not on the process that asks: a sweep that
    was killed and resumed draws what an undisturbed one would have drawn.

    Args:
        name: Which sampler.
        seed: The sweep's.
    """

    def __init__(self, name: SamplerName, seed: int) -> None:
        self._name = name
        self._seed = seed
        self._current: tuple[int, BaseSampler] | None = None

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if self._current is None or self._current[0] != trial.number:
            digest = hashlib.sha256(f"{self._seed}/{trial.number}".encode()).digest()
            self._current = (trial.number, _make(self._name, int.from_bytes(digest[:4], "big"), self._seed))
        return self._current[1]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See Optuna."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See Optuna."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See Optuna."""
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """See Optuna."""
        self._of(trial).before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """See Optuna."""
        self._of(trial).after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Does nothing: the seed is a function of the trial."""


class PausedAsPruned:
    """A storage as a sampler is to see it: what waits after rung 1 is PRUNED, so that its value counts.

    Everything else is the storage's own.

    Args:
        storage: Of the study.
    """

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """See Optuna."""
        trials = self._storage.get_all_trials(study_id, deepcopy=deepcopy)
        shown = [_as_pruned(trial) if is_paused(trial) else trial for trial in trials]
        return [trial for trial in shown if states is None or trial.state in states]


def _as_pruned(trial: FrozenTrial) -> FrozenTrial:
    shown = copy.copy(trial)
    shown.state = TrialState.PRUNED
    shown.value = trial.intermediate_values.get(max(trial.intermediate_values, default=0))
    return shown


class FrostSampler(BaseSampler):
    """Asks the sweep's own model of quality over all keys: the opening first, then expected improvement.

    Like `SeededSampler` it has no memory: what it proposes depends on the trials and the number of the one that asks.

    Args:
        propose: Number of a trial -> its parameters.
        space: All keys of the sweep.
    """

    def __init__(self, propose: Callable[[int], Params], space: Mapping[str, BaseDistribution]) -> None:
        self._propose = propose
        self._space = dict(space)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See Optuna. A trial whose parameters are fixed or drawn already needs none.

        A kill can leave one with some of them: what it lacks is proposed once more, the same.
        """
        del study
        is_drawn = trial.params.keys() >= self._space.keys()
        return {} if is_drawn or "fixed_params" in trial.system_attrs else self._space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See Optuna."""
        del study
        return dict(self._propose(trial.number)) if search_space else {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See Optuna. Only asked for what a fixed trial leaves out, which a checked queue doesn't."""
        del study, param_distribution
        raise ValueError(f"trial {trial.number}: {param_name} was not proposed")


def _make(name: SamplerName, seed: int, study_seed: int) -> BaseSampler:
    samplers = optuna.samplers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name is SamplerName.TPE:
            return samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP, warn_independent_sampling=False)
        if name is SamplerName.QMC:  # one sequence for the whole study: its own seed, not the trial's
            return samplers.QMCSampler(
                seed=study_seed, scramble=True, warn_independent_sampling=False, warn_asynchronous_seeding=False
            )
        if name is SamplerName.GP:
            return samplers.GPSampler(seed=seed, n_startup_trials=_STARTUP, warn_independent_sampling=False)
        if name is SamplerName.CMAES:
            return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False, consider_pruned_trials=True)
        if name is SamplerName.NSGAII:
            return samplers.NSGAIISampler(seed=seed, population_size=10)
    # The grid's trials are in the queue; what is asked beyond it is random.
    return samplers.RandomSampler(seed=seed)


def make_pruner(spec: PrunerSpec, max_steps: int | None) -> BasePruner:
    """Returns Optuna's pruner.

    Args:
        spec: Which, and its settings.
        max_steps: How many reports a trial makes at most, if that is known.
    """
    pruners = optuna.pruners
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if spec.name is PrunerName.MEDIAN:
            return pruners.MedianPruner(spec.startup_trials, spec.warmup_epochs)
        if spec.name is PrunerName.PERCENTILE:
            return pruners.PercentilePruner(spec.percentile, spec.startup_trials, spec.warmup_epochs)
        if spec.name is PrunerName.HALVING:
            return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=spec.reduction_factor)
        if spec.name is PrunerName.HYPERBAND:
            return pruners.HyperbandPruner(
                min_resource=1, max_resource=max_steps or "auto", reduction_factor=spec.reduction_factor
            )
        if spec.name is PrunerName.PATIENT:
            return pruners.PatientPruner(None, patience=spec.patience)
        if spec.name is PrunerName.WILCOXON:
            return pruners.WilcoxonPruner(p_threshold=spec.p_threshold)
    return pruners.NopPruner()


def distribution(dimension: Dimension) -> BaseDistribution:
    """Returns Optuna's form of a dimension; all bounds are included."""
    if dimension.choices is not None:
        return CategoricalDistribution(dimension.choices)
    if dimension.whole:
        return IntDistribution(
            int(dimension.low), int(dimension.high), log=dimension.log, step=int(dimension.step or 1)
        )
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)
