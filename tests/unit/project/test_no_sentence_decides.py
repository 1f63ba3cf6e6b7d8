"""Nothing decides by a text made for people: `reason` is shown, never compared, searched or cut."""

from __future__ import annotations

import ast
from pathlib import Path

import frostline

SOURCES = sorted(Path(frostline.__file__).parent.rglob("*.py"))
TEXT_METHODS = {name for name in dir(str) if not name.startswith("_")} - {"join", "format"}


def is_reason(node: ast.AST) -> bool:
    """Whether an expression is a `reason`, also with `str()` around it or `or ""` behind it."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "str" and node.args:
        return is_reason(node.args[0])
    if isinstance(node, ast.BoolOp):
        return any(map(is_reason, node.values))
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name == "reason" or name.endswith("_reason")


def decisions(tree: ast.AST) -> list[int]:
    """Lines in which a `reason` is compared, searched or cut."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            no_none = not any(isinstance(each, ast.Constant) and each.value is None for each in operands)
            by_value = not all(isinstance(op, ast.Is | ast.IsNot) for op in node.ops)
            if no_none and by_value and any(map(is_reason, operands)):
                lines.append(node.lineno)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            on_module = isinstance(node.func.value, ast.Name) and node.func.value.id in {"re", "fnmatch"}
            if (node.func.attr in TEXT_METHODS and is_reason(node.func.value)) or (
                on_module and any(map(is_reason, node.args))
            ):
                lines.append(node.lineno)
        elif is_reason(getattr(node, "value", node)) and isinstance(node, ast.Subscript):
            lines.append(node.lineno)
    return lines


def test_no_source_decides_by_a_reason():
    found = {path.name: lines for path in SOURCES if (lines := decisions(ast.parse(path.read_text("utf-8"))))}
    assert found == {}


def test_the_search_finds_each_kind_of_decision():
    for line in (
        "x.reason == 'paused'", "'SIGTERM' in x.reason", "re.search('a', reason)", "(x.reason or '').startswith('a')",
        "str(x.reason).removeprefix('a')", "reason[:4]", "reason != other.reason",
    ):  # fmt: skip
        assert decisions(ast.parse(line)) == [1], line
    assert decisions(ast.parse("x.reason is None or f'{x.reason}'")) == []
