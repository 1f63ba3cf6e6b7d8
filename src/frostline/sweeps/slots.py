"""How many trials of a sweep one machine trains side by side, and the threads and GPUs of each."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from frostline import assets
from frostline.config import Job
from frostline.errors import SpecError
from frostline.provenance import free_memory, num_cores
from frostline.records.run_context import Sharing
from frostline.spec import DEPTH_KEY, Device, Engine, RunSpec, SamplerName
from frostline.sweeps.params import with_params
from frostline.sweeps.read_config import Sweep
from frostline.sweeps.trial_runs import num_trials, sharing_of

if TYPE_CHECKING:
    from frostline.train import Footprint

_UNLEARNT = frozenset({SamplerName.RANDOM, SamplerName.GRID, SamplerName.QMC})
"""Samplers whose choice does not depend on the trials' results."""

_ROUNDS = 3
"""Other samplers choose in so many rounds, at least: what runs side by side was chosen without each other's results
(assumed)."""

_THREADS_POWER = 0.8
"""A trial on n threads is n to this power as fast as on one: `benchmarks/slots.py`, with n = 2 (assumed beyond)."""

_MOST_ON_ONE_GPU = 16
"""Trials on one GPU, at most (assumed: what was measured on one needed no more)."""

_MEMORY_SHARE = 0.8
"""Of the free memory, which trials may fill: the rest is for what was not measured (assumed)."""

_PROCESS_BYTES = 1_000_000_000
"""What a process takes beside its model: torch and rows on a CPU, the context on a GPU (assumed)."""

_UNKNOWN_BYTES = 500_000_000
"""Of weights that have to be fetched first: BERT-base's size (assumed)."""

_COPIES = 6
"""Memory of a trial, in sizes of its weights: gradients and AdamW's moments are three, activations two (assumed)."""


@dataclass(frozen=True, kw_only=True)
class Slots:
    """How a machine is shared among trials.

    Attributes:
        count: Trials side by side.
        threads: CPU threads of each.
        gpus: Groups of GPUs that they take turns at, as CUDA_VISIBLE_DEVICES names them.
    """

    count: int
    threads: int
    gpus: tuple[str, ...]

    @property
    def all_threads(self) -> int:
        """CPU threads of all together."""
        return self.count * self.threads

    def __str__(self) -> str:
        trials = f"{self.count} trials side by side" if self.count > 1 else "one trial at a time"
        threads = f"{self.threads} threads" if self.threads > 1 else "1 thread"
        return f"{trials}, {threads} each" if self.count > 1 else f"{trials}, {threads}"

    def env(self) -> Callable[[int], dict[str, str]]:
        """Returns the environment of each. See `slot_env`."""
        return slot_env(self.count, self.threads, self.gpus)


