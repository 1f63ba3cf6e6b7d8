"""Collective operations among the processes of one run.

Every method is collective: all processes of the run call it, in the same order.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from frostline.records.monitor import Monitor, RunControl

Value = TypeVar("Value")

_TIMEOUT = timedelta(days=7)
"""How long a process waits for the others: as long as one may compute hidden states for all of them. The parent
ends them all when one of them dies, so none waits for a dead one."""

_COLLECTIVE = ("torch.distributed", "torch.autograd.graph")
"""Modules that call into collectives."""


class World:
    """The processes of a run. One alone is a group of its own, in which everything returns at once.

    Args:
        rank: This one's number, from 0.
        size: How many they are.
        local_rank: This one's number on its machine, which is the number of its GPU.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank = rank
        self.size = size
        self.local_rank = local_rank

    @classmethod
    def from_environment(cls) -> World:
        """Returns this process's place, as `accelerate launch` sets it in the environment."""
        rank, size, local = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        return cls(rank=rank, size=max(1, size), local_rank=local)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that records."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    def init(self, device: str) -> None:
        """Joins the process group, once. What is agreed on goes over the CPU, so that no GPU is made to wait for it.

        Args:
            device: `cpu`, `cuda` or `mps`.
        """
        if not self.is_distributed or distributed.is_initialized():
            return
        if device == "cuda":
            torch.cuda.set_device(self.local_rank)
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=_TIMEOUT)

    def broadcast(self, value: Value | None) -> Value:
        """Returns the first process's value to all; what the others pass is ignored."""
        if self.is_distributed:
            box = [value if self.is_main else None]
            distributed.broadcast_object_list(box, src=0)
            value = box[0]
        return value  # type: ignore[return-value]  # the first one gives one

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """Returns, for each place, the largest number that any process has there."""
        if not self.is_distributed:
            return list(values)
        tensor = torch.tensor(list(values), dtype=torch.long)
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return tensor.tolist()

    def all_reduce_mean(self, value: float) -> float:
        """Returns the mean of all processes' numbers."""
        if not self.is_distributed:
            return value
        tensor = torch.tensor([value], dtype=torch.float64)
        distributed.all_reduce(tensor)
        return float(tensor[0]) / self.size

    def barrier(self) -> None:
        """Returns when all processes have called it."""
        if self.is_distributed:
            self.all_reduce_max([0])

    def assert_equal(self, text: str, what: str) -> None:
        """Checks that all have the same text.

        Args:
            text: A hash, for example.
            what: Its name, for the error.

        Raises:
            RuntimeError: They have not; on every process.
        """
        differs = self.is_distributed and text != self.broadcast(text)
        if self.all_reduce_max([int(differs)])[0]:
            raise RuntimeError(f"the {self.size} processes of the run do not agree on {what}")


def is_of_collective(error: BaseException) -> bool:
    """Returns whether an error came from talking to other processes, so that one of them may be its cause.

    Gloo reports a closed connection as a plain `RuntimeError` without a code. It is known by the frame that raised it:
    one of `torch.distributed`, or autograd's engine, where gradients are averaged during the backward pass.
    """
    if isinstance(error, distributed.DistError):
        return True
    frames = [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return type(error) is RuntimeError and bool(frames) and frames[-1].startswith(_COLLECTIVE)


class SharedMonitor:
    """A monitor that only the first process asks; the others hear what it said.

    Args:
        monitor: The first process's.
        world: All of them.
    """

    def __init__(self, monitor: Monitor, world: World) -> None:
        self._monitor = monitor
        self._world = world

    def heartbeat(self) -> None:
        """See `Monitor`."""
        self._monitor.heartbeat()

    def evaluated(self, epoch: float, value: float) -> RunControl:
        """See `Monitor`."""
        return self._world.broadcast(self._monitor.evaluated(epoch, value) if self._world.is_main else None)
