"""Owns: tasks of a search -> trainings, in warm workers or through a Hydra launcher. Must not know: who chose them."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from frostline import assets
from frostline.advisor import race_rows
from frostline.cluster import LocalInput
from frostline.config import Job, decode_job, without_hydra
from frostline.errors import MACHINE_WAY_OUT, UserError, origin
from frostline.provenance import redact
from frostline.records.result import Cause, RunResult, Status
from frostline.records.run_context import Sharing
from frostline.records.run_folder import RUN_FILE
from frostline.records.trial import TrialOutcome, TrialState, label
from frostline.search import Key, TrialEnded, TrialEvent, TrialReported, TrialTask
from frostline.spec import DEPTH_KEY, DatasetSpec, Format, Params, Progress, PrunerName, Source, Value
from frostline.sweep.folder import TRIAL_FILE, SweepFolder
from frostline.sweep.input_check import InputCheck
from frostline.sweep.lost import record_worker_death
from frostline.sweep.read_config import Compose, Sweep, encode, is_full
from frostline.sweep.trial import Evaluated, SeedRun, TrialJob, TrialReply, WarningText, is_whole, kind_of, outcome_of
from frostline.workers.pool import EventKind, WorkerEvent, Workers

if TYPE_CHECKING:
    from hydra.plugins.launcher import Launcher

_POLL_S = 0.2
_CAUSES = {
    EventKind.DIED: Cause.WORKER_DIED,
    EventKind.TEMPLATE_DIED: Cause.TEMPLATE_DIED,
    EventKind.TIMEOUT: Cause.TIMED_OUT,
}
RELOCATE = "frostline.sweep.trial:relocated"
RUN_TRIAL = "frostline.sweep.trial:run_trial"
WARM = "frostline.sweep.trial:warm"
TEMPLATE = "frostline.sweep.worker_template"


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
        self._inputs = InputCheck(folder, lambda number: self.folder_of(number, self.seeds[0]))

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
        before interpolations are resolved, which comes to the same.
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
            found = dimension.choices or range(round(dimension.low), round(dimension.high) + 1)
            depths |= {depth for depth in found if isinstance(depth, int)}
    num_runs = num_trials(sweep) * len(sweep.plan.seeds or (0,))
    return Sharing(num_runs=num_runs, depths=tuple(sorted(depths)), threads=threads)


def num_trials(sweep: Sweep) -> int:
    """Returns how many trials a sweep is to have: its total, else its grid."""
    variants = sweep.space.variants.values()
    in_grid = sum(math.prod(len(dimension.values()) for dimension in dimensions) for dimensions in variants)
    return sweep.plan.n_trials or in_grid


class PoolExecutor:
    """Trains in warm workers; the next task begins when any slot is free.

    Args:
        pool: Started.
        sweep: What is swept.
        runs: Tasks -> runs.
        parent: MLflow run id of the sweep, known once it has begun.
        warn: Told of a worker's warnings.
        threads: CPU threads of all slots together; None: each computes on its own.
        settled: Told of each trial that has come to an end.
    """

    def __init__(
        self,
        pool: Workers,
        sweep: Sweep,
        runs: TrialRuns,
        parent: Callable[[], str | None],
        warn: Callable[[str], None],
        threads: int | None,
        settled: Callable[[Key, TrialJob], None] = lambda _key, _trial: None,
    ) -> None:
        self._pool = pool
        self._settled = settled
        self._sweep = sweep
        self._runs = runs
        self._parent = parent
        self._warn = warn
        self._trials: dict[Key, TrialJob] = {}
        self._retried: set[Key] = set()
        self._ready: list[TrialEvent] = []
        self._stopping = False
        self._sharing = sharing_of(sweep, threads)
        self.stop_signal = signal.SIGINT

    @property
    def free(self) -> int:
        """See `Executor`."""
        return 0 if self._stopping else self._pool.free

    def submit(self, task: TrialTask) -> None:
        """See `Executor`."""
        try:
            runs = self._runs.of(task)
        except UserError as error:
            self._ready.append(TrialEnded(number=task.number, outcome=None, fatal=str(error), seed=task.seed))
            return
        plan = self._sweep.plan
        job = TrialJob(
            number=task.number,
            name=label(task.params),
            runs=runs,
            ask=plan.pruner.name is not PrunerName.NONE,
            pauses=task.rung == 1 and plan.has_rungs,
            several=len(self._runs.seeds) > 1 or task.seed is not None,
            steps_per_run=self._runs.steps_per_run,
            parent=self._parent(),
            params=dict(task.params),
            sharing=self._sharing,
            replicate=task.seed,
        )
        self._trials[task.key] = job
        self._pool.submit(task.key, job)

    def wait(self) -> Sequence[TrialEvent]:
        """See `Executor`."""
        events, self._ready = self._ready, []
        for event in self._pool.poll(0.0 if events else _POLL_S):
            events += self._translate(event)
        return events

    def _translate(self, event: WorkerEvent) -> list[TrialEvent]:
        number, seed = event.key
        if event.kind is EventKind.MESSAGE:
            if isinstance(event.value, WarningText):
                self._warn(event.value.text)
                return []
            assert isinstance(event.value, Evaluated)
            return [TrialReported(number=number, step=event.value.step, value=event.value.value, seed=seed)]
        if event.kind is EventKind.DONE:
            assert isinstance(event.value, TrialReply)
            self._settled(event.key, self._trials[event.key])
            return [self._runs.checked(number, self._trials[event.key].params, event.value, seed)]
        died = event.kind in {EventKind.DIED, EventKind.TEMPLATE_DIED}
        if self._stopping and (died or event.kind is EventKind.GONE):  # the signal came between two runs
            return [TrialEnded(number=number, outcome=None, seed=seed)]
        reason = str(event.value)
        if event.kind is EventKind.GONE:  # as often as need be: it says nothing of the trial
            self._retry(event.key, reason)
            return []
        if died and event.key not in self._retried:
            self._retry(event.key, reason)
            return []
        cause = _CAUSES.get(event.kind, Cause.ERROR)
        record_worker_death(self._trials[event.key], reason, cause)
        self._settled(event.key, self._trials[event.key])
        outcome = TrialOutcome(state=TrialState.FAILED, reason=reason, cause=cause)
        return [TrialEnded(number=number, outcome=outcome, seed=seed)]

    def _retry(self, key: Key, reason: str) -> None:
        """Gives a trial whose process died to another one: it goes on from its last checkpoint."""
        self._retried.add(key)
        trial = self._trials[key] = replace(self._trials[key], note=f"{reason}: trained again from its last checkpoint")
        self._warn(f"warning: #{trial.number} {trial.name}: {trial.note}")
        self._pool.submit(key, trial)

    def answer(self, key: Key, prune: bool) -> None:
        """See `Executor`."""
        if self._sweep.plan.pruner.name is not PrunerName.NONE:
            self._pool.answer(key, prune)

    def stop(self) -> None:
        """See `Executor`."""
        self._stopping = True
        self._pool.signal_all(self.stop_signal)


def local_inputs(trial: TrialJob) -> dict[str, LocalInput]:
    """Returns the local files that a trial reads, by the path in the config; of plugins by `plugin:NAME`.

    Raises:
        UserError: It reads some that can't be sent to another machine.
    """
    found: dict[str, LocalInput] = {}
    for spec in (run.job.run for run in trial.runs):
        if spec.runtime.accelerate_config is not None:
            name = spec.runtime.accelerate_config
            found[name] = LocalInput(path=assets.local_file(name, "runtime.accelerate_config"))
        if spec.model.source is Source.PATH:
            found[spec.model.location] = LocalInput(path=assets.model_folder(spec.model))
        for data in (spec.dataset, *spec.dataset.also_evaluate):
            if data.source is Source.HUB and (copied := assets.local_path(data.location)).exists():
                found[data.location] = LocalInput(path=copied.absolute())
            if data.source is not Source.PATH:
                continue
            found[data.location] = _with_images(data, assets.data_file(data))
            for key, other in data.other_files().items():
                found[other] = _with_images(data, assets.local_file(other, key, folder=data.is_image))
    for name in trial.runs[0].job.plugins:
        found |= _plugin(name)
    return found


def _with_images(data: DatasetSpec, path: Path) -> LocalInput:
    """Returns a file or folder of data; with a table the images that it names."""
    if not data.is_image or path.is_dir() or data.format is Format.PIXELS:
        return LocalInput(path=path)
    names = _images_of(path, data)
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(
                f"{path.name}: names the image {name}, which can't be sent to a node that shares no file system with "
                "this machine: name images below the table's own folder"
            )
    return LocalInput(path=path, beside=tuple(name for name in names if (path.parent / name).is_file()))


@functools.cache
def _images_of(path: Path, data: DatasetSpec) -> tuple[str, ...]:
    from frostline.data.readers import image_names

    return tuple(image_names(path, data, assets.home() / "datasets"))


def _plugin(name: str) -> dict[str, LocalInput]:
    """Returns the file or package of a plugin that lies in the current folder; others are installed on all nodes."""
    first = name.partition(".")[0]
    for path in (Path.cwd() / f"{first}.py", Path.cwd() / first):
        if path.exists():
            return {f"plugin:{first}": LocalInput(path=path)}
    return {}


class BatchExecutor:
    """Trains batches through any Hydra launcher: basic, joblib, submitit, Ray.

    A batch begins when it is full or nothing more is to be had, and is over when its last run is.

    Args:
        launcher: Set up by Hydra, with frostline's task function.
        size: Trials in a batch.
        sweep: What is swept.
        runs: Tasks -> runs.
        parent: MLflow run id of the sweep.
    """

    def __init__(
        self, launcher: Launcher, size: int, sweep: Sweep, runs: TrialRuns, parent: Callable[[], str | None]
    ) -> None:
        self._launcher = launcher
        self._size = size
        self._sweep = sweep
        self._runs = runs
        self._parent = parent
        self._batch: list[TrialTask] = []
        self._stopping = False
        self._sharing = sharing_of(sweep, None)  # jobs may lie on several machines: each computes on its own threads

    @property
    def free(self) -> int:
        """See `Executor`."""
        return 0 if self._stopping else self._size - len(self._batch)

    def submit(self, task: TrialTask) -> None:
        """See `Executor`."""
        self._batch.append(task)

    def wait(self) -> Sequence[TrialEvent]:
        """See `Executor`."""
        batch, self._batch = self._batch, []
        events: list[TrialEvent] = []
        todo: list[tuple[TrialTask, int, list[str]]] = []
        for task in batch:
            todo += [(task, seed, overrides) for seed, overrides in self._missing(task)]
        returns: dict[tuple[int, int], Any] = {}
        if todo:
            first = max(0, min(task.number for task, _, _ in todo))
            jobs = self._launcher.launch([overrides for _, _, overrides in todo], initial_job_idx=first)
            returns = {(task.number, seed): job for (task, seed, _), job in zip(todo, jobs, strict=True)}
        for task in batch:
            events.append(self._end_of(task, returns))
        return events

    def _missing(self, task: TrialTask) -> list[tuple[int, list[str]]]:
        rows = []
        for seed_run in self._runs.of(task):
            folder, spec = seed_run.folder, seed_run.job.run
            with suppress(UserError):
                result = RunResult.read(folder)
                is_done = result.status is Status.FINISHED and result.spec_digest == spec.digest()
                if is_done and is_whole(folder, result):
                    continue
            _empty(folder)  # of a killed command: a launcher's job can't go on with it
            several = len(self._runs.seeds) > 1 or task.seed is not None
            name = label(task.params) + (f" s{spec.seed}" if several else "")
            tags = {
                **self._sweep.job.tracking.tags,
                "frostline.trial": str(task.number),
                "frostline.kind": kind_of(task.number, task.seed),
            }
            parent = self._parent()
            where = [
                f"hydra.sweep.dir={_quoted(str(folder.parent))}",
                f"hydra.sweep.subdir={_quoted(folder.name)}",
                f"tracking.parent_run={'null' if parent is None else _quoted(parent)}",
                f"tracking.run_name={_quoted(name)}",
                f"tracking.params=[{','.join(task.params)}]",
                f"++tracking.tags={{{','.join(f'{key}:{_quoted(value)}' for key, value in tags.items())}}}",
                f"runtime.num_runs={self._sharing.num_runs}",
            ]
            rows.append((spec.seed, [*self._runs.overrides(task.params, spec.seed), *where]))
        return rows

    def _end_of(self, task: TrialTask, returns: Mapping[tuple[int, int], Any]) -> TrialEnded:
        results: list[tuple[int, RunResult]] = []
        own = task.seed
        for seed in self._runs.seeds if own is None else (own,):
            folder = self._runs.folder_of(task.number, seed)
            try:
                result = RunResult.read(folder)
            except UserError:
                error = getattr(returns.get((task.number, seed)), "_return_value", None)
                if isinstance(error, UserError):
                    return TrialEnded(number=task.number, outcome=None, fatal=str(error), seed=own)
                if isinstance(error, BaseException):
                    reason, where = f"{type(error).__name__}: {error}", origin(error)
                else:
                    reason, where = "left no result", None
                lost = TrialOutcome(state=TrialState.FAILED, reason=reason, cause=Cause.ERROR, error=where)
                return TrialEnded(number=task.number, outcome=lost, seed=own)
            error = getattr(returns.get((task.number, seed)), "_return_value", None)
            if isinstance(error, UserError):
                return TrialEnded(number=task.number, outcome=None, fatal=str(error), seed=own)
            results.append((seed, result))
            if result.status is Status.KILLED:
                return TrialEnded(number=task.number, outcome=None, seed=own)
            if result.cause is Cause.MACHINE:
                fatal = f"{folder}: {result.reason}; {MACHINE_WAY_OUT}"
                return TrialEnded(number=task.number, outcome=None, fatal=fatal, machine=True, seed=own)
            if result.status is not Status.FINISHED:
                return TrialEnded(
                    number=task.number, outcome=outcome_of(results, TrialState.FAILED, paused=False), seed=own
                )
        end = TrialReply(outcome=outcome_of(results, TrialState.COMPLETE, paused=False))
        return self._runs.checked(task.number, task.params, end, own)

    def answer(self, key: Key, prune: bool) -> None:
        """A batch is not asked."""

    def stop(self) -> None:
        """See `Executor`."""
        self._stopping = True


def _empty(folder: Path) -> None:
    """Removes what an earlier attempt left, but for what says which trial and which MLflow run it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in {RUN_FILE, TRIAL_FILE}:
            path.unlink()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "\\'") + "'"


def threads_of(run: Path, overrides: Sequence[str]) -> list[str]:
    """Returns what trains on as many threads as a run did: its share of the cores, where the overrides don't say."""
    if any(override.startswith("runtime.threads=") for override in overrides):
        return []
    try:
        threads = json.loads((run / SPEC_FILE).read_text(encoding="utf-8"))["runtime"]["threads"]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    return [f"runtime.threads={threads}"] if isinstance(threads, int) else []
