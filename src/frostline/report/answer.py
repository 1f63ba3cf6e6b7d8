"""Owns: points of a sweep -> the best at each depth and a recommendation in words. Must not know: how it is shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from frostline.evidence import EvidenceOf, known
from frostline.point import Point, State, ranked
from frostline.report.compare import ALPHA, LEVEL, Comparison, compare, interval_of_seeds, interval_of_share
from frostline.report.transfer import Baseline, Transfer, transfer_of
from frostline.spec import EVAL_SET, CostName, short_number

_SHARES = frozenset(
    {"accuracy", "balanced_accuracy", "f1", "f1_macro", "f1_micro", "f1_weighted", "precision", "recall"}
)
"""Metrics between 0 and 1 whose differences people give in points (hundredths)."""


@dataclass(frozen=True, kw_only=True)
class DepthRow:
    """The best point of a frozen depth, of one model and number of training rows.

    Attributes:
        depth: Frozen blocks.
        group: The model and number of rows, if they are swept: depths of two don't compare.
        point: The best of its finished points; if none finished, the best that was stopped early.
        quality: Of the point.
        error: Half the width of its 95 % interval; None if that is not known.
        error_kind: What the interval knows of: `3 seeds`, or `512 held-out rows`.
        against_best: The best point of all against this one, on the same rows; None if there is nothing to test by.
        finished: Whether the point was trained to its end.
        num_points: Points tried at this depth.
    """

    depth: int
    group: str | None
    point: Point
    quality: float
    error: float | None
    error_kind: str
    finished: bool
    num_points: int
    against_best: Comparison | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a sweep says.

    Attributes:
        metric: The objective's name.
        maximize: Whether more of it is better.
        best: The best finished point, or None.
        rows: By model and depth; empty if no depth was swept.
        recommended: The row to take, or None.
        text: The recommendation in words.
        how: By which rule, in a sentence.
        transfer: What the rows come to on other rows than those that they were chosen by.
        saved: What the prefix cache saved, in a sentence; empty if no point began at its frozen depth.
    """

    metric: str
    maximize: bool
    best: Point | None
    rows: Sequence[DepthRow]
    recommended: DepthRow | None
    text: str
    how: str
    saved: str
    transfer: Transfer = field(default_factory=Transfer)


def answer_of(
    points: Sequence[Point],
    metric: str,
    *,
    maximize: bool,
    num_blocks: int | None,
    evidence: EvidenceOf | None = None,
    baselines: Sequence[Baseline] = (),
) -> Answer:
    """Returns what a sweep says.

    The recommended depth is the deepest, cheapest, whose best point is not significantly worse than the best of all
    (`report.compare`). What can't be tested - one seed or two, and no predictions at hand - must be within one standard
    error of the best (Breiman et al. 1984; Hastie et al., The Elements of Statistical Learning, section
    7.10). Among several models or numbers of rows it is a depth of the best point's.

    Args:
        points: All of the study.
        metric: The objective's name.
        maximize: Whether more of it is better.
        num_blocks: Of the model, if there is one model and it is known.
        evidence: A point's quality on a set of rows, row by row where that is at hand; None: what the points know.
        baselines: Points of elsewhere to compare each row with.
    """
    find = evidence or known
    finished = ranked(points, maximize)
    rows = depth_rows(points, metric, maximize=maximize)
    best = finished[0] if finished else None
    if best is not None:
        rows = [_tested(row, best, find, metric, maximize=maximize) for row in rows]
    done = [row for row in rows if row.finished and (best is None or row.group == best.group)]
    recommended, how = _recommended(done, best, metric, maximize=maximize)
    text = _words(recommended, done, best, metric, maximize=maximize, num_blocks=num_blocks)
    candidates = [(row.depth, row.point) for row in done]
    return Answer(
        metric=metric, maximize=maximize, best=best, rows=rows, recommended=recommended, text=text, how=how,
        saved=saved_words(points),
        transfer=transfer_of(candidates, baselines, find, metric, maximize=maximize, num_blocks=num_blocks),
    )  # fmt: skip


def _tested(row: DepthRow, best: Point, find: EvidenceOf, metric: str, *, maximize: bool) -> DepthRow:
    if not row.finished or row.point.number == best.number:
        return row
    first, second = find(best, EVAL_SET), find(row.point, EVAL_SET)
    if first is None or second is None:
        return row
    return replace(row, against_best=compare(first, second, metric, maximize=maximize))


