"""Figures of a sweep's answer."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from frostline.decision import LevelState, Setting
from frostline.report.answer import Answer, GroupAnswer, LevelRow
from frostline.report.canvas import COLD, GREEN, GREY, INK, RED, WARM, Canvas
from frostline.report.terminal import number
from frostline.report.text import label
from frostline.spec import DEPTH_KEY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STATE_LOOKS = {
    LevelState.GOOD: (GREEN, "good"),
    LevelState.OPEN: ("#e0a526", "open"),
    LevelState.OUT: (RED, "out"),
}
_MAP = "YlGnBu"


def whole(canvas: Canvas, answer: Answer) -> bool:
    """Draws the answer: the result at each level and, where rates were searched, the surface beside it."""
    if answer.main is None or not _has_rates(answer.main):
        return levels(canvas, canvas.axes(), answer)
    canvas.figure.set_size_inches(10.4, 4.2)
    left, right = canvas.figure.subplots(1, 2)
    return levels(canvas, left, answer) and rates(canvas, right, answer)


def levels(canvas: Canvas, axes: Axes, answer: Answer) -> bool:
    """Draws the posterior of each level's quality, the margin below the best, and what is known of each level."""
    main = answer.main
    if main is None or len(main.rows) < 2 or not main.decision.is_comparable:
        return False
    rows = main.rows
    levels = [row.level for row in rows]
    means = [row.mean for row in rows]
    axes.fill_between(levels, [row.low for row in rows], [row.high for row in rows], color=COLD, alpha=0.15, lw=0)
    axes.plot(levels, means, color=COLD, linewidth=1.5)
    best = max(means) if answer.maximize else min(means)
    margin = main.decision.margin * (-1 if answer.maximize else 1)
    axes.axhspan(best, best + margin, color=GREEN, alpha=0.12, lw=0)
    axes.axhline(best + margin, color=GREEN, linewidth=1, linestyle="--", label="within the margin")
    for state, (color, words) in _STATE_LOOKS.items():
        own = [row for row in rows if row.state is state and row.trial is not None]
        if own:
            axes.plot([row.level for row in own], [row.mean for row in own], "o", color=color, ms=8, label=words)
    for words, marker, has_collapsed in (("not tried", "o", False), ("learnt nothing", "x", True)):
        own = [row for row in rows if row.trial is None and bool(row.collapsed) is has_collapsed]
        if own:
            axes.plot([row.level for row in own], [row.mean for row in own], marker, mfc="none", color=GREY,
                      ms=8, label=words)  # fmt: skip
    if main.fitted.constant_score is not None:
        low, high = axes.get_ylim()
        if low - (high - low) < main.fitted.constant_score < high + (high - low):
            axes.axhline(
                main.fitted.constant_score, color=GREY, linewidth=1, linestyle=":", label="constant prediction"
            )
    row = main.recommended_row
    assert row is not None
    axes.annotate(
        label(answer), (row.level, row.mean), xytext=(0, -28), textcoords="offset points", ha="center", color=INK,
        fontweight="bold", bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8},
        arrowprops={"arrowstyle": "-", "color": INK},
    )  # fmt: skip
    canvas.note(axes, [(row.level, row.mean, _level_words(row, answer)) for row in rows])
    axes.set_title(f"{answer.metric} to expect, and how sure")
    axes.set_xlabel(f"{_axis_words(answer)}\nband: 95 % interval")
    axes.set_ylabel(answer.metric)
    if len(levels) <= 15:
        axes.set_xticks(levels, [answer.level_name(level) for level in levels])
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    return True


