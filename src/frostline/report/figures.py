"""Owns: points of a sweep -> pictures. Must not know: where they are shown."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from frostline.point import Point, State, ranked
from frostline.report.answer import Answer, pareto
from frostline.spec import CostName, short_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _COLD, _WARM, _GREY = "#1b2a38", "#2b6ca3", "#d1622b", "#9aa7b2"
_MAP = "YlGnBu"
_COSTS = {
    CostName.TRAIN_S: "training time (s)",
    CostName.NUM_TRAINABLE: "trained parameters",
    CostName.FLOPS: "training FLOPs (estimated)",
}
_MAX_BINS = 8


def make_figures(
    points: Sequence[Point], answer: Answer, importances: Mapping[str, float], cost: CostName
) -> dict[str, bytes]:
    """Returns PNG files by name; a picture that the points can't fill is left out.

    Args:
        points: All of the study.
        answer: What it says.
        importances: Share of the variation that each key explains.
        cost: The cost axis.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "font.size": 10, "axes.edgecolor": _GREY, "axes.labelcolor": _INK, "text.color": _INK, "xtick.color": _INK,
        "ytick.color": _INK, "axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold",
        "axes.titlelocation": "left", "axes.titlesize": 11, "font.family": "DejaVu Sans",
    }  # fmt: skip
    drawings: dict[str, Callable[[Axes], bool]] = {
        "by_depth": lambda axes: _by_depth(axes, answer),
        "learning_curve": lambda axes: _learning_curve(axes, answer),
        "lr_x_depth": lambda axes: _heat_map(axes, points, answer),
        "quality_vs_cost": lambda axes: _quality_vs_cost(axes, points, answer, cost),
        "history": lambda axes: _history(axes, points, answer),
        "importances": lambda axes: _importances(axes, importances),
    }
    files = {}
    with mpl.rc_context(style):
        for name, draw in drawings.items():
            figure = Figure(figsize=(6.4, 4.2), layout="constrained")
            if draw(figure.subplots()):
                files[name] = _png(figure)
    return files


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without date and version in it, equal sweeps have equal pictures.
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def _by_depth(axes: Axes, answer: Answer) -> bool:
    rows = [row for row in answer.rows if row.finished]
    if len(rows) < 2:
        return False
    depths = sorted({row.depth for row in rows})
    groups = list(dict.fromkeys(row.group for row in rows))
    for index, group in enumerate(groups):
        line = [row for row in rows if row.group == group]
        axes.errorbar(
            [row.depth for row in line], [row.quality for row in line], yerr=[row.error or 0.0 for row in line],
            color=_COLD if len(groups) == 1 else f"C{index}", marker="o", capsize=4, linewidth=2,
            label="best point" if group is None else group,
        )  # fmt: skip
    if answer.recommended is not None:
        row = answer.recommended
        axes.plot([row.depth], [row.quality], "o", color=_WARM, markersize=11, zorder=5, label="recommended")
    kinds = sorted({row.error_kind for row in rows if row.error_kind})
    axes.set_title(f"Best {answer.metric} at each frozen depth")
    axes.set_xlabel(
        "frozen blocks (deeper: cheaper)" + (f"\nbars: 95 % interval, of {kinds[0]}" if len(kinds) == 1 else "")
    )
    axes.set_ylabel(answer.metric)
    axes.set_xticks(depths)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False)
    return True


def _learning_curve(axes: Axes, answer: Answer) -> bool:
    """A line for each depth over the number of training rows, of one model: that of the best point."""
    model = answer.best.model if answer.best is not None else None
    rows = [row for row in answer.rows if row.finished and row.point.num_rows is not None and row.point.model == model]
    if len({row.point.num_rows for row in rows}) < 2:
        return False
    for depth in sorted({row.depth for row in rows}):
        line = sorted((row for row in rows if row.depth == depth), key=lambda row: row.point.num_rows or 0)
        axes.errorbar(
            [row.point.num_rows or 0 for row in line], [row.quality for row in line],
            yerr=[row.error or 0.0 for row in line], marker="o", capsize=3, label=f"{depth} frozen",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_title(f"Best {answer.metric} by training rows")
    axes.set_xlabel("training rows")
    axes.set_ylabel(answer.metric)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False)
    return True


def _heat_map(axes: Axes, points: Sequence[Point], answer: Answer) -> bool:
    known = [p for p in points if p.depth is not None and p.lr is not None and p.quality is not None]
    depths = sorted({p.depth for p in known if p.depth is not None})
    rates = sorted({p.lr for p in known if p.lr is not None})
    if len(depths) < 2 or len(rates) < 2:
        return False
    edges = _bins(rates)
    cells: dict[tuple[int, int], Point] = {}
    for point in known:
        column = next(i for i in range(len(edges) - 1) if (point.lr or 0.0) <= edges[i + 1] or i == len(edges) - 2)
        key = (depths.index(point.depth or 0), column)
        if key not in cells or _is_better(point, cells[key], answer.maximize):
            cells[key] = point
    grid = [[math.nan] * (len(edges) - 1) for _ in depths]
    for (row, column), point in cells.items():
        grid[row][column] = point.quality or 0.0
    values = [value for line in grid for value in line if not math.isnan(value)]
    image = axes.imshow(grid, aspect="auto", cmap=_MAP if answer.maximize else f"{_MAP}_r", origin="lower")
    middle = (min(values) + max(values)) / 2
    for (row, column), point in cells.items():
        value = point.quality or 0.0
        dark = value > middle if answer.maximize else value < middle
        early = "" if point.state is State.COMPLETE else "*"
        axes.text(
            column, row, f"{value:.3f}{early}" if abs(value) < 100 else f"{value:.3g}", ha="center", va="center",
            color="white" if dark else _INK, fontsize=8,
        )  # fmt: skip
    centres = [math.sqrt(edges[i] * edges[i + 1]) for i in range(len(edges) - 1)]
    axes.set_xticks(range(len(centres)), [short_number(float(f"{c:.1e}")) for c in centres], rotation=30)
    axes.set_yticks(range(len(depths)), [str(depth) for depth in depths])
    axes.set_title(f"Learning rate x frozen depth: best {answer.metric}")
    starred = any(point.state is not State.COMPLETE for point in cells.values())
    axes.set_xlabel("learning rate (middle of the cell)" + ("\n* stopped early" if starred else ""))
    axes.set_ylabel("frozen blocks")
    for spine in axes.spines.values():
        spine.set_visible(False)
    assert axes.figure is not None
    axes.figure.colorbar(image, ax=axes, shrink=0.85)
    return True


