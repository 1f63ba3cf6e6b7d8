"""`frostline prune`: removes models and checkpoints that nothing needs any more, or what is cached."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from frostline.api.find_run import RUNS
from frostline.cli.common import OneLineParser
from frostline.errors import UserError


def main(arguments: list[str]) -> int:
    """Lists what may go, and removes it with `--yes`."""
    parser = OneLineParser(
        prog="frostline prune",
        description="Lists what nothing needs any more below FOLDER: checkpoints of runs that are FINISHED, models of\n"
        "a sweep's trials that it does not recommend. With --yes it is removed. Records stay: config, numbers and\n"
        "predictions, so that all is shown, reported and reproduced as before.",
        epilog="examples:\n"
        "  frostline prune                     what would go from runs/\n"
        "  frostline prune --yes\n"
        "  frostline prune runs/single --models --yes\n"
        "  frostline prune --cache             clears what is kept of data and frozen blocks for later runs",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="?", type=Path, default=RUNS, metavar="FOLDER", help="where to look (runs)")
    parser.add_argument("--models", action="store_true", help="all models but those that sweeps recommend")
    parser.add_argument("--cache", action="store_true", help="clear the cache of data and of frozen blocks instead")
    parser.add_argument("--yes", action="store_true", help="remove it")
    options = parser.parse_args(arguments)
    if options.cache:
        _clear_cache()
        return 0
    from frostline.api.runs_here import remove, surplus_in

    if not options.folder.is_dir():
        raise UserError(f"{options.folder}: no such folder; give the one that the runs lie in")
    surplus = list(surplus_in(options.folder, models=options.models))
    for each in surplus:
        print(f"{each.size / 1e6:9.1f} MB  {each.folder}  ({each.why})")
    total = sum(each.size for each in surplus) / 1e6
    more = sum(each.size for each in surplus_in(options.folder, models=True)) / 1e6 - total
    if options.yes:
        print(f"removed {remove(surplus) / 1e6:.1f} MB")
    else:
        print(f"{total:9.1f} MB in {len(surplus)} folders" + ("; --yes removes them" if surplus else ""))
        if more > 0 and not options.models:
            print(f"{more:9.1f} MB are models of runs outside of sweeps; --models removes them, too")
    return 0


def _clear_cache() -> None:
    from frostline.assets import home, pixels_folder, table_folders, trim_pixels
    from frostline.prefix_cache.store import PREFIX_FOLDER, PrefixStore

    store = PrefixStore(home() / PREFIX_FOLDER, 0)
    print(f"removed {store.clear() / 1e6:.1f} MB from {store.root}")
    if size := trim_pixels(0):
        print(f"removed {size / 1e6:.1f} MB of images from {pixels_folder()}")
    if tables := table_folders():
        for folder in tables:
            shutil.rmtree(folder, ignore_errors=True)
        print(f"removed {sum(tables.values()) / 1e6:.1f} MB of data files from {home() / 'datasets'}")
    sys.stdout.flush()
