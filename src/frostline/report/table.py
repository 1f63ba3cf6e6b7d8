"""The table over the levels of the axis of cost: one set of cells for the terminal, the page and MLflow's note."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from frostline.decision import LevelState
from frostline.records.trial import is_group
from frostline.report.answer import Answer, GroupAnswer, LevelRow
from frostline.report.pareto import difference
from frostline.spec import LR_KEY, ROWS_KEY, CostName, Value, short_number


@dataclass(frozen=True, kw_only=True)
class LevelTable:
    """Cells of a table.

    Attributes:
        head: Names of the columns.
        lines: A list of cells for each row.
        recommended: Index of the row to take; None if there is none.
        states: Of each row.
    """

    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    recommended: int | None
    states: Sequence[LevelState]


def level_table(answer: Answer) -> LevelTable:
    """Returns the table of an answer; without lines if no axis of cost was swept."""
    rows = answer.rows
    swept = dict.fromkeys(key for row in rows if row.trial is not None for key in row.trial.params)
    keys = [key for key in swept if key != answer.axis_key]
    margin = "" if answer.main is None else difference(answer.main.decision.margin, answer.metric)
    names = [key.rpartition(".")[2] for key in (answer.axis_key or "", *keys)]
    head = [*names, answer.metric, "95 %", "at most worse", f"P(within {margin})", "", "seeds", "trained"]
    head += ["operations", "train time"]
    chosen = answer.main.recommended_row if answer.main is not None else None
    return LevelTable(
        head=head,
        lines=[_line(row, keys, answer) for row in rows],
        recommended=next((index for index, row in enumerate(rows) if row is chosen), None),
        states=[row.state for row in rows],
    )


def level_rows(answer: Answer) -> list[dict[str, Any]]:
    """Returns the rows of an answer as values: the axis of cost, the other swept keys, the metric, how sure."""
    return [_level(row, group, answer) for group in answer.groups for row in group.rows]


def _level(row: LevelRow, group: GroupAnswer, answer: Answer) -> dict[str, Any]:
    params = {} if row.trial is None else dict(row.trial.params)
    axis = str(answer.axis_key)
    level = row.level if row.level != int(row.level) else int(row.level)
    shown: Any = answer.level_name(row.level) if answer.level_names else None if row.level < 0 else level
    return {
        **({"group": row.group} if len(answer.groups) > 1 else {}),
        axis: shown,
        **{key: value for key, value in params.items() if key != axis},
        answer.metric: row.mean, "low": row.low, "high": row.high, "most_loss": row.most_loss,
        "p_within": row.p_within, "state": row.state.value if row.trial is not None else "not tried",
        "recommended": row is group.recommended_row, "seeds": row.seeds, "trials": row.num_trials,
        "collapsed": row.collapsed, "operations": row.operations, "train_s": row.seconds,
        "trial": None if row.trial is None else row.trial.number,
    }  # fmt: skip


def _line(row: LevelRow, keys: Sequence[str], answer: Answer) -> list[str]:
    trial = row.trial
    params = {} if trial is None else trial.params
    trained = None if trial is None else trial.cost(CostName.NUM_TRAINABLE)
    values = [_value(params.get(key), key) for key in keys]
    if trial is None:
        values = [row.group or "-" if is_group(key) or key == ROWS_KEY else "-" for key in keys]
    return [
        answer.level_name(row.level),
        *values,
        _number(row.mean),
        f"{_number(row.low)} - {_number(row.high)}",
        "-" if row.most_loss is None else difference(row.most_loss, answer.metric),
        "-" if row.p_within is None else f"{row.p_within:.2f}",
        row.state.value if trial is not None else ("learnt nothing" if row.collapsed else "not tried"),
        str(row.seeds),
        "-" if trained is None else _millions(round(trained)),
        "-" if row.operations is None else f"{100 * row.operations:.0f} %",
        "-" if row.seconds is None else f"{row.seconds:.1f} s",
    ]


def _number(value: float) -> str:
    return f"{value:.3f}" if 1e-2 <= abs(value) < 1e4 or value == 0 else f"{value:.2e}"


def _value(value: Value, key: str) -> str:
    if isinstance(value, float):
        return f"{value:.1e}" if key == LR_KEY else short_number(value) if 0 < abs(value) < 1e-2 else f"{value:g}"
    return "-" if value is None else str(value)


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 10_000 else str(count)
