"""Owns: a sweep's report as files - one HTML page, PNG, CSV. Must not know: where the points come from."""

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
from frostline.records.trial import RECOMMENDED_FILE, Point, State, ranked
from frostline.report.answer import Answer, error_of
from frostline.report.figures import make_figures
from frostline.report.table import level_table
from frostline.report.terminal import number, transfer_notes, transfer_table
from frostline.report.text import cache_line, headline, label, legend, standing_lines
from frostline.spec import CostName

_CAPTIONS = {
    "answer": "Quality to expect at each level with its 95 % band and the margin; beside it, at every rate.",
    "learning_curve": "What more rows bring, at each level.",
    "quality_vs_cost": "Every finished point; on the line lie those that no other beats in both.",
    "history": "In the order of the search: first the coarse grid, then what the sampler asked for.",
    "importances": "Of the surface that the answer draws: all runs together, so with few of them this is rough.",
}


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a report is made of.

    Attributes:
        name: Of the sweep.
        points: All of the study.
        answer: What it says.
        cost: The cost axis.
        base: What all runs share, by key.
        command: What to type for the best run.
        status: How the sweep stands, in words.
    """

    name: str
    points: Sequence[Point]
    answer: Answer
    cost: CostName
    base: Mapping[str, Any]
    command: str
    status: str


def write_report(material: Material, folder: Path) -> list[Path]:
    """Writes `report.html`, `points.csv` and a PNG for each picture; returns them, the page first.

    Args:
        material: What it is made of.
        folder: Created if it isn't there; files of an earlier report are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trials = [point for point in material.points if not point.is_baseline]
    figures = make_figures(trials, material.answer, material.cost)
    page, table = folder / "report.html", folder / "points.csv"
    write_atomically(page, _page(material, figures))
    write_atomically(table, _csv(material))
    answer = material.answer
    if answer.recommended is not None:
        write_atomically(folder / RECOMMENDED_FILE, json.dumps(recommendation(answer), indent=1) + "\n")
    paths = [page, table]
    for name, data in figures.items():
        path = folder / f"{name}.png"
        path.write_bytes(data)
        paths.append(path)
    return paths


def recommendation(answer: Answer) -> dict[str, Any]:
    """Returns what `recommended.json` keeps of an answer: the trial to take and how sure that is."""
    point = answer.recommended
    assert point is not None
    found: dict[str, Any] = {
        "point": point.number if point.copy_of is None else point.copy_of,
        "params": dict(point.params),
        "metric": answer.metric,
        "standing": answer.standing.value if answer.standing is not None else None,
        "learnt": answer.learnt,
    }
    row = answer.main.recommended_row if answer.main is not None else None
    if row is not None and answer.main is not None:
        decision = answer.main.decision
        found |= {
            "mean": row.mean, "low": row.low, "high": row.high, "most_loss": row.most_loss,
            "p_within": row.p_within, "margin": decision.margin, "confidence": decision.confidence,
        }  # fmt: skip
    return found


def _page(material: Material, figures: Mapping[str, bytes]) -> str:
    answer = material.answer
    environment = Environment(loader=PackageLoader("frostline.report", ""), autoescape=True, undefined=StrictUndefined)
    transfer_head, transfer_lines = transfer_table(answer)
    return environment.get_template("report.html.j2").render(
        name=material.name,
        status=material.status,
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
        figures=[
            {"name": name, "data": base64.b64encode(data).decode(), "caption": _CAPTIONS[name]}
            for name, data in figures.items()
        ],
        points_head=["#", *_keys(material.points), answer.metric, "+-", "training", "state", ""],
        points=_point_rows(material),
        base=material.base,
    )


def _point_rows(material: Material) -> list[dict[str, Any]]:
    """Returns a row for each point, the best first, those without a result last."""
    answer = material.answer
    order = {point.number: rank for rank, point in enumerate(ranked(material.points, answer.maximize))}
    rows = []
    for point in sorted(material.points, key=lambda point: (order.get(point.number, len(order)), point.number)):
        error, _ = error_of(point, answer.metric)
        seconds = point.cost(CostName.TRAIN_S)
        cells = [
            _number_of(point),
            *(_value(point.params.get(key)) for key in _keys(material.points)),
            number(point.quality) if point.quality is not None else "-",
            f"{error:.4f}" if error is not None else "-",
            f"{seconds:.1f} s" if seconds is not None else "-",
        ]
        is_best = answer.best is not None and point.number == answer.best.number
        rows.append({"cells": cells, "is_best": is_best, "state": point.state.value, "remark": _remark(point)})
    return rows


def _number_of(point: Point) -> str:
    return "baseline" if point.is_baseline else str(point.number)


def _remark(point: Point) -> str:
    parts = [f"as #{point.copy_of}"] if point.copy_of is not None else []
    if point.outcome is not None:
        parts += [text for text in (point.reason, point.outcome.note) if text]
    if point.state is State.PRUNED and not parts:
        parts.append("not among those that went on to the end")
    return "; ".join(parts)


def _csv(material: Material) -> str:
    keys = _keys(material.points)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    head = ["number", *keys, material.answer.metric, "sd_over_seeds", "seeds", "stage", "state", "train_s", "flops"]
    outcomes = [point.outcome for point in material.points if point.outcome is not None]
    sets = list(dict.fromkeys(name for outcome in outcomes for name in outcome.scores))  # means over the seeds
    writer.writerow([*head, "num_trainable", "fill_s", "saved_s", "copy_of", "reason", "note", *sets])
    for point in material.points:
        outcome = point.outcome
        cost = outcome.cost if outcome else {}
        row: list[Any] = [_number_of(point), *(point.params.get(key) for key in keys), point.quality, point.spread]
        row += [len(outcome.by_seed) if outcome else 0, point.stage, point.state.value, cost.get("train_s")]
        row += [cost.get("flops"), cost.get("num_trainable"), cost.get("fill_s"), cost.get("saved_s"), point.copy_of]
        row += [point.reason, outcome.note if outcome else None]
        scores = [outcome.scores.get(name, {}) if outcome else {} for name in sets]
        row += [statistics.fmean(values.values()) if values else None for values in scores]
        writer.writerow([_harmless(cell) for cell in row])
    return buffer.getvalue()


def _harmless(cell: Any) -> Any:
    """Keeps a spreadsheet from taking a text for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in {"=", "+", "-", "@", "\t", "\r"} else cell


def _keys(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(key for point in points for key in point.params))


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2e}" if value != 0 and not 1e-2 <= abs(value) < 1e4 else f"{value:g}"
    return "-" if value is None else str(value)
