"""Results as the terminal shows them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from frostline.decision import LevelState
from frostline.errors import visible
from frostline.records.result import RunResult, Status
from frostline.report.answer import Answer
from frostline.report.table import level_table
from frostline.report.text import against_words, cache_line, headline, label, legend, standing_lines
from frostline.report.transfer import Score
from frostline.spec import DEPTH_KEY, EVAL_SET, Scalar, short_number

_FILE_WIDTH = 160
_MOST_NAMES = 4


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run of a comparison.

    Attributes:
        coordinates: The spec's flat keys.
        result: Of the run.
        folder: Where it lies.
    """

    coordinates: Mapping[str, Scalar]
    result: RunResult
    folder: Path


def summary(result: RunResult, folder: Path) -> str:
    """Returns the lines that end a single run; the last one is `run_dir: PATH`."""
    lines = [f"{result.name}: {result.status.value}{f' ({result.reason})' if result.reason else ''}"]
    if result.metrics:
        objective = result.objective.metric if result.objective else ""
        sets = dict.fromkeys(key.partition("/")[0] for key in result.metrics)
        for each in sorted(sets, key=lambda name: name != EVAL_SET):
            own = {key.removeprefix(f"{each}/"): v for key, v in result.metrics.items() if key.startswith(f"{each}/")}
            names = sorted(own, key=lambda name: (name != objective, name))
            shown = ", ".join(f"{name} {number(own[name])}" for name in names)
            step = f" (step {result.step})" if each == EVAL_SET else ""
            lines.append(f"  {'evaluation' if each == EVAL_SET else each:<10}  {shown}{step}")
    if result.data:
        lines.append(f"  data        {result.data['train_rows']} rows trained on, {result.data['eval_rows']} held out")
    if result.params is not None and result.freeze is not None:
        lines.append(f"  parameters  {_millions(result.params.num_trainable)} trained, {_frozen(result)}")
    if fresh := result.provenance.get("fresh_tensors"):
        lines.append(f"  weights     newly initialized: {newly_initialized(fresh)}")
    if result.cost is not None:
        cost = result.cost
        times = f"training {cost.train_s:.1f} s, evaluation {cost.eval_s:.1f} s, set-up {cost.setup_s:.1f} s"
        lines.append(f"  cost        {times}; peak memory {cost.peak_bytes / 1e9:.2f} GB")
    if any(use.depth is not None for use in result.cache_uses):
        saved = ""
        if result.cost is not None and result.cost.saved_s is not None:
            fill = result.cost.fill_s or 0.0
            saved = f": {fill:.1f} s to fill, {result.cost.saved_s:.1f} s of passes not run again"
        lines.append(f"  cache       frozen blocks from the prefix cache ({result.prefix_cache}){saved}")
    return "\n".join([*lines, f"run_dir: {folder}"])


def newly_initialized(names: Sequence[str]) -> str:
    """Returns which tensors did not come from the pretrained weights, in a few words."""
    shown = ", ".join(names[:_MOST_NAMES])
    return f"{shown} and {len(names) - _MOST_NAMES} more tensors" if len(names) > _MOST_NAMES else shown


def one_line(result: RunResult) -> str:
    """Returns a run of a multirun in one line."""
    if result.objective is None:
        return f"{result.name}: {result.status.value} ({result.reason})"
    seconds = f", {result.cost.train_s:.0f} s" if result.cost else ""
    return f"{result.name}: {result.objective.metric} {number(result.objective.value)}{seconds}"


def varying(rows: Sequence[Row]) -> list[str]:
    """Returns the coordinates in which runs differ, in the spec's order; `runtime` is none."""
    keys = list(dict.fromkeys(key for row in rows for key in row.coordinates))
    return [
        key for key in keys if not key.startswith("runtime.") and len({row.coordinates.get(key) for row in rows}) > 1
    ]


def print_table(rows: Sequence[Row], console: Console | None = None) -> None:
    """Prints runs side by side, the best first, and what the best is.

    Args:
        rows: At least one.
        console: Where; standard output by default.
    """
    console = console or make_console()
    keys = varying(rows)
    done = [row for row in rows if row.result.objective is not None]
    others = [row for row in rows if row.result.objective is None]
    maximize = not done or done[0].result.objective is None or done[0].result.objective.direction == "maximize"
    done.sort(key=_value, reverse=maximize)
    metric = done[0].result.objective.metric if done and done[0].result.objective else "objective"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for key in keys:
        table.add_column(key, justify="right", no_wrap=True)
    for name in (metric, "eval loss", "trained", "train time"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status" if others else "")
    for row in [*done, *others]:
        cells = [_cell(row.coordinates.get(key)) for key in keys]
        best = bool(done) and row is done[0]
        table.add_row(*cells, *_numbers(row.result), _state(row.result, best), style="bold" if best else None)
    console.print(table)
    if done:
        best_row = done[0]
        where = ", ".join(f"{key}={_cell(best_row.coordinates.get(key))}" for key in keys) or best_row.result.name
        console.print(f"best: {escape(where)}: {metric} {number(_value(best_row))}", highlight=False)
        console.print(f"run_dir: {escape(str(best_row.folder))}", highlight=False, soft_wrap=True)
    for row in others:
        console.print(
            f"{row.result.status.value}: {escape(row.result.name)}: {escape(row.result.reason or '')}",
            highlight=False,
            soft_wrap=True,
        )


def print_answer(answer: Answer, console: Console | None = None) -> None:
    """Prints a row for each level of the axis of cost, and what to take.

    Args:
        answer: What a sweep says.
        console: Where; standard output by default.
    """
    console = console or make_console()
    cells = level_table(answer)
    if cells.lines:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in cells.head:
            folded = name.replace("at most ", "at most\n").replace("P(within ", "P(within\n")
            table.add_column(folded, justify="right", no_wrap=True)
        table.add_column("")
        for index, (line, state) in enumerate(zip(cells.lines, cells.states, strict=True)):
            chosen = index == cells.recommended
            mark = f"<- {label(answer)}" if chosen else ""
            style = "bold" if chosen else "dim" if state is LevelState.OUT else None
            table.add_row(*map(escape, line), mark, style=style)
        console.print(table)
        console.print(escape(legend(answer)), highlight=False)
    _print_transfer(answer, console)
    console.print(f"{label(answer)}: {escape(headline(answer))}", highlight=False, soft_wrap=True)
    for line in standing_lines(answer):
        console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)
    if saved := cache_line(answer):
        console.print(f"prefix cache: {escape(saved)}", highlight=False, soft_wrap=True)


