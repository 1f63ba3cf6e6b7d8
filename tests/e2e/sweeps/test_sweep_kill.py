"""SIGKILL at random moments, to parent and workers: the same command ends with the table of an undisturbed sweep."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from frostline.records.result import RESULT_FILE
from frostline.records.run_folder import CHECKPOINTS_FOLDER
from frostline.records.trial import TrialState
from frostline.train.checkpoint import CheckpointStore
from tests.support import PLUGINS
from tests.support.sweep_tools import RUNG, answer_rows, call, mlflow_runs, results, start, trials_in, worker_pids

pytestmark = pytest.mark.slow

KILLS = 6
WASTE = 1.5
"""Steps that a sweep with these kills may take, in those of an undisturbed one."""

SEED = int(os.environ.get("FROSTLINE_KILL_SEED", "20261122"))  # other moments, by hand
WORKER_KILLS = 3


@pytest.mark.timeout(1500)
def test_killed_at_random_moments_it_ends_like_an_undisturbed_sweep(tmp_path, tiny_overrides):
    tiny = [o for o in tiny_overrides if not o.startswith("optimizer.lr=")]
    arguments = [
        "sweep", "lr_x_depth", *tiny, "sweep.n_trials=9", "training.epochs=4", "sweep.margin=0.1", "sweep.settle=0.5",
        "sweep.space.optimizer.lr.high=1e-2", "plugins=[sweep_plugin]", "optimizer.name=slow",
    ]  # fmt: skip
    fast = {"PYTHONPATH": PLUGINS, "SLOW_S": "0"}
    env = {**fast, "SLOW_S": "0.05", "SLOW_STEPS": str(tmp_path / "torn" / "steps")}
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    whole.mkdir()
    torn.mkdir()
    assert call(*arguments, cwd=whole, timeout=400, SLOW_STEPS=str(whole / "steps"), **fast).returncode == 0
    folder = torn / "runs" / "lr_x_depth"
    rng = random.Random(SEED)
    finished: dict[str, float] = {}
    reached: dict[Path, int] = {}
    kills = 0
    while kills < KILLS:
        # Once while it imports; else from a moment after its start to the midst of trials and race.
        process = start(*arguments, cwd=torn, as_users_do=not kills, **env)
        time.sleep(rng.uniform(0.5, 6.0) if kills < KILLS - 2 else rng.uniform(6.0, 9.0))
        if process.poll() is not None:
            break  # it was faster
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
        now = progress(folder)
        assert all(now.get(run, 0) >= step for run, step in reached.items()), (reached, now)
        reached = now
        for name, result in results(folder).items():
            if result["status"] == "FINISHED":
                # What was finished stays as it is: no run of it begins again.
                stamp = (folder / name / "spec.json").stat().st_mtime_ns
                assert finished.setdefault(name, stamp) == stamp, name
    assert kills >= 5
    done = call(*arguments, cwd=torn, timeout=400, **{**env, "SLOW_S": "0"})
    assert done.returncode == 0, done.stderr
    assert steps_in(whole) <= steps_in(torn) <= WASTE * steps_in(whole)
    assert answer_rows(folder) == answer_rows(whole / "runs" / "lr_x_depth")
    assert [p.params for p in trials_in(folder)] == [p.params for p in trials_in(whole / "runs" / "lr_x_depth")]
    for name, stamp in finished.items():
        assert (folder / name / "spec.json").stat().st_mtime_ns == stamp, f"{name} was finished, and run again"
    for name in results(folder):
        left, right = (base / "runs" / "lr_x_depth" / name / "metrics.jsonl" for base in (whole, torn))
        assert left.read_text() == right.read_text()
    runs = mlflow_runs(torn)
    assert not [run for run in runs if run.info.status == "RUNNING"]
    parents = [run for run in runs if run.data.tags.get("frostline.kind") == "sweep"]
    assert [run.info.status for run in parents].count("FINISHED") == 1
    trials = [run for run in runs if run.data.tags.get("frostline.kind") == "trial"]
    ended = [run for run in trials if run.data.tags["frostline.status"] in {"FINISHED", "PRUNED"}]
    assert len({run.data.tags["frostline.trial"] for run in ended}) == 9
    assert any(p.replicates for p in trials_in(folder))  # kills came in the race, too


def steps_in(cwd: Path) -> int:
    """Optimizer steps that were taken, those of lost attempts too."""
    return (cwd / "steps").stat().st_size


def progress(folder: Path) -> dict[Path, int]:
    """The step that each run would resume from; beyond all for one that has a result."""
    steps = {path: CheckpointStore(path.parent).newest_step() or 0 for path in folder.rglob(CHECKPOINTS_FOLDER)}
    found = {path.parent: step for path, step in steps.items()}
    return found | {path.parent: 10**9 for path in folder.rglob(RESULT_FILE)}


def has_lines(run: Path, num: int) -> bool:
    try:
        return len((run / "metrics.jsonl").read_text().splitlines()) >= num
    except FileNotFoundError:
        return False


@pytest.mark.timeout(600)
def test_a_killed_worker_is_replaced_and_the_table_is_that_of_an_undisturbed_sweep(tmp_path, tiny_overrides):
    tiny = [o for o in tiny_overrides if not o.startswith("optimizer.lr=")]
    arguments = [
        "sweep", "lr_x_depth", *tiny, "sweep.n_trials=8", "training.epochs=1", "dataset.train_rows=64", *RUNG,
        "plugins=[sweep_plugin]", "optimizer.name=slow",
    ]  # fmt: skip
    env = {"PYTHONPATH": PLUGINS, "SLOW_S": "0.3"}
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    whole.mkdir()
    torn.mkdir()
    assert call(*arguments, cwd=whole, **{**env, "SLOW_S": "0"}).returncode == 0
    process = start(*arguments, cwd=torn, as_users_do=True, **env)
    rng = random.Random(3)
    folder = torn / "runs" / "lr_x_depth"
    killed: set[int] = set()
    deadline = time.monotonic() + 120
    while len(killed) < WORKER_KILLS and time.monotonic() < deadline:
        time.sleep(0.1)
        busy = [p.number for p in trials_in(folder) if p.state is TrialState.RUNNING] if folder.is_dir() else []
        # The first as it begins, the others in the midst of their steps.
        wanted = [n for n in busy if n in {1, 4, 6} - killed and has_lines(folder / f"{n:03d}", 0 if n == 1 else 1)]
        if wanted:
            time.sleep(rng.uniform(0.0, 0.5))
            for pid in worker_pids(process.pid):
                os.kill(pid, signal.SIGKILL)
            killed.add(wanted[0])
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert killed == {1, 4, 6}
    for number in killed:
        assert f"warning: #{number} " in err
    assert err.count("resumed from its last checkpoint") >= 3
    found, undisturbed = trials_in(folder), trials_in(whole / "runs" / "lr_x_depth")
    assert [(p.params, p.state, p.by_seed) for p in found] == [(p.params, p.state, p.by_seed) for p in undisturbed]
    assert all("killed by signal 9" in p.outcome.note for p in found if p.number in killed)
    runs = mlflow_runs(torn)
    trials = [run for run in runs if "frostline.trial" in run.data.tags]
    ended = [run for run in trials if run.data.tags["frostline.status"] in {"FINISHED", "PRUNED"}]
    assert len({run.data.tags["frostline.trial"] for run in ended}) == len(ended) == 8
    # A kill between MLflow's run and the folder's note of it leaves a run that the next attempt does not know.
    assert len(trials) <= 8 + len(killed)
    assert "RUNNING" not in {run.info.status for run in runs}