def saved_words(points: Sequence[Point]) -> str:
    """Returns what the prefix cache saved, in a sentence; empty if no point began at its frozen depth.

    Both times are measured: filling by its own clock, what was saved as the passes that were not run through the frozen
    blocks, each at the time that it took while filling.
    """
    own = [point for point in points if point.outcome is not None and point.copy_of is None]
    costs = [point.outcome.cost for point in own if point.outcome is not None and "saved_s" in point.outcome.cost]
    if not costs:
        return ""
    saved, fill = sum(cost["saved_s"] for cost in costs), sum(cost.get("fill_s", 0.0) for cost in costs)
    return (
        f"{len(costs)} of {len(own)} points began at their frozen depth: {_seconds(fill)} to compute hidden states "
        f"once, {_seconds(saved)} of passes through frozen blocks not run again"
    )


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def depth_rows(points: Sequence[Point], metric: str, *, maximize: bool) -> list[DepthRow]:
    """Returns the best point of each frozen depth, by model, number of training rows, and depth."""
    sign = -1.0 if maximize else 1.0
    rows = []
    swept = [point for point in points if point.depth is not None]
    for _, _, depth, group in sorted({(p.model or "", p.num_rows or 0, p.depth or 0, p.group or "") for p in swept}):
        here = [point for point in swept if (point.group or "", point.depth) == (group, depth)]
        usable = ranked(here, maximize)
        finished = bool(usable)
        if not usable:
            early = [p for p in here if p.state is State.PRUNED and p.quality is not None]
            usable = sorted(early, key=lambda point: (sign * (point.quality or 0.0), point.number))
        if not usable:
            continue
        top = usable[0]
        error, kind = error_of(top, metric)
        assert top.quality is not None
        rows.append(
            DepthRow(
                depth=depth, group=group or None, point=top, quality=top.quality, error=error, error_kind=kind,
                finished=finished, num_points=sum(point.outcome is not None for point in here),
            )
        )  # fmt: skip
    return rows


def error_of(point: Point, metric: str) -> tuple[float | None, str]:
    """Returns half the width of a quality's 95 % interval, and what it knows of.

    With several seeds it is Student's t over them: another seed, on the same rows. With one, of an accuracy, Wilson's
    for the held-out rows (its farther end): other rows, but nothing of what another seed would give.
    """
    values = list(point.outcome.by_seed.values()) if point.outcome is not None else []
    if len(values) > 1:
        return interval_of_seeds(values), f"{len(values)} seeds"
    rows, quality = _share(point, metric)
    if rows:
        return interval_of_share(quality, rows), f"{rows:.0f} held-out rows"
    return None, ""


def _share(point: Point, metric: str) -> tuple[float, float]:
    """Returns rows and value of an accuracy; 0 rows if it is none, or they are not known."""
    rows = point.outcome.cost.get("eval_rows") if point.outcome else None
    quality = point.quality
    if metric == "accuracy" and rows and quality is not None and 0 <= quality <= 1:
        return rows, quality
    return 0.0, 0.0


def pareto(points: Sequence[Point], cost: CostName, *, maximize: bool) -> list[Point]:
    """Returns the finished points that no other beats in both quality and cost, the cheapest first."""
    sign = -1.0 if maximize else 1.0
    known = [point for point in ranked(points, maximize) if point.cost(cost) is not None]
    known.sort(key=lambda point: (point.cost(cost) or 0.0, sign * (point.quality or 0.0)))
    front: list[Point] = []
    for point in known:
        if not front or sign * (point.quality or 0.0) < sign * (front[-1].quality or 0.0):
            front.append(point)
    return front


def difference(gain: float, metric: str) -> str:
    """Returns a difference of two qualities in words: `0.3 points` of an accuracy, else the number."""
    return f"{100 * gain:.1f} points" if metric in _SHARES else f"{gain:.4g}"


