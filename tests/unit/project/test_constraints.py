"""The pinned versions can be installed on each Python that pyproject.toml promises."""

import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[3]


def test_every_pin_takes_the_oldest_python():
    promised = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    oldest = f"{promised.removeprefix('>=')}.0"
    refused = []
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name = line.partition("==")[0].strip()
        if not name or name.startswith("#"):
            continue
        try:
            wanted = metadata(name).get("Requires-Python")
        except PackageNotFoundError:  # of another platform
            continue
        if wanted and not SpecifierSet(wanted).contains(oldest):
            refused.append(f"{line}: Python {wanted}")
    assert not refused
