"""`frostline report STUDY --watch`: a page of a sweep that is under way, made anew as trials end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from frostline.records.run_folder import is_locked
from frostline.records.trial import TrialRecord
from frostline.report import LiveStatus
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
    print(f"live page: {folder / REPORT_FOLDER / 'report.html'} (Ctrl-C ends the watching, not the sweep)", flush=True)
    before: object = None
    last_line: object = None
    while is_locked(folder):
        stamp = {path: path.stat().st_mtime_ns for path in folder.glob(f"*/{TRIAL_FILE}")}, progress_of(folder)
        if stamp != before:
            before = stamp
            status = _write(folder)
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
    status = live_status(searched, progress)
    write_again(folder, replace(report, data=replace(report.data, live=status)))
    return status


def live_status(trials: Sequence[TrialRecord], progress: SweepProgress) -> LiveStatus:
    """Returns how a sweep stands.

    Args:
        trials: Of the search.
        progress: How far its command is.
    """
    ended = [trial for trial in trials if trial.outcome is not None and not trial.outcome.paused]
    total, running, queued = progress.total, progress.running, progress.queued
    seconds = [
        trial.outcome.cost["train_s"] + trial.outcome.cost.get("eval_s", 0.0)
        for trial in ended
        if trial.outcome is not None and "train_s" in trial.outcome.cost
    ]
    if len(ended) >= total:
        left = "the search is over"
        following = "full fine-tuning, then further seeds of the depths in question, as far as they are asked for"
    else:
        left = f"{total - len(ended)} of {total} trials are left"
        if seconds:
            minutes = statistics.fmean(seconds) * (total - len(ended)) / max(1, len(running)) / 60
            left += f", some {minutes:.1f} min at the pace so far, and then further seeds"
        more = f", and {len(queued) - _SHOWN} more" if len(queued) > _SHOWN else ""
        following = ", ".join(queued[:_SHOWN]) + more if queued else "what the sampler chooses when a slot is free"
    return LiveStatus(done=len(ended), running=running, left=left, following=following, refresh_s=_REFRESH_S)
