"""The study of docs/study.md on a tiny model: run, stopped, resumed, and what its tables say."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY
from tests.support.forked import Forked
from tests.support.sweep_tools import trials_in, wait_for

SCRIPT = Path(__file__).parents[3] / "studies" / "frozen_layers.py"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_study_resumes_where_it_was_and_reports_what_the_runs_say(tiny_model, tiny_csv, tmp_path, monkeypatch):
    own = [each for each in TINY if not each.startswith("optimizer.lr")]
    arguments = [
        sys.executable, str(SCRIPT), "--sizes", "80", "--depths", "2,4", "--seeds", "0,1,2", "--prefix", "s", "--",
        "model=path", f"model.location={tiny_model}", "dataset=csv", f"dataset.location={tiny_csv}", *own,
        "training.max_steps=10", "dataset.eval_rows=null", "dataset.test_rows=null", "tracking=off",
        "dataset.test_fraction=0.25",
    ]  # fmt: skip

    def study(*more):
        process = Forked([arguments[1], *more, *arguments[2:]], tmp_path, dict(os.environ))
        out, err = process.communicate(timeout=380)
        return process.returncode, out, err

    process = subprocess.Popen(
        arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    started = tmp_path / "runs" / "s-n80-tuned" / "000" / "s0" / "result.json"
    wait_for(started.exists, what=str(started))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to the study and its sweep
    _, err = process.communicate(timeout=380)
    code = process.returncode
    assert code == 130, err
    assert err.splitlines()[-1] == "s-n80-tuned ended with exit code 130; the same command resumes from there"
    assert "Traceback" not in err
    code, out, err = study()
    assert code == 0, err
    sweeps = sorted(path.name for path in (tmp_path / "runs").iterdir() if path.is_dir())
    assert sweeps == ["s-n80-fixed", "s-n80-fixed-none", "s-n80-tuned", "s-n80-tuned-none"]
    fixed, tuned = (trials_in(tmp_path / "runs" / f"s-n80-{kind}") for kind in ("fixed", "tuned"))
    assert len(tuned) == 2 * 4
    whole = [trial for trial in tuned if len(trial.outcome.by_seed) == 3]
    there = {trial.depth for trial in whole if trial.lr == 5e-5}  # not run again
    rest = [depth for depth in (4, 2) if depth not in there]
    assert rest, "one depth at least must want another rate"
    assert [(p.depth, p.lr, sorted(p.outcome.by_seed)) for p in fixed] == [(depth, 5e-5, [0, 1, 2]) for depth in rest]
    assert len(whole) == 2  # the best rate of each depth with all seeds, chosen by the held-out rows
    for trial in whole:
        rivals = [p for p in tuned if p.depth == trial.depth]
        learnt = [p for p in rivals if p.first_rung.learnt] or rivals  # not what says the same for every row
        assert trial.outcome.by_seed[0] == max(rival.outcome.by_seed[0] for rival in learnt)
    table = (tmp_path / "runs" / "study.md").read_text()
    assert table in out
    for trial in whole:  # what stands there is the mean of the test rows, not of those it was chosen by
        results = (tmp_path / "runs" / "s-n80-tuned" / f"{trial.number:03d}" / f"s{seed}" for seed in (0, 1, 2))
        test = [json.loads((path / "result.json").read_text())["metrics"]["test/accuracy"] for path in results]
        assert f"{statistics.fmean(test):.3f} +- " in table
    assert len(re.findall(r"^\| 80 \|", table, re.MULTILINE)) == 4
    assert (tmp_path / "runs" / "study.png").read_bytes().startswith(b"\x89PNG")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("result.json")}
    _, again, _ = study("--only-report")
    assert table in again
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("result.json")}

    # Where the one rate is the best one, its runs are not made again: as if it were that which depth 4 took.
    study_of = runpy.run_path(str(SCRIPT))
    plan = study_of["Plan"](sizes=[80], depths=[2, 4], seeds=[0, 1, 2], prefix="s", quick=False, extra=[])
    best = {trial.depth: trial for trial in whole}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(study_of["cells_of"].__globals__, "FIXED_RATE", best[4].lr)
    assert study_of["_not_yet_fixed"](plan, 80, (2, 4)) == ([] if best[2].lr == best[4].lr else [2])
    cells = study_of["cells_of"](plan, tuned=False)
    assert cells[80, 4].rate == best[4].lr
    assert cells[80, 4].test.by_seed == study_of["cells_of"](plan, tuned=True)[80, 4].test.by_seed
