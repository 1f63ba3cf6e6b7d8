"""Figures of a sweep's trials."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from frostline.decision import LevelState
from frostline.records.trial import TrialRecord, TrialState, ranked
from frostline.report.answer import Answer
from frostline.report.pareto import pareto
from frostline.report.text import label
from frostline.spec import DEPTH_KEY, CostName

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _COLD, _WARM, _GREY, _GREEN = "#1b2a38", "#2b6ca3", "#d1622b", "#9aa7b2", "#2e7d32"
_STATE_LOOKS = {
    LevelState.GOOD: (_GREEN, "good"),
    LevelState.OPEN: ("#e0a526", "open"),
    LevelState.OUT: ("#b3261e", "out"),
}
_MAP = "YlGnBu"
_COSTS = {
    CostName.TRAIN_S: "training time (s)",
    CostName.NUM_TRAINABLE: "trained parameters",
    CostName.FLOPS: "training FLOPs (estimated)",
}


def make_figures(trials: Sequence[TrialRecord], answer: Answer, cost: CostName) -> dict[str, bytes]:
    """Returns PNG files by name; a picture that the trials can't fill is left out.

    Args:
        trials: All of the study.
        answer: What it says.
        cost: The cost axis.
    """
    with _styled():
        files = {"answer": figure} if (figure := _answer(answer)) is not None else {}
        files |= _filled({
            "learning_curve": lambda axes: _learning_curve(axes, answer),
            "quality_vs_cost": lambda axes: _quality_vs_cost(axes, trials, answer, cost),
            "history": lambda axes: _history(axes, trials, answer),
            "importances": lambda axes: _importances(axes, answer),
        })  # fmt: skip
        return {name: _png(figure) for name, figure in files.items()}


def single_figures(trials: Sequence[TrialRecord], answer: Answer, cost: CostName) -> dict[str, Figure]:
    """Returns the same as figures to look at and to change, each with one plot: the answer's two halves apart.

    Args:
        trials: All of the study.
        answer: What it says.
        cost: The cost axis.

    Returns:
        By name: `depth` (the result at each level of the axis of cost, whichever that is), `rates` (the expected result
        over level and learning rate), `learning_curve`, `quality_vs_cost`, `history`, `importances`; those that the
        trials can't fill are left out.
    """
    with _styled():
        return _filled({
            "depth": lambda axes: _posterior(axes, answer),
            "rates": lambda axes: _surface(axes, answer),
            "learning_curve": lambda axes: _learning_curve(axes, answer),
            "quality_vs_cost": lambda axes: _quality_vs_cost(axes, trials, answer, cost),
            "history": lambda axes: _history(axes, trials, answer),
            "importances": lambda axes: _importances(axes, answer),
        })  # fmt: skip


def _styled() -> Any:
    """Returns a context in which figures look as frostline's."""
    import matplotlib as mpl

    style: dict[Any, Any] = {
        "font.size": 10, "axes.edgecolor": _GREY, "axes.labelcolor": _INK, "text.color": _INK, "xtick.color": _INK,
        "ytick.color": _INK, "axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold",
        "axes.titlelocation": "left", "axes.titlesize": 11, "font.family": "DejaVu Sans",
    }  # fmt: skip
    return mpl.rc_context(style)


def _filled(drawings: Mapping[str, Callable[[Axes], bool]]) -> dict[str, Figure]:
    """Returns a figure for each drawing that has something to draw."""
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        """A figure that a notebook shows though pyplot does not know of it."""

        def _repr_png_(self) -> bytes:
            return _png(self)

    figures: dict[str, Figure] = {}
    for name, draw in drawings.items():
        figure = ShownFigure(figsize=(6.4, 4.2), layout="constrained")
        if draw(figure.subplots()):
            figures[name] = figure
    return figures


