"""Why a run failed, from the exception that ended it."""

from __future__ import annotations

import torch

from frostline.errors import machine_trouble
from frostline.records.result import Cause
from frostline.train.distributed import is_of_collective
from frostline.train.loss import DivergedError


def reason_of(error: BaseException) -> str:
    """Returns the reason for people, in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, DivergedError) else f"{type(error).__name__}: {text}"


def cause_of(error: BaseException, *, is_distributed: bool) -> Cause:
    """Returns the cause, by which is decided what follows.

    Args:
        error: The exception.
        is_distributed: Whether several processes train the run: one may have lost another.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return Cause.OUT_OF_MEMORY
    if machine_trouble(error) is not None:
        return Cause.MACHINE
    if is_distributed and is_of_collective(error):
        return Cause.LOST_PEER
    return Cause.DIVERGED if isinstance(error, DivergedError) else Cause.ERROR
