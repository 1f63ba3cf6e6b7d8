"""`frostline init FOLDER`: writes a folder of one's own, with data, configs and a metric that run."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from frostline.cli.common import OneLineParser
from frostline.errors import UserError

_STARTER = Path(__file__).parent / "starter"


def main(arguments: list[str]) -> int:
    """Copies the starter's files, and says what to do with them."""
    parser = OneLineParser(
        prog="frostline init",
        description="Writes a folder of your own: a small data file, a dataset, a sweep, an experiment and a metric,\n"
        "which run as they are and are there to be changed.",
        epilog="example: frostline init my_task",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new or an empty one")
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder}: is there and not empty; give another name")
        shutil.copytree(_STARTER, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    except OSError as error:
        raise UserError(f"{folder}: can't be written ({error.strerror or error})") from error
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        print(path)
    print(f"next: cd {folder}; export FROSTLINE_CONFIG_DIR=conf; frostline sweep my_sweep")
    return 0