def transfer_notes(answer: Answer) -> list[str]:
    """Returns what is significant on other rows, in sentences; and that nothing is."""
    notes = []
    transfer = answer.transfer
    for each in transfer.against:
        if each.is_negative_transfer:
            words = against_words(each.comparison, answer.metric)
            notes.append(
                f"negative transfer: frozen to {each.depth}, on {each.name} worse than {each.baseline} "
                f"({words}; {each.p:.2g} adjusted for {len(transfer.against)} comparisons)"
            )
    if transfer.against and not notes:
        names = " or ".join(dict.fromkeys(each.baseline for each in transfer.against))
        notes.append(
            f"no negative transfer: no depth is significantly worse than {names} on any set "
            f"({len(transfer.against)} comparisons, Holm)"
        )
    return notes


def transfer_table(answer: Answer) -> tuple[list[str], list[list[str]]]:
    """Returns the head and the rows of a table of quality by depth and set; its gain over each baseline."""
    transfer = answer.transfer
    baselines = list(dict.fromkeys(each.baseline for each in transfer.against))
    sets = list(transfer.sets) or list(dict.fromkeys(each.name for each in transfer.against))
    head = [DEPTH_KEY, *transfer.sets, *(f"{name} over {base}" for base in baselines for name in sets)]
    by_place = {(each.depth, each.baseline, each.name): each for each in transfer.against}
    scores = dict(transfer.scores)
    depths = list(scores) or list(dict.fromkeys(each.depth for each in transfer.against))
    lines = []
    for depth in depths:
        cells = [_score(score) for score in scores.get(depth, ())]
        for base in baselines:
            for name in sets:
                each = by_place.get((depth, base, name))
                cells.append("-" if each is None else _gain(-each.comparison.loss, starred=each.is_negative_transfer))
        lines.append([str(depth), *cells])
    return head, lines


def _score(score: Score | None) -> str:
    if score is None:
        return "-"
    return number(score.value) + ("" if score.error is None else f" +-{score.error:.4f}")


def _gain(value: float, *, starred: bool) -> str:
    return f"{value + 0.0:+.4f}{'*' if starred else ''}"  # no -0.0000


def _print_transfer(answer: Answer, console: Console) -> None:
    head, lines = transfer_table(answer)
    if not lines:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in head:
        table.add_column(name, justify="right", overflow="fold")
    for line in lines:
        table.add_row(*map(escape, line))
    console.print(table)
    for note in transfer_notes(answer):
        console.print(escape(note), highlight=False, soft_wrap=True)


class _VisibleConsole(Console):
    """Writes control characters of texts out: a record may be a stranger's."""

    def render_str(self, text: str, **kwargs: Any) -> Text:
        """See `rich.console.Console`."""
        return super().render_str(visible(text), **kwargs)


def make_console() -> Console:
    """Returns a console on standard output, wide when it is a file or a pipe, which has no width to keep to."""
    console = _VisibleConsole()
    return console if console.is_terminal else _VisibleConsole(width=_FILE_WIDTH)


def as_text(render: Callable[[Console], None]) -> str:
    """Returns what a function prints, as plain text.

    Args:
        render: Prints to the console that it is given.
    """
    file = io.StringIO()
    # A notebook passes for a terminal with colours.
    render(_VisibleConsole(file=file, width=_FILE_WIDTH, color_system=None, force_terminal=False, force_jupyter=False))
    return "\n".join(line.rstrip() for line in file.getvalue().strip("\n").splitlines())


def number(value: float) -> str:
    """Returns a metric's value with four decimals, or in scientific form when that would hide it."""
    return f"{value:.4f}" if value == 0 or not math.isfinite(value) or 1e-3 <= abs(value) < 1e4 else f"{value:.3e}"


def _value(row: Row) -> float:
    assert row.result.objective is not None
    return row.result.objective.value


def _cell(value: Scalar) -> str:
    if isinstance(value, float):
        return short_number(value) if 0 < abs(value) < 1e-2 else f"{value:g}"
    return "-" if value is None else escape(str(value))


def _numbers(result: RunResult) -> list[str]:
    return [
        number(result.objective.value) if result.objective else "-",
        number(result.metrics["eval/loss"]) if "eval/loss" in result.metrics else "-",
        _millions(result.params.num_trainable) if result.params else "-",
        f"{result.cost.train_s:.1f} s" if result.cost else "-",
    ]


def _state(result: RunResult, best: bool) -> str:
    return result.status.value if result.status is not Status.FINISHED else ("<- best" if best else "")


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 10_000 else str(count)


def _frozen(result: RunResult) -> str:
    assert result.params is not None
    assert result.freeze is not None
    what = result.freeze.words
    if what == "nothing":
        return "nothing frozen"
    proof = ", unchanged (hashes compared)" if result.audit is not None and result.audit.frozen_unchanged else ""
    return f"{_millions(result.params.num_frozen)} frozen: {what}{proof}"
