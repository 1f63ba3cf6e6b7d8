"""One sweep on several hosts: PostgreSQL and a real MLflow server, and hosts that die in the midst of it.

A host is here a folder of its own with a parent and its workers; nothing but the two servers is shared.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from optuna.exceptions import StorageInternalError

from frostline.point import Outcome, State
from frostline.search import Study, open_url, queue_of, storage_trouble
from tests.e2e.forked import Forked
from tests.e2e.services import free_port, mlflow_server, postgresql
from tests.e2e.sweep_tools import RUNG, call, points, results, start, wait_for, worker_pids
from tests.unit.test_search import SPACE, make_plan

pytestmark = pytest.mark.slow

PLUGIN = {"PYTHONPATH": str(Path(__file__).parent)}
TOTAL = 10
GRACE_S = 6


def trials_of(uri):
    import optuna

    storage = open_url(uri)
    try:
        return optuna.load_study(study_name="lr_x_depth", storage=storage).get_trials(deepcopy=False)
    finally:  # else its connections are closed by the garbage collector, in the midst of another test
        storage.remove_session()
        storage.engine.dispose()


def kill_all(process: Forked | subprocess.Popen[str], workers: bool) -> None:
    """A parent alone, or a host's whole set."""
    pids = worker_pids(process.pid) if workers else []
    process.kill()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")  # by importing mlflow.pyfunc
def test_four_hosts_divide_a_sweep_and_two_of_them_die(tmp_path, tiny_overrides):
    from mlflow import MlflowClient

    port = free_port()
    with postgresql("mlflow", "optuna") as database, mlflow_server(tmp_path, port, database("mlflow")) as uri:
        storage = database("optuna")
        arguments = ["sweep", "lr_x_depth", *(o for o in tiny_overrides if not o.startswith("optimizer.lr="))]
        arguments += [
            f"sweep.n_trials={TOTAL}",
            "training.epochs=2",
            "dataset.train_rows=64",
            f"tracking.uri={uri}",
            *RUNG,
        ]
        arguments += ["plugins=[sweep_plugin]", "optimizer.name=slow", f"sweep.grace_s={GRACE_S}"]
        arguments += [f"sweep.storage='{storage}'"]
        hosts = [tmp_path / name for name in ("a", "b", "c", "d")]
        for host in hosts:
            host.mkdir()
        processes = [
            start(*arguments, cwd=host, as_users_do=host in hosts[:2], SLOW_S="0.5", **PLUGIN) for host in hosts
        ]
        try:
            for process, host, workers in zip(processes[:2], hosts[:2], (False, True), strict=True):
                folder = host / "runs" / "lr_x_depth"
                wait_for(lambda at=folder: any(p.stat().st_size for p in at.glob("[0-9]*/metrics.jsonl")), 180)
                kill_all(process, workers)
            ended = [process.communicate(timeout=400) for process in processes[2:]]
        finally:
            for process in processes:
                if process.poll() is None:
                    kill_all(process, workers=True)
        for process, (_, err) in zip(processes[2:], ended, strict=True):
            assert process.returncode == 0, err
            assert "Traceback" not in err

        # The total is exact, nothing is left, nothing is done twice.
        def was_taken(trial):
            return trial.state.name == "FAIL" and "frostline.outcome" not in trial.user_attrs

        study = [t for t in trials_of(storage) if not was_taken(t) and not t.user_attrs.get("frostline.surplus")]
        first = [t for t in study if "frostline.continues" not in t.user_attrs]
        assert len(first) == TOTAL, [(t.number, t.state.name, t.params, t.user_attrs) for t in first]
        assert {t.state.name for t in first} <= {"COMPLETE", "PRUNED"}
        second = [t.user_attrs["frostline.continues"] for t in study if "frostline.continues" in t.user_attrs]
        assert len(second) == len(set(second))
        assert {t.state.name for t in study} <= {"COMPLETE", "PRUNED"}
        assert [t for t in trials_of(storage) if was_taken(t)]  # they died while they trained
        assert any("taken over" in err for _, err in ended)
        # Both that are left have the same answer, and a file for each point that they trained.
        tables = []
        for host in hosts[2:]:
            lines = (host / "runs" / "lr_x_depth" / "report" / "points.csv").read_text().splitlines()
            tables.append([line.split(",")[:5] for line in lines])
            assert {p.state for p in points(host / "runs" / "lr_x_depth")} <= {State.COMPLETE, State.PRUNED}
            assert results(host / "runs" / "lr_x_depth")
        assert tables[0] == tables[1]
        assert len(tables[0]) == TOTAL + 1
        # In MLflow every run says how it ended.
        client = MlflowClient(uri)
        runs = client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=1000)
        assert not [run for run in runs if run.info.status == "RUNNING"]
        parents = [run for run in runs if run.data.tags.get("frostline.kind") == "sweep"]
        assert sorted(run.info.status for run in parents) == ["FINISHED", "FINISHED", "KILLED", "KILLED"]
        for run in runs:
            if run.info.status == "KILLED":
                assert run.data.tags["frostline.reason"], run.data.tags


def test_a_database_that_restarts_is_waited_for_and_one_that_is_gone_is_one_line(tmp_path, monkeypatch, caplog):
    plan = make_plan(n_trials=4, finish=1.0, first_epochs=None)
    with postgresql("optuna") as database:
        storage = open_url(database("optuna"))
        try:
            study = Study(storage, "shared", plan, SPACE, maximize=True, owner="here", grace_s=60.0)
            study.fill(queue_of(plan, SPACE, None))
            number, _ = study.begin(4)
            database.server.stop()
            back = threading.Timer(3, database.server.start)
            back.start()
            study.tell(number, Outcome(state=State.COMPLETE, by_seed={0: 0.5}))
            back.join()
            assert next(point.state for point in study.points()) is State.COMPLETE
            assert caplog.text.count("does not answer: waiting for it") == 1
            database.server.stop()
            monkeypatch.setattr("frostline.search.storages._AWAY_S", 0.5)
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
def test_a_sweep_whose_database_is_gone_says_so_and_goes_on_later(tmp_path, tiny_overrides):
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
        assert len(points(folder)) == 5
