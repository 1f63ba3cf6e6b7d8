"""Words that only this project once used are refused: CONTRIBUTING.md names the field's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PRIVATE = re.compile(
    r"\b(begun|told|looked|heard|hears|whoever|buried|spool|gone (on|with)|go(es|ing)? on (with|from|to)|went on)\b"
    r"|\bgone\b",
    re.IGNORECASE,
)
KINDS = ("*.py", "*.md", "*.yaml", "*.j2")
FILES = [
    *(path for folder in ("src", "conf", "sweeps", "docs", "tests", "benchmarks", "studies") for kind in KINDS
      for path in sorted((ROOT / folder).rglob(kind)) if path != Path(__file__)),
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile",
]  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_uses_the_fields_words(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [f"{number}: {line.strip()}" for number, line in enumerate(lines, 1) if PRIVATE.search(line)] == []
