"""`frostline report STUDY --watch`: a page of a sweep that is under way, made anew as trials end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from frostline.advisor import NOTHING_FROZEN
from frostline.records.run_folder import is_locked
from frostline.records.trial import TrialOutcome, TrialRecord
from frostline.report import Answer, LiveStatus, ReportData
from frostline.sweeps.folder import REPORT_FOLDER, TRIAL_FILE, SweepFolder, read_description
from frostline.sweeps.progress_file import SweepProgress, progress_of
from frostline.sweeps.recorded_report import recorded_report, write_again
from frostline.sweeps.recovery import recover

_POLL_S = 2.0
_REFRESH_S = 5
_SHOWN = 5


def watch(folder: Path) -> None:
    """Makes the report's page whenever a trial has ended, until no process works on the sweep any more.

    Args:
        folder: The sweep's.

    Raises:
        UserError: There is no sweep.
    """
    page = folder / REPORT_FOLDER / "report.html"
    if is_locked(folder):
        print("waiting for the first result (Ctrl-C ends the watching, not the sweep)", flush=True)
    before: object = None
    last_line: object = None
    while is_locked(folder):
        stamp = {path: path.stat().st_mtime_ns for path in folder.glob(f"*/{TRIAL_FILE}")}, progress_of(folder)
        if stamp != before:
            before = stamp
            status = _write(folder)
            if status is not None and last_line is None:
                print(f"live page: {page}", flush=True)
            if status is not None and (status.done, status.left) != last_line:
                last_line = (status.done, status.left)
                print(f"{status.done} trials have ended; {status.left}", flush=True)
        time.sleep(_POLL_S)


def _write(folder: Path) -> LiveStatus | None:
    """Writes the page; returns how the sweep stands, None if no trial has a result yet."""
    description = read_description(folder)
    trials = recover(SweepFolder(folder), description).trials
    searched = [trial for trial in trials if not trial.is_baseline]
    progress = progress_of(folder)
    if progress is None or not any(trial.quality is not None for trial in searched):
        return None
    report = recorded_report(folder, description, trials)
    status = live_status(report.data, progress)
    write_again(folder, replace(report, data=replace(report.data, live=status)))
    return status


def live_status(data: ReportData, progress: SweepProgress) -> LiveStatus:
    """Returns how a sweep stands.

    Args:
        data: What its report says so far.
        progress: How far its command is.
    """
    searched = [trial for trial in data.trials if not trial.is_baseline]
    ended = [trial for trial in searched if trial.outcome is not None and not trial.outcome.paused]
    slots = max(1, len(progress.running))
    spent = sum(_seconds(trial.outcome) for trial in ended)
    left = max(0, progress.total - len(ended))
    expected = _expected_s(data.answer, ended, left)
    words = f"{left} of {progress.total} trials are left" if left else "the search is over"
    if left and expected is not None:
        words += f", some {_minutes(expected / slots)}"
    has_baseline = any(trial.is_baseline for trial in data.trials)
    seeds = "further seeds" if has_baseline else "full fine-tuning and further seeds"
    further = [outcome for trial in data.trials for outcome in trial.replicates.values()]
    if progress.settle and expected is not None:
        most = (progress.settle * (spent + expected) - sum(map(_seconds, further))) / slots
        words += f"; then {seeds}, as far as they are needed: at most some {_minutes(max(0.0, most))}"
    if progress.queued:
        more = f", and {len(progress.queued) - _SHOWN} more" if len(progress.queued) > _SHOWN else ""
        following = ", ".join(progress.queued[:_SHOWN]) + more
    elif left:
        following = "what the sampler chooses when a slot is free"
    else:
        following = f"{seeds} of the depths in question, as far as they are needed"
    return LiveStatus(
        done=len(ended), running=progress.running, left=words, following=following, refresh_s=_REFRESH_S
    )  # fmt: skip


def _expected_s(answer: Answer, ended: Sequence[TrialRecord], left: int) -> float | None:
    """Returns the seconds that so many trials will take, one after the other; None: not known yet.

    A trial at an untried level takes what a straight line through the tried ones says (as `sweep --plan` reckons), and
    those after it take the mean over all levels.
    """
    rows = [] if answer.main is None else [row for row in answer.main.rows if row.level != NOTHING_FROZEN]
    known = {row.level: row.seconds for row in rows if row.seconds is not None}
    if not rows:
        times = [_seconds(trial.outcome) for trial in ended]
        return statistics.fmean(times) * left if times else None
    if not known or (len(known) < 2 and len(rows) > 1):
        return None
    slope, start = statistics.linear_regression(list(known), list(known.values())) if len(known) > 1 else (0.0, 0.0)
    least = min(known.values())
    times = [known.get(row.level, max(least, start + slope * row.level)) for row in rows]
    untried = [seconds for row, seconds in zip(rows, times, strict=True) if row.level not in known][:left]
    return sum(untried) + (left - len(untried)) * statistics.fmean(times)


def _seconds(outcome: TrialOutcome | None) -> float:
    return 0.0 if outcome is None else outcome.cost.get("train_s", 0.0) + outcome.cost.get("eval_s", 0.0)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
