"""What a study shows as tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from frostline.errors import UserError, listing, nearest
from frostline.records.trial import TrialRecord

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Figures(dict[str, "Figure"]):
    """Figures by name."""

    def __missing__(self, name: str) -> Figure:
        raise UserError(
            f"figures[{name!r}]: the trials give no such figure{nearest(name, self)}; there are {listing(self)}"
        )


def frame_of(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Returns rows as a data frame in which whole numbers stay whole beside what is missing."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    for name in frame.columns:
        values = [row[name] for row in rows if row.get(name) is not None]
        if values and all(type(value) is int for value in values):
            frame[name] = pd.array([row.get(name) for row in rows], dtype="Int64")
    return frame


def trial_row(trial: TrialRecord) -> dict[str, Any]:
    """Returns a trial as a row of `Study.trials`: number, state, parameters, value, what it took."""
    outcome = trial.outcome
    cost = {} if outcome is None else dict(outcome.cost)
    return {
        "number": trial.number, "state": trial.state.value, **trial.params, "value": trial.quality,
        "seeds": len(trial.by_seed), "sd": trial.spread, **cost, "reason": trial.reason,
    }  # fmt: skip
