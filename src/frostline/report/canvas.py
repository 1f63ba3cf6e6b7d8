"""A figure, with words for its points that a page shows under the pointer."""

from __future__ import annotations

import io
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, COLD, WARM, GREY, GREEN, RED = "#1b2a38", "#2b6ca3", "#d1622b", "#9aa7b2", "#2e7d32", "#b3261e"
_SIZE = (6.4, 4.2)
_MOST_SPOTS = 1000
"""Of one picture: beyond it a page takes long to open, and points lie upon each other."""


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A point of a picture, and its words.

    Attributes:
        left: Where it is, in percent of the picture's width.
        top: In percent of its height, from above.
        text: Its words.
    """

    left: float
    top: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawn figure.

    Attributes:
        png: The file.
        spots: Its points.
    """

    png: bytes
    spots: tuple[Spot, ...]


class Canvas:
    """What a figure is drawn on.

    Attributes:
        figure: Of matplotlib; a notebook shows it though pyplot does not know of it.
    """

    def __init__(self) -> None:
        from matplotlib.figure import Figure

        class ShownFigure(Figure):
            def _repr_png_(self) -> bytes:
                return _png(self)

        self.figure: Figure = ShownFigure(figsize=_SIZE, layout="constrained")
        self._notes: list[tuple[Axes, float, float, str]] = []

    def axes(self) -> Axes:
        """Returns axes that fill the figure."""
        axes: Axes = self.figure.subplots()
        return axes

    def note(self, axes: Axes, points: Iterable[tuple[float, float, str]]) -> None:
        """Gives words to points.

        Args:
            axes: That they lie in.
            points: Both coordinates, as they are drawn, and the words.
        """
        self._notes += [(axes, x, y, text) for x, y, text in points]

    def picture(self) -> Picture:
        """Returns the drawn figure."""
        png = _png(self.figure)  # it also lays the figure out, so that the points have their places
        spots = []
        for axes, x, y, text in self._notes[:_MOST_SPOTS]:
            left, bottom = self.figure.transFigure.inverted().transform(axes.transData.transform((x, y)))
            spots.append(Spot(left=round(100 * left, 2), top=round(100 - 100 * bottom, 2), text=text))
        return Picture(png=png, spots=tuple(spots))


def styled() -> AbstractContextManager[None]:
    """Returns a context in which figures look as frostline's."""
    import matplotlib as mpl

    style: dict[Any, Any] = {
        "font.size": 10, "axes.edgecolor": GREY, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK,
        "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold",
        "axes.titlelocation": "left", "axes.titlesize": 11, "font.family": "DejaVu Sans",
    }  # fmt: skip
    return mpl.rc_context(style)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    # Without date and version in it, equal sweeps have equal pictures.
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()
