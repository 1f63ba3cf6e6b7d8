"""Reads image files and their labels into one table of raw columns `image` and `label`."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from frostline.data.raw_table import RawTable
from frostline.errors import DataError, listing
from frostline.hashes import file_sha256
from frostline.process_cache import PROCESS_CACHE

_SPLITS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev"})


def read_images(folder: Path) -> RawTable:
    """Reads a folder that holds a folder of images for each class, whose name is the class's.

    Raises:
        DataError: It holds no such folders, or one of them holds no image.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise DataError(f"{folder}: holds no folders; dataset.format=folder wants a folder of images for each class")
    names = [path.name for path in classes]
    if _SPLITS.issuperset(name.lower() for name in names):
        held_out = [name for name in names if name.lower() not in {"train", "training"}]
        hint = f" dataset.eval_from={folder / held_out[0]}" if held_out and len(held_out) < len(names) else ""
        own = next((name for name in names if name not in held_out), names[0])
        raise DataError(
            f"{folder}: holds splits ({listing(names)}), not classes; give dataset.location={folder / own}{hint}"
        )
    _refuse_splits(folder, classes)
    loose = next((path for path in sorted(folder.iterdir()) if path.is_file() and _is_image(path)), None)
    if loose is not None:
        raise DataError(f"{loose}: lies outside of its class's folder ({listing(names)})")
    paths, labels, others = list[str](), list[str](), 0
    digest = hashlib.sha256()
    for each in classes:
        files = [path for path in image_files(each) if not _is_hidden(path.relative_to(each))]
        images = [path for path in files if _is_image(path)]
        others += len(files) - len(images)
        if not images:
            raise DataError(f"{each}: holds no images ({', '.join(sorted(_extensions())[:6])}, ...)")
        for path in images:
            digest.update(os.fsencode(f"{path.relative_to(folder).as_posix()}\0{file_sha256(path)}\n"))
            paths.append(str(path))
            labels.append(each.name)
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=names)})
    try:
        table = datasets.Dataset.from_dict({"image": paths, "label": labels}, features=features)
    except UnicodeEncodeError as error:
        raise DataError(f"{folder}: the name of a file in it is not UTF-8: {error.object!r}") from error
    notes = (f"files that are no images, which were left out: {others}",) if others else ()
    return RawTable(table=table, fingerprint=digest.hexdigest(), name=folder.name, notes=notes, folder=folder)


def _refuse_splits(folder: Path, classes: Sequence[Path]) -> None:
    """Refuses folders that are splits, or a wrapper around the classes.

    Raises:
        DataError: They hold folders of the same names and no images.
    """
    below = {}
    for each in classes:
        entries = [path for path in each.iterdir() if not path.name.startswith(".")]
        if any(path.is_file() and _is_image(path) for path in entries):
            return
        below[each] = frozenset(path.name for path in entries if path.is_dir())
    if len(classes) == 1 and len(below[classes[0]]) > 1:
        raise DataError(f"{folder}: holds one folder, {classes[0].name}, of {len(below[classes[0]])} folders; "
                        f"if those are the classes, give dataset.location={classes[0]}")  # fmt: skip
    if len(classes) > 1 and len(set(below.values())) == 1 and next(iter(below.values())):
        raise DataError(
            f"{folder}: holds splits ({listing(path.name for path in classes)}), not classes: each holds folders of "
            f"the same names; give dataset.location={classes[0]}, and dataset.eval_from another"
        )


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def image_files(folder: Path) -> Iterator[Path]:
    """Yields all files that `read_images` may look at."""
    yield from sorted(
        path
        for current, _, names in os.walk(folder, followlinks=True)
        for path in (Path(current, name) for name in names)
        if path.is_file()
    )


def read_pixels(path: Path) -> RawTable:
    """Reads small square grey images from text: on each line the values of n x n pixels, row by row, then the label.

    Args:
        path: Comma-separated, without a header line; `.gz` is unpacked.

    Raises:
        DataError: A line has another number of fields than the first one, or a value is none of a pixel.
    """
    images, labels = list[dict[str, object]](), list[str]()
    side = 0
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="ascii", newline="") as file:
            for number, fields in enumerate(csv.reader(file), 1):
                where = f"{path.name}, line {number}"
                side = side or math.isqrt(max(0, len(fields) - 1))
                if side == 0 or len(fields) != side * side + 1:
                    wanted = f"{side * side + 1} of the first line" if number > 1 else "n x n pixels and a label"
                    raise DataError(f"{where}: has {len(fields)} fields, not {wanted}")
                images.append({"bytes": _png(fields[:-1], side, where), "path": None})
                labels.append(fields[-1].strip())
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path.name}: can't be read as pixels: {error}") from error
    if not images:
        raise DataError(f"{path}: holds no rows")
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("string")})
    table = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
    return RawTable(table=table, fingerprint=file_sha256(path), name=path.name, folder=path.parent)


def _png(fields: list[str], side: int, where: str) -> bytes:
    try:
        values = np.asarray(fields, dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    if not ((values >= 0) & (values <= 255) & (values == np.floor(values))).all():
        raise DataError(f"{where}: a pixel is no whole number from 0 to 255")
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint8).reshape(side, side)).save(buffer, format="PNG")
    return buffer.getvalue()


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _extensions()


@PROCESS_CACHE.function
def _extensions() -> frozenset[str]:
    formats = Image.registered_extensions()
    return frozenset(ending for ending, form in formats.items() if form in Image.OPEN and form not in {"PDF", "MPEG"})
