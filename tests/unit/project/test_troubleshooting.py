"""The errors of docs/troubleshooting.md are errors that the code has."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCE = " ".join(
    re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8")) for path in sorted((ROOT / "src").rglob("*.py"))
)
LINES = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), re.M)


def test_there_are_thirty():
    assert len(LINES) >= 30
    assert len(set(LINES)) == len(LINES)


@pytest.mark.parametrize("line", LINES)
def test_the_code_says_it(line):
    assert line in SOURCE
