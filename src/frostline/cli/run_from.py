"""`frostline run --from RUN`: a recorded run's config once more, with some keys changed."""

from __future__ import annotations

import argparse

from frostline.cli.common import override_parser
from frostline.errors import RunFailedError, UserError


def main(arguments: list[str]) -> int:
    """Trains a run from a recorded one's config.

    Returns:
        The exit code.

    Raises:
        UserError: Bad input.
        RunFailedError: It FAILED.
    """
    parser = override_parser(
        "run --from RUN",
        "Trains a recorded run's config once more, in a new folder, with keys or whole groups changed.",
        "examples:\n"
        "  frostline run --from lr_x_depth                            the recommended run of a sweep\n"
        "  frostline run --from runs/lr_x_depth/003 optimizer.lr=1e-4 seed=1\n"
        "  frostline run --from lr_x_depth freeze=lora",
    )
    parser.add_argument("--from", dest="run", required=True, metavar="RUN", help="a run's folder, a sweep, or a run id")
    parser.add_argument("-m", "--multirun", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.multirun:
        raise UserError("frostline run --from: trains one run; -m is for configs that are composed")
    from frostline.api.execute import execute
    from frostline.api.from_run import job_from
    from frostline.cli.task import show
    from frostline.preflight import check_folder, preflight
    from frostline.provenance import redact
    from frostline.records.result import Status

    job, folder = job_from(options.run, options.overrides, options.config_dir)
    preflight(job)
    check_folder(folder)
    words = [f"--from={options.run}", *options.overrides]
    result, stopped = execute(job, folder, [redact(word) for word in words])
    show(result, folder)
    if not stopped and result.status is not Status.FINISHED:
        raise RunFailedError(f"{result.name}: {result.reason}")
    return stopped
