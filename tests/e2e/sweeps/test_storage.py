"""A sweep on a database server: PostgreSQL and a real MLflow server, one parent at a time, from any machine.

A machine is here a folder of its own with a parent and its workers; nothing but the two servers is shared.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from contextlib import suppress

import pytest
from optuna.exceptions import StorageInternalError

from frostline.errors import UserError
from frostline.records.trial import TrialOutcome, TrialState
from frostline.search import LockLostError, Study, open_locked, open_url, queue_of, storage_trouble
from tests.support import PLUGINS
from tests.support.forked import Forked
from tests.support.services import free_port, mlflow_server, postgresql
from tests.support.sweep_tools import RUNG, call, start, trials_in, wait_for, worker_pids
from tests.unit.search.fake_search import SPACE, make_plan

pytestmark = pytest.mark.slow

PLUGIN = {"PYTHONPATH": PLUGINS}
TOTAL = 6


def trials_of(uri):
    import optuna

    storage = open_url(uri)
    try:
        return optuna.load_study(study_name="lr_x_depth", storage=storage).get_trials(deepcopy=False)
    finally:  # else its connections are closed by the garbage collector, in the midst of another test
        storage.remove_session()
        storage.engine.dispose()


def kill_all(process: Forked | subprocess.Popen[str]) -> None:
    """A parent and its workers."""
    pids = worker_pids(process.pid)
    process.kill()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")  # by importing mlflow.pyfunc
def test_one_parent_at_a_time_works_on_a_server_and_another_machine_resumes(tmp_path, tiny_overrides):
    from mlflow import MlflowClient

    port = free_port()
    with postgresql("mlflow", "optuna") as database, mlflow_server(tmp_path, port, database("mlflow")) as uri:
        storage = database("optuna")
        arguments = ["sweep", "lr_x_depth", *(o for o in tiny_overrides if not o.startswith("optimizer.lr="))]
        arguments += [
            f"sweep.n_trials={TOTAL}", "training.epochs=2", "dataset.train_rows=64", f"tracking.uri={uri}", *RUNG,
            "plugins=[sweep_plugin]", "optimizer.name=slow", f"sweep.storage='{storage}'",
        ]  # fmt: skip
        first, second = (tmp_path / name for name in ("a", "b"))
        for machine in (first, second):
            machine.mkdir()
        process = start(*arguments, cwd=first, SLOW_S="0.5", **PLUGIN)
        try:
            folder = first / "runs" / "lr_x_depth"
            wait_for(lambda: len([*folder.glob("[0-9]*/result.json")]) >= 2, 180, what="two trials")
            refused = call(*arguments, cwd=second, **PLUGIN)
            assert refused.returncode == 2, refused.stderr
            assert "another command works on lr_x_depth (frostline " in refused.stderr
            assert "Traceback" not in refused.stderr
        finally:
            kill_all(process)
        done = call(*arguments, cwd=second, SLOW_S="0", **PLUGIN)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr

        # The total is exact: what had ended is not trained again, what was under way is.
        trials = trials_of(storage)
        assert len(trials) == TOTAL
        assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
        assert [trial.number for trial in trials_in(second / "runs" / "lr_x_depth")] == list(range(TOTAL))
        lines = (second / "runs" / "lr_x_depth" / "report" / "trials.csv").read_text().splitlines()
        assert len(lines) == TOTAL + 1
        client = MlflowClient(uri)
        runs = client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=1000)
        (parent,) = [run for run in runs if run.data.tags.get("frostline.kind") == "sweep"]
        assert parent.info.status == "FINISHED"
        children = [run for run in runs if run.info.run_id != parent.info.run_id]
        assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
        assert {run.info.status for run in children} <= {"FINISHED", "KILLED"}
        for run in children:
            assert run.info.status == "FINISHED" or run.data.tags["frostline.reason"], run.data.tags
        assert {run.data.tags["frostline.trial"] for run in children} == {str(number) for number in range(TOTAL)}
        assert sum(run.info.status == "FINISHED" for run in children) == sum(t.state.name == "COMPLETE" for t in trials)


def test_a_lock_on_a_server_dies_with_its_connection_and_is_taken_again(monkeypatch):
    monkeypatch.setattr("frostline.search.lock._PING_S", 0.0)
    with postgresql("optuna") as database:
        url = database("optuna")
        with open_locked(url, "one") as (_storage, check):
            check()
            refused = r"another command works on one \(frostline .* pid \d+\)"
            with pytest.raises(UserError, match=refused), open_locked(url, "one"):
                pass
            with open_locked(url, "two"):  # another sweep in the same database
                pass
            database.server.stop()
            check()  # nobody can tell yet
            database.server.start()
            check()
            with pytest.raises(UserError, match=refused), open_locked(url, "one"):
                pass
            database.server.stop()
            database.server.start()
            with open_locked(url, "one"), pytest.raises(LockLostError, match="another command works on one"):
                check()
        with open_locked(url, "one"):
            pass


def test_a_database_that_restarts_is_waited_for_and_one_that_is_lost_is_one_line(tmp_path, monkeypatch, caplog):
    plan = make_plan(n_trials=4, promote_fraction=1.0, rung_epochs=None)
    with postgresql("optuna") as database:
        storage = open_url(database("optuna"))
        try:
            study = Study(storage, "shared", plan, SPACE, maximize=True)
            study.fill(queue_of(plan, SPACE, None))
            number, _ = study.begin(4)
            database.server.stop()
            back = threading.Timer(3, database.server.start)
            back.start()
            study.tell(number, TrialOutcome(state=TrialState.COMPLETE, by_seed={0: 0.5}))
            back.join()
            assert next(trial.state for trial in study.trials()) is TrialState.COMPLETE
            assert caplog.text.count("does not answer: waiting for it") == 1
            database.server.stop()
            monkeypatch.setattr("frostline.search.storages.AWAY_S", 0.5)
            with pytest.raises(StorageInternalError) as caught:
                study.begin(4)
            trouble = storage_trouble(caught.value)
            assert trouble is not None
            assert "\n" not in trouble
            assert storage_trouble(ValueError("else")) is None
        finally:
            storage.remove_session()
            storage.engine.dispose()


@pytest.mark.timeout(300)
def test_a_sweep_whose_database_is_lost_says_so_and_resumes_later(tmp_path, tiny_overrides):
    with postgresql("optuna") as database:
        arguments = ["sweep", "depth_only", *tiny_overrides, "dataset.train_rows=64", "tracking=off"]
        arguments += [f"sweep.storage='{database('optuna')}'", "plugins=[sweep_plugin]", "optimizer.name=slow"]
        arguments += ["optimizer.lr=1e-3"]
        process = start(*arguments, cwd=tmp_path, SLOW_S="0.3", AWAY_S="1", **PLUGIN)
        folder = tmp_path / "runs" / "depth_only"
        wait_for(lambda: any(p.stat().st_size for p in folder.glob("[0-9]*/metrics.jsonl")), 120)
        database.server.stop()
        _, err = process.communicate(timeout=120)
        assert process.returncode == 1, err
        assert "Traceback" not in err
        assert "sweep.storage: " in err.splitlines()[-1]
        database.server.start()
        done = call(*arguments, cwd=tmp_path, SLOW_S="0", **PLUGIN)
        assert done.returncode == 0, done.stderr
        assert len(trials_in(folder)) == 5
