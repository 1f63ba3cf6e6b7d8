"""A real MLflow server, and one that is down, slow or answers 500: `frostline ui --sync` catches up."""

from __future__ import annotations

import http.server
import json
import threading
import time
from contextlib import contextmanager, nullcontext, suppress

import pytest

from frostline.records.result import RunResult
from frostline.records.trial import TrialState
from frostline.tracking import client, pending
from tests.support import PLUGINS
from tests.support.services import free_port, mlflow_server, postgresql
from tests.support.sweep_tools import RUNG, call, start, trials_in, wait_for

pytestmark = pytest.mark.slow

QUICK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}


@contextmanager
def bad_server(sleep_s: float):
    """Answers every request with 500, after a while."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            time.sleep(sleep_s)
            with suppress(OSError):  # the client may have closed
                self.send_error(500)

        def do_POST(self):
            self.do_GET()

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = False, True  # no socket is left to a later test
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def all_runs(uri):
    made = client(uri)
    return made, made.search_runs([e.experiment_id for e in made.search_experiments()], max_results=1000)


@pytest.mark.parametrize("kind", ["down", "answers 500", "slow"])
def test_a_run_without_its_server_is_finished_and_reported_once(tmp_path, tiny_overrides, kind):
    with bad_server(0.0 if kind == "answers 500" else 5.0) as uri:
        if kind == "down":
            uri = f"http://me:hunter2@127.0.0.1:{free_port()}"
        arguments = ["run", *tiny_overrides, "dataset.train_rows=32", f"tracking.uri={uri}", "hydra.run.dir=runs/one"]
        done = call(*arguments, cwd=tmp_path, **QUICK)
        assert done.returncode == 0, done.stderr
        warnings = [line for line in done.stderr.splitlines() if "MLflow" in line]
        assert len(warnings) == 1, done.stderr
        assert "frostline ui --sync records it later" in warnings[0]
        assert pending.load(tmp_path / "runs" / "one")["kind"] == "run"
        again = call("ui", "--sync", f"tracking.uri={uri}", cwd=tmp_path, **QUICK)
        assert again.returncode == 2
        assert "runs/one: can't be recorded" in again.stderr
        assert len(again.stderr.splitlines()) <= 2
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path
    assert "hunter2" not in done.stdout + done.stderr + again.stdout + again.stderr


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")  # by importing mlflow.pyfunc
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_runs_and_sweeps_on_a_real_server_and_without_it(tmp_path, tiny_overrides, kind):
    """With files on this machine, and with the server's store and the study in PostgreSQL; all to the end there."""
    with postgresql("mlflow", "optuna") if kind == "postgresql" else nullcontext() as database:
        _on_a_real_server(tmp_path, tiny_overrides, database)


def _on_a_real_server(tmp_path, tiny_overrides, database):
    missed = Missed(tmp_path, tiny_overrides, database)
    missed.train_while_nobody_listens()
    missed.sync_to_the_wrong_place()
    with mlflow_server(tmp_path, missed.port, database("mlflow") if database else None) as uri:
        missed.sync_with_a_damaged_trial()
        parent, children, best = missed.runs_on(uri)
        missed.check_parent(uri, parent, best)
        for trial in missed.trials:
            missed.check_trial(uri, trial, children[trial.number], is_best=children[trial.number] == best)
        assert call("ui", "--sync", cwd=tmp_path).stdout == "nothing is pending: MLflow has it all\n"
        missed.load_model(uri, best)
        if database:
            missed.train_while_it_listens(uri, num_before=1 + len(children))