def rates(canvas: Canvas, axes: Axes, answer: Answer) -> bool:
    """Draws the posterior mean over all levels and rates, with the settings that were tried."""
    import numpy as np

    main = answer.main
    if main is None or main.fitted.posterior is None or not _has_rates(main):
        return False
    posterior, axis = main.fitted.posterior, main.fitted.axis
    tried = sorted({run.setting for run in main.fitted.runs})
    low, high = min(s.rate for s in tried) - 0.15, max(s.rate for s in tried) + 0.15
    rates = np.linspace(low, high, 60)
    mean, _ = posterior.mean_and_sd([Setting(level=level, rate=float(r)) for level in axis.levels for r in rates])
    grid = (mean if answer.maximize else -mean).reshape(len(axis.levels), len(rates))
    values = [row.mean for row in main.rows]
    span = max(max(values) - min(values), 1e-9)
    ends = (min(values) - span / 2, max(values)) if answer.maximize else (min(values), max(values) + span / 2)
    color_map = _MAP if answer.maximize else f"{_MAP}_r"
    image = axes.pcolormesh(
        rates, range(len(axis.levels)), grid, cmap=color_map, vmin=ends[0], vmax=ends[1], shading="nearest"
    )
    places = [axis.index(s.level) for s in tried]
    axes.scatter([s.rate for s in tried], places, s=22, facecolor="white", edgecolor=INK, linewidth=0.8, label="tried")
    canvas.note(axes, [(s.rate, axis.index(s.level), _setting_words(s, answer)) for s in tried])
    chosen = main.decision.recommended.setting
    axes.scatter([chosen.rate], [axis.index(chosen.level)], s=90, facecolor="none", edgecolor=WARM, linewidth=2.5,
                 label=label(answer))  # fmt: skip
    ticks: list[float] = []
    for rate in sorted(s.rate for s in tried):  # the rates tried, as far as their names have room
        if not ticks or rate - ticks[-1] > (high - low) / 9:
            ticks.append(rate)
    axes.set_xticks(ticks, [f"{10**tick:.1e}" for tick in ticks], rotation=30)
    axes.set_yticks(range(len(axis.levels)), [answer.level_name(level) for level in axis.levels])
    axes.set_title(f"expected {answer.metric} at every rate")
    axes.set_xlabel("learning rate")
    axes.set_ylabel(_axis_words(answer))
    axes.legend(frameon=True, fontsize=8, loc="lower right", framealpha=0.8)
    assert axes.figure is not None
    axes.figure.colorbar(image, ax=axes, shrink=0.85)
    return True


def learning_curve(canvas: Canvas, answer: Answer) -> bool:
    """Draws a line for each depth over the number of training rows, of one model: that of the best trial."""
    model = answer.best.model if answer.best is not None else None
    known = [(row, row.trial.num_rows) for row in answer.rows if row.trial is not None and row.trial.model == model]
    rows = [(row, number) for row, number in known if number is not None]
    if len({number for _, number in rows}) < 2:
        return False
    axes = canvas.axes()
    for level in sorted({row.level for row, _ in rows}):
        line = sorted(((row, number) for row, number in rows if row.level == level), key=lambda pair: pair[1])
        errors = [[row.mean - row.low for row, _ in line], [row.high - row.mean for row, _ in line]]
        axes.errorbar(
            [number for _, number in line], [row.mean for row, _ in line], yerr=errors, marker="o", capsize=3,
            label=f"{_axis_words(answer)}: {answer.level_name(level)}",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_title(f"Best {answer.metric} by training rows")
    axes.set_xlabel("training rows")
    axes.set_ylabel(answer.metric)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False)
    return True


def importances(canvas: Canvas, answer: Answer) -> bool:
    """Draws how much of the expected result's variation each key explains."""
    if answer.main is None or not answer.main.importances:
        return False
    items = sorted(answer.main.importances.items(), key=lambda item: item[1])
    axes = canvas.axes()
    bars: Any = axes.barh([key for key, _ in items], [value for _, value in items], color=COLD)
    axes.bar_label(bars, fmt="%.2f", padding=4)
    several = f" ({answer.main.group})" if len(answer.groups) > 1 else ""
    axes.set_title(f"What the result depends on{several}")
    axes.set_xlabel(f"share of the variation of the expected {answer.metric}")
    axes.set_xlim(0, 1.08)
    return True


def _has_rates(group: GroupAnswer) -> bool:
    """Whether rates were searched, and nothing else beside the axis of cost."""
    setting, axis = group.decision.recommended.setting, group.fitted.axis
    is_plain = group.fitted.posterior is not None and not setting.others and not setting.groups
    several = len({run.setting.rate for run in group.fitted.runs}) > 1 and group.decision.is_comparable
    return is_plain and several and len(group.rows) > 1 and axis is not None and axis.rates is not None


def _level_words(row: LevelRow, answer: Answer) -> str:
    level = f"{_axis_words(answer)} {answer.level_name(row.level)}"
    state = row.state.value if row.trial is not None else "learnt nothing" if row.collapsed else "not tried"
    return f"{level}: {number(row.mean)} ({number(row.low)} to {number(row.high)}), {state}"


def _setting_words(setting: Setting, answer: Answer) -> str:
    runs = [run.value for run in answer.main.fitted.runs if run.setting == setting] if answer.main is not None else []
    signed = [value if answer.maximize else -value for value in runs]
    means = f"{number(statistics.fmean(signed))}, mean of {len(signed)}" if len(signed) > 1 else number(signed[0])
    return f"{_axis_words(answer)} {answer.level_name(setting.level)}, rate {10**setting.rate:.2e}: {means}"


def _axis_words(answer: Answer) -> str:
    return "frozen blocks" if answer.axis_key == DEPTH_KEY else answer.axis_key or ""