def _recommended(
    rows: Sequence[DepthRow], best: Point | None, metric: str, *, maximize: bool
) -> tuple[DepthRow | None, str]:
    """Returns the row to take, and the rule in words."""
    if best is None or not rows:
        return None, ""
    assert best.quality is not None
    own = [row for row in rows if row.point.number == best.number]
    others = [row for row in rows if row.point.number != best.number]
    tested = [row for row in others if row.against_best is not None]
    near = [row for row in tested if row.against_best is not None and not row.against_best.is_worse]
    untested = [row for row in others if row.against_best is None]
    num_rows, quality = _share(best, metric)
    limit = math.sqrt(quality * (1 - quality) / num_rows) if num_rows else 0.0
    sign = 1 if maximize else -1
    near += [row for row in untested if num_rows and (best.quality - row.quality) * sign <= limit + 1e-12]
    chosen = max([*own, *near], key=lambda row: row.depth)
    rule = f"within one standard error of the best ({limit:.4f}, of {num_rows:.0f} held-out rows)"
    if not tested:
        how = f"the deepest frozen depth {rule}" if num_rows else "the best value; how far it may be off is not known"
        return chosen, how if others else "the only depth"
    how = "the deepest frozen depth that is not significantly worse than the best"
    if chosen.against_best is not None:
        how += f": {against_words(chosen.against_best, metric)}"
    tests = sorted({row.against_best.how for row in tested if row.against_best is not None})
    how += f" (one-sided, level {ALPHA:g}; {'; '.join(tests)})"
    if untested:
        word = f"taken if {rule}" if num_rows else "left out"
        how += f"; not tested, and {word}: depth {', '.join(str(row.depth) for row in untested)}"
    return chosen, how


def against_words(comparison: Comparison, metric: str) -> str:
    """Returns a comparison in words: `0.8 points worse, 95 % interval -0.4 to 2.0, p 0.11`."""
    scale = 100.0 if metric in _SHARES else 1.0
    unit = " points" if metric in _SHARES else ""
    size = difference(abs(comparison.loss), metric)
    word = "worse" if comparison.loss >= 0 else "better"
    if math.isnan(comparison.low):
        return f"{size} {word} each time, p {comparison.p:.2g}"
    shown = [f"{scale * value:.1f}" if unit else f"{value:.3g}" for value in (comparison.low, comparison.high)]
    return f"{size} {word}, {100 * LEVEL:.0f} % interval {shown[0]} to {shown[1]}{unit} worse, p {comparison.p:.2g}"


def _words(
    row: DepthRow | None,
    rows: Sequence[DepthRow],
    best: Point | None,
    metric: str,
    *,
    maximize: bool,
    num_blocks: int | None,
) -> str:
    if best is None:
        return "no point was trained to its end"
    if row is None:
        where = ", ".join(f"{key}={_shown(value)}" for key, value in best.params.items())
        return f"{where}: {metric} {_value(best, metric)}"
    of = f" of {num_blocks}" if num_blocks is not None else ""
    lr = f", lr {short_number(row.point.lr)}" if row.point.lr is not None else ""
    others = [key for key in row.point.params if key not in {"freeze.depth", "optimizer.lr"}]
    more = "".join(f", {key}={_shown(row.point.params[key])}" for key in others)
    what = f"freeze {row.depth}{of} blocks" if row.depth else "freeze no block, the embeddings alone"
    head = f"{what}{lr}{more}: {metric} {_value(row.point, metric)}"
    shallow, deep = rows[0], rows[-1]
    if shallow.depth < row.depth:
        what = f"training all {num_blocks} blocks" if shallow.depth == 0 and num_blocks else f"freezing {shallow.depth}"
        return f"{head}; {what} {_compare(shallow, row, metric, maximize=maximize)}"
    if deep.depth > row.depth:
        return f"{head}; freezing {deep.depth} {_compare(deep, row, metric, maximize=maximize)}"
    return head


def _compare(other: DepthRow, row: DepthRow, metric: str, *, maximize: bool) -> str:
    gain = (other.quality - row.quality) * (1 if maximize else -1)
    verb = "gains" if gain >= 0 else "loses"
    ours, theirs = row.point.cost(CostName.TRAIN_S), other.point.cost(CostName.TRAIN_S)
    time = f" for {theirs / ours:.1f}x the time" if ours and theirs else ""
    return f"{verb} {difference(abs(gain), metric)}{time}"


def _value(point: Point, metric: str) -> str:
    error, _ = error_of(point, metric)
    assert point.quality is not None
    return f"{point.quality:.3f} +- {error:.3f}" if error is not None else f"{point.quality:.4g}"


def _shown(value: object) -> str:
    return short_number(value) if isinstance(value, float) and 0 < abs(value) < 1e-2 else str(value)
