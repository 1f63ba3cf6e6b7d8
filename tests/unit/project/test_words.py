"""Words that only this project once used are refused: CONTRIBUTING.md names the field's."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MODULES = sorted((ROOT / "src").rglob("*.py"))
PRIVATE = re.compile(
    r"\b(begun|told|looked|heard|hears|whoever|buried|spool|gone (on|with)|go(es|ing)? on (with|from|to)|went on)\b"
    r"|\bgone\b|\b(came|comes) to\b",
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


LOCALS = {"found", "made", "one", "two", "there", "given", "lost", "told", "said", "begun", "gone", "looked", "heard"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_local_is_named_after_what_it_holds(path):
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [(node.lineno, node.id) for node in nodes if isinstance(node, ast.Name)]
    names += [(node.lineno, node.arg) for node in nodes if isinstance(node, ast.arg)]
    assert [(line, name) for line, name in names if name in LOCALS] == []
