"""The device, precision and threads that a run computes with."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from frostline.errors import SpecError
from frostline.process_cache import PROCESS_CACHE
from frostline.spec import Device, Precision, RunSpec


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


@PROCESS_CACHE.function
def _blas() -> str:
    """Returns the libraries that torch's matrix products come from, as torch was built."""
    words = ("Math Kernel Library", "MKL-DNN", "OpenBLAS", "BLAS_INFO")
    lines = [line.strip(" -") for line in torch.__config__.show().splitlines()]
    named = [line for line in lines if any(word in line for word in words) and "CXX_FLAGS" not in line]
    return "; ".join(line[:120] for line in named)


@PROCESS_CACHE.function
def _gpu() -> dict[str, str | None]:
    """Returns the CUDA version that torch was built for, and the driver."""
    versions: dict[str, str | None] = {"cuda": torch.version.cuda, "driver": None}
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        if done.returncode == 0 and done.stdout.strip():
            versions["driver"] = done.stdout.splitlines()[0].strip()
    return versions


def device_of(spec: RunSpec) -> str:
    """Returns the device that `runtime.device` means on this machine: `cpu`, `cuda` or `mps`.

    Raises:
        SpecError: It isn't there, or there are not as many as processes.
    """
    wanted = spec.runtime.device
    is_available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    device = (
        next(name for name in ("cuda", "mps", "cpu") if is_available[name]) if wanted is Device.AUTO else wanted.value
    )
    if not is_available[device]:
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


def resolve_precision(wanted: Precision, device: str) -> Precision:
    """Returns the precision that `auto` means on a device.

    Raises:
        SpecError: fp16 without a GPU.
    """
    if wanted is Precision.AUTO:
        return Precision.BF16 if _has_bf16(device) else Precision.FP32
    if wanted is Precision.FP16 and device != "cuda":
        raise SpecError("training.precision=fp16 needs a GPU: use bf16 or fp32 here")
    return wanted


def _has_bf16(device: str) -> bool:
    """Returns whether the hardware multiplies bfloat16 itself; where it only emulates it, it is slower than fp32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Private names of torch: one that is missing means no.
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device == "cpu" and any(bool(getattr(torch.cpu, name, lambda: False)()) for name in asked)
