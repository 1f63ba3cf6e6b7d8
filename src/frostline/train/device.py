"""Sets device, precision, threads and seeds of a run."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor

from frostline.machine import Machine, device_of, resolve_precision
from frostline.spec import RunSpec
from frostline.train.distributed import World


def set_up(spec: RunSpec, world: World | None = None) -> Machine:
    """Decides device and precision, sets threads and determinism, forgets what an earlier run of this process set.

    Args:
        spec: What to train.
        world: The processes of the run; they share its threads, and meet here.

    Raises:
        SpecError: The device isn't there, or can't compute in the precision.
    """
    world = world or World()
    AcceleratorState._reset_state(reset_partial_state=True)  # else the first run's precision holds for all
    GradientState._reset_state()
    device = device_of(spec)
    if spec.runtime.threads is not None:
        torch.set_num_threads(max(1, spec.runtime.threads // world.size))
    if spec.runtime.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(spec.runtime.deterministic)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    world.init(device)
    return Machine(
        device=device,
        precision=resolve_precision(spec.training.precision, device),
        threads=torch.get_num_threads(),
        processes=world.size,
    )


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
