"""`frostline report STUDY --watch`: a page of a sweep that is under way, made anew as trials end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from frostline.records.run_folder import is_locked
from frostline.records.trial import TrialRecord, TrialState
from frostline.report import LiveStatus
from frostline.sweeps.folder import REPORT_FOLDER, TRIAL_FILE, SweepFolder, read_description, total_of
from frostline.sweeps.recorded_report import recorded_report, write_again
from frostline.sweeps.recovery import recover

_POLL_S = 2.0
_REFRESH_S = 5


def watch(folder: Path) -> None:
    """Makes the report's page whenever a trial has ended, until no process works on the sweep any more.

    Args:
        folder: The sweep's.

    Raises:
        UserError: There is no sweep.
    """
    print(f"live page: {folder / REPORT_FOLDER / 'report.html'} (Ctrl-C ends the watching, not the sweep)", flush=True)
    before: object = None
    while is_locked(folder):
        stamp = {path: path.stat().st_mtime_ns for path in folder.glob(f"*/{TRIAL_FILE}")}
        if stamp != before:
            before = stamp
            _write(folder)
        time.sleep(_POLL_S)


def _write(folder: Path) -> None:
    description = read_description(folder)
    trials = recover(SweepFolder(folder), description).trials
    searched = [trial for trial in trials if not trial.is_baseline]
    if not any(trial.quality is not None for trial in searched):
        return
    report = recorded_report(folder, description, trials)
    status = live_status(searched, total_of(folder))
    write_again(folder, replace(report, data=replace(report.data, live=status)))
    print(f"{status.done} trials have ended; {status.left}", flush=True)


def live_status(trials: Sequence[TrialRecord], total: int | None) -> LiveStatus:
    """Returns how a sweep stands.

    Args:
        trials: Of the search.
        total: How many there will be; None: that is not known.
    """
    ended = [trial for trial in trials if trial.outcome is not None and not trial.outcome.paused]
    running = [trial.label() for trial in trials if trial.state is TrialState.RUNNING]
    seconds = [
        trial.outcome.cost["train_s"] + trial.outcome.cost.get("eval_s", 0.0)
        for trial in ended
        if trial.outcome is not None and "train_s" in trial.outcome.cost
    ]
    if total is None or len(ended) >= total:
        left = "what is left are further seeds and the baseline, if any are asked for"
    else:
        left = f"{total - len(ended)} of {total} trials are left"
        if seconds:
            minutes = statistics.fmean(seconds) * (total - len(ended)) / max(1, len(running)) / 60
            left += f", some {minutes:.1f} min at the pace so far, and then further seeds"
    return LiveStatus(done=len(ended), running=running, left=left, refresh_s=_REFRESH_S)