def _answer(answer: Answer) -> Figure | None:
    """Returns the one picture of an answer: the result at each level and, where rates were searched, the surface."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    if not _posterior(left, answer):
        return None
    if not _surface(right, answer):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        _posterior(figure.subplots(), answer)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without date and version in it, equal sweeps have equal pictures.
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def _posterior(axes: Axes, answer: Answer) -> bool:
    """Draws the posterior of each level's quality, the margin below the best, and what is known of each level."""
    main = answer.main
    if main is None or len(main.rows) < 2:
        return False
    rows = main.rows
    levels = [row.level for row in rows]
    means = [row.mean for row in rows]
    axes.fill_between(levels, [row.low for row in rows], [row.high for row in rows], color=_COLD, alpha=0.15, lw=0)
    axes.plot(levels, means, color=_COLD, linewidth=1.5)
    best = max(means) if answer.maximize else min(means)
    margin = main.decision.margin * (-1 if answer.maximize else 1)
    axes.axhspan(best, best + margin, color=_GREEN, alpha=0.12, lw=0)
    axes.axhline(best + margin, color=_GREEN, linewidth=1, linestyle="--", label="within the margin")
    for state, (color, words) in _STATE_LOOKS.items():
        own = [row for row in rows if row.state is state and row.trial is not None]
        if own:
            axes.plot([row.level for row in own], [row.mean for row in own], "o", color=color, ms=8, label=words)
    untried = [row for row in rows if row.trial is None]
    if untried:
        axes.plot([row.level for row in untried], [row.mean for row in untried], "o", mfc="none", color=_GREY,
                  ms=8, label="not tried")  # fmt: skip
    if main.fitted.constant_score is not None:
        low, high = axes.get_ylim()
        if low - (high - low) < main.fitted.constant_score < high + (high - low):
            axes.axhline(
                main.fitted.constant_score, color=_GREY, linewidth=1, linestyle=":", label="constant prediction"
            )
    row = main.recommended_row
    assert row is not None
    axes.annotate(
        label(answer), (row.level, row.mean), xytext=(0, -28), textcoords="offset points", ha="center", color=_INK,
        fontweight="bold", bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8},
        arrowprops={"arrowstyle": "-", "color": _INK},
    )  # fmt: skip
    axes.set_title(f"{answer.metric} to expect, and how sure")
    axes.set_xlabel(f"{_axis_words(answer)}\nband: 95 % interval")
    axes.set_ylabel(answer.metric)
    if len(levels) <= 15:
        axes.set_xticks(levels, [answer.level_name(level) for level in levels])
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    return True


def _surface(axes: Axes, answer: Answer) -> bool:
    """Draws the posterior mean over all levels and rates, with the settings that were tried."""
    import numpy as np

    from frostline.decision import Setting

    main = answer.main
    if main is None or main.fitted.posterior is None or len(main.rows) < 2:
        return False
    posterior, axis = main.fitted.posterior, main.fitted.axis
    template = main.decision.recommended.setting
    tried = sorted({run.setting for run in main.fitted.runs})
    if axis.rates is None or template.others or template.groups or len({s.rate for s in tried}) < 2:
        return False
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
    axes.scatter([s.rate for s in tried], places, s=22, facecolor="white", edgecolor=_INK, linewidth=0.8, label="tried")
    chosen = main.decision.recommended.setting
    axes.scatter([chosen.rate], [axis.index(chosen.level)], s=90, facecolor="none", edgecolor=_WARM, linewidth=2.5,
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


def _axis_words(answer: Answer) -> str:
    return "frozen blocks" if answer.axis_key == DEPTH_KEY else answer.axis_key or ""


def _learning_curve(axes: Axes, answer: Answer) -> bool:
    """A line for each depth over the number of training rows, of one model: that of the best trial."""
    model = answer.best.model if answer.best is not None else None
    known = [(row, row.trial.num_rows) for row in answer.rows if row.trial is not None and row.trial.model == model]
    rows = [(row, number) for row, number in known if number is not None]
    if len({number for _, number in rows}) < 2:
        return False
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


def _quality_vs_cost(axes: Axes, trials: Sequence[TrialRecord], answer: Answer, cost: CostName) -> bool:
    finished = [p for p in ranked(trials, answer.maximize) if p.cost(cost) is not None]
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
    front = pareto(trials, cost, maximize=answer.maximize)
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


def _history(axes: Axes, trials: Sequence[TrialRecord], answer: Answer) -> bool:
    from matplotlib.ticker import MaxNLocator

    ended = [p for p in trials if p.outcome is not None]
    finished = [p for p in ended if p.state is TrialState.COMPLETE and p.quality is not None]
    early = [p for p in ended if p.state is TrialState.PRUNED and p.quality is not None]
    failed = [p for p in ended if p.state is TrialState.FAILED]
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
    for trial in sorted(finished, key=lambda p: p.number):
        quality = trial.quality or 0.0
        top = quality if not best else (max if answer.maximize else min)(best[-1], quality)
        steps.append(trial.number)
        best.append(top)
    axes.plot(steps, best, color=_WARM, linewidth=2, drawstyle="steps-post", label="best so far")
    axes.set_title("History of the search")
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(answer.metric)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="best", fontsize=9)
    return True


def _importances(axes: Axes, answer: Answer) -> bool:
    if answer.main is None or not answer.main.importances:
        return False
    items = sorted(answer.main.importances.items(), key=lambda item: item[1])
    bars: Any = axes.barh([key for key, _ in items], [value for _, value in items], color=_COLD)
    axes.bar_label(bars, fmt="%.2f", padding=4)
    several = f" ({answer.main.group})" if len(answer.groups) > 1 else ""
    axes.set_title(f"What the result depends on{several}")
    axes.set_xlabel(f"share of the variation of the expected {answer.metric}")
    axes.set_xlim(0, 1.08)
    return True
