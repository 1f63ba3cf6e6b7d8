"""Compares a recorded run with its re-run.

A record is data that may come from anybody: three files of it are read, by name and as JSON, and nothing in it is
followed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from frostline.records.result import RunResult, Status, describe_cache_uses, read_cache_uses
from frostline.records.run_folder import INPUTS, SPEC_FILE
from frostline.reproduction.record import Curve, Recorded
from frostline.spec import RunSpec

log = logging.getLogger(__name__)


TOLERANCE = 0.01
"""Of `equivalent`, relative to the recorded value if that is above 1. Assumed: another seed moves an accuracy by more
than a trial, and a loss of 1 by more than a hundredth."""

_ROWS = 2.0  # so many held-out rows may be judged otherwise, however few there are (assumed)


class Effect(StrEnum):
    """What a difference between then and now can do to the numbers."""

    MEANING = "another computation"
    BITS = "may change bits"
    NONE = "none expected"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Something that is not as it was.

    Attributes:
        name: What: `optimizer.lr`, `threads`, `torch`.
        recorded: As it was.
        now: As it is here.
        effect: What it can do.
    """

    name: str
    recorded: str
    now: str
    effect: Effect

    def __str__(self) -> str:
        return f"{self.name}: {self.recorded} -> {self.now}"


class Conclusion(StrEnum):
    """How a re-run came out."""

    IDENTICAL = "identical"
    EQUIVALENT = "equivalent"
    DIFFERENT = "different"


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Two numbers that are not equal: a metric at a step, recorded and now."""

    step: int
    metric: str
    recorded: float
    now: float

    @property
    def size(self) -> float:
        """The absolute difference; infinite if one of them is missing or no number."""
        size = abs(self.recorded - self.now)
        return size if math.isfinite(size) else math.inf


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a re-run says of a record.

    Attributes:
        conclusion: Identical, equivalent or different.
        reason: Why, in words: what differs here, or that nothing does.
        num_compared: Numbers that were compared.
        first: The first step's largest gap, where the curves part; None if they don't.
        largest: The largest gap of all, measured by its tolerance.
        weights: Whether the trained weights have the same bits; None if one side didn't record them.
        differences: Between then and now.
        tolerance: That was applied.
    """

    conclusion: Conclusion
    reason: str
    num_compared: int
    first: Gap | None
    largest: Gap | None
    weights: bool | None
    differences: tuple[Difference, ...]
    tolerance: float

    @property
    def exit_code(self) -> int:
        """0 for identical and equivalent, 1 for different."""
        return int(self.conclusion is Conclusion.DIFFERENT)