class Missed:
    """A sweep that a server missed, since nobody listened there yet, and that it gets by `frostline ui --sync`."""

    def __init__(self, home, tiny_overrides, database):
        self.home, self.database, self.port = home, database, free_port()
        self.folder = home / "runs" / "lr_x_depth"
        self.here = f"tracking.uri=http://127.0.0.1:{self.port}"
        self.sweep = ["sweep", "lr_x_depth", *(o for o in tiny_overrides if not o.startswith("optimizer.lr="))]
        self.sweep += [self.here, "sweep.n_trials=5", "training.epochs=2", "dataset.train_rows=64"]
        self.sweep += ["sweep.enqueue=none", *RUNG, "tracking.experiment=mine", "+tracking.tags.team=nlp"]
        self.sweep += [f"sweep.storage='{database('optuna')}'"] if database else []

    @property
    def trials(self):
        return trials_in(self.folder)

    @property
    def finished(self):
        return [trial for trial in self.trials if trial.state is TrialState.COMPLETE]

    def train_while_nobody_listens(self):
        down = call(*self.sweep, cwd=self.home, **QUICK)
        assert down.returncode == 0, down.stderr
        way = f"not in MLflow yet: 6 of its runs; frostline ui --sync runs/lr_x_depth {self.here}"
        assert way in down.stdout
        assert len([line for line in down.stderr.splitlines() if "MLflow" in line]) == 1, down.stderr
        assert len(pending.find_pending([self.folder])) == 6

    def sync_to_the_wrong_place(self):
        """One line each, and an attempt that failed changes nothing."""
        before = {path: pending.load(path) for path in pending.find_pending([self.folder])}
        foreign = call("ui", "--sync", cwd=self.home, **QUICK)
        assert foreign.returncode == 2
        place = f"belongs to http://127.0.0.1:{self.port}, not to sqlite:///mlflow.db"
        assert f"{place}; if you trust it, {self.here}" in foreign.stderr
        for elsewhere in (self.here, f"tracking.uri=http://127.0.0.1:{free_port()}"):
            early = call("ui", "--sync", elsewhere, cwd=self.home, **QUICK)
            assert early.returncode == 2
            assert len(early.stderr.splitlines()) <= 2, early.stderr
        for path, missed in before.items():
            assert {**pending.load(path), "why": ""} == {**missed, "why": ""}

    def sync_with_a_damaged_trial(self):
        """All but that trial is recorded; the parent waits for it if it is the best one."""
        best = max(self.finished, key=lambda trial: (trial.quality, -trial.number))
        pruned = next(trial for trial in self.trials if trial.state is TrialState.PRUNED)
        name = f"{(best if self.database else pruned).number:03d}"
        (self.folder / name / "spec.json").rename(self.folder / name / "spec.away")
        sync = call("ui", "--sync", self.here, cwd=self.home)
        assert sync.returncode == 2
        assert f"{name}/spec.json: can't be read" in sync.stderr
        assert ("its best run is not recorded yet" in sync.stderr) == bool(self.database)
        recorded = [line for line in sync.stdout.splitlines() if line.startswith("recorded: ")]
        assert len(recorded) == 4 + (not self.database)
        (self.folder / name / "spec.away").rename(self.folder / name / "spec.json")
        again = call("ui", "--sync", self.here, cwd=self.home)
        assert again.returncode == 0, again.stderr
        parent_too = "recorded: runs/lr_x_depth\n" if self.database else ""
        assert again.stdout == f"recorded: runs/lr_x_depth/{name}\n{parent_too}"
        assert not all_runs(f"sqlite:///{self.home / 'mlflow.db'}")[1]

    def runs_on(self, uri):
        """Returns the parent run, the trials' runs by number, and the best one."""
        store, runs = all_runs(uri)
        experiment = store.get_experiment_by_name("mine")
        assert {run.info.experiment_id for run in runs} == {experiment.experiment_id}
        assert {run.data.tags["team"] for run in runs} == {"nlp"}
        assert [key for key in experiment.tags if key.startswith("mlflow.sharedViewState.")]
        (parent,) = [run for run in runs if run.data.tags["frostline.kind"] == "sweep"]
        below = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
        children = {int(run.data.tags["frostline.trial"]): run for run in below}
        assert len(below) == len(children) == 5
        best = next(run for run in below if run.info.run_id == parent.data.tags["frostline.best_run"])
        return parent, children, best

    def check_parent(self, uri, parent, best):
        assert parent.info.status == "FINISHED"
        assert parent.data.params["sampler"] == "tpe"
        assert best.data.metrics["best/accuracy"] == max(trial.quality for trial in self.finished)
        assert max(parent.data.metrics[name] for name in ("best/accuracy", "trial/accuracy")) > 0
        artifacts = {item.path for item in client(uri).list_artifacts(parent.info.run_id)}
        assert artifacts >= {"report.html", "trials.csv"}

    def check_trial(self, uri, trial, run, *, is_best):
        folder = self.folder / f"{trial.number:03d}"
        assert run.data.metrics["best/accuracy"] == trial.quality
        assert run.data.tags["frostline.status"] == ("FINISHED" if trial.state is TrialState.COMPLETE else "PRUNED")
        rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        reported = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
        history = client(uri).get_metric_history(run.info.run_id, "train/loss")
        assert sorted((metric.step, metric.value) for metric in history) == reported
        assert run.data.params["freeze.depth"] == str(trial.depth)
        assert run.data.metrics["cost/train_s"] == RunResult.read(folder).cost.train_s
        assert bool(run.outputs.model_outputs) == is_best
        assert [item.dataset.name for item in run.inputs.dataset_inputs] == ["moods"]

    def load_model(self, uri, best):
        import mlflow

        mlflow.set_tracking_uri(uri)
        loaded = mlflow.pyfunc.load_model(f"runs:/{best.info.run_id}/model")
        assert set(loaded.predict(loaded.input_example)["label"]) <= {"positive", "negative"}

    def train_while_it_listens(self, uri, num_before):
        """With the server there from the start: the same runs, at once, and one comes back from its record."""
        _, before = all_runs(uri)
        other = call(*self.sweep, "sweep.name=there", cwd=self.home)
        assert other.returncode == 0, other.stderr
        assert "MLflow at" not in other.stderr
        assert f"compare in the MLflow UI: {uri}/#/experiments/" in other.stdout
        _, runs = all_runs(uri)
        assert (len(before), len(runs)) == (num_before, num_before + 6)
        known = {run.info.run_id for run in before}
        finished = next(
            run.info.run_id for run in runs
            if run.info.run_id not in known and run.data.tags["frostline.kind"] == "trial"
            and run.data.tags["frostline.status"] == "FINISHED"
        )  # fmt: skip
        back = call("reproduce", finished, self.here, cwd=self.home)
        assert back.returncode == 0, back.stderr
        assert "verdict: identical" in back.stdout


