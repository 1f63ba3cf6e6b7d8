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
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import TINY
from tests.support.forked import Forked
from tests.support.shared import built_once
from tests.support.sweep_tools import trials_in, wait_for

SCRIPT = Path(__file__).parents[3] / "studies" / "frozen_layers.py"


DEPTHS, SEEDS = (2, 4), (0, 1, 2)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@dataclass(frozen=True)
class Study:
    """A study that was interrupted and resumed: its working folder, its command, and what that printed."""

    home: Path
    arguments: list[str]
    interrupted: list[str]
    out: str

    def trials(self, kind):
        return trials_in(self.home / "runs" / f"s-n80-{kind}")

    @property
    def whole(self):
        """The trials that were trained with all seeds."""
        return [trial for trial in self.trials("tuned") if len(trial.outcome.by_seed) == len(SEEDS)]

    @property
    def table(self):
        return (self.home / "runs" / "study.md").read_text()


@pytest.fixture(scope="session")
def study(tmp_path_factory, tiny_model, tiny_csv):
    own = [each for each in TINY if not each.startswith("optimizer.lr")]
    arguments = [
        sys.executable, str(SCRIPT), "--sizes", "80", "--depths", "2,4", "--seeds", "0,1,2", "--prefix", "s", "--",
        "model=path", f"model.location={tiny_model}", "dataset=csv", f"dataset.location={tiny_csv}", *own,
        "training.max_steps=10", "dataset.eval_rows=null", "dataset.test_rows=null", "tracking=off",
        "dataset.test_fraction=0.25",
    ]  # fmt: skip

    def build(home):
        process = subprocess.Popen(
            arguments, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        started = home / "runs" / "s-n80-tuned" / "000" / "s0" / "result.json"
        wait_for(started.exists, what=str(started))
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to the study and its sweep
        _, interrupted = process.communicate(timeout=380)
        assert process.returncode == 130, interrupted
        resumed = Forked(arguments[1:], home, dict(os.environ))
        out, err = resumed.communicate(timeout=380)
        assert resumed.returncode == 0, err
        said = {"arguments": arguments[1:], "interrupted": interrupted.splitlines(), "out": out}
        (home / "said.json").write_text(json.dumps(said))

    home = built_once(tmp_path_factory, "study", build)
    return Study(home, **json.loads((home / "said.json").read_text()))


def test_an_interrupted_study_names_the_sweep_that_it_resumes_from(study):
    assert study.interrupted[-1] == "s-n80-tuned ended with exit code 130; the same command resumes from there"
    assert not any("Traceback" in line for line in study.interrupted)


def test_it_is_four_sweeps_and_the_one_rate_is_run_only_where_it_was_not_the_best(study):
    sweeps = sorted(path.name for path in (study.home / "runs").iterdir() if path.is_dir())
    assert sweeps == ["s-n80-fixed", "s-n80-fixed-none", "s-n80-tuned", "s-n80-tuned-none"]
    done = {trial.depth for trial in study.whole if trial.lr == 5e-5}  # not run again
    rest = [depth for depth in (4, 2) if depth not in done]
    assert rest, "one depth at least must want another rate"
    fixed = [(trial.depth, trial.lr, sorted(trial.outcome.by_seed)) for trial in study.trials("fixed")]
    assert fixed == [(depth, 5e-5, list(SEEDS)) for depth in rest]


def test_the_best_rate_of_each_depth_by_the_held_out_rows_gets_all_seeds(study):
    tuned = study.trials("tuned")
    assert len(tuned) == 2 * 4
    assert len(study.whole) == 2
    for trial in study.whole:
        rivals = [p for p in tuned if p.depth == trial.depth]
        learnt = [p for p in rivals if p.first_rung.learnt] or rivals  # not what says the same for every row
        assert trial.outcome.by_seed[0] == max(rival.outcome.by_seed[0] for rival in learnt)


def test_the_table_has_the_mean_of_the_test_rows_not_of_those_that_chose_the_rate(study):
    assert study.table in study.out
    for trial in study.whole:
        results = (study.home / "runs" / "s-n80-tuned" / f"{trial.number:03d}" / f"s{seed}" for seed in SEEDS)
        test = [json.loads((path / "result.json").read_text())["metrics"]["test/accuracy"] for path in results]
        assert f"{statistics.fmean(test):.3f} +- " in study.table
    assert len(re.findall(r"^\| 80 \|", study.table, re.MULTILINE)) == 4
    assert (study.home / "runs" / "study.png").read_bytes().startswith(b"\x89PNG")


def test_only_report_makes_the_table_and_trains_nothing(study):
    before = {path: path.stat().st_mtime_ns for path in (study.home / "runs").rglob("result.json")}
    again = Forked([study.arguments[0], "--only-report", *study.arguments[1:]], study.home, dict(os.environ))
    out, _ = again.communicate(timeout=380)
    assert study.table in out
    assert before == {path: path.stat().st_mtime_ns for path in (study.home / "runs").rglob("result.json")}


def test_where_the_one_rate_is_the_best_one_its_runs_are_not_made_again(study, monkeypatch):
    """As if the one rate were that which depth 4 took."""
    script = runpy.run_path(str(SCRIPT))
    plan = script["Plan"](sizes=[80], depths=[*DEPTHS], seeds=[*SEEDS], prefix="s", quick=False, extra=[])
    best = {trial.depth: trial for trial in study.whole}
    monkeypatch.chdir(study.home)
    monkeypatch.setitem(script["cells_of"].__globals__, "FIXED_RATE", best[4].lr)
    assert script["not_yet_fixed"](plan, 80, DEPTHS) == ([] if best[2].lr == best[4].lr else [2])
    cells = script["cells_of"](plan, tuned=False)
    assert cells[80, 4].rate == best[4].lr
    assert cells[80, 4].test.by_seed == script["cells_of"](plan, tuned=True)[80, 4].test.by_seed
