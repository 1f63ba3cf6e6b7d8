"""Where a model or a data set comes from."""

from __future__ import annotations

import re
from enum import StrEnum

from frostline.errors import SpecError


class Source(StrEnum):
    """Where a model or a dataset comes from."""

    PACKAGE = "package"  # a checked file of a package index, picked apart, never installed
    PATH = "path"  # a local folder (model) or file (dataset)
    HUB = "hub"  # the Hugging Face hub, by name and revision


def check_source(group: str, source: Source, location: str, sha256: str | None, member: str | None) -> None:
    """Refuses a model or dataset that does not say where it comes from.

    Raises:
        SpecError: With the key.
    """
    if not location.strip():
        raise SpecError(f"{group}.location is empty: give a {source.value}")
    if source is Source.PACKAGE:
        if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+", location):
            raise SpecError(f"{group}.location={location}: a package is given as name==version")
        if sha256 is None or not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise SpecError(f"{group}.sha256: a package's file needs its sha256, 64 hexadecimal digits")
        if not member:
            raise SpecError(f"{group}.member is missing: name what to take out of the package's file")
