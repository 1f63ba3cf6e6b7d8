"""`frostline ui --sync`: records in MLflow what it missed, from the runs' folders."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.api.find_run import RUNS
from frostline.cli.common import compose, override_parser
from frostline.console import report_error
from frostline.errors import UserError

if TYPE_CHECKING:
    from frostline.tracking import Replay


def main(arguments: list[str]) -> int:
    """Records what is pending and says how much it was.

    Returns:
        0; 1 if something was left alone, 2 if something could not be recorded.
    """
    parser = override_parser(
        "ui --sync",
        "Records in MLflow what it has missed: runs and sweeps that were trained while its server was down or\n"
        "answered with errors. Their folders hold everything.",
        "examples:\n  frostline ui --sync\n  frostline ui --sync runs/lr_x_depth tracking.uri=http://host:5000",
    )
    parser.usage = "frostline ui --sync [-h] [--config-dir FOLDER] [FOLDER ...] [KEY=VALUE ...]"
    actions = [action for action in parser._actions if action.dest == "overrides"]
    actions[0].help, actions[0].metavar = (
        "where to look (runs/), and keys, for example tracking.uri=...",
        "FOLDER|KEY=VALUE",
    )
    options = parser.parse_intermixed_args(arguments)
    folders = [Path(word) for word in options.overrides if "=" not in word] or [RUNS]
    for folder in folders:
        if not folder.is_dir() and folder != RUNS:
            raise UserError(f"{folder}: no such folder; give the one that the runs lie in")
    from frostline.config import spec_from_json
    from frostline.tracking import Replay, find_pending

    pending = find_pending(folders)
    if not pending:
        print("nothing is pending: MLflow has it all")
        return 0
    overrides = [word for word in options.overrides if "=" in word]
    tracking = compose(Namespace(overrides=overrides, config_dir=options.config_dir)).tracking
    keys = frozenset(word.partition("=")[0].rpartition(".")[2] for word in overrides if "tracking." in word)
    return _record(pending, Replay(tracking, keys, spec_from_json))


def _record(pending: Sequence[Path], replay: Replay) -> int:
    """Records folder after folder; one that can't be recorded doesn't keep the others from it."""
    from frostline.tracking import OtherStoreError

    code = 0
    failed: set[Path] = set()
    others: list[Path] = []
    # Parents are made first, so that their runs find them, and ended last, when the best run's id is known.
    for step, folders in ((replay.begin, pending), (replay.record, list(reversed(pending)))):
        for folder in folders:
            if folder in failed:
                continue
            try:
                done = step(folder)
            except OtherStoreError as error:
                if not others:  # one line for all: each has the same way out
                    code = report_error(error)
                others.append(folder)
                failed.add(folder)
                continue
            except UserError as error:
                code = report_error(error)
                failed.add(folder)
                if replay.is_out:
                    return code
                continue
            if done:
                print(f"recorded: {folder}", flush=True)
            elif done is False:
                print(f"left alone: {folder} (a process is at work there)", flush=True)
                code = code or 1
    if len(others) > 1:
        print(f"left alone: {len(others)} folders that belong to other stores", flush=True)
    return code
