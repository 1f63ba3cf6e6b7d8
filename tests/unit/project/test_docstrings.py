"""What a docstring's `Attributes` name are the class's own."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3] / "src" / "frostline"


def classes():
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and "Attributes:" in (ast.get_docstring(node) or ""):
                yield pytest.param(node, id=f"{path.stem}.{node.name}")


def documented(node):
    _, _, rest = ast.get_docstring(node).partition("Attributes:\n")
    lines = re.split(r"\n(?=\S)", rest)[0].splitlines()
    return [match.group(1) for line in lines if (match := re.match(r" {4}(\w+):", line))]


def own(node):
    names = set()
    for each in ast.walk(node):
        if isinstance(each, ast.AnnAssign | ast.Assign):
            targets = each.targets if isinstance(each, ast.Assign) else [each.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
            names |= {target.attr for target in targets if isinstance(target, ast.Attribute)}
        if isinstance(each, ast.FunctionDef):
            names.add(each.name)
    return names


@pytest.mark.parametrize("node", classes())
def test_documented_attributes_exist(node):
    assert documented(node)
    assert set(documented(node)) <= own(node)
    assert len(documented(node)) == len(set(documented(node)))
