"""Owns: a sweep's report as files - one HTML page, PNG, CSV. Must not know: where the points come from."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.files import write_atomically
from frostline.point import RECOMMENDED_FILE, Point, State, ranked
from frostline.report.answer import Answer, error_of
from frostline.report.figures import make_figures
from frostline.report.table import level_table
from frostline.report.terminal import number, transfer_notes, transfer_table
from frostline.report.words import cache_line, headline, label, legend, standing_lines
from frostline.spec import CostName

_CAPTIONS = {
    "answer": "Quality to expect at each level with its 95 % band and the margin; beside it, at every rate.",
    "learning_curve": "What more rows bring, at each level.",
    "quality_vs_cost": "Every finished point; on the line lie those that no other beats in both.",
    "history": "In the order of the search: first the coarse grid, then what the sampler asked for.",
    "importances": "Of the surface that the answer draws: all runs together, so with few of them this is rough.",
}
_CSS = """
body{font:15px/1.5 system-ui,sans-serif;color:#1b2a38;max-width:1080px;margin:32px auto;padding:0 20px;background:#fff}
h1{font-size:26px;margin:0 0 4px}h2{font-size:18px;margin:36px 0 10px}.muted{color:#5c6b78}
.answer{background:#eef5fb;border-left:5px solid #2b6ca3;padding:14px 18px;margin:20px 0;font-size:18px}
.answer p{margin:4px 0}.answer .how{font-size:13px;color:#5c6b78}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px}
th,td{padding:5px 14px 5px 0;text-align:right;border-bottom:1px solid #e3e9ee}th{color:#5c6b78;font-weight:600}
th.text,td.text{text-align:left}tr.best td{font-weight:700;background:#fdf3ec}
tr.out td{color:#9aa7b2}tr.good td:nth-child(7){color:#2e7d32}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:18px}
figure{margin:0;border:1px solid #e3e9ee;border-radius:6px;padding:8px}img{width:100%}
figcaption{font-size:13px;color:#5c6b78;padding:2px 8px}
code,pre{background:#f4f6f8;border-radius:4px;padding:2px 5px;font-size:13px}
pre{padding:12px;white-space:pre-wrap;overflow-wrap:anywhere}
details{margin:14px 0}
"""


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
    parts = [
        f"<h1>{_esc(material.name)}</h1><p class=muted>{_esc(material.status)}</p>",
        f"<div class=answer><p>{_esc(label(answer).capitalize())}: {_esc(headline(answer))}</p>"
        + "".join(f"<p class=how>{_esc(line)}.</p>" for line in standing_lines(answer))
        + (f"<p class=how>Prefix cache: {_esc(saved)}.</p>" if (saved := cache_line(answer)) else "")
        + "</div>",
        f"<h2>Run it again</h2><pre>{_esc(material.command)}</pre>" if material.command else "",
    ]
    if answer.rows:
        parts.append(f"<h2>What each {_esc(answer.axis_key)} comes to</h2>" + _level_table(material))
        parts.append(_transfer(answer))
    shown = "".join(
        f'<figure><img alt="{_esc(name)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        f"<figcaption>{_esc(_CAPTIONS[name])}</figcaption></figure>"
        for name, data in figures.items()
    )
    parts.append(f"<h2>Pictures</h2><div class=figures>{shown}</div>" if shown else "")
    parts.append(f"<h2>All points</h2>{_points_table(material)}")
    rows = "".join(
        f"<tr><td class=text>{_esc(key)}</td><td class=text>{_esc(value)}</td></tr>"
        for key, value in material.base.items()
    )
    parts.append(f"<details><summary>What all runs share</summary><table>{rows}</table></details>")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_esc(material.name)} - frostline</title>'
        f"<style>{_CSS}</style><body>{''.join(parts)}</body></html>\n"
    )


def _level_table(material: Material) -> str:
    cells = level_table(material.answer)
    body = []
    for index, (line, state) in enumerate(zip(cells.lines, cells.states, strict=True)):
        chosen = index == cells.recommended
        shown = "".join(f"<td>{_esc(cell)}</td>" for cell in line)
        note = label(material.answer) if chosen else ""
        kind = f"{state.value}{' best' if chosen else ''}"
        body.append(f'<tr class="{kind}">{shown}<td class=text>{_esc(note)}</td></tr>')
    return (
        f"<table>{_heads([*cells.head, ''])}{''.join(body)}</table><p class=muted>{_esc(legend(material.answer))}</p>"
    )


def _transfer(answer: Answer) -> str:
    names, lines = transfer_table(answer)
    if not lines:
        return ""
    body = "".join("<tr>" + "".join(f"<td>{_esc(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    notes = "".join(f"<p>{_esc(note)}</p>" for note in transfer_notes(answer))
    return f"<h2>On other rows</h2><table>{_heads(names)}{body}</table>{notes}"


def _points_table(material: Material) -> str:
    keys = _keys(material.points)
    head = _heads(["#", *keys, material.answer.metric, "+-", "training", "state", ""])
    order = {point.number: rank for rank, point in enumerate(ranked(material.points, material.answer.maximize))}
    points = sorted(material.points, key=lambda point: (order.get(point.number, len(order)), point.number))
    body = []
    for point in points:
        error, _ = error_of(point, material.answer.metric)
        seconds = point.cost(CostName.TRAIN_S)
        cells = [
            _number_of(point),
            *(_value(point.params.get(key)) for key in keys),
            number(point.quality) if point.quality is not None else "-",
            f"{error:.4f}" if error is not None else "-",
            f"{seconds:.1f} s" if seconds is not None else "-",
        ]
        best = material.answer.best is not None and point.number == material.answer.best.number
        line = "".join(f"<td>{_esc(cell)}</td>" for cell in cells)
        line += f"<td class=text>{_esc(point.state.value)}</td><td class=text>{_esc(_remark(point))}</td>"
        body.append(f"<tr{' class=best' if best else ''}>{line}</tr>")
    return f"<table>{head}{''.join(body)}</table>"


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


def _heads(names: Sequence[str]) -> str:
    last = len(names) - 1
    cells = "".join(
        f"<th{' class=text' if index == last or name == 'state' else ''}>{_esc(name)}</th>"
        for index, name in enumerate(names)
    )
    return f"<tr>{cells}</tr>"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2e}" if value != 0 and not 1e-2 <= abs(value) < 1e4 else f"{value:g}"
    return "-" if value is None else str(value)


def _esc(value: Any) -> str:
    return html.escape(str(value))
