"""`accelerate launch`, which ends at once when the process that started it does, and writes down exit codes."""

import json
import os
from pathlib import Path

from accelerate.commands.launch import main
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from frostline.launch.messages import EXIT_CODES_VARIABLE
from frostline.workers.process import die_with_creator


def launch() -> None:
    """Runs `accelerate launch` with the arguments of this process."""
    die_with_creator()
    path = Path(os.environ.pop(EXIT_CODES_VARIABLE))
    try:
        main()
    except ChildFailedError as error:
        path.write_text(json.dumps({str(rank): each.exitcode for rank, each in error.failures.items()}), "utf-8")
        raise


if __name__ == "__main__":
    launch()
