"""Owns: device, precision, threads and seeds of a run. Must not know: data, models."""

from __future__ import annotations

import os
import random
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor

from frostline.errors import SpecError
from frostline.spec import Device, Precision, RunSpec
from frostline.train.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and how a run computes, decided.

    Attributes:
        device: `cpu`, `cuda` or `mps`.
        precision: fp32, bf16 or fp16; never auto.
        threads: CPU threads of torch, in each process.
        processes: How many compute a step together.
    """

    device: str
    precision: Precision
    threads: int
    processes: int = 1

    def describe(self) -> dict[str, Any]:
        """Returns what belongs into a run's provenance."""
        name = torch.cuda.get_device_name() if self.device == "cuda" else None
        return {
            "device": self.device,
            "device_name": name,
            "precision": self.precision.value,
            "threads": self.threads,
            **({"processes": self.processes} if self.processes > 1 else {}),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "blas": _blas(),
            **(_gpu() if self.device == "cuda" else {}),
        }


@cache
def _blas() -> str:
    """Returns the libraries that torch's matrix products come from, as torch was built."""
    words = ("Math Kernel Library", "MKL-DNN", "OpenBLAS", "BLAS_INFO")
    lines = [line.strip(" -") for line in torch.__config__.show().splitlines()]
    named = [line for line in lines if any(word in line for word in words) and "CXX_FLAGS" not in line]
    return "; ".join(line[:120] for line in named)


@cache
def _gpu() -> dict[str, str | None]:
    """Returns the CUDA version that torch was built for, and the driver."""
    found: dict[str, str | None] = {"cuda": torch.version.cuda, "driver": None}
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        if done.returncode == 0 and done.stdout.strip():
            found["driver"] = done.stdout.splitlines()[0].strip()
    return found


def set_up(spec: RunSpec, ranks: Ranks | None = None) -> Machine:
    """Decides device and precision, sets threads and determinism, forgets what an earlier run of this process set.

    Args:
        spec: What to train.
        ranks: The processes of the run; they share its threads, and meet here.

    Raises:
        SpecError: The device isn't there, or can't compute in the precision.
    """
    ranks = ranks or Ranks()
    AcceleratorState._reset_state(reset_partial_state=True)  # else the first run's precision holds for all
    GradientState._reset_state()
    device = device_of(spec)
    if spec.runtime.threads is not None:
        torch.set_num_threads(max(1, spec.runtime.threads // ranks.size))
    if spec.runtime.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(spec.runtime.deterministic)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    ranks.join(device)
    return Machine(
        device=device,
        precision=_precision(spec.training.precision, device),
        threads=torch.get_num_threads(),
        processes=ranks.size,
    )


def device_of(spec: RunSpec) -> str:
    """Returns what `runtime.device` comes to on this machine: `cpu`, `cuda` or `mps`.

    Raises:
        SpecError: It isn't there, or there are not as many as processes.
    """
    wanted = spec.runtime.device
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    device = next(name for name in ("cuda", "mps", "cpu") if there[name]) if wanted is Device.AUTO else wanted.value
    if not there[device]:
        raise SpecError(f"runtime.device={device}: there is none on this machine; use runtime.device=auto")
    processes = spec.runtime.num_processes
    if device == "mps" and processes > 1:
        raise SpecError("runtime.num_processes: processes can't share a GPU of this kind; use runtime.device=cpu")
    if device == "cuda" and processes > torch.cuda.device_count():
        raise SpecError(
            f"runtime.num_processes={processes}: there are GPUs for {torch.cuda.device_count()}; give fewer, or "
            "runtime.device=cpu"
        )
    return device


def _precision(wanted: Precision, device: str) -> Precision:
    if wanted is Precision.AUTO:
        return Precision.BF16 if _has_bf16(device) else Precision.FP32
    if wanted is Precision.FP16 and device != "cuda":
        raise SpecError("training.precision=fp16 needs a GPU: use bf16 or fp32 here")
    return wanted


def _has_bf16(device: str) -> bool:
    """Returns whether the hardware multiplies bfloat16 itself; where it only emulates it, it is slower than fp32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Private names of torch: one that is gone means no.
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device == "cpu" and any(bool(getattr(torch.cpu, name, lambda: False)()) for name in asked)


def seed_everything(seed: int) -> None:
    """Seeds Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@dataclass(frozen=True)
class RngState:
    """The state of every global random generator, to be put back later."""

    python: Any
    numpy: Any
    torch_cpu: Tensor
    cuda: list[Tensor]

    @classmethod
    def capture(cls) -> RngState:
        """Returns the state as it is now."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda)

    def restore(self) -> None:
        """Puts the state back."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch_cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
