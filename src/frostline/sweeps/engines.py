"""Who trains the trials of a sweep: processes of this machine, the slots of a Ray cluster, or a launcher of Hydra."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.cluster import ClusterPool, ClusterSettings, open_pool
from frostline.records.run_folder import MODEL_FOLDER
from frostline.search import Key
from frostline.spec import DEPTH_KEY, Device, Engine, KeepModels
from frostline.sweeps.batch_executor import BatchExecutor
from frostline.sweeps.folder import WORKERS_FOLDER, SweepFolder
from frostline.sweeps.local_inputs import local_inputs
from frostline.sweeps.pool_executor import RELOCATE, RUN_TRIAL, TEMPLATE, WARM, PoolExecutor
from frostline.sweeps.read_config import Compose, Sweep
from frostline.sweeps.slots import (
    ends_of,
    slot_env,
    slots_here,
    slots_on_gpus,
    wants_measuring,
)
from frostline.sweeps.trial import is_reached_from_elsewhere, publish
from frostline.sweeps.trial_job import Measure, TrialJob, TrialReply
from frostline.sweeps.trial_runs import TrialRuns, num_trials
from frostline.workers.pool import Pool, WorkerProgram, Workers
from frostline.workers.worker_main import EventKind

if TYPE_CHECKING:
    from hydra.plugins.launcher import Launcher

    from frostline.train import Footprint

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Training:
    """What trains a sweep, opened.

    Attributes:
        executor: Takes tasks.
        runs: What tasks are made of.
        slots: Trials side by side.
        pool: Its workers; None with a launcher.
    """

    executor: BatchExecutor | PoolExecutor
    runs: TrialRuns
    slots: int
    pool: Workers | None = None


@dataclass(frozen=True, kw_only=True)
class EngineOpener:
    """Opens what `runtime.engine` names.

    Attributes:
        sweep: What is swept.
        compose: Composes a trial's config.
        folder: The sweep's.
        launcher: Of Hydra, which trains in batches; None: warm workers do.
        parent: Returns the MLflow run id of the sweep, once there is one.
        warn: Called with a worker's warnings.
        num_recorded: Returns how many trials were trained by earlier commands.
        is_stopping: Returns whether the person has asked to stop.
        stack: Closes it.
    """

    sweep: Sweep
    compose: Compose
    folder: SweepFolder
    launcher: Launcher | None
    parent: Callable[[], str | None]
    warn: Callable[[str], None]
    num_recorded: Callable[[], int]
    is_stopping: Callable[[], bool]
    stack: ExitStack = field(default_factory=ExitStack)

    def open(self) -> Training:
        """Opens it.

        Raises:
            UserError: This machine or the cluster has not what a trial asks for; one line.
        """
        if self.launcher is not None:
            return self._with_launcher(self.launcher)
        if self.sweep.job.engine is Engine.RAY:
            return self._on_cluster()
        return self._on_this_machine()

    def _runs(self, threads: int | None) -> TrialRuns:
        return TrialRuns(self.sweep, self.compose, self.folder, threads)

    def _with_launcher(self, launcher: Launcher) -> Training:
        slots, runs = self.sweep.job.slots or 1, self._runs(self.sweep.job.run.runtime.threads)
        return Training(executor=BatchExecutor(launcher, slots, self.sweep, runs, self.parent), runs=runs, slots=slots)

    def _on_this_machine(self) -> Training:
        sweep = self.sweep
        slots = slots_here(sweep)
        logs = self.folder.folder / WORKERS_FOLDER
        logs.mkdir(exist_ok=True)
        program = WorkerProgram(function=RUN_TRIAL, warm=WARM, log_dir=logs, path=[str(Path.cwd())], template=TEMPLATE)
        pool = self.stack.enter_context(
            Pool(slots.count, program, env=slots.env(), heartbeat_timeout_s=sweep.plan.trial_timeout_s)
        )
        if wants_measuring(sweep, slots) and self.num_recorded() < num_trials(sweep):
            slots = slots_on_gpus(sweep, slots, self._footprint(pool))
            pool.grow(slots.count, slots.env())
        if sweep.job.slots is None:
            print(f"note: {slots}; runtime.slots=N changes that", file=sys.stderr, flush=True)
        runs = self._runs(slots.threads)
        executor = PoolExecutor(pool, sweep, runs, self.parent, self.warn, slots.all_threads)
        return Training(executor=executor, runs=runs, slots=slots.count, pool=pool)

    def _footprint(self, pool: Pool) -> Footprint | None:
        """Returns a trial's GPU memory and utilization; None if they can't be measured."""
        print("note: measuring what a trial takes of the GPU ...", file=sys.stderr, flush=True)
        specs, sharing = ends_of(self.sweep, self.sweep.job.run)
        pool.submit("measure", Measure(specs=tuple(specs), sharing=sharing, plugins=self.sweep.job.plugins))
        while not self.is_stopping():
            for event in pool.poll(0.5):
                if event.kind is EventKind.DONE:
                    footprint: Footprint | None = event.value
                    return footprint
                if event.kind is not EventKind.MESSAGE:
                    log.warning("what a trial takes of the GPU could not be measured: %s", event.value)
                    return None
        return None

    def _on_cluster(self) -> Training:
        job, plan, folder = self.sweep.job, self.sweep.plan, self.folder.folder
        runtime = job.run.runtime
        threads = job.ray.cpus_per_trial or runtime.threads or runtime.num_processes
        runs = self._runs(threads)
        settings = ClusterSettings(
            address=job.ray.address, slots=job.slots, cpus=threads, memory_bytes=job.ray.memory_per_trial,
            gpus=0.0 if runtime.device is Device.CPU else job.gpus_per_trial, processes=runtime.num_processes,
            shared=job.ray.shared,
        )  # fmt: skip

        def name_of(key: Key) -> str:
            number, seed = key
            target = self.folder.trial_folder(number) if seed is None else runs.folder_of(number, seed)
            return target.relative_to(folder).as_posix()

        def on_trial_end(key: Key, trial: TrialJob) -> None:
            if plan.keep_models not in {KeepModels.RECOMMENDED, KeepModels.NONE}:
                for seed_run in trial.runs:
                    pool.bring(key, (seed_run.folder / MODEL_FOLDER).relative_to(folder / name_of(key)).as_posix())
            if pool.is_remote(key) and not is_reached_from_elsewhere(job.tracking.uri):
                publish(trial)

        pool: ClusterPool = self.stack.enter_context(
            open_pool(
                settings, local_inputs, name_of, lambda trial: trial.params.get(DEPTH_KEY), _is_cut_short,
                folder=folder, function=RUN_TRIAL, relocate=RELOCATE, warm=WARM, template=TEMPLATE,
                env=slot_env(2, threads, [])(0), heartbeat_timeout_s=plan.trial_timeout_s,
            )
        )  # fmt: skip
        executor = PoolExecutor(pool, self.sweep, runs, self.parent, self.warn, None, on_trial_end)
        return Training(executor=executor, runs=runs, slots=pool.num_slots, pool=pool)


def _is_cut_short(end: TrialReply) -> bool:
    return end.outcome is None and end.fatal is None
