"""A whole sweep with its defaults: opening, search, further seeds, answer, the model kept; and the simulator."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from frostline.records.trial import TrialState
from frostline.sweep.folder import SweepFolder
from frostline.sweep.predictions import evidence_in
from tests.support.sweep_tools import call, mlflow_runs, results, trials_in

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


@pytest.mark.timeout(600)
def test_further_seeds_become_part_of_the_answer_and_more_can_be_added(tmp_path, tiny_overrides):
    tiny = [each for each in tiny_overrides if not each.startswith("optimizer.lr=")]
    small = ["sweep.n_trials=9", "training.epochs=4", "training.evaluate=never", "runtime.slots=2"]
    small += ["training.keep=last", "sweep.margin=0.1", "sweep.space.optimizer.lr.high=1e-2", "dataset.eval_rows=20"]
    done = call("sweep", "lr_x_depth", *tiny, *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "lr_x_depth"
    trials = trials_in(folder)
    assert [p.state for p in trials] == [TrialState.COMPLETE] * 9
    assert sorted(p.depth for p in trials) == [0, 1, 2, 3, 3, 3, 4, 4, 4]
    replicates = {(p.number, seed) for p in trials for seed in p.replicates}
    assert replicates
    for number, seed in replicates:
        result = results(folder)[f"{number:03d}/s{seed}"]
        assert result["status"] == "FINISHED"
        spec = json.loads((folder / f"{number:03d}" / f"s{seed}" / "spec.json").read_text())
        assert (spec["seed"], spec["freeze"]["depth"]) == (seed, trials[number].depth)
        # further seeds are scored on all held-out rows that there are
        assert result["data"]["eval_rows"] == result["data"]["eval_rows_at_hand"] == spec["dataset"]["eval_rows"] > 20
        assert results(folder)[f"{number:03d}"]["data"]["eval_rows"] == 20
    assert done.stderr.count("[full fine-tuning] full lr") == 1
    assert done.stderr.count("[further seeds]") == len(replicates) + len(
        SweepFolder(folder).read_trials()[0].replicates
    )
    # one trial each in Optuna; a child run of its own in MLflow for each seed
    kinds = [run.data.tags.get("frostline.kind") for run in mlflow_runs(tmp_path)]
    full = SweepFolder(folder).read_trials()[0]
    assert full.is_baseline
    # every run is known row by row: the answer knows which of them are hard
    find = evidence_in(folder, None)
    for trial in SweepFolder(folder).read_trials():
        assert set(find(trial, "eval").rows) == set(trial.by_seed), trial.label()
    spec = json.loads((folder / "baseline" / "spec.json").read_text())
    assert (spec["freeze"]["name"], spec["optimizer"]["lr"]) == ("none", full.params["optimizer.lr"])
    assert json.loads((folder / "baseline" / "result.json").read_text())["params"]["num_frozen"] == 0
    further = len(replicates) + len(full.replicates)
    assert [kinds.count(kind) for kind in ("trial", "baseline", "replicate")] == [9, 1, further]
    assert [line.split()[0] for line in done.stdout.splitlines() if line[:6].strip() in {"none", "0"}] == ["none", "0"]
    # the recommended run's model alone is kept, and is what predict takes
    chosen = json.loads((folder / "report" / "recommended.json").read_text())
    target = SweepFolder(folder).trial_folder(chosen["trial"])
    assert [path.parent for path in folder.rglob("model")] == [target]
    asked = call("predict", "lr_x_depth", "good", cwd=tmp_path)
    assert asked.returncode == 0, asked.stderr
    assert f"lr_x_depth: its recommended run, runs/lr_x_depth/{target.name}" in asked.stderr
    # a missing model is trained again, to the same weights
    weights = (target / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(target / "model")
    healed = call("sweep", "lr_x_depth", *tiny, *small, cwd=tmp_path)
    assert (healed.returncode, healed.stdout) == (0, done.stdout)
    assert f"training #{chosen['trial']} " in healed.stderr
    assert (target / "model" / "model.safetensors").read_bytes() == weights
    # the same command trains nothing; a larger budget adds seeds and leaves the trials as they are
    again = call("sweep", "lr_x_depth", *tiny, *small, cwd=tmp_path)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    more = call("sweep", "lr_x_depth", *tiny, *small, "sweep.settle=1.5", "sweep.margin=0.01", cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    added = trials_in(folder)
    assert [p.params for p in added] == [p.params for p in trials]
    assert {(p.number, seed) for p in added for seed in p.replicates} > replicates
    report = call("report", "lr_x_depth", cwd=tmp_path)
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
