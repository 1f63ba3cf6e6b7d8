"""One process of a distributed run.

`accelerate launch -m frostline.launch.rank JOB`: JOB is a file that the parent wrote for all of them.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import replace
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

from frostline import assets
from frostline.config import spec_from_text
from frostline.errors import UserError
from frostline.launch.messages import (
    ParentConnection,
    ParentLogHandler,
    ParentMonitor,
    ParentRecorder,
    ParentScreen,
    Refused,
)
from frostline.records.result import Status
from frostline.records.run_context import RunContext, Sharing
from frostline.registry import import_plugins
from frostline.signals import Interrupted
from frostline.spec import Progress
from frostline.workers.process import die_with_creator

KEY_VARIABLE = "FROSTLINE_RANKS_KEY"


def main(job_file: Path) -> int:
    """Trains this process's part.

    Args:
        job_file: Written by `frostline.launch.distributed_run`.

    Returns:
        The exit code.
    """
    die_with_creator()  # it may hang where no thread of its own runs
    job: dict[str, Any] = json.loads(job_file.read_text(encoding="utf-8"))
    sys.path[:] = list(dict.fromkeys([*job["path"], *sys.path]))
    key = bytes.fromhex(os.environ.pop(KEY_VARIABLE))
    wire = ParentConnection(Client(job["address"], family="AF_UNIX", authkey=key), int(os.environ["RANK"]))
    logger = logging.getLogger("frostline")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(ParentLogHandler(wire))
    if job["bar"] and wire.rank == 0:
        sys.stderr = ParentScreen(wire)
    try:
        return _train(job, wire)
    except UserError as error:
        wire.send(Refused(text=str(error)))
        return 2


def _train(job: dict[str, Any], wire: ParentConnection) -> int:
    from frostline.train import run
    from frostline.train.distributed import World

    import_plugins(job["plugins"])
    assets.set_places(job["places"])
    sharing, resume = job["sharing"], job["resume_from"]
    spec = spec_from_text(Path(job["spec"]).read_text(encoding="utf-8"))
    progress = Progress.ON if job["bar"] else Progress.OFF
    spec = replace(spec, runtime=replace(spec.runtime, progress=progress))
    context = RunContext(
        ParentRecorder(wire),
        Path(job["folder"]),
        overrides=job["overrides"],
        resume_from=None if resume is None else Path(resume),
        monitor=ParentMonitor(wire),
        until_step=job["until_step"],
        sharing=Sharing(num_runs=sharing["num_runs"], depths=tuple(sharing["depths"]), threads=sharing["threads"]),
    )
    try:
        result = run(spec, context, world=World.from_environment())
    except Interrupted:  # when the last step was done: the parent had the signal too
        return 0
    return 0 if result.status in {Status.FINISHED, Status.PRUNED} else 1


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    # A process group that is taken down while another process has died may wait for it.
    os._exit(code)
