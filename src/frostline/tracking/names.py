"""Makes names and values fit MLflow's limits, and reports each change.

Must not know: where they come from. MLflow refuses a whole batch for one odd name, cuts long values without a word, and
stores infinity as the largest finite number.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from frostline.provenance import redact

MAX_NAME = 250  # of params, metrics and tags, in MLflow 3
MAX_PARAM = 6000
MAX_TAG = 8000
_MAX_CHANGES = 20


def clean_name(name: str) -> str:
    """Returns a name that MLflow accepts: letters, digits and `_ - . / : space`, no path that leads elsewhere.

    Args:
        name: Of a metric, a param or a tag. A good one comes back as it is; a long one ends in a hash of it.
    """
    clean = re.sub(r"[^\w\-./: ]", "_", name)
    clean = "/".join(part if part.strip(".") else "_" * max(len(part), 1) for part in clean.split("/"))
    clean = f"__{clean[2:]}" if clean.startswith("..") else clean
    return clean if len(clean) <= MAX_NAME else f"{clean[: MAX_NAME - 9]}_{_hash(name)}"


class Sanitizer:
    """Cleans what one run records, and knows what it changed.

    Two odd names that would become one are kept apart.
    """

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}
        self._taken: dict[tuple[str, str], str] = {}
        self._changes: dict[str, None] = {}

    def metric(self, name: str, value: float) -> tuple[str, float]:
        """Returns a metric's name and value; infinity becomes NaN, which MLflow can say."""
        if math.isinf(value):
            self.tell(f"metric {_short(name)}: {value} is recorded as NaN")
            value = math.nan
        return self.name("metric", name), value

    def params(self, params: Mapping[str, Any]) -> dict[str, str]:
        """Returns params as texts; long ones are cut."""
        return {self.name("param", key): self._text("param", key, value, MAX_PARAM) for key, value in params.items()}

    def tags(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Returns tags; long ones are cut."""
        return {self.name("tag", key): self._text("tag", key, value, MAX_TAG) for key, value in tags.items()}

    def name(self, kind: str, name: str) -> str:
        """Returns the name of a metric, param or tag: always the same one for the same."""
        known = self._names.get((kind, name))
        if known is not None:
            return known
        clean = clean_name(name)
        if self._taken.get((kind, clean), name) != name:
            clean = f"{clean[: MAX_NAME - 9]}_{_hash(name)}"
        self._names[kind, name], self._taken[kind, clean] = clean, name
        if clean != name:
            self.tell(f"{kind} {_short(name)} is recorded as {_short(clean)}")
        return clean

    @property
    def record(self) -> str:
        """What was changed, a line each; empty if nothing was."""
        lines = list(self._changes)
        more = [f"and {len(lines) - _MAX_CHANGES} more"] if len(lines) > _MAX_CHANGES else []
        return "\n".join([*lines[:_MAX_CHANGES], *more])

    def _text(self, kind: str, name: str, value: Any, limit: int) -> str:
        text = redact(str(value))
        if len(text) <= limit:
            return text
        self.tell(f"{kind} {_short(name)}: the first {limit} of {len(text)} characters")
        return text[:limit]

    def tell(self, line: str) -> None:
        """Notes a change that the caller made."""
        self._changes.setdefault(line)


def batches(items: Iterable[Any], size: int) -> Iterable[list[Any]]:
    """Cuts a sequence into lists of at most `size`: MLflow takes 100 params and 1000 metrics at once."""
    rows = list(items)
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:57]}..."


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
