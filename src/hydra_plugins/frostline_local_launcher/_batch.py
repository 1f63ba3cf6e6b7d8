"""Runs a batch of Hydra jobs in warm workers."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict

from frostline.provenance import num_cores
from frostline.sweeps.pool_executor import TEMPLATE, WARM
from frostline.sweeps.slots import share_gpus, slot_env, visible_gpus
from frostline.workers.pool import Pool, WorkerProgram
from frostline.workers.worker_main import Channel, EventKind

if TYPE_CHECKING:
    from hydra_plugins.frostline_local_launcher.launcher import FrostlineLocalLauncher


def launch(
    launcher: FrostlineLocalLauncher, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
) -> list[JobReturn]:
    """See `FrostlineLocalLauncher.launch`."""
    setup_globals()
    config, context, task = launcher.config, launcher.hydra_context, launcher.task_function
    assert config is not None
    assert context is not None
    assert task is not None
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    sweep_dir = Path(str(config.hydra.sweep.dir))
    sweep_dir.mkdir(parents=True, exist_ok=True)
    gpus = _gpus(config, job_overrides)
    configured = OmegaConf.select(config, "runtime.slots")
    wanted = launcher.slots or (configured if configured not in {None, "auto"} else max(1, len(gpus)))
    slots = max(1, min(wanted, len(job_overrides)))
    singletons = Singleton.get_state()
    jobs = [
        # By value: a task function may live in a script or a test that a worker can't import.
        cloudpickle.dumps((initial_job_idx + index, list(overrides), context, config, task, singletons))
        for index, overrides in enumerate(job_overrides)
    ]
    returns: dict[int, JobReturn] = {}
    threads = max(1, num_cores() // slots)
    name = "hydra_plugins.frostline_local_launcher._batch:work"
    # Another application's jobs need none of ours.
    ours = getattr(task, "__module__", "").partition(".")[0] == "frostline"
    warm, template = (WARM if ours else None), (TEMPLATE if ours else None)
    env = slot_env(slots, threads, gpus)
    with Pool(
        slots, WorkerProgram(function=name, warm=warm, path=[str(Path.cwd())], template=template), env=env
    ) as pool:
        waiting = list(enumerate(jobs))
        while len(returns) < len(jobs):
            while waiting and pool.free:
                index, payload = waiting.pop(0)
                pool.submit(index, payload)
            for event in pool.poll(0.5):
                if event.kind is EventKind.DONE:
                    returns[event.key] = pickle.loads(event.value)
                elif event.kind is not EventKind.MESSAGE:
                    returns[event.key] = _lost(filter_overrides(job_overrides[event.key]), str(event.value))
    return [returns[index] for index in range(len(jobs))]


def _gpus(config: DictConfig, job_overrides: Sequence[Sequence[str]]) -> list[str]:
    """Returns the groups of GPUs that jobs take turns at, large enough for each of them."""

    def overridden(key: str) -> list[str]:
        words = [word for overrides in job_overrides for word in overrides if word.startswith(f"{key}=")]
        return [word.partition("=")[2] for word in words]

    if set(overridden("runtime.device") or [str(OmegaConf.select(config, "runtime.device"))]) == {"cpu"}:
        return []
    per_job = OmegaConf.select(config, "runtime.gpus_per_trial") or OmegaConf.select(config, "runtime.num_processes")
    swept = [int(value) for value in overridden("runtime.num_processes") if value.isdigit()]
    return share_gpus(visible_gpus(), max([per_job or 1, *swept]))


def _lost(overrides: Sequence[str], reason: str) -> JobReturn:
    failed = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
    failed.return_value = RuntimeError(reason)
    return failed


def work(payload: bytes, channel: Channel) -> bytes:
    """Runs one job, in a worker."""
    del channel
    number, overrides, context, config, task, singletons = pickle.loads(payload)
    setup_globals()
    Singleton.set_state(singletons)
    job_config = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(job_config):
        job_config.hydra.job.id = f"{job_config.hydra.job.name}_{number}"
        job_config.hydra.job.num = number
    result: Any = run_job(
        hydra_context=context,
        task_function=task,
        config=job_config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    try:
        return bytes(cloudpickle.dumps(result))
    except Exception:  # noqa: BLE001 - an exception object that holds a lock, a socket: its words are enough
        error = result._return_value
        result.return_value = RuntimeError(f"{type(error).__name__}: {error}")
        return bytes(cloudpickle.dumps(result))
