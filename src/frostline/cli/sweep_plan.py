"""`frostline sweep NAME --plan`: forecasts what a sweep will take."""

from __future__ import annotations

import argparse
import json

from frostline.cli import sweep
from frostline.cli.common import OneLineParser
from frostline.errors import visible


def main(arguments: list[str]) -> int:
    """Forecasts a sweep; trains nothing but a probe of a few rows.

    Args:
        arguments: Of `frostline sweep`, `--plan` among them.

    Returns:
        The exit code.
    """
    parser = OneLineParser(prog="frostline sweep NAME --plan", add_help=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--json", action="store_true", default=False)
    options, rest = parser.parse_known_args(arguments)
    if options.nodes < 1:
        parser.error(f"argument --nodes: {options.nodes}: give 1 or more")
    from frostline.cli.task import RunTask

    task = RunTask(command="frostline sweep --plan", plan_nodes=options.nodes)
    code = sweep.main(rest, task)
    if task.plan is not None:
        print(visible(json.dumps(dict(task.plan.data)) if options.json else task.plan.text))
    return code
