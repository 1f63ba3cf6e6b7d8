"""`frostline reproduce RUN`: trains a recorded run again and compares it with its record."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING, Any

from frostline.cli.common import OneLineParser
from frostline.console import configure_logging
from frostline.signals import Interrupted

if TYPE_CHECKING:
    from frostline.api.reproducing import Rerun


def main(arguments: list[str]) -> int:
    """Re-runs a recorded run and prints whether it came out the same.

    Returns:
        0 for identical and equivalent, 1 for different.
    """
    options = _parser().parse_intermixed_args(arguments)
    configure_logging()  # else a store that does not answer is reported in the run's log alone
    from frostline.api.reproducing import Request, differences_here, rerun
    from frostline.report import print_differences, print_verdict

    request = Request(
        run=options.run, overrides=tuple(options.overrides), at=options.at, tolerance=options.tolerance,
        metrics=tuple(options.metric), tracking_uri=options.tracking_uri, config_dir=options.config_dir,
    )  # fmt: skip
    if options.explain:
        recorded, different = differences_here(request)
        print_differences(recorded.source, different)
        return 0
    try:
        again = rerun(request)
    except Interrupted as stop:
        return stop.exit_code
    if options.json:
        print(json.dumps(_as_json(again), ensure_ascii=False))
    else:
        print_verdict(again.recorded, again.verdict, again.folder, again.until)
    return again.verdict.exit_code


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="frostline reproduce",
        usage="frostline reproduce [-h] [--explain] [--at STEP] [--tolerance X] RUN [KEY=VALUE ...]",
        description="Re-runs a recorded run from its recorded config alone, and says whether it came out the same:\n"
        "identical (every number and the trained weights are bit-equal), equivalent (within the tolerance, and\n"
        "something that is known to change bits differs here) or different. Exit code 0, 0, 1.",
        epilog="""examples:
  frostline reproduce runs/lr_x_depth/016                 a run's folder
  frostline reproduce lr_x_depth                          the best run of a sweep
  frostline reproduce 0123456789abcdef0123456789abcdef    a run id in MLflow
  frostline reproduce runs/single/... --explain           what differs here, without training
  frostline reproduce runs/single/... runtime.threads=1   with something changed on purpose""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder, a sweep (its best run), or a run id in MLflow")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="keys of the run to change; tracking=off")
    parser.add_argument("--explain", action="store_true", help="only say what differs here; nothing is trained")
    parser.add_argument("--at", type=int, metavar="STEP", help="re-run up to this optimizer step only")
    parser.add_argument("--tolerance", type=float, metavar="X", help="how far `equivalent` reaches (0.01)")
    parser.add_argument("--tracking-uri", metavar="URI", help="where to look a run id up; the config's by default")
    parser.add_argument(
        "--metric", action="append", default=[], metavar="NAME",
        help="a metric of the record that is not frostline's own, and may be run: a record can't ask for that itself",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="the verdict as JSON on standard output")
    parser.add_argument("--config-dir", help="a folder of your own config groups, for tracking")
    return parser


def _as_json(again: Rerun) -> dict[str, Any]:
    from frostline.records.result import finite

    data: dict[str, Any] = finite(dataclasses.asdict(again.verdict))
    return {"source": again.recorded.source, **data, "run_dir": str(again.folder)}
