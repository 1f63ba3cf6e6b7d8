"""Owns: `frostline sync` - what MLflow has missed, recorded from the runs' folders. Must not know: how."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from frostline.cli.common import compose, override_parser
from frostline.errors import UserError

_RUNS = Path("runs")


def main(arguments: list[str]) -> int:
    """Records what is pending and says how much it was.

    Returns:
        0, or 1 if something is still pending.
    """
    parser = override_parser(
        "sync",
        "Records in MLflow what it has missed: runs and sweeps that were trained while its server was down or\n"
        "answered with errors. Their folders hold everything.",
        "examples:\n  frostline sync\n  frostline sync runs/lr_x_depth tracking.uri=http://host:5000",
    )
    parser.usage = "frostline sync [-h] [--config-dir FOLDER] [FOLDER ...] [KEY=VALUE ...]"
    actions = [action for action in parser._actions if action.dest == "overrides"]
    actions[0].help, actions[0].metavar = "where to look (runs/), and keys, as tracking.uri=...", "FOLDER|KEY=VALUE"
    options = parser.parse_intermixed_args(arguments)
    folders = [Path(word) for word in options.overrides if "=" not in word] or [_RUNS]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; give the one that the runs lie in")
    from frostline.config import spec_from_text
    from frostline.tracking import pending, replay

    found = pending(folders)
    if not found:
        print("nothing is pending: MLflow has it all")
        return 0
    overrides = [word for word in options.overrides if "=" in word]
    tracking = compose(Namespace(overrides=overrides, config_dir=options.config_dir)).tracking
    if not tracking.enabled:
        raise UserError("tracking=off: there is no store to record in; give tracking.uri=...")
    busy = 0
    for folder in found:
        if replay(folder, tracking, spec_from_text):
            print(f"recorded: {folder}", flush=True)
        else:
            print(f"left alone: {folder} (a process is at work there)", flush=True)
            busy += 1
    return 1 if busy else 0
