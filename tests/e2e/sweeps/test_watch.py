"""`frostline report --watch`: the page of a sweep that is under way."""

import re
import time

import pytest

from frostline.cli.report_watch import live_status
from frostline.records.trial import TrialOutcome, TrialRecord, TrialState
from frostline.search import TrialTask
from frostline.sweeps.progress_file import ProgressFile, SweepProgress, progress_of
from tests.support.sweep_tools import TRIALS_ALONE, start


def trial(number, state, seconds=None):
    outcome = None if seconds is None else TrialOutcome(state=state, by_seed={0: 0.5}, cost={"train_s": seconds})
    return TrialRecord(number=number, params={"freeze.depth": number}, state=state, outcome=outcome)


def test_what_is_left_is_reckoned_from_what_has_ended():
    trials = [trial(0, TrialState.COMPLETE, 60.0), trial(1, TrialState.COMPLETE, 120.0)]
    status = live_status(trials, SweepProgress(total=8, running=("d2", "d3")))
    assert status.left == "6 of 8 trials are left, some 4.5 min at the pace so far, and then further seeds"
    assert status.following == "what the sampler chooses when a slot is free"
    queued = tuple(f"d{depth}" for depth in range(6))
    assert live_status(trials, SweepProgress(total=8, queued=queued)).following == "d0, d1, d2, d3, d4, and 1 more"
    assert "further seeds" in live_status(trials, SweepProgress(total=2)).following


def test_the_progress_file_has_what_is_in_training_and_what_is_queued(tmp_path):
    trials = [trial(0, TrialState.COMPLETE, 60.0), trial(1, TrialState.WAITING), trial(2, TrialState.WAITING)]
    progress = ProgressFile(tmp_path, 3, trials)
    assert progress_of(tmp_path) == SweepProgress(total=3, queued=("d1", "d2"))
    progress.started(TrialTask(number=1, params=trials[1].params, rung=1))
    for seed in (1, 2):
        progress.started(TrialTask(number=0, params=trials[0].params, rung=3, seed=seed))
    assert progress_of(tmp_path) == SweepProgress(total=3, running=("d1", "d0 seed 1", "d0 seed 2"), queued=("d2",))
    progress.replicated(trials[0], 1)
    progress.ended(trials[1], [trials[0]])
    assert progress_of(tmp_path) == SweepProgress(total=3, running=("d0 seed 2",))
    progress.close()
    assert progress_of(tmp_path) is None


@pytest.mark.slow
def test_the_page_is_made_anew_until_the_sweep_ends(tmp_path, tiny):
    words = [*TRIALS_ALONE, "sweep.n_trials=8", "training.epochs=30", "runtime.slots=1", "tracking=off"]
    sweep = start("sweep", "lr_x_depth", *tiny, *words, cwd=tmp_path)
    folder = tmp_path / "runs" / "lr_x_depth"
    while not list(folder.glob("*/trial.json")):
        assert sweep.poll() is None
        time.sleep(0.1)
    watching = start("report", "lr_x_depth", "--watch", cwd=tmp_path)
    page, pages = folder / "report" / "report.html", set()
    while sweep.poll() is None:
        if page.exists():
            pages.add(page.read_text())
        time.sleep(0.1)
    assert sweep.communicate()[0]
    out, err = watching.communicate(timeout=60)
    assert watching.returncode == 0, err
    assert "live page: runs/lr_x_depth/report/report.html" in out
    assert "8 trials: 8 to the end" in out
    live = [text for text in pages if '<meta http-equiv="refresh"' in text]
    assert live
    searching = [text for text in live if "the search is over" not in text]
    assert searching
    assert re.search(r"<b>Under way</b>: \d trials have ended; \d of 8 trials are left", searching[0])
    assert re.search(r"In training: d\d.*\. Next: what the sampler chooses", searching[0])
    assert not (folder / ".progress.json").exists()
    assert '<meta http-equiv="refresh"' not in page.read_text()
