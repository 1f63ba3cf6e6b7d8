"""Figures of a sweep's trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from frostline.records.trial import TrialRecord, TrialState, ranked
from frostline.report.answer import Answer
from frostline.report.canvas import COLD, GREY, RED, WARM, Canvas
from frostline.report.pareto import pareto
from frostline.report.terminal import number
from frostline.spec import CostName

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COSTS = {
    CostName.TRAIN_S: "training time (s)",
    CostName.NUM_TRAINABLE: "trained parameters",
    CostName.FLOPS: "training FLOPs (estimated)",
}
_MOST_KEYS = 6
_TICK_ROOM = 0.07
"""Of the height of the picture: names that lie closer cover one another."""


def quality_vs_cost(canvas: Canvas, trials: Sequence[TrialRecord], answer: Answer, cost: CostName) -> bool:
    """Draws the finished trials over their cost, and the Pareto front."""
    finished = [p for p in ranked(trials, answer.maximize) if p.cost(cost) is not None]
    if len(finished) < 2:
        return False
    axes = canvas.axes()
    depths = [p.depth for p in finished]
    costs = [p.cost(cost) or 0.0 for p in finished]
    values = [p.quality or 0.0 for p in finished]
    if all(depth is not None for depth in depths) and len(set(depths)) > 1:
        dots = axes.scatter(costs, values, c=[float(d or 0) for d in depths], cmap="viridis_r", s=46, zorder=3)
        assert axes.figure is not None
        axes.figure.colorbar(dots, ax=axes, label="frozen blocks", shrink=0.85)
    else:
        axes.scatter(costs, values, color=COLD, s=46, zorder=3)
    canvas.note(axes, [(x, y, _words(p, answer)) for x, y, p in zip(costs, values, finished, strict=True)])
    front = pareto(trials, cost, maximize=answer.maximize)
    axes.plot(
        [p.cost(cost) or 0.0 for p in front], [p.quality or 0.0 for p in front],
        color=WARM, linewidth=2, drawstyle="steps-post", label="Pareto front",
    )  # fmt: skip
    if _is_wide(costs):
        axes.set_xscale("log")
    axes.set_title(f"{answer.metric} against cost")
    axes.set_xlabel(_COSTS[cost])
    axes.set_ylabel(answer.metric)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="best")
    return True


def history(canvas: Canvas, trials: Sequence[TrialRecord], answer: Answer) -> bool:
    """Draws the trials in the order of their numbers, and the best so far."""
    from matplotlib.ticker import MaxNLocator

    ended = [p for p in trials if p.outcome is not None]
    finished = [p for p in ended if p.state is TrialState.COMPLETE and p.quality is not None]
    early = [p for p in ended if p.state is TrialState.PRUNED and p.quality is not None]
    failed = [p for p in ended if p.state is TrialState.FAILED]
    if len(finished) + len(early) < 2:
        return False
    axes = canvas.axes()
    canvas.note(axes, [(p.number, p.quality or 0.0, _words(p, answer)) for p in finished + early])
    if early:
        axes.plot([p.number for p in early], [p.quality or 0.0 for p in early], "o", mfc="none", color=GREY,
                  label=f"stopped early ({len(early)})")  # fmt: skip
    axes.plot([p.number for p in finished], [p.quality or 0.0 for p in finished], "o", color=COLD,
              label=f"to the end ({len(finished)})")  # fmt: skip
    if failed:
        bottom = min(p.quality or 0.0 for p in finished + early)
        axes.plot([p.number for p in failed], [bottom] * len(failed), "x", color=RED, label=f"failed ({len(failed)})")
    steps: list[int] = []
    best: list[float] = []
    for trial in sorted(finished, key=lambda p: p.number):
        quality = trial.quality or 0.0
        top = quality if not best else (max if answer.maximize else min)(best[-1], quality)
        steps.append(trial.number)
        best.append(top)
    axes.plot(steps, best, color=WARM, linewidth=2, drawstyle="steps-post", label="best so far")
    axes.set_title("History of the search")
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(answer.metric)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="best", fontsize=9)
    return True


def slices(canvas: Canvas, trials: Sequence[TrialRecord], answer: Answer) -> bool:
    """Draws the finished trials over each key of the space, in the colours of the axis of cost."""
    finished = ranked(trials, answer.maximize)
    keys = _varied(finished)[:_MOST_KEYS]
    if len(finished) < 3 or len(keys) < 2:
        return False
    columns = 2
    rows = math.ceil(len(keys) / columns)
    canvas.figure.set_size_inches(6.4, 4.2 if rows == 1 else 3.2 * rows)
    panels = list(canvas.figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    values = [p.quality or 0.0 for p in finished]
    shades = _numbers(finished, answer.axis_key)
    for axes, key in zip(panels, keys, strict=False):
        places = _scaled(axes, [p.params.get(key) for p in finished])
        looks: dict[str, Any] = {"color": COLD} if shades is None else {"c": shades, "cmap": "viridis_r"}
        dots = axes.scatter(places, values, s=40, zorder=3, **looks)
        canvas.note(axes, [(x, y, _words(p, answer)) for x, y, p in zip(places, values, finished, strict=True)])
        axes.set_xlabel(key)
        axes.grid(alpha=0.25)
    for axes in panels[len(keys) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel(answer.metric)
    if shades is not None:
        canvas.figure.colorbar(dots, ax=panels, label=answer.axis_key, shrink=0.85)
    canvas.figure.suptitle(f"{answer.metric} over each key", x=0.01, ha="left", fontsize=11, fontweight="bold")
    return True


def parallel_coordinates(canvas: Canvas, trials: Sequence[TrialRecord], answer: Answer) -> bool:
    """Draws a line for each finished trial through its value of each key and its result."""
    import matplotlib as mpl
    from matplotlib.collections import LineCollection

    finished = ranked(trials, answer.maximize)
    keys = _varied(finished)[: 2 * _MOST_KEYS]
    values = [p.quality or 0.0 for p in finished]
    if len(finished) < 3 or len(keys) < 2 or len(set(values)) < 2:
        return False
    axes = canvas.axes()
    columns = [[p.params.get(key) for p in finished] for key in keys] + [list(values)]
    heights = []
    for place, column in enumerate(columns):
        scaled, ticks = _to_unit(column)
        heights.append(scaled)
        axes.axvline(place, color=GREY, linewidth=1, zorder=1)
        for height, text in ticks:
            axes.annotate(
                text, (place, height), xytext=(4, 0), textcoords="offset points", fontsize=7, va="center", zorder=4,
                bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.7},
            )  # fmt: skip
    lines = [[(place, scaled[index]) for place, scaled in enumerate(heights)] for index in range(len(finished))]
    low, high = min(values), max(values)
    colors = mpl.colormaps["viridis" if answer.maximize else "viridis_r"]
    shades = colors([(value - low) / (high - low) for value in values])
    axes.add_collection(LineCollection(lines[::-1], colors=shades[::-1], linewidths=1, alpha=0.9))  # the best on top
    for trial, line in zip(finished, lines, strict=True):
        if answer.recommended is not None and trial.number == answer.recommended.number:
            axes.plot(*zip(*line, strict=True), color=WARM, linewidth=2.5, zorder=3)
        canvas.note(axes, [(place, height, _words(trial, answer)) for place, height in line])
    axes.set_ylim(-0.03, 1.03)
    axes.set_xticks(range(len(columns)), [*keys, answer.metric])
    axes.set_xlim(-0.1, len(columns) - 0.6)
    axes.yaxis.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.set_title("Each trial, a line")
    return True


def _words(trial: TrialRecord, answer: Answer) -> str:
    seconds = trial.cost(CostName.TRAIN_S)
    took = "" if seconds is None else f", {seconds:.1f} s"
    return f"#{trial.number} {trial.label()}: {answer.metric} {number(trial.quality or 0.0)}{took}"


def _varied(trials: Sequence[TrialRecord]) -> list[str]:
    """Returns the keys that have more than one value."""
    keys = dict.fromkeys(key for trial in trials for key in trial.params)
    return [key for key in keys if len({trial.params.get(key) for trial in trials}) > 1]


def _numbers(trials: Sequence[TrialRecord], key: str | None) -> list[float] | None:
    """Returns each trial's value of a key; None if one of them is no number."""
    values = [trial.params.get(key) for trial in trials] if key is not None else [None]
    numbers = [float(value) for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    return numbers if len(numbers) == len(values) else None


def _is_wide(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis shows the values better."""
    return min(values) >= 0 and max(values) > 20 * max(min(values), 1e-12)


def _scaled(axes: Axes, column: Sequence[Any]) -> list[float]:
    """Returns where the values of a key lie on the horizontal axis, which gets its scale and its names."""
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in column):
        places = [float(value) for value in column]
        if _is_wide(places) and min(places) > 0:
            axes.set_xscale("log")
        elif all(isinstance(value, int) for value in column) and len(set(column)) <= 10:
            axes.set_xticks(sorted(set(places)), [str(int(place)) for place in sorted(set(places))])
        return places
    names = sorted({str(value) for value in column})
    axes.set_xticks(range(len(names)), names, rotation=20)
    return [float(names.index(str(value))) for value in column]


def _to_unit(column: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Returns values of a key as heights from 0 to 1, and some of them with their names."""
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in column):
        places = [float(value) for value in column]
        is_log = _is_wide(places) and min(places) > 0
        scaled = [math.log(place) for place in places] if is_log else places
        words = [str(value) if isinstance(value, int) else f"{value:.3g}" for value in column]
    else:
        words = [str(value) for value in column]
        scaled = [float(sorted(set(words)).index(word)) for word in words]
    low, high = min(scaled), max(scaled)
    heights = [(place - low) / (high - low) for place in scaled]
    ticks: list[tuple[float, str]] = []
    for height, word in sorted(set(zip(heights, words, strict=True))):
        if not ticks or height - ticks[-1][0] > _TICK_ROOM:
            ticks.append((height, word))
    return heights, ticks