@pytest.mark.timeout(600)
def test_a_server_that_goes_away_midway(tmp_path, tiny_overrides):
    port = free_port()
    here = f"tracking.uri=http://127.0.0.1:{port}"
    arguments = ["run", *tiny_overrides, here, "plugins=[sweep_plugin]", "optimizer.name=slow", "training.epochs=4"]
    arguments.append("hydra.run.dir=runs/one")
    env = {**QUICK, "PYTHONPATH": PLUGINS, "SLOW_S": "0.25"}
    with mlflow_server(tmp_path, port):
        process = start(*arguments, cwd=tmp_path, **env)
        metrics = tmp_path / "runs" / "one" / "metrics.jsonl"
        wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 3)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert len([line for line in err.splitlines() if "MLflow" in line]) == 1, err
    with mlflow_server(tmp_path, port) as uri:
        assert call("ui", "--sync", here, cwd=tmp_path).returncode == 0
        made, (run,) = all_runs(uri)
        assert run.info.status == "FINISHED"
        reported = [json.loads(line) for line in metrics.read_text().splitlines()]
        history = made.get_metric_history(run.info.run_id, "train/loss")
        assert len(history) == len([row for row in reported if "train/loss" in row])
        assert {item.path for item in made.list_artifacts(run.info.run_id)} >= {"spec.json", "result.json"}
        (output,) = run.outputs.model_outputs
        assert made.get_logged_model(output.model_id).status.value == "READY"


def test_a_store_that_cant_say_whether_a_run_is_there_gets_no_second_one(tmp_path, monkeypatch):
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    from frostline.tracking.stored_run import lookup_run, save_run_id

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    made = client(uri)
    run = made.create_run(made.create_experiment("e"))
    save_run_id(tmp_path / "run", uri, run.info.run_id)
    assert lookup_run(tmp_path / "run", uri)[1].info.run_id == run.info.run_id
    save_run_id(tmp_path / "missing", uri, "0" * 32)
    assert lookup_run(tmp_path / "missing", uri) is None

    def hiccup(self, run_id):
        raise MlflowException("API request failed: timed out")

    monkeypatch.setattr(MlflowClient, "get_run", hiccup)
    with pytest.raises(MlflowException):
        lookup_run(tmp_path / "run", uri)
