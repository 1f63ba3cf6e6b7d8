"""Trainer's metrics under frostline's names."""

from __future__ import annotations

from collections.abc import Mapping

EXACT_LOSS = "loss_over_all_rows"
"""An evaluation's loss, where Trainer's own is not the mean over all rows."""

_TIMING = (
    "_runtime",
    "_per_second",
    "_compilation_time",
)  # these differ from run to run: costs go to result.json


def evaluation_metrics(metrics: Mapping[str, float], name: str = "eval") -> dict[str, float]:
    """Returns Trainer's `eval_*` numbers as `eval/*`, its timings left out; or those of another set of rows."""
    values = {
        f"{name}/{key.removeprefix(f'{name}_')}": float(value)
        for key, value in metrics.items()
        if key.startswith(f"{name}_") and not key.endswith(_TIMING)
    }
    if (exact := values.pop(f"{name}/{EXACT_LOSS}", None)) is not None:
        values[f"{name}/loss"] = exact
    return values