def differences(recorded: Recorded, spec: RunSpec, provenance: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Returns what is not as it was, the weightiest first.

    Args:
        recorded: Then.
        spec: What is trained now.
        provenance: With what it is trained now: `RunStart.provenance`.
    """
    differing = [
        Difference(name=key, recorded=str(before), now=str(now), effect=Effect.MEANING)
        for key, before, now in _changed(_coordinates(recorded.spec), _coordinates(spec))
    ]
    then = recorded.result.provenance
    if recorded.result.spec_digest != recorded.spec.digest():
        recorded_digest = f"digest {recorded.result.spec_digest[:12]}"
        now = f"digest {recorded.spec.digest()[:12]}"
        differing.append(Difference(name=SPEC_FILE, recorded=recorded_digest, now=now, effect=Effect.MEANING))
    for key, name in INPUTS.items():
        before, after = str(then.get(key, "?")), str(provenance.get(key, "?"))
        if before != after:
            differing.append(Difference(name=name, recorded=_short(before), now=_short(after), effect=Effect.MEANING))
    if "variables" in then:  # not in records from before they were kept
        for name, before, after in _changed(then["variables"], provenance.get("variables") or {}):
            differing.append(Difference(name=name, recorded=str(before), now=str(after), effect=Effect.BITS))
    for name, before, after in _changed(_surroundings(then), _surroundings(provenance)):
        effect = Effect.BITS if name in _MOVES_BITS else Effect.NONE
        differing.append(Difference(name=name, recorded=str(before), now=str(after), effect=effect))
    return tuple(sorted(differing, key=lambda difference: list(Effect).index(difference.effect)))


def compare(
    recorded: Recorded,
    again: RunResult,
    curve: Curve,
    differing: Sequence[Difference],
    *,
    tolerance: float = TOLERANCE,
    until: int | None = None,
) -> Verdict:
    """Returns the verdict.

    Identical: every number and the trained weights have the same bits. Equivalent: all numbers lie within the
    tolerance, and something that is known to change bits alone differs. Different: the rest.

    Args:
        recorded: Then.
        again: The result of the re-run.
        curve: Its numbers by step.
        differing: From `differences`.
        tolerance: How far a number may be off, relative to the recorded value if that is above 1. A metric of the
            held-out rows may be off by two of them at least.
        until: The step after which the re-run was to end; None: its own end.
    """
    rows = float(again.data.get("eval_rows") or 0)
    gaps, num_compared = _gaps(recorded, again, curve, until)
    is_complete = _is_whole(recorded, until)
    weights = None
    if is_complete and recorded.result.weights_sha256 is not None and again.weights_sha256 is not None:
        weights = recorded.result.weights_sha256 == again.weights_sha256
    largest = max(gaps, key=lambda gap: _excess(gap, tolerance, rows), default=None)
    within = largest is None or largest.size <= _allowed(largest, tolerance, rows)
    causes = "; ".join(str(each) for each in differing if each.effect is Effect.MEANING)
    causes_of_bits = "; ".join(str(each) for each in differing if each.effect is Effect.BITS)
    alike = again.status in _expected(recorded, until) and (
        again.status is not Status.FAILED or _failed_alike(again, recorded.result)
    )
    if not alike:
        # A re-run that was to end early is PRUNED: what the record says of its own end plays no part.
        ended = f"it ended as {again.status.value}" + (f" ({again.reason})" if again.reason else "")
        conclusion = Conclusion.DIFFERENT
        reason = f"{ended}, the record as {recorded.result.status.value}"
        reason += f"; likely because of {causes or causes_of_bits}" if causes or causes_of_bits else ""
    elif not num_compared:
        conclusion, reason = Conclusion.DIFFERENT, "there was no number to compare"
    elif not gaps and weights is not False:
        equal = _what_is_equal(recorded, until, is_complete=is_complete, weights=weights)
        conclusion, reason = Conclusion.IDENTICAL, equal
    elif causes:
        conclusion, reason = Conclusion.DIFFERENT, f"because of {causes}"
    elif causes_of_bits and within:
        conclusion, reason = Conclusion.EQUIVALENT, f"within {tolerance:g}; not bit-equal because of {causes_of_bits}"
    elif causes_of_bits:
        conclusion, reason = Conclusion.DIFFERENT, f"beyond {tolerance:g}; likely because of {causes_of_bits}"
    else:
        conclusion, reason = Conclusion.DIFFERENT, "nothing that the record knows of differs here"
    return Verdict(
        conclusion=conclusion, reason=reason, num_compared=num_compared, first=gaps[0] if gaps else None,
        largest=largest, weights=weights, differences=tuple(differing), tolerance=tolerance,
    )  # fmt: skip


def _what_is_equal(recorded: Recorded, until: int | None, *, is_complete: bool, weights: bool | None) -> str:
    """Returns what of an identical re-run was compared."""
    text = "every number is bit-equal" if until is None else f"every number up to step {until} is bit-equal"
    if is_complete:
        text += ", the trained weights too" if weights else "; the record holds no hash of the trained weights"
    return text + ("" if recorded.curve else "; the record has no curve that could be compared")


_LIBRARIES = frozenset({"frostline", "torch", "transformers", "tokenizers", "accelerate", "numpy", "scikit-learn"})
_MOVES_BITS = frozenset(
    {
        *_LIBRARIES,
        "pillow",
        "threads",
        "prefix_cache",
        "last_block",
        "device",
        "device_name",
        "precision",
        "cpu_capability",
        "cpu",
        "machine",
        "blas",
        "cuda",
        "driver",
    }
)
"""What is known to change the last bits of a training: docs/reproducibility.md says how it was seen."""


def _coordinates(spec: RunSpec) -> dict[str, Any]:
    values = spec.without_places().flat()
    return {key: value for key, value in values.items() if not key.startswith("runtime.")}


def _surroundings(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Returns versions, hardware and the rest under one name each."""
    flat: dict[str, Any] = {}
    for part in ("versions", "platform", "compute"):
        flat.update({key: value for key, value in dict(provenance.get(part) or {}).items() if value is not None})
    flat["prefix_cache"] = describe_cache_uses(read_cache_uses(flat.get("prefix_cache")))
    flat.setdefault("last_block", "whole")
    git = provenance.get("git") or {}
    flat["git"] = f"{str(git.get('commit'))[:12]}{' with changes' if git.get('dirty') else ''}" if git else "none"
    return flat


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    return [
        (key, before.get(key, "-"), now.get(key, "-"))
        for key in dict.fromkeys([*before, *now])
        if before.get(key, "-") != now.get(key, "-")
    ]


def _short(value: str) -> str:
    return value[:12] if len(value) > 20 else value


def _is_whole(recorded: Recorded, until: int | None) -> bool:
    """Returns whether the re-run goes as far as the record: only then are kept weights and their metrics comparable."""
    if until is None:
        return True
    return until == recorded.last_step and recorded.result.status is Status.PRUNED


def _failed_alike(again: RunResult, then: RunResult) -> bool:
    """Returns whether two runs failed for the same cause, in the same place of the code, after as many steps."""
    steps = [result.cost.steps if result.cost else None for result in (again, then)]
    return (again.cause, again.error, steps[0]) == (then.cause, then.error, steps[1])


def _gaps(recorded: Recorded, again: RunResult, curve: Curve, until: int | None) -> tuple[list[Gap], int]:
    """Returns the numbers that differ, by step, the largest of a step first; and how many were compared."""
    is_complete = _is_whole(recorded, until)
    gaps, count = [], 0
    for step in sorted({*recorded.curve, *curve}) if recorded.curve else ():  # a damaged curve is not compared
        if until is not None and step > until:
            break
        then, now = recorded.curve.get(step, {}), curve.get(step, {})
        # Where a re-run ends on request it is evaluated and logged once more than the recorded run was.
        names = then if not is_complete and step == until else dict.fromkeys([*then, *now])
        count += len(names)
        step_gaps = [_gap(step, name, then, now) for name in names]
        gaps += sorted((gap for gap in step_gaps if gap is not None), key=lambda gap: -gap.size)
    if is_complete:
        then, now = recorded.result.metrics, again.metrics
        names = dict.fromkeys([*then, *now])
        count += len(names)
        gaps += [gap for name in names if (gap := _gap(again.step or 0, name, then, now)) is not None]
    return gaps, count


def _gap(step: int, metric: str, then: Mapping[str, float], now: Mapping[str, float]) -> Gap | None:
    gap = Gap(step=step, metric=metric, recorded=then.get(metric, math.nan), now=now.get(metric, math.nan))
    equal = metric in then and metric in now and _same(gap.recorded, gap.now)
    return None if equal else gap


def _same(left: float, right: float) -> bool:
    return left == right or (math.isnan(left) and math.isnan(right))


def _allowed(gap: Gap, tolerance: float, eval_rows: float) -> float:
    limit = tolerance * max(1.0, abs(gap.recorded) if math.isfinite(gap.recorded) else 1.0)
    counted = "eval/" in gap.metric and not gap.metric.endswith("/loss") and eval_rows
    return max(limit, _ROWS / eval_rows) if counted else limit


def _excess(gap: Gap, tolerance: float, eval_rows: float) -> float:
    allowed = _allowed(gap, tolerance, eval_rows)
    return gap.size / allowed if allowed else math.inf


def _expected(recorded: Recorded, until: int | None) -> set[Status]:
    # A run that was lost when its last step was done is made again to its end.
    return {recorded.result.status} if until is None else {Status.PRUNED, Status.FINISHED}
