"""An optimizer for make.py: sends this process SIGINT in its eighth step, unless FINISH is set."""

from __future__ import annotations

import os
import signal

from frostline.models.optimizer import OPTIMIZERS


@OPTIMIZERS.register("stops")
def stops(groups, spec):
    """AdamW."""
    optimizer = OPTIMIZERS.get("adamw")(groups, spec)
    step, count = optimizer.step, [0]

    def counted(*arguments, **named):
        count[0] += 1
        if count[0] == 8 and "FINISH" not in os.environ:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments, **named)

    optimizer.step = counted
    return optimizer
