"""A user's plugin for the tests of runs on several processes: an optimizer that breaks one of them at a given step."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from frostline.models.optimizer import OPTIMIZERS


@OPTIMIZERS.register("one_breaks")
def one_breaks(groups, spec):
    """RANK_BREAKS=rank:step:how; SLOW_S lets every step take a while."""
    import torch

    rank, at, how = os.environ.get("RANK_BREAKS", "-1:0:").split(":")
    optimizer = OPTIMIZERS.get("adamw")(groups, spec)
    inner, taken = optimizer.step, []

    def step(*args, **kwargs):
        taken.append(1)
        time.sleep(float(os.environ.get("SLOW_S", "0")))
        if os.environ.get("RANK") == rank and len(taken) == int(at):
            if how == "raise":
                raise ValueError("a step too far")
            if how == "exit":
                sys.exit(3)
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "hang":
                time.sleep(600)
            if how == "loader":
                for stat in Path("/proc").glob("[0-9]*/stat"):
                    with suppress(OSError):
                        if stat.read_text().rsplit(")", 1)[1].split()[1] == str(os.getpid()):
                            os.kill(int(stat.parent.name), signal.SIGKILL)
                            time.sleep(5)  # torch notices it here, not somewhere in a collective operation
            if how == "nan":
                with torch.no_grad():
                    groups[0]["params"][0].fill_(float("nan"))
            if how == "drift":
                with torch.no_grad():
                    groups[0]["params"][0].view(-1)[0].add_(1e-3)
        return inner(*args, **kwargs)

    optimizer.step = step
    return optimizer
