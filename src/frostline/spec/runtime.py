"""The config group `runtime`: where and how a run computes, which its digest leaves out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from frostline.errors import SpecError
from frostline.spec.checks import finite, require


class Device(StrEnum):
    """Where a run computes; `auto` takes an accelerator when there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class Progress(StrEnum):
    """Whether a bar is drawn; `auto` draws it when a person watches (stderr is a terminal)."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class CacheMode(StrEnum):
    """Whether frozen blocks are computed once and kept; `auto` keeps them where that pays."""

    AUTO = "auto"
    OFF = "off"
    REQUIRE = "require"


class CacheDtype(StrEnum):
    """In which numbers hidden states are kept."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


CACHE_MAX_BYTES = 20e9
"""Default of `runtime.cache.max_bytes`, also in conf/runtime/default.yaml (assumed: a small part of today's disks)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheSpec:
    """The cache of what frozen blocks compute. `runtime.cache=off` is short for `runtime.cache.mode=off`.

    Attributes:
        mode: Whether it is used; `require` fails where it can't be.
        max_bytes: What it may take on the disk; the entries that were used longest ago go first.
        dtype: In which numbers hidden states are kept. `float16` halves the files and rounds each number by at most
            2**-11 of itself; a run's numbers are then no longer those that it has without the cache.
    """

    mode: CacheMode
    max_bytes: float
    dtype: CacheDtype = CacheDtype.FLOAT32

    def __post_init__(self) -> None:
        ok = finite(self.max_bytes) and self.max_bytes >= 0
        require(ok, "runtime.cache.max_bytes", self.max_bytes, "a number of bytes, 0 or more")

    @staticmethod
    def from_word(word: str) -> dict[str, object]:
        """Returns the keys that a mode alone stands for."""
        return {"mode": word, "max_bytes": CACHE_MAX_BYTES, "dtype": CacheDtype.FLOAT32.value}


def expand_cache_shorthand(overrides: Sequence[str]) -> list[str]:
    """Returns overrides as Hydra takes them.

    `runtime.cache=require` becomes `runtime.cache.mode=require` where others of its keys are given: those could not be
    set in a word. Alone it stays, as it replaces a word that a config file may have. A new key of `tracking.tags`
    needs no `+`: they are the user's own.
    """
    expanded = [re.sub(r"^(?=tracking\.tags(\.|=\{))", "++", word) for word in overrides]
    if not any(re.match(r"runtime\.cache\.", word) for word in overrides):
        return expanded
    return [re.sub(r"^runtime\.cache=(?=[a-z]+(,[a-z]+)*$)", "runtime.cache.mode=", word) for word in expanded]


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeSpec:
    """Where and how a run is executed; not part of what it is, so not of its digest. `conf/runtime/`.

    Attributes:
        device: Where it computes.
        threads: CPU threads of torch, of all processes together; None leaves torch's choice. Other numbers of threads
            give other bits.
        num_processes: Processes that compute each step together, under `accelerate launch`. They share the rows of
            `training.batch_size`, so that a step is the same step; dropout draws other numbers.
        accelerate_config: A file of `accelerate config` for them; None: data parallel on this machine.
        loader_workers: Processes that prepare batches; 0 prepares them in the main process.
        deterministic: Refuse kernels whose result may vary from run to run (on a GPU; a CPU needs nothing).
        progress: Whether a bar is drawn.
        cache: Of what frozen blocks compute. With it the last bits differ: they are computed in other batches.
        num_runs: Runs that will read the same hidden states, this one included: they decide whether caching pays.
    """

    device: Device
    threads: int | None
    num_processes: int
    accelerate_config: str | None
    loader_workers: int
    deterministic: bool
    progress: Progress
    cache: CacheSpec
    num_runs: int

    def __post_init__(self) -> None:
        require(self.num_runs >= 1, "runtime.num_runs", self.num_runs, "1 or more")
        threads = self.threads
        require(threads is None or 1 <= threads <= 1024, "runtime.threads", threads, "1 to 1024, or null")
        require(1 <= self.num_processes <= 1024, "runtime.num_processes", self.num_processes, "1 to 1024")
        if self.accelerate_config is not None and not self.accelerate_config.strip():
            raise SpecError("runtime.accelerate_config is empty: give a file of `accelerate config`, or null")
        if self.accelerate_config is not None and self.num_processes == 1:
            raise SpecError("runtime.accelerate_config is for several processes: give runtime.num_processes too")
        workers = self.loader_workers
        require(0 <= workers <= 1024, "runtime.loader_workers", workers, "0 to 1024")


class Engine(StrEnum):
    """Who runs the trials of a sweep."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True, kw_only=True, slots=True)
class RaySpec:
    """What the trials of a sweep ask of a Ray cluster. `runtime.ray`; not part of what a run is.

    Attributes:
        address: `auto` finds the cluster of this machine; `HOST:PORT` or `ray://HOST:PORT` names one; None starts one.
        cpus_per_trial: Cores of a trial, which it trains on as threads; None: `runtime.threads`, or one a process.
        memory_per_trial: Bytes of memory that Ray keeps free for a trial; None: it does not look at memory.
        shared: Whether a file system that nodes share with this machine is used; else files are always sent.
    """

    address: str | None
    cpus_per_trial: int | None
    memory_per_trial: float | None
    shared: bool

    def __post_init__(self) -> None:
        cpus, memory = self.cpus_per_trial, self.memory_per_trial
        require(cpus is None or 1 <= cpus <= 1024, "runtime.ray.cpus_per_trial", cpus, "1 to 1024, or null")
        ok = memory is None or (finite(memory) and memory >= 1)
        require(ok, "runtime.ray.memory_per_trial", memory, "a number of bytes, or null")
        require(self.address != "", "runtime.ray.address", "''", "auto, HOST:PORT, ray://HOST:PORT, or null")
