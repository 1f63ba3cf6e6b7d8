"""Folders of tables and pixels that were made of data files."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from frostline.assets.home import home
from frostline.files import regular_files


def pixels_folder() -> Path:
    """Returns the folder in which images are kept as models take them."""
    return home() / "datasets" / "pixels"


def pixels_bytes() -> int:
    """Returns what they take on the disk."""
    return sum(path.stat().st_size for path in pixels_folder().glob("*.arrow"))


def trim_pixels(max_bytes: int, keep: Collection[Path] = ()) -> int:
    """Removes those that were used longest ago until the rest is within bounds.

    Args:
        max_bytes: Of all of them.
        keep: Files that stay in any case. Of one that another process reads only the name goes.

    Returns:
        The bytes removed.
    """
    total, removed = pixels_bytes(), 0
    for path in sorted(pixels_folder().glob("*.arrow"), key=lambda path: path.stat().st_mtime):
        if total - removed <= max_bytes:
            break
        if path not in keep:
            removed += path.stat().st_size
            path.unlink(missing_ok=True)
            path.with_name(f"{path.name}.sha256").unlink(missing_ok=True)
    return removed


def table_folders() -> dict[Path, int]:
    """Returns the folders of local data files, unpacked or as tables, with their bytes.

    Those of hub data sets are not among them: offline they could not be made again.
    """
    folders = [
        path for path in (home() / "datasets").glob("*") if _TABLES.fullmatch(path.name) and not path.is_symlink()
    ]
    return {folder: sum(path.stat().st_size for path in regular_files(folder)) for folder in folders}


_TABLES = re.compile(r"[0-9a-f]{20}|unpacked")
"""See `dataset.read` and `dataset.compression`."""
