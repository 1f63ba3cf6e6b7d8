"""One sweep on several hosts: PostgreSQL and a real MLflow server, and hosts that die in the midst of it.

A host is here a folder of its own with a parent and its workers; nothing but the two servers is shared.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from frostline.point import State
from frostline.search import open_url
from tests.e2e.services import free_port, mlflow_server, postgresql
from tests.e2e.sweep_tools import points, results, start, wait_for, worker_pids

pytestmark = pytest.mark.slow

PLUGIN = {"PYTHONPATH": str(Path(__file__).parent)}
TOTAL = 14
GRACE_S = 6


def trials_of(uri):
    import optuna

    storage = open_url(uri)
    try:
        return optuna.load_study(study_name="lr_x_depth", storage=storage).get_trials(deepcopy=False)
    finally:  # else its connections are closed by the garbage collector, in the midst of another test
        storage.remove_session()
        storage.engine.dispose()


def kill_all(process: subprocess.Popen[str], workers: bool) -> None:
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
        arguments += [f"sweep.n_trials={TOTAL}", "training.epochs=2", "dataset.train_rows=64", f"tracking.uri={uri}"]
        arguments += ["plugins=[sweep_plugin]", "optimizer.name=slow", f"sweep.grace_s={GRACE_S}"]
        arguments += [f"sweep.storage='{storage}'"]
        hosts = [tmp_path / name for name in ("a", "b", "c", "d")]
        for host in hosts:
            host.mkdir()
        processes = [start(*arguments, cwd=host, SLOW_S="0.5", **PLUGIN) for host in hosts]
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
