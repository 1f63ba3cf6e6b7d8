"""Prints the lines of each room of src/frostline and draws docs/rooms.png from the import graph: `make rooms`.

A room is a package or module right below `frostline`. Rows are those of import-linter's contract in pyproject.toml;
arrows are imports at module level, from room to room; those that follow from others are left out. Exits with 1 if
modules import each other in a circle.
"""

from __future__ import annotations

import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import matplotlib as mpl
from matplotlib.patches import FancyBboxPatch

mpl.use("agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "frostline"


def rows() -> list[list[str]]:
    """Returns the rooms by row, the uppermost first, as import-linter holds them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = next(each for each in settings["tool"]["importlinter"]["contracts"] if each["type"] == "layers")
    return [[room.strip() for room in row.split("|")] for row in contract["layers"]]


def num_lines(room: str) -> int:
    """Returns the lines of a room's modules."""
    folder = SOURCE / room
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [SOURCE / f"{room}.py"]
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)


def module_imports() -> dict[str, set[str]]:
    """Returns which modules of frostline each of them imports when it is imported itself."""
    graph = grimp.build_graph("frostline", exclude_type_checking_imports=True)
    found: dict[str, set[str]] = {}
    for module in sorted(graph.modules):
        source = SOURCE.parent / Path(*module.split("."))
        path = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
        text = path.read_text(encoding="utf-8").splitlines()
        found[module] = {
            other
            for other in graph.find_modules_directly_imported_by(module)
            if any(
                not text[each["line_number"] - 1].startswith(" ")
                for each in graph.get_import_details(importer=module, imported=other)
            )
        }
    return found


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Returns modules that import each other in a circle; empty without one."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _reached(below: dict[str, set[str]], room: str) -> set[str]:
    """Returns the rooms that a room imports, also through others."""
    return below[room].union(*(_reached(below, other) for other in below[room]))


def draw(path: Path, imports: dict[str, set[str]]) -> None:
    """Draws the rooms."""
    figure, axes = plt.subplots(figsize=(11, 8.5))
    places: dict[str, tuple[float, float]] = {}
    for height, row in enumerate(reversed(rows())):
        for index, room in enumerate(row):
            places[room] = ((index + 0.5) / len(row), float(height))
    edges = {
        (module.split(".")[1], other.split(".")[1])
        for module, others in imports.items()
        for other in others
        if module.count(".") and other.count(".")
    }
    below = {
        room: {other for importer, other in edges if importer == room and other != room and other in places}
        for room in places
    }
    for room, others in below.items():
        follows = set().union(*(_reached(below, other) for other in others))
        for other in sorted(others - follows):  # sorted: the same imports give the same bytes
            (left, upper), (right, lower) = places[room], places[other]
            axes.annotate(
                "", (right, lower + 0.28), (left, upper - 0.28),
                arrowprops={"arrowstyle": "-|>", "color": "#9aa7b0", "linewidth": 0.8},
            )  # fmt: skip
    for room, (x, y) in places.items():
        axes.add_patch(
            FancyBboxPatch(
                (x - 0.075, y - 0.26), 0.15, 0.52, boxstyle="round,pad=0,rounding_size=0.02", facecolor="#e8eef2",
                edgecolor="#37474f", linewidth=0.8, mutation_aspect=8, zorder=3,
            )
        )  # fmt: skip
        axes.text(x, y, f"{room}\n{num_lines(room):,}", ha="center", va="center", fontsize=8, zorder=4)
    axes.set(xlim=(0, 1), ylim=(-0.6, len(rows()) - 0.4))
    axes.axis("off")
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})


def main() -> None:
    """Prints and draws."""
    imports = module_imports()
    total = 0
    for row in rows():
        for room in row:
            print(f"{room:<16}{num_lines(room):>7,}")
            total += num_lines(room)
    print(f"{'in all':<16}{total:>7,}")
    if modules := circle(imports):
        sys.exit(f"a circle of imports: {' -> '.join(modules)}")
    draw(ROOT / "docs" / "rooms.png", imports)


if __name__ == "__main__":
    main()
