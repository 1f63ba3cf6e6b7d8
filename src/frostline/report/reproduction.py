"""The result of `frostline reproduce`, as the terminal shows it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from frostline.report.terminal import make_console, number
from frostline.reproduction.compare import Conclusion, Difference, Gap, Verdict
from frostline.reproduction.record import Recorded


def print_differences(source: str, differences: Sequence[Difference], console: Console | None = None) -> None:
    """Prints what is not as it was, the weightiest first.

    Args:
        source: What the record is called.
        differences: From `reproduce.differences`.
        console: Where; standard output by default.
    """
    console = console or make_console()
    if not differences:
        console.print(f"{escape(source)}: nothing that its record knows of differs here", highlight=False)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("what", "recorded", "here", "what it can do"):
        table.add_column(name, overflow="fold")
    for difference in differences:
        cells = (difference.name, difference.recorded, difference.now, difference.effect.value)
        table.add_row(*(escape(cell) for cell in cells))
    console.print(table)


def print_verdict(
    recorded: Recorded, verdict: Verdict, folder: Path, until: int | None, console: Console | None = None
) -> None:
    """Prints the numbers side by side and the verdict in the last lines.

    Args:
        recorded: Then.
        verdict: On the re-run.
        folder: Of the re-run.
        until: The step after which it was to end, None: its own end.
        console: Where; standard output by default.
    """
    console = console or make_console()
    rows = _rows(recorded, verdict)
    if rows:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("", "recorded", "again", "difference"):
            table.add_column(name, justify="right" if name else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        console.print(table)
    steps = f"up to step {until}" if until is not None else f"of {recorded.last_step} steps"
    console.print(f"compared: {verdict.num_compared} numbers {steps}{_weights(verdict)}", highlight=False)
    style = {Conclusion.IDENTICAL: "green", Conclusion.EQUIVALENT: "yellow", Conclusion.DIFFERENT: "red"}
    word = f"[bold {style[verdict.conclusion]}]{verdict.conclusion.value}[/]"
    console.print(f"verdict: {word}: {escape(verdict.reason)}", highlight=False, soft_wrap=True)
    console.print(f"run_dir: {escape(str(folder))}", highlight=False, soft_wrap=True)


def _rows(recorded: Recorded, verdict: Verdict) -> list[tuple[str, str, str, str]]:
    rows = []
    objective = recorded.result.objective
    largest = verdict.largest
    if objective is not None and verdict.conclusion is Conclusion.IDENTICAL:
        value = number(objective.value)
        rows.append((objective.metric, value, value, "0"))
    if verdict.first is not None:
        rows.append((f"first to differ: step {verdict.first.step}, {verdict.first.metric}", *_numbers(verdict.first)))
    if largest is not None and largest != verdict.first:
        rows.append((f"largest gap: step {largest.step}, {largest.metric}", *_numbers(largest)))
    return rows


def _numbers(gap: Gap) -> tuple[str, str, str]:
    recorded, now = (f"{value:.9g}" if math.isfinite(value) else "-" for value in (gap.recorded, gap.now))
    return recorded, now, f"{gap.size:.3g}" if math.isfinite(gap.size) else "-"


def _weights(verdict: Verdict) -> str:
    if verdict.weights is None:
        return ""
    return ", and the trained weights: " + ("bit-equal" if verdict.weights else "not bit-equal")
