"""A whole sweep with its defaults: opening, search, further seeds, answer, the model kept; and the simulator."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from frostline.records.trial import TrialState
from frostline.sweeps.folder import SweepFolder
from frostline.sweeps.predictions import evidence_in
from tests.e2e.sweeps.tiny_sweep import Finished, finished_once
from tests.support.sweep_tools import call, mlflow_runs, results

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Raced(Finished):
    """A sweep whose further seeds were trained."""

    @property
    def baseline(self):
        return SweepFolder(self.folder).read_trials()[0]

    @property
    def replicates(self):
        return {(trial.number, seed) for trial in self.trials for seed in trial.replicates}

    @property
    def recommended(self):
        """The number and the folder of the recommended run."""
        number = json.loads((self.folder / "report" / "recommended.json").read_text())["trial"]
        return number, SweepFolder(self.folder).trial_folder(number)


@pytest.fixture(scope="session")
def raced(tmp_path_factory, tiny_overrides):
    tiny = [each for each in tiny_overrides if not each.startswith("optimizer.lr=")]
    small = ["sweep.n_trials=9", "training.epochs=4", "training.evaluate=never", "runtime.slots=2"]
    small += ["training.keep=last", "sweep.margin=0.1", "sweep.space.optimizer.lr.high=1e-2", "dataset.eval_rows=20"]
    return finished_once(tmp_path_factory, "raced", [*tiny, *small], Raced)


@pytest.fixture
def copy(raced, tmp_path):
    return raced.copied_to(tmp_path / "copy")


def test_the_search_takes_three_rates_at_the_two_deepest_and_one_at_each_other_depth(raced):
    assert [trial.state for trial in raced.trials] == [TrialState.COMPLETE] * 9
    assert sorted(trial.depth for trial in raced.trials) == [0, 1, 2, 3, 3, 3, 4, 4, 4]


def test_further_seeds_are_runs_of_their_trial_scored_on_all_held_out_rows(raced):
    assert raced.replicates
    for number, seed in raced.replicates:
        result = results(raced.folder)[f"{number:03d}/s{seed}"]
        assert result["status"] == "FINISHED"
        spec = json.loads((raced.folder / f"{number:03d}" / f"s{seed}" / "spec.json").read_text())
        assert (spec["seed"], spec["freeze"]["depth"]) == (seed, raced.trials[number].depth)
        assert result["data"]["eval_rows"] == result["data"]["eval_rows_at_hand"] == spec["dataset"]["eval_rows"] > 20
        assert results(raced.folder)[f"{number:03d}"]["data"]["eval_rows"] == 20


def test_full_fine_tuning_is_trained_beside_the_trials(raced):
    assert raced.baseline.is_baseline
    spec = json.loads((raced.folder / "baseline" / "spec.json").read_text())
    assert (spec["freeze"]["name"], spec["optimizer"]["lr"]) == ("none", raced.baseline.params["optimizer.lr"])
    assert json.loads((raced.folder / "baseline" / "result.json").read_text())["params"]["num_frozen"] == 0
    first_words = [line.split()[0] for line in raced.out.splitlines() if line[:6].strip() in {"none", "0"}]
    assert first_words == ["none", "0"]


def test_a_line_for_each_further_seed_and_a_child_run_of_its_own_in_mlflow(raced):
    further = len(raced.replicates) + len(raced.baseline.replicates)
    assert raced.err.count("[full fine-tuning] full lr") == 1
    assert raced.err.count("[further seeds]") == further
    kinds = [run.data.tags.get("frostline.kind") for run in mlflow_runs(raced.home)]
    assert [kinds.count(kind) for kind in ("trial", "baseline", "replicate")] == [9, 1, further]


def test_every_run_is_known_row_by_row(raced):
    find = evidence_in(raced.folder, None)
    for trial in SweepFolder(raced.folder).read_trials():
        assert set(find(trial, "eval").rows) == set(trial.by_seed), trial.label()


def test_the_recommended_runs_model_alone_is_kept_and_is_what_predict_takes(raced):
    _, target = raced.recommended
    assert [path.parent for path in raced.folder.rglob("model")] == [target]
    asked = call("predict", "lr_x_depth", "good", cwd=raced.home)
    assert asked.returncode == 0, asked.stderr
    assert re.match(rf"lr_x_depth: its (recommended run|best guess), runs/lr_x_depth/{target.name}", asked.stderr)


@pytest.mark.timeout(300)
def test_a_missing_model_is_trained_again_to_the_same_weights_and_then_nothing_is_left_to_do(copy):
    number, target = copy.recommended
    weights = (target / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(target / "model")
    healed = call("sweep", "lr_x_depth", *copy.arguments, cwd=copy.home)
    assert (healed.returncode, healed.stdout) == (0, copy.out)
    assert f"training #{number} " in healed.stderr
    assert (target / "model" / "model.safetensors").read_bytes() == weights
    again = call("sweep", "lr_x_depth", *copy.arguments, cwd=copy.home)
    assert (again.returncode, again.stdout) == (0, copy.out)
    assert "training #" not in again.stderr


@pytest.mark.timeout(300)
def test_a_larger_budget_adds_seeds_and_leaves_the_trials_as_they_are(copy, raced):
    more = call("sweep", "lr_x_depth", *copy.arguments, "sweep.settle=1.5", "sweep.margin=0.01", cwd=copy.home)
    assert more.returncode == 0, more.stderr
    assert [trial.params for trial in copy.trials] == [trial.params for trial in raced.trials]
    assert copy.replicates > raced.replicates
    report = call("report", "lr_x_depth", cwd=copy.home)
    assert report.returncode == 0
    assert "at 1 point" in report.stdout


@pytest.mark.timeout(300)
def test_the_simulator_takes_a_world_of_ones_own(tmp_path):
    world = tmp_path / "world.py"
    world.write_text(
        "class World:\n"
        "    num_blocks, seed_sd, row_correlation, train_rows = 3, 0.002, 0.5, 4000\n"
        "    def truth(self, depth, log10_lr):\n"
        "        return (0.85, 0.85, 0.85, 0.6)[depth] - 0.05 * (log10_lr + 4 - depth / 3) ** 2\n"
        "    def cost(self, depth):\n"
        "        return 10.0 - 3 * depth\n"
        "    def collapse_probability(self, depth, log10_lr):\n"
        "        return 0.0\n"
        "def make(index, rows):\n"
        "    return World()\n"
    )
    script = [sys.executable, str(ROOT / "benchmarks" / "decision.py"), "--world", str(world), "--sweeps", "6"]
    done = subprocess.run(
        [*script, "--rows", "4000", "--rule", "frost", "--json"], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() >= {
        "mean_regret", "share_above_1", "settled", "settled_wrong", "bound_covers", "winner_bias", "time_to_half_point",
    }  # fmt: skip
    assert found["sweeps"] == 6
    assert found["mean_regret"] < 0.5
    assert found["share_above_1"] == 0
