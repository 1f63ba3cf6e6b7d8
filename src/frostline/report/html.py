"""A sweep's report as files: one HTML page, PNG, CSV."""

from __future__ import annotations

import base64
import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from frostline.files import write_atomically
from frostline.records.trial import RECOMMENDED_FILE, TrialRecord, TrialState, ranked
from frostline.report.answer import Answer
from frostline.report.canvas import Picture
from frostline.report.figures import make_figures
from frostline.report.model_rows import ModelRows, calibration_line
from frostline.report.pareto import error_of
from frostline.report.table import level_table
from frostline.report.terminal import number, transfer_notes, transfer_table
from frostline.report.text import cache_line, headline, label, legend, standing_lines
from frostline.spec import CostName

_CAPTIONS = {
    "answer": "Quality to expect at each level with its 95 % band and the margin; beside it, at every rate.",
    "depth": "Quality to expect at each level, with its 95 % band and the margin.",
    "rates": "Quality to expect at every rate of each level.",
    "learning_curve": "What more rows bring, at each level.",
    "quality_vs_cost": "Every finished trial, and the Pareto front of result and cost.",
    "history": "Every trial, in the order of the search.",
    "slices": "Every finished trial over each key.",
    "parallel_coordinates": "Every finished trial over its keys, in the colour of its result; recommended: orange.",
    "importances": "Of the surface that the answer draws: all runs together, so with few of them this is rough.",
}


@dataclass(frozen=True, kw_only=True)
class LiveStatus:
    """How a sweep stands that is under way.

    Attributes:
        done: Trials that have ended.
        running: Names of what is in training.
        left: What is left, in words: how many trials and, as far as that is known, how long.
        following: What comes next, in words.
        refresh_s: After so many seconds the page loads itself again.
    """

    done: int
    running: Sequence[str]
    left: str
    following: str
    refresh_s: int


@dataclass(frozen=True, kw_only=True)
class MlflowView:
    """A page of MLflow's UI.

    Attributes:
        command: What serves it; None: a server does.
        address: Of the page.
    """

    command: str | None
    address: str

    def __str__(self) -> str:
        return self.address if self.command is None else f"{self.command}, then {self.address}"


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """What a report is made of.

    Attributes:
        name: Of the sweep.
        trials: All of the study.
        answer: What it says.
        cost: The cost axis.
        base: What all runs share, by key.
        command: What to type for the best run.
        status: How the sweep stands, in words.
        rows: What the recommended trial's model says of the held-out rows; None: unknown.
        live: How it stands; None: no process works on it.
        view: Where MLflow shows it; None: it is not recorded there.
    """

    name: str
    trials: Sequence[TrialRecord]
    answer: Answer
    cost: CostName
    base: Mapping[str, Any]
    command: str
    status: str
    rows: ModelRows | None = None
    live: LiveStatus | None = None
    view: MlflowView | None = None