def _bins(rates: Sequence[float]) -> list[float]:
    """Returns the edges of columns: one for each rate if they are few, else even ones on the logarithmic axis."""
    logs = [math.log(rate) for rate in rates]
    if len(rates) <= _MAX_BINS:
        inner = [(a + b) / 2 for a, b in itertools.pairwise(logs)]
        first, last = logs[0] - (inner[0] - logs[0]), logs[-1] + (logs[-1] - inner[-1])
        return [math.exp(edge) for edge in (first, *inner, last)]
    step = (logs[-1] - logs[0]) / _MAX_BINS
    return [math.exp(logs[0] + step * index) for index in range(_MAX_BINS + 1)]


def _is_better(point: Point, other: Point, maximize: bool) -> bool:
    if (point.state is State.COMPLETE) != (other.state is State.COMPLETE):
        return point.state is State.COMPLETE
    gain = (point.quality or 0.0) - (other.quality or 0.0)
    return gain > 0 if maximize else gain < 0


def _quality_vs_cost(axes: Axes, points: Sequence[Point], answer: Answer, cost: CostName) -> bool:
    finished = [p for p in ranked(points, answer.maximize) if p.cost(cost) is not None]
    if len(finished) < 2:
        return False
    depths = [p.depth for p in finished]
    costs = [p.cost(cost) or 0.0 for p in finished]
    values = [p.quality or 0.0 for p in finished]
    if all(depth is not None for depth in depths) and len(set(depths)) > 1:
        dots = axes.scatter(costs, values, c=[float(d or 0) for d in depths], cmap="viridis_r", s=46, zorder=3)
        assert axes.figure is not None
        axes.figure.colorbar(dots, ax=axes, label="frozen blocks", shrink=0.85)
    else:
        axes.scatter(costs, values, color=_COLD, s=46, zorder=3)
    front = pareto(points, cost, maximize=answer.maximize)
    axes.plot(
        [p.cost(cost) or 0.0 for p in front], [p.quality or 0.0 for p in front],
        color=_WARM, linewidth=2, drawstyle="steps-post", label="Pareto front",
    )  # fmt: skip
    if max(costs) > 20 * max(min(costs), 1e-12):
        axes.set_xscale("log")
    axes.set_title(f"{answer.metric} against cost")
    axes.set_xlabel(_COSTS[cost])
    axes.set_ylabel(answer.metric)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="best")
    return True


def _history(axes: Axes, points: Sequence[Point], answer: Answer) -> bool:
    from matplotlib.ticker import MaxNLocator

    told = [p for p in points if p.outcome is not None]
    finished = [p for p in told if p.state is State.COMPLETE and p.quality is not None]
    early = [p for p in told if p.state is State.PRUNED and p.quality is not None]
    failed = [p for p in told if p.state is State.FAILED]
    if len(finished) + len(early) < 2:
        return False
    axes.plot([p.number for p in early], [p.quality or 0.0 for p in early], "o", mfc="none", color=_GREY,
              label=f"stopped early ({len(early)})")  # fmt: skip
    axes.plot([p.number for p in finished], [p.quality or 0.0 for p in finished], "o", color=_COLD,
              label=f"to the end ({len(finished)})")  # fmt: skip
    if failed:
        bottom = min(p.quality or 0.0 for p in finished + early)
        axes.plot(
            [p.number for p in failed], [bottom] * len(failed), "x", color="#b3261e", label=f"failed ({len(failed)})"
        )
    steps: list[int] = []
    best: list[float] = []
    for point in sorted(finished, key=lambda p: p.number):
        quality = point.quality or 0.0
        top = quality if not best else (max if answer.maximize else min)(best[-1], quality)
        steps.append(point.number)
        best.append(top)
    axes.plot(steps, best, color=_WARM, linewidth=2, drawstyle="steps-post", label="best so far")
    axes.set_title("History of the search")
    axes.set_xlabel("point")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(answer.metric)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="best", fontsize=9)
    return True


def _importances(axes: Axes, importances: Mapping[str, float]) -> bool:
    if len(importances) < 2:
        return False
    items = sorted(importances.items(), key=lambda item: item[1])
    bars: Any = axes.barh([key for key, _ in items], [value for _, value in items], color=_COLD)
    axes.bar_label(bars, fmt="%.2f", padding=4)
    axes.set_title("What the result depends on")
    axes.set_xlabel("share of the variation explained (PED-ANOVA)")
    axes.set_xlim(0, 1.08)
    return True
