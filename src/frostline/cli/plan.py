"""`frostline plan NAME`: forecasts what a sweep will take."""

from __future__ import annotations

import argparse
import json

from frostline.cli import sweep
from frostline.cli.common import OneLineParser
from frostline.errors import visible


def main(arguments: list[str]) -> int:
    """Forecasts a sweep; trains nothing but a probe of a few rows.

    Returns:
        The exit code.
    """
    parser = OneLineParser(
        prog="frostline plan",
        description="Forecasts a sweep before anything runs: its trials, hours, bytes and wall time, and what limits\n"
        "it. Two depths are measured here on a few hundred rows; the rest is reckoned from them.",
        usage="frostline plan NAME [--nodes M] [--json] [sweep.KEY=VALUE] [KEY=VALUE] ...",
        epilog="examples:\n"
        "  frostline plan lr_x_depth\n"
        "  frostline plan lr_x_depth runtime.slots=4 --nodes 8 sweep.n_trials=200\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nodes", type=int, default=1, metavar="M", help="nodes of a cluster, each like this machine")
    parser.add_argument("--json", action="store_true", help="as JSON")
    options, rest = parser.parse_known_args(arguments)
    if options.nodes < 1:
        parser.error(f"argument --nodes: {options.nodes}: give 1 or more")
    if not rest:
        parser.error("give a sweep's name, for example frostline plan lr_x_depth")
    from frostline.cli.task import RunTask

    task = RunTask(command="frostline plan", plan_nodes=options.nodes)
    code = sweep.main(rest, task)
    if task.plan is not None:
        print(visible(json.dumps(dict(task.plan.data)) if options.json else task.plan.text))
    return code
