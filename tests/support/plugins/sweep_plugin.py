"""A user's plugin for the sweep tests: optimizers that break in every way a trial can break. Workers import it."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from frostline.models.optimizer import OPTIMIZERS

if "AWAY_S" in os.environ:  # nobody wants to wait for minutes until a database is given up
    from frostline.search import storages

    storages.AWAY_S = float(os.environ["AWAY_S"])


if "RESIDENT" in os.environ:  # hidden states live on the device, as on a GPU
    from frostline.prefix_cache import gpu_memory

    gpu_memory.free_bytes = lambda prefix: 1 << 30


def _adamw(groups, spec):
    return OPTIMIZERS.get("adamw")(groups, spec)


@OPTIMIZERS.register("breaking")
def breaking(groups, spec):
    """What it does goes by the weight decay, which is a swept key in the tests."""
    what = round(spec.weight_decay * 1000)
    optimizer = _adamw(groups, spec)
    if what == 1:
        raise ValueError("no such thing")
    if what == 2:
        sys.exit(5)
    if what == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if what == 4:
        time.sleep(600)
    if what == 5:
        return _exploding(optimizer)
    if what == 7:
        return killed_once(groups, spec)
    if what == 8:
        return hungry(groups, spec)
    return optimizer


def _exploding(optimizer):
    import torch

    step = optimizer.step

    def explode(*args, **kwargs):
        with torch.no_grad():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.fill_(float("nan"))
        return step(*args, **kwargs)

    optimizer.step = explode
    return optimizer


@OPTIMIZERS.register("killed_once")
def killed_once(groups, spec):
    """Ends its process the first time that anybody asks for it."""
    if not Path("killed.txt").exists():
        Path("killed.txt").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return _adamw(groups, spec)


@OPTIMIZERS.register("hungry")
def hungry(groups, spec):
    """Runs out of memory with batches of more than 8 rows: only the steps know, so it looks at what the test left."""
    import torch

    optimizer = _adamw(groups, spec)
    limit = Path("hungry.txt")
    if "PIDS" in os.environ:
        with Path(os.environ["PIDS"]).open("a") as file:
            print(os.getpid(), file=file)
    if limit.exists() and limit.read_text() != "fed":
        limit.write_text("fed")
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    return optimizer


@OPTIMIZERS.register("slow")
def slow(groups, spec):
    """AdamW that takes its time, so that a test can come in between.

    It touches SLOW_MARK once a step has started, and makes SLOW_STEPS a byte longer.
    """
    optimizer = _adamw(groups, spec)
    step = optimizer.step

    def wait(*args, **kwargs):
        if mark := os.environ.get("SLOW_MARK"):
            Path(mark).touch()
        if steps := os.environ.get("SLOW_STEPS"):
            with Path(steps).open("ab") as file:
                file.write(b".")
        time.sleep(float(os.environ.get("SLOW_S", "0.1")))
        return step(*args, **kwargs)

    optimizer.step = wait
    return optimizer
