"""Figures of a sweep, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from frostline.records.trial import TrialRecord
from frostline.report import answer_figures, trial_figures
from frostline.report.answer import Answer
from frostline.report.canvas import Canvas, Picture, styled
from frostline.spec import CostName

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Draw = Callable[[Canvas], bool]


def make_figures(trials: Sequence[TrialRecord], answer: Answer, cost: CostName) -> dict[str, Picture]:
    """Returns pictures by name; one that the trials can't fill is left out.

    Args:
        trials: All of the study.
        answer: What it says.
        cost: The cost axis.
    """
    with styled():
        drawings = {"answer": lambda canvas: answer_figures.whole(canvas, answer), **_single(trials, answer, cost)}
        return {name: canvas.picture() for name, canvas in _filled(drawings).items()}


def single_figures(trials: Sequence[TrialRecord], answer: Answer, cost: CostName) -> dict[str, Figure]:
    """Returns the same as figures to look at and to change, the answer's two halves apart.

    Args:
        trials: All of the study.
        answer: What it says.
        cost: The cost axis.

    Returns:
        By name: `depth` (the result at each level of the axis of cost, whichever that is), `rates` (the expected result
        over level and learning rate), `learning_curve`, `quality_vs_cost`, `history`, `slices`, `parallel_coordinates`,
        `importances`; those that the trials can't fill are left out.
    """
    with styled():
        return {name: canvas.figure for name, canvas in _filled(_single(trials, answer, cost)).items()}


def _single(trials: Sequence[TrialRecord], answer: Answer, cost: CostName) -> dict[str, _Draw]:
    return {
        "depth": lambda canvas: answer_figures.levels(canvas, canvas.axes(), answer),
        "rates": lambda canvas: answer_figures.rates(canvas, canvas.axes(), answer),
        "learning_curve": lambda canvas: answer_figures.learning_curve(canvas, answer),
        "quality_vs_cost": lambda canvas: trial_figures.quality_vs_cost(canvas, trials, answer, cost),
        "history": lambda canvas: trial_figures.history(canvas, trials, answer),
        "slices": lambda canvas: trial_figures.slices(canvas, trials, answer),
        "parallel_coordinates": lambda canvas: trial_figures.parallel_coordinates(canvas, trials, answer),
        "importances": lambda canvas: answer_figures.importances(canvas, answer),
    }


def _filled(drawings: Mapping[str, _Draw]) -> dict[str, Canvas]:
    """Returns a canvas for each drawing that has something to draw."""
    canvases = {}
    for name, draw in drawings.items():
        canvas = Canvas()
        if draw(canvas):
            canvases[name] = canvas
    return canvases