def write_report(material: ReportData, folder: Path) -> list[Path]:
    """Writes `report.html`, `trials.csv` and a PNG for each picture; returns them, the page first.

    Args:
        material: What it is made of.
        folder: Created if it isn't there; files of an earlier report are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trials = [trial for trial in material.trials if not trial.is_baseline]
    figures = make_figures(trials, material.answer, material.cost)
    page, table = folder / "report.html", folder / "trials.csv"
    write_atomically(page, page_of(material, figures))
    write_atomically(table, _csv(material))
    answer = material.answer
    if answer.recommended is not None:
        write_atomically(folder / RECOMMENDED_FILE, json.dumps(recommendation(answer), indent=1) + "\n")
    paths = [page, table]
    for name, picture in figures.items():
        path = folder / f"{name}.png"
        path.write_bytes(picture.png)
        paths.append(path)
    return paths


def recommendation(answer: Answer) -> dict[str, Any]:
    """Returns what `recommended.json` keeps of an answer: the trial to take and how sure that is."""
    trial = answer.recommended
    assert trial is not None
    values: dict[str, Any] = {
        "trial": trial.number if trial.copy_of is None else trial.copy_of,
        "params": dict(trial.params),
        "metric": answer.metric,
        "standing": answer.standing.value if answer.standing is not None else None,
        "learnt": answer.learnt,
    }
    row = answer.main.recommended_row if answer.main is not None else None
    if row is not None and answer.main is not None:
        decision = answer.main.decision
        values |= {
            "mean": row.mean, "low": row.low, "high": row.high, "most_loss": row.most_loss,
            "p_within": row.p_within, "margin": decision.margin, "confidence": decision.confidence,
        }  # fmt: skip
    return values


def page_of(material: ReportData, figures: Mapping[str, Picture] | None = None) -> str:
    """Returns the page `report.html`, which needs no other file.

    Args:
        material: What it is made of.
        figures: Pictures by name; None: they are drawn.
    """
    if figures is None:
        trials = [trial for trial in material.trials if not trial.is_baseline]
        figures = make_figures(trials, material.answer, material.cost)
    answer = material.answer
    environment = Environment(loader=PackageLoader("frostline.report", ""), autoescape=True, undefined=StrictUndefined)
    transfer_head, transfer_lines = transfer_table(answer)
    return environment.get_template("report.html.j2").render(
        name=material.name,
        status=material.status,
        live=material.live,
        view=material.view,
        label=label(answer),
        headline=headline(answer),
        standing=standing_lines(answer),
        saved=cache_line(answer),
        command=material.command,
        axis_key=answer.axis_key,
        levels=level_table(answer),
        legend=legend(answer),
        transfer_head=transfer_head,
        transfer_lines=transfer_lines,
        transfer_notes=transfer_notes(answer),
        rows=material.rows,
        calibration=calibration_line(material.rows),
        figures=[
            {
                "name": name,
                "data": base64.b64encode(picture.png).decode(),
                "spots": picture.spots,
                "caption": _CAPTIONS[name],
            }
            for name, picture in figures.items()
            if name != "answer"  # a file for other pages: its halves stand here
        ],
        trials_head=["#", *_keys(material.trials), answer.metric, "+-", "training", "state", ""],
        trials=_trial_rows(material),
        base=material.base,
    )


def _trial_rows(material: ReportData) -> list[dict[str, Any]]:
    """Returns a row for each trial, the best first, those without a result last."""
    answer = material.answer
    order = {trial.number: rank for rank, trial in enumerate(ranked(material.trials, answer.maximize))}
    rows = []
    for trial in sorted(material.trials, key=lambda trial: (order.get(trial.number, len(order)), trial.number)):
        error, _ = error_of(trial, answer.metric)
        seconds = trial.cost(CostName.TRAIN_S)
        cells = [
            _number_of(trial),
            *(_value(trial.params.get(key)) for key in _keys(material.trials)),
            number(trial.quality) if trial.quality is not None else "-",
            f"{error:.4f}" if error is not None else "-",
            f"{seconds:.1f} s" if seconds is not None else "-",
        ]
        is_chosen = answer.recommended is not None and trial.number == answer.recommended.number
        rows.append({"cells": cells, "is_chosen": is_chosen, "state": trial.state.value, "remark": _remark(trial)})
    return rows


def _number_of(trial: TrialRecord) -> str:
    return "baseline" if trial.is_baseline else str(trial.number)


def _remark(trial: TrialRecord) -> str:
    parts = [f"as #{trial.copy_of}"] if trial.copy_of is not None else []
    if trial.outcome is not None:
        parts += [text for text in (trial.reason, trial.outcome.note) if text]
    if trial.state is TrialState.PRUNED and not parts:
        parts.append("not among those that were promoted")
    return "; ".join(parts)


def _csv(material: ReportData) -> str:
    keys = _keys(material.trials)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    head = ["number", *keys, material.answer.metric, "sd_over_seeds", "seeds", "rung", "state", "train_s", "flops"]
    outcomes = [trial.outcome for trial in material.trials if trial.outcome is not None]
    sets = list(dict.fromkeys(name for outcome in outcomes for name in outcome.scores))  # means over the seeds
    writer.writerow([*head, "num_trainable", "fill_s", "saved_s", "copy_of", "reason", "note", *sets])
    for trial in material.trials:
        outcome = trial.outcome
        cost = outcome.cost if outcome else {}
        row: list[Any] = [_number_of(trial), *(trial.params.get(key) for key in keys), trial.quality, trial.spread]
        row += [len(outcome.by_seed) if outcome else 0, trial.rung, trial.state.value, cost.get("train_s")]
        row += [cost.get("flops"), cost.get("num_trainable"), cost.get("fill_s"), cost.get("saved_s"), trial.copy_of]
        row += [trial.reason, outcome.note if outcome else None]
        scores = [outcome.scores.get(name, {}) if outcome else {} for name in sets]
        row += [statistics.fmean(values.values()) if values else None for values in scores]
        writer.writerow([_harmless(cell) for cell in row])
    return buffer.getvalue()


def _harmless(cell: Any) -> Any:
    """Keeps a spreadsheet from taking a text for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in {"=", "+", "-", "@", "\t", "\r"} else cell


def _keys(trials: Sequence[TrialRecord]) -> list[str]:
    return list(dict.fromkeys(key for trial in trials for key in trial.params))


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2e}" if value != 0 and not 1e-2 <= abs(value) < 1e4 else f"{value:g}"
    return "-" if value is None else str(value)
