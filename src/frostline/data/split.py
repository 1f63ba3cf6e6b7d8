"""Splits rows into training and evaluation rows by hashes of their content.

The split depends on what the rows are, not on their order in a file: shuffling a file changes nothing.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from frostline.spec.task import Strata

Keys = npt.NDArray[np.uint64]
Labels = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_REGRESSION_STRATA = 10


def row_key(text: str, pair: str | None) -> int:
    """Returns a 63-bit hash of a row's text, the same for the same text on any machine."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
    if pair is not None:
        digest.update(b"\0" + pair.encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest(), "big") >> 1  # fits Arrow's int64


def bytes_key(content: bytes) -> int:
    """Returns a 63-bit hash of a row that is an image: of its file, or of its pixels."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1


def seeded(keys: Keys, seed: int, purpose: int) -> Keys:
    """Returns new, independent hashes of keys (the mixing function of SplitMix64, Steele et al. 2014).

    Args:
        keys: `[N]`.
        seed: Another seed, other hashes.
        purpose: Keeps the hashes that split apart from those that order.
    """
    with np.errstate(over="ignore"):
        z = keys + np.uint64(0x9E3779B97F4A7C15) * np.uint64(2 * seed + purpose + 1)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def split(
    keys: Keys,
    labels: Labels,
    *,
    strata: Strata,
    fraction: float,
    seed: int,
    test_fraction: float = 0.0,
) -> tuple[Indices, Indices, Indices]:
    """Splits rows into training, evaluation and test, stratified by label.

    Within each class (each tenth of the range of ranks, for regression) the rows with the smallest hashes are held out,
    those with the largest put aside as test rows; equal texts of one class stay on one side. So the evaluation rows do
    not depend on whether there are test rows.

    Args:
        keys: `[N]`, from `row_key`.
        labels: `[N]`.
        strata: Within which rows are shared out.
        fraction: Share to hold out.
        seed: Another seed, another split.
        test_fraction: Share to put aside.

    Returns:
        Indices of training, evaluation and test rows, each in the file's order.
    """
    hashes = seeded(keys, seed, purpose=0)
    held_out, aside = np.zeros(len(keys), dtype=bool), np.zeros(len(keys), dtype=bool)
    for stratum in _strata(labels, hashes, strata):
        ordered = stratum[np.argsort(hashes[stratum], kind="stable")]
        first = _cut(hashes[ordered], round(fraction * len(ordered)))
        held_out[ordered[:first]] = True
        rest = ordered[first:][::-1]
        aside[rest[: _cut(hashes[rest], round(test_fraction * len(ordered)))]] = True
    numbers = np.arange(len(keys))
    return numbers[~(held_out | aside)], numbers[held_out], numbers[aside]


def deal(keys: Keys, labels: Labels, *, strata: Strata, folds: int, seed: int) -> Indices:
    """Deals rows into folds, stratified by label.

    Within each class (each tenth of the range of ranks, for regression) the folds differ by one row at most, but for
    equal texts: they lie in one fold, whatever their labels.

    Args:
        keys: `[N]`, from `row_key`.
        labels: `[N]`.
        strata: Within which rows are shared out.
        folds: How many.
        seed: Another seed, other folds.

    Returns:
        The fold of each row, `[N]`, counted from 0.
    """
    hashes = seeded(keys, seed, purpose=2)
    dealt = np.zeros(len(keys), dtype=np.int64)
    fold_of: dict[int, int] = {}
    in_all = [0] * folds
    for stratum in _strata(labels, hashes, strata):
        counts = [0] * folds
        for row in stratum[np.argsort(hashes[stratum], kind="stable")].tolist():
            text = int(hashes[row])
            if text not in fold_of:
                fold_of[text] = min(range(folds), key=lambda fold: (counts[fold], in_all[fold], fold))
            dealt[row] = fold_of[text]
            counts[fold_of[text]] += 1
            in_all[fold_of[text]] += 1
    return dealt


def order(indices: Indices, keys: Keys, labels: Labels, seed: int) -> Indices:
    """Returns indices in the seeded order: by a hash of the row, so independent of the order in the file."""
    hashes = seeded(keys[indices], seed, purpose=1)
    return indices[np.lexsort((labels[indices], hashes))]


def even(ordered: Indices, labels: Labels, rows: int | None) -> Indices:
    """Returns as many rows of each class, the first ones of each, in their order.

    Args:
        ordered: Indices of rows, from `order`.
        labels: `[N]`: class ids.
        rows: How many in all, at most; None: as many as the rarest class allows.
    """
    own = labels[ordered]
    classes, counts = np.unique(own, return_counts=True)
    if not len(classes):
        return ordered
    each = int(counts.min()) if rows is None else min(int(counts.min()), rows // len(classes))
    keep = np.zeros(len(ordered), dtype=bool)
    for value in classes:
        keep[np.flatnonzero(own == value)[:each]] = True
    return ordered[keep]


def _cut(hashes: Keys, count: int) -> int:
    """Returns where to cut sorted hashes near `count`, never between equal texts: above, or below if that takes all."""
    up = down = count
    while 0 < up < len(hashes) and hashes[up] == hashes[up - 1]:
        up += 1
    while 0 < down < len(hashes) and hashes[down] == hashes[down - 1]:
        down -= 1
    return up if up < len(hashes) else down


def _strata(labels: Labels, hashes: Keys, strata: Strata) -> list[Indices]:
    if strata is Strata.NONE:
        return [np.arange(len(hashes))]
    if strata is Strata.CLASSES:
        return [np.flatnonzero(labels == value) for value in np.unique(labels)]
    by_rank = np.lexsort((hashes, labels))  # equal labels in the order of their hashes, not of the file
    bounds = []
    for bound in np.linspace(0, len(labels), min(_REGRESSION_STRATA, len(labels)) + 1).round().astype(int)[1:-1]:
        while bound < len(labels) and hashes[by_rank[bound]] == hashes[by_rank[bound - 1]]:
            bound += 1  # equal texts of one label stay in one stratum
        bounds.append(bound)
    return [part for part in np.split(by_rank, bounds) if len(part)]