def slots_here(sweep: Sweep) -> Slots:
    """Returns `runtime.slots`, or for auto what suits the cores; with GPUs one for each group of them.

    With `runtime.engine=ray` it is what Ray places on a node like this machine.

    Raises:
        SpecError: A trial wants more GPUs than there are.
    """
    job = sweep.job
    gpus = gpus_for(job)
    threads = job.run.runtime.threads
    if job.engine is Engine.RAY:
        threads = job.ray.cpus_per_trial or threads or job.run.runtime.num_processes
        count = int(len(gpus) / min(1.0, job.gpus_per_trial or 1.0)) or max(1, num_cores() // threads)
    elif job.slots is not None:
        count = job.slots
    elif gpus:
        count = min(len(gpus), num_trials(sweep))
    elif _may_have_another_gpu(job.run.runtime.device):
        count = 1
    else:
        most = min(_most(sweep), _room(sweep))
        count = on_cores(num_cores(), threads or job.run.runtime.num_processes, most, threads is not None)
    return _shared(count, threads, gpus)


def _may_have_another_gpu(device: Device) -> bool:
    """Returns whether torch may train on a GPU that `nvidia-smi` does not list: Apple's, AMD's, one in a container."""
    if device is Device.CPU or os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        return False
    is_apple = sys.platform == "darwin" and platform.machine() == "arm64"
    return device is not Device.AUTO or is_apple or any(map(os.path.exists, ("/dev/kfd", "/dev/nvidia0")))


def wants_measuring(sweep: Sweep, slots: Slots) -> bool:
    """Returns whether more trials may fit on the GPUs, which only a measurement can say."""
    job = sweep.job
    is_ours = job.slots is None and job.engine is Engine.LOCAL and job.run.runtime.num_processes == 1
    return is_ours and bool(slots.gpus) and _most(sweep) > len(slots.gpus)


def slots_on_gpus(sweep: Sweep, slots: Slots, takes: Footprint | None) -> Slots:
    """Returns as many slots as keep the GPUs busy and fit into their memory.

    Args:
        sweep: The sweep.
        slots: One for each group of GPUs.
        takes: What a trial takes of one GPU; None: torch has no use for them.
    """
    if takes is None:
        return slots
    count = on_gpus(len(slots.gpus), takes, min(num_cores(), _most(sweep)))
    return _shared(count, sweep.job.run.runtime.threads, slots.gpus)


def ends_of(sweep: Sweep, spec: RunSpec) -> tuple[list[RunSpec], Sharing]:
    """Returns the run of the deepest and of the shallowest trial (one if depths are not swept), and what they share."""
    sharing = sharing_of(sweep, None)
    if not sharing.depths:
        return [spec], sharing
    depths = dict.fromkeys((sharing.depths[-1], sharing.depths[0]))
    return [with_params(spec, {DEPTH_KEY: depth}) for depth in depths], sharing


def on_cores(cores: int, least: int, most: int, exactly: bool) -> int:
    """Returns how many trials share the cores of a machine.

    Args:
        cores: That may be used.
        least: Threads of a trial, at least.
        most: Trials side by side, at most.
        exactly: Whether a trial has no more threads than that.
    """
    fit = max(1, min(most, cores // least))
    if exactly:
        return fit
    return max(range(1, fit + 1), key=lambda count: (count * (cores // count) ** _THREADS_POWER, count))


def on_gpus(groups: int, takes: Footprint, most: int) -> int:
    """Returns how many trials share the GPUs of a machine: as many as fit and as keep them busy, at least one on each.

    Args:
        groups: GPUs, or groups of them that a trial trains on.
        takes: What a trial takes of one.
        most: Trials side by side, at most.
    """
    fit = int(_MEMORY_SHARE * takes.free_bytes / (takes.peak_bytes + _PROCESS_BYTES))
    wanted = min(round(1 / max(takes.busy, 1e-9)), _MOST_ON_ONE_GPU)
    return max(groups, min(groups * min(fit, wanted), most))


def _most(sweep: Sweep) -> int:
    total = num_trials(sweep)
    return total if sweep.plan.sampler in _UNLEARNT else max(1, total // _ROUNDS)


def _room(sweep: Sweep) -> int:
    """Returns how many trials fit into memory."""
    size = assets.weight_bytes(sweep.job.run.model) or _UNKNOWN_BYTES
    return int(_MEMORY_SHARE * free_memory() / (_COPIES * size + _PROCESS_BYTES))


def _shared(count: int, threads: int | None, gpus: Sequence[str]) -> Slots:
    return Slots(count=count, threads=threads or max(1, num_cores() // count), gpus=tuple(gpus))


def visible_gpus() -> list[str]:
    """Returns the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; without importing torch."""
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    if variable is not None:
        return [name for name in variable.split(",") if name.strip() and name.strip() != "-1"]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(index) for index, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


def share_gpus(gpus: Sequence[str], per_trial: int) -> list[str]:
    """Returns groups of GPUs for trials, as CUDA_VISIBLE_DEVICES names them; GPUs that make no whole group are left.

    Args:
        gpus: Of this machine; none is no trouble: trials then train on the CPU.
        per_trial: GPUs in a group.

    Raises:
        SpecError: There are some, but not as many as one trial wants.
    """
    if gpus and per_trial > len(gpus):
        raise SpecError(f"runtime.gpus_per_trial={per_trial}: this machine has {len(gpus)}; or use runtime.device=cpu")
    firsts = range(0, len(gpus) - per_trial + 1, per_trial) if gpus else ()
    return [",".join(gpus[first : first + per_trial]) for first in firsts]


def gpus_for(job: Job) -> list[str]:
    """Returns the groups of GPUs that a sweep's trials take turns at. See `share_gpus`."""
    if job.run.runtime.device is Device.CPU:
        return []
    return share_gpus(visible_gpus(), max(1, int(job.gpus_per_trial or job.run.runtime.num_processes)))


def slot_env(slots: int, threads: int, gpus: Sequence[str]) -> Callable[[int], dict[str, str]]:
    """Returns the environment of each slot: its threads, its GPUs, and waiting that burns no core that another needs.

    Args:
        slots: How many.
        threads: CPU threads of each.
        gpus: What `share_gpus` returns; more slots than groups share them.
    """

    def env(slot: int) -> dict[str, str]:
        values = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        if slots > 1:
            values["OMP_WAIT_POLICY"] = "passive"
        if gpus:
            values["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
        return values

    return env
