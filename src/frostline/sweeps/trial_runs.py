"""The runs that a trial is made of: their specs, folders, seeds and overrides."""

from __future__ import annotations

import copy
import itertools
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from frostline.advisor import race_rows
from frostline.config import Job, decode_job, without_hydra
from frostline.provenance import redact
from frostline.records.run_context import Sharing
from frostline.records.run_folder import RUN_FILE
from frostline.records.trial import TrialState
from frostline.search import TrialEnded, TrialTask
from frostline.spec import DEPTH_KEY, Params, Progress, Value
from frostline.sweeps.folder import TRIAL_FILE, SweepFolder
from frostline.sweeps.input_check import InputCheck
from frostline.sweeps.params import encode, is_full
from frostline.sweeps.read_config import Compose, Sweep
from frostline.sweeps.trial_job import SeedRun, TrialReply


class TrialRuns:
    """A task -> the runs that it is made of.

    Args:
        sweep: What is swept.
        compose: Composes a trial's config.
        folder: The sweep's.
        threads: CPU threads of a run that doesn't say; None leaves it to torch.
    """

    def __init__(self, sweep: Sweep, compose: Compose, folder: SweepFolder, threads: int | None) -> None:
        self._sweep = sweep
        self._compose = compose
        self._folder = folder
        self._threads = threads
        self._bases: dict[tuple[Value, ...], DictConfig] = {}
        self._inputs = InputCheck(folder, lambda number: self.folder_of(number, self.seeds[0]), sweep.plan.axis)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that a trial is trained with."""
        return self._sweep.plan.seeds or (self._sweep.job.run.seed,)

    @property
    def steps_per_run(self) -> int:
        """How many reports a run makes at most."""
        return max(1, round(self._sweep.job.run.training.epochs or 1))

    def of(self, task: TrialTask) -> tuple[SeedRun, ...]:
        """Returns the runs of a task's rung, in the order of the seeds.

        Raises:
            UserError: The trial doesn't compose.
        """
        plan = self._sweep.plan
        if task.seed is not None:
            return (self._seed_run(task, task.seed, None),)
        first_only = task.rung == 1 and plan.has_rungs
        until = plan.rung_epochs if first_only else None
        seeds = self.seeds[:1] if first_only else self.seeds
        return tuple(self._seed_run(task, seed, until) for seed in seeds)

    def folder_of(self, number: int, seed: int) -> Path:
        """Returns the folder of a run."""
        target = self._folder.trial_folder(number)
        return target if self.seeds == (seed,) else target / f"s{seed}"

    def checked(
        self, number: int, params: Mapping[str, Value], end: TrialReply, replicate: int | None = None
    ) -> TrialEnded:
        """Returns how a task ended, with what is wrong if it was trained from other weights or rows than the others."""
        trouble = None
        if end.outcome is not None and end.outcome.state is not TrialState.FAILED:
            trouble = next(
                (
                    words
                    for seed in end.outcome.by_seed
                    if (words := self._inputs.trouble({**params, **self._rows_of(seed)}, self.folder_of(number, seed)))
                ),
                None,
            )
        return TrialEnded(
            number=number, outcome=None if trouble else end.outcome, fatal=trouble or end.fatal,
            machine=end.machine and trouble is None, seed=replicate,
        )  # fmt: skip

    def overrides(self, params: Mapping[str, Value], seed: int) -> tuple[str, ...]:
        """Returns what composes a run."""
        extra = [f"seed={seed}"] if self._sweep.plan.seeds is not None or self.seeds != (seed,) else []
        return (*self._sweep.fixed, *encode(params), *extra, *encode(self._rows_of(seed)))

    def _rows_of(self, seed: int) -> Params:
        """Returns the keys by which a run is scored on other rows than the first ones of the search are.

        A further seed is scored on more rows (`sweep.settle_rows`); with `sweep.folds` each seed holds out another
        fold.
        """
        plan = self._sweep.plan
        fold = plan.fold_of(seed, self.seeds)
        if fold or seed in self.seeds or plan.folds is not None:
            return {"dataset.fold": fold} if fold else {}
        rows, _ = race_rows(self._folder.read_trials(), plan.settle_rows)
        return {"dataset.eval_rows": rows} if rows is not None else {}

    def _seed_run(self, task: TrialTask, seed: int, until: int | None) -> SeedRun:
        overrides = self.overrides(task.params, seed)
        config = self._composed(task.params, seed)
        for key, value in self._rows_of(seed).items():
            OmegaConf.update(config, key, value, merge=False)
        job = self._ready(decode_job(config))
        shown = tuple(redact(line) for line in overrides)
        return SeedRun(job=job, folder=self.folder_of(task.number, seed), overrides=shown, until_epoch=until)

    def _composed(self, params: Mapping[str, Value], seed: int) -> DictConfig:
        """Composes a trial.

        Hydra takes 0.2 s for it (measured), so it is asked once for each choice of groups; plain values are put in
        before interpolations are resolved, which gives the same.
        """
        groups: Params = {group.key: params[group.key] for group in self._sweep.space.groups}
        groups |= {key: value for key, value in params.items() if is_full(key, value)}
        chosen = tuple(groups.values())
        if chosen not in self._bases:
            self._bases[chosen] = without_hydra(self._compose([*self._sweep.fixed, *encode(groups)]))
        config = copy.deepcopy(self._bases[chosen])
        values = {key: value for key, value in params.items() if key not in groups}
        for key, value in {**values, "seed": seed}.items():
            OmegaConf.update(config, key, value, merge=False)
        return config

    def _ready(self, job: Job) -> Job:
        threads = job.run.runtime.threads or self._threads
        runtime = replace(job.run.runtime, threads=threads, progress=Progress.OFF)
        return replace(job, run=replace(job.run, runtime=runtime))


def sharing_of(sweep: Sweep, threads: int | None) -> Sharing:
    """Returns how many runs a sweep makes at most, and at which depths.

    Args:
        sweep: What is swept.
        threads: Of all slots together: the slots wait for the one that computes what they share. None: the run's.
    """
    depths: set[int] = set()
    for dimension in itertools.chain(*sweep.space.variants.values()):
        if dimension.key == DEPTH_KEY:
            values = dimension.choices or range(round(dimension.low), round(dimension.high) + 1)
            depths |= {depth for depth in values if isinstance(depth, int)}
    num_runs = num_trials(sweep) * len(sweep.plan.seeds or (0,))
    return Sharing(num_runs=num_runs, depths=tuple(sorted(depths)), threads=threads)


def num_trials(sweep: Sweep) -> int:
    """Returns how many trials a sweep is to have: its total, else its grid."""
    variants = sweep.space.variants.values()
    in_grid = sum(math.prod(len(dimension.values()) for dimension in dimensions) for dimensions in variants)
    return sweep.plan.n_trials or in_grid


def clear_attempt(folder: Path) -> None:
    """Removes what an earlier attempt left, but for what says which trial and which MLflow run it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in {RUN_FILE, TRIAL_FILE}:
            path.unlink()
