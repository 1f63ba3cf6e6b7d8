"""`frostline report --watch`: the page of a sweep that is under way."""

import re
import time

import pytest

from frostline.cli.report_watch import live_status
from frostline.records.trial import BASELINE_NUMBER, TrialRecord, TrialState
from frostline.report import ReportData
from frostline.search import TrialTask
from frostline.spec import CostName
from frostline.sweeps.progress_file import ProgressFile, SweepProgress, progress_of
from tests.support.sweep_tools import TRIALS_ALONE, start
from tests.unit.report.test_answer import say, trial


def data(*trials):
    return ReportData(
        name="x", trials=trials, answer=say(trials), cost=CostName.TRAIN_S, base={}, command="", status=""
    )  # fmt: skip


def test_what_is_left_is_reckoned_from_the_depths_that_were_tried():
    """Of seven depths, each a second shorter than the one before, two were tried; the sixth of the others is any."""
    tried = [trial(0, 6, 0.7, train_s=1.0), trial(1, 4, 0.8, lr=2e-4, train_s=3.0)]
    status = live_status(data(*tried), SweepProgress(total=8, settle=2.0, running=("d2",)))
    seeds = "full fine-tuning and further seeds, as far as they are needed: at most some 64 s"
    assert status.left == f"6 of 8 trials are left, some 28 s; then {seeds}"
    assert status.following == "what the sampler chooses when a slot is free"
    assert "some 14 s; then" in live_status(data(*tried), SweepProgress(total=8, settle=2.0, running=("d2", "d1"))).left


def test_of_one_depth_alone_nothing_is_reckoned():
    tried = [trial(0, 6, 0.7, train_s=1.0), trial(1, 6, 0.71, lr=2e-4, train_s=1.0)]
    assert (
        live_status(data(*tried), SweepProgress(total=8, settle=2.0, running=("d6",))).left == "6 of 8 trials are left"
    )


def test_what_comes_next():
    tried = [trial(0, 6, 0.7, train_s=1.0), trial(1, 4, 0.8, lr=2e-4, train_s=3.0)]
    queued = tuple(f"d{depth}" for depth in range(6))
    following = live_status(data(*tried), SweepProgress(total=8, settle=1.0, queued=queued)).following
    assert following == "d0, d1, d2, d3, d4, and 1 more"
    over = live_status(data(*tried), SweepProgress(total=2, settle=1.0))
    assert over.left.startswith("the search is over; then full fine-tuning and further seeds")
    assert over.following.startswith("full fine-tuning and further seeds of the depths in question")
    full = trial(BASELINE_NUMBER, None, 0.8, lr=2e-5, train_s=6.0)
    assert live_status(data(*tried, full), SweepProgress(total=2, settle=1.0)).following.startswith(
        "further seeds of the"
    )


def test_the_progress_file_has_what_is_in_training_and_what_is_queued(tmp_path):
    trials = [
        TrialRecord(number=number, params={"freeze.depth": number}, state=state)
        for number, state in enumerate([TrialState.COMPLETE, TrialState.WAITING, TrialState.WAITING])
    ]
    progress = ProgressFile(tmp_path, SweepProgress(total=3), trials)
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
