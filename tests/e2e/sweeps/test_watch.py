"""`frostline report --watch`: the page of a sweep that is under way."""

import re
import time

import pytest

from frostline.cli.report_watch import live_status
from frostline.records.trial import TrialOutcome, TrialRecord, TrialState
from tests.support.sweep_tools import TRIALS_ALONE, start


def trial(number, state, seconds=None):
    outcome = None if seconds is None else TrialOutcome(state=state, by_seed={0: 0.5}, cost={"train_s": seconds})
    return TrialRecord(number=number, params={"freeze.depth": number}, state=state, outcome=outcome)


def test_what_is_left_is_reckoned_from_what_has_ended():
    trials = [
        trial(0, TrialState.COMPLETE, 60.0), trial(1, TrialState.COMPLETE, 120.0), trial(2, TrialState.RUNNING),
        trial(3, TrialState.RUNNING),
    ]  # fmt: skip
    status = live_status(trials, 8)
    assert (status.done, list(status.running)) == (2, ["d2", "d3"])
    assert status.left == "6 of 8 trials are left, some 4.5 min at the pace so far, and then further seeds"
    assert "further seeds" in live_status(trials[:2], 2).left
    assert "further seeds" in live_status(trials, None).left


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
    assert re.search(r"<b>Under way</b>: \d trials have ended; \d of 8 trials are left", live[0])
    assert "In training: d" in live[0]
    assert '<meta http-equiv="refresh"' not in page.read_text()
