"""`frostline cache`: lists and removes cached data and hidden states."""

from __future__ import annotations

import argparse
import json
import shutil
from datetime import datetime

from frostline.cli.common import OneLineParser


def main(arguments: list[str]) -> int:
    """Lists or removes what can be computed again."""
    parser = OneLineParser(
        prog="frostline cache",
        description="What frozen blocks computed, images as models take them, and local data files as tables,\n"
        "kept for later runs (runtime.cache). It may be removed at any time: what is needed again is computed again.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=["list", "clear"], help="list: what is there; clear: remove all of it")
    parser.add_argument("--json", action="store_true", help="list as JSON")
    options = parser.parse_args(arguments)
    from frostline.assets import home, pixels_bytes, pixels_folder, table_folders, trim_pixels
    from frostline.prefix_cache.store import PREFIX_FOLDER, PrefixStore

    store = PrefixStore(home() / PREFIX_FOLDER, 0)
    if options.action == "clear":
        print(f"removed {store.clear() / 1e6:.1f} MB from {store.root}")
        if size := trim_pixels(0):
            print(f"removed {size / 1e6:.1f} MB of images from {pixels_folder()}")
        if tables := table_folders():
            for folder in tables:
                shutil.rmtree(folder, ignore_errors=True)
            print(f"removed {sum(tables.values()) / 1e6:.1f} MB of data files from {home() / 'datasets'}")
        return 0
    entries = store.listing()
    if options.json:
        print(json.dumps([
            {"folder": str(folder), "key": key, "bytes": sizes, "used": used} for folder, key, sizes, used in entries
        ]))  # fmt: skip
        return 0
    for folder, key, sizes, used in entries:
        about = key.get("about") or {}
        what = ", ".join(str(about[name]) for name in ("model", "dataset", "rows") if name in about) or folder.name
        when = f"{datetime.fromtimestamp(used):%Y-%m-%d %H:%M}"
        print(f"{sum(sizes.values()) / 1e6:9.1f} MB  {when}  {what}: {', '.join(sorted(sizes)) or 'nothing'}")
    total = sum(sum(sizes.values()) for _, _, sizes, _ in entries)
    print(f"{total / 1e6:9.1f} MB in {len(entries)} entries of {store.root}")
    if size := pixels_bytes():
        print(f"{size / 1e6:9.1f} MB of images, decoded and resized, in {pixels_folder()}")
    if tables := table_folders():
        print(f"{sum(tables.values()) / 1e6:9.1f} MB of data files, unpacked or as tables, in {home() / 'datasets'}")
    return 0
