"""What keeps the sources readable, counted: docs/design.md, rule 10."""

import ast
import re
from pathlib import Path

import pytest

import frostline

ROOT = Path(__file__).parents[3]
MODULES = sorted((ROOT / "src").rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
FUNCTIONS = [
    (f"{path.name}: {node.name}", node)
    for path, tree in TREES.items()
    for node in ast.walk(tree)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
]


def test_no_file_is_longer_than_350_lines():
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: count for name, count in lengths.items() if count > 350} == {}


def test_no_function_is_longer_than_60_lines():
    """What users call from Python is counted without its docstring, which is its manual."""

    def length(node):
        is_public = node.name in frostline.__all__
        manual = len((ast.get_docstring(node) or "").splitlines()) if is_public else 0
        return node.end_lineno - node.lineno + 1 - manual

    lengths = {name: length(node) for name, node in FUNCTIONS}
    assert {name: count for name, count in lengths.items() if count > 60} == {}


def test_no_function_has_8_parameters():
    """But for what users call from Python: a keyword for each thing that they name."""
    public = set(frostline.__all__)

    def count(node):
        given = [*node.args.posonlyargs, *node.args.args, *([] if node.name in public else node.args.kwonlyargs)]
        return sum(each.arg not in {"self", "cls"} for each in given)

    assert {name: count(node) for name, node in FUNCTIONS if count(node) >= 8} == {}


def is_broad(node):
    if isinstance(node, ast.ExceptHandler):
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        return any(isinstance(each, ast.Name) and each.id in {"Exception", "BaseException"} for each in caught)
    return False


def test_there_are_at_most_25_broad_excepts():
    broad = [(path.name, node.lineno) for path, tree in TREES.items() for node in ast.walk(tree) if is_broad(node)]
    assert len(broad) <= 25, broad


def test_what_a_process_keeps_has_one_owner():
    """`PROCESS_CACHE`: no function has a cache of its own."""
    cached = [
        (path.name, node.name)
        for path, tree in TREES.items()
        if path.name != "process_cache.py"
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any(re.search(r"\b(lru_)?cache\b", ast.unparse(each)) for each in node.decorator_list)
    ]
    assert cached == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT / "src").as_posix())
def test_every_module_says_in_a_line_what_it_holds(path):
    text = ast.get_docstring(TREES[path])
    assert text or not path.read_text(encoding="utf-8").strip(), "no docstring"
    assert not (text or "").startswith("Owns:")


TESTS = sorted((ROOT / "tests").rglob("*.py"))


def test_no_test_is_a_monster():
    """A test tells one fact: files up to 470 lines, functions up to 60."""
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in TESTS}
    assert {name: count for name, count in lengths.items() if count > 470} == {}
    functions = {
        f"{path.name}: {node.name}": node.end_lineno - node.lineno + 1
        for path in TESTS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert {name: count for name, count in functions.items() if count > 60} == {}


def test_tests_go_through_public_doors():
    """No private attribute of frostline's own modules; those of libraries are facts that tests/contract checks."""
    private = re.compile(
        r"setattr\([a-z_]+, \"_[a-z]|\"frostline\.[a-z_.]+\._[a-z]|from frostline\S* import [^#\n]*\b_[a-z]|__new__"
    )
    files = [path for path in TESTS if path != Path(__file__) and "contract" not in path.parts]
    lines = [
        f"{path.name}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if private.search(line) and "torch.cuda" not in line
    ]
    assert lines == []
