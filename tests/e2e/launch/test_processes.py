"""Runs on several processes: the same numbers as on one, one record, and no end that leaves a process behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from frostline.errors import UserError
from frostline.launch import run
from frostline.records.monitor import NullMonitor, RunControl
from frostline.records.recorder import Recorders
from frostline.records.result import Cause, RunResult, Status
from frostline.records.run_context import RunContext
from frostline.records.run_folder import RunFolder
from frostline.records.trial import TrialState
from frostline.registry import import_plugins
from frostline.tracking import pending
from tests.conftest import TINY, save_tokenizer, tiny_config
from tests.e2e.tasks.test_tokens import save_sentences
from tests.support import PLUGINS
from tests.support.forked import MARK
from tests.support.services import free_port
from tests.support.sweep_tools import TRIALS_ALONE, call, interrupt, mlflow_runs, results, start, trials_in, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def still_model(tmp_path_factory):
    """A tiny model that draws no dropout: what is left is the same on any number of processes."""
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("models") / "still"
    folder.mkdir()
    torch.manual_seed(0)
    BertModel(tiny_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


class Watch:
    """Keeps what a run tells."""

    def __init__(self):
        self.rows = []
        self.started = 0
        self.results = []

    def start(self, run):
        self.started += 1

    def log(self, metrics, step):
        self.rows.append((step, dict(metrics)))

    def finish(self, result):
        self.results.append(result)


@pytest.fixture
def train(make_spec, still_model, tmp_path):
    count = iter(range(100))

    def go(*overrides, monitor=None, **arguments):
        spec = make_spec(f"model.location={still_model}", *overrides)
        folder = arguments.pop("folder", None) or tmp_path / f"run-{next(count)}"
        watch = Watch()
        with RunFolder(folder, spec, resume_step=arguments.pop("resume_step", None)) as run_folder:
            result = run(
                spec, RunContext(Recorders([run_folder, watch]), folder, monitor=monitor or NullMonitor(), **arguments)
            )
        return result, watch, folder

    return go


def assert_alike(one, two, tolerance=1e-5):
    """Same steps, same keys, numbers within a tolerance."""
    assert [(step, sorted(row)) for step, row in one] == [(step, sorted(row)) for step, row in two]
    for (step, before), (_, after) in zip(one, two, strict=True):
        for key, value in before.items():
            assert after[key] == pytest.approx(value, abs=tolerance, rel=tolerance), (step, key)


@pytest.mark.parametrize(
    "changes",
    [
        ["freeze=none", "training.sampling=random"],
        ["freeze.depth=2", "runtime.cache=require", "training.accumulation_steps=2", "training.batch_size=8"],
    ],
    ids=["random", "cached"],
)
def test_two_processes_compute_what_one_does(train, changes, monkeypatch, tmp_path):
    monkeypatch.setenv("FROSTLINE_HOME", str(tmp_path / "home"))
    # 107 rows: the last step of an epoch has 11, which two processes can't share evenly.
    shape = ["dataset.train_rows=107", "dataset.eval_rows=23", "training.epochs=2", "runtime.threads=2", *changes]
    alone, seen, _ = train(*shape)
    together, watch, folder = train(*shape, "runtime.num_processes=2")
    assert together.status is Status.FINISHED, together.reason
    assert_alike(seen.rows, watch.rows)
    assert together.metrics["eval/accuracy"] == alone.metrics["eval/accuracy"]
    assert together.metrics["eval/loss"] == pytest.approx(alone.metrics["eval/loss"], abs=1e-5)
    assert watch.started == 1
    assert len(watch.results) == 1
    assert together.provenance["compute"]["processes"] == 2
    assert (folder / "model" / "model.safetensors").is_file()
    assert json.loads((folder / "result.json").read_text())["status"] == "FINISHED"


def test_two_processes_count_each_word_alike(train, tmp_path):
    """Sentences of different lengths, dealt out to two: the loss is that of one process, in training and evaluation."""
    conll = save_sentences(tmp_path / "moods.conll", rows=61)
    shape = [
        "dataset=conll", f"dataset.location={conll}", "training=token_classification", *TINY, "freeze.depth=2",
        "training.epochs=2", "runtime.threads=2",
    ]  # fmt: skip
    alone, seen, _ = train(*shape)
    together, watch, _ = train(*shape, "runtime.num_processes=2")
    assert together.status is Status.FINISHED, together.reason
    assert_alike(seen.rows, watch.rows)
    assert together.metrics["eval/entity_f1"] == alone.metrics["eval/entity_f1"]


@pytest.fixture(autouse=True)
def mark(monkeypatch, tmp_path, warm_launch):
    """Tells the processes of this test from those of others, which may run beside it."""
    folder = tmp_path / "processes"
    folder.mkdir()
    monkeypatch.setenv(MARK, str(folder))
    return folder


def children(mark):
    """The processes of a test's runs that are still there: forks by their ids, new ones by their environment."""
    found = [int(path.name) for path in mark.iterdir() if Path("/proc", path.name).exists()]
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            is_one = b"frostline.launch.rank" in line.read_bytes()
            if is_one and str(mark).encode() in (line.parent / "environ").read_bytes():
                found.append(int(line.parent.name))
    return found


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        ("1:3:exit", "process 1 of 2: SystemExit: 3"),
        (
            "1:3:kill",
            r"process 1 of 2 was killed by signal 9 \(out of memory\?\); what it printed is in .*processes\.log",
        ),
        ("1:3:loader", r"process 1 of 2: RuntimeError: DataLoader worker \(pid"),
        ("1:3:nan", "diverged at step 4: the loss is not finite"),
        ("1:3:drift", "RuntimeError: the 2 processes of the run do not agree on the trained weights"),
    ],
)
def test_one_process_that_breaks_ends_all_with_one_reason(train, monkeypatch, breaks, reason, mark):
    monkeypatch.setenv("RANK_BREAKS", breaks)
    monkeypatch.setenv("PYTHONPATH", PLUGINS)
    monkeypatch.syspath_prepend(PLUGINS)
    monkeypatch.setattr("frostline.registry.IMPORTED_PLUGINS", [])
    import_plugins(["rank_plugin"])
    if breaks == "1:3:loader":  # as users have it, once: and torch is not notified of its loaders' deaths in a fork
        monkeypatch.setattr("frostline.launch.processes.Popen", subprocess.Popen)
    began = time.monotonic()
    result, watch, folder = train(
        "runtime.num_processes=2", "optimizer.name=one_breaks", "freeze.depth=2", "training.evaluate=never",
        "training.keep=last", "training.max_steps=8", "training.epochs=null",
        f"runtime.loader_workers={int('loader' in breaks)}",
    )  # fmt: skip
    assert result.status is Status.FAILED
    assert re.match(reason, result.reason), result.reason
    causes = {"nan": Cause.DIVERGED, "kill": Cause.PROCESS_KILLED}
    assert result.cause is causes.get(breaks.split(":")[2], Cause.ERROR)
    assert time.monotonic() - began < 30 + 20  # the start of two processes counted
    assert len(watch.results) == 1
    assert json.loads((folder / "result.json").read_text())["reason"] == result.reason
    assert not (folder / "model").exists()
    assert not children(mark)


class Prune:
    """Stops a run after its first evaluation."""

    def __init__(self):
        self.asked, self.alives = [], 0

    def heartbeat(self):
        self.alives += 1

    def evaluated(self, epoch, value):
        self.asked.append((epoch, value))
        return RunControl.PRUNE


def test_a_pruned_run_ends_on_all_processes(train, mark):
    """Trainer's own search under two processes hangs here: the pruner is asked in one of them."""
    monitor = Prune()
    result, watch, folder = train("runtime.num_processes=2", "training.epochs=3", monitor=monitor or NullMonitor())
    assert (result.status, result.cause) == (Status.PRUNED, Cause.PRUNED)
    assert result.reason == "pruned after epoch 1"
    assert [epoch for epoch, _ in monitor.asked] == [1.0]
    assert monitor.asked[0][1] == result.metrics["eval/accuracy"]
    assert monitor.alives > 0
    assert len(watch.results) == 1
    assert not (folder / "model").exists()
    assert not children(mark)


def test_a_stopped_run_resumes_where_it_was(train, monkeypatch):
    shape = ["runtime.num_processes=2", "training.epochs=2", "dataset.train_rows=107", "freeze.depth=1"]
    whole, seen, _ = train(*shape)
    cut, _, folder = train(*shape, until_step=5)
    assert cut.status is Status.PRUNED
    stopper = Stopper(6)
    stopped, first, folder = train(*shape, monitor=stopper)
    assert stopped.status is Status.KILLED, stopped.reason
    assert stopped.reason == "stopped by SIGINT"
    again, second, _ = train(*shape, resume_from=folder, folder=folder, resume_step=stopped.cost.steps)
    assert again.status is Status.FINISHED
    assert again.weights_sha256 == whole.weights_sha256
    assert again.metrics == whole.metrics
    assert [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] == [
        {"step": step, **row} for step, row in seen.rows
    ]


class Stopper:
    """Sends this process Ctrl-C when the run is at its second evaluation's epoch, or some steps on."""

    def __init__(self, alives):
        self._alives = alives

    def heartbeat(self):
        self._alives -= 1
        if self._alives == 0:
            os.kill(os.getpid(), signal.SIGINT)

    def evaluated(self, epoch, value):
        if epoch == 1.0:
            os.kill(os.getpid(), signal.SIGINT)
        return RunControl.GO


def test_bad_input_that_only_the_processes_find_is_one_line(train, tmp_path, mark):
    with pytest.raises(UserError, match=r"training\.objective=f2"):
        train("runtime.num_processes=2", "training.objective=f2")
    assert not children(mark)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("distributed_type: FSDP\n", "distributed_type FSDP is not supported"),
        ("distributed_type: MULTI_GPU\nnum_machines: 2\n", "num_machines is more"),
        ("a: [", "can't be read"),
        ("just words", "is no file of `accelerate config`"),
        (None, "can't be read"),
    ],
)
def test_an_accelerate_config_of_another_kind_is_one_line(train, tmp_path, text, words):
    path = tmp_path / "accelerate.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=words):
        train("runtime.num_processes=2", f"runtime.accelerate_config={path}")


def test_an_accelerate_config_has_no_say_in_what_is_recorded(train, tmp_path):
    path = tmp_path / "accelerate.yaml"
    path.write_text("distributed_type: MULTI_CPU\nmixed_precision: bf16\nnum_processes: 7\ngpu_ids: '3'\n")
    shape = ["runtime.num_processes=2", "training.epochs=1", "freeze.depth=2"]
    plain, seen, _ = train(*shape)
    other, watch, _ = train(*shape, f"runtime.accelerate_config={path}")
    assert other.status is Status.FINISHED, other.reason
    assert watch.rows == seen.rows
    assert other.weights_sha256 == plain.weights_sha256


def test_a_batch_that_cannot_be_shared_is_refused(make_spec):
    with pytest.raises(UserError, match=r"training\.batch_size=15: 2 processes .* multiple of 2"):
        make_spec("runtime.num_processes=2", "training.batch_size=15")


@pytest.fixture
def quick(still_model, tiny_csv):
    """Overrides of the command line."""
    shape = ["training.epochs=2", "dataset.train_rows=64", "dataset.eval_rows=32", "runtime.num_processes=2"]
    return ["model=path", f"model.location={still_model}", "dataset=csv", f"dataset.location={tiny_csv}", *TINY, *shape]


PLUGIN = {"PYTHONPATH": PLUGINS}


def test_the_command_records_one_run(tmp_path, quick):
    done = call("run", *quick, "hydra.run.dir=here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "FINISHED" in done.stdout
    (run,) = mlflow_runs(tmp_path)
    assert run.info.status == "FINISHED"
    result = results(tmp_path)["here"]
    assert run.data.metrics["eval/accuracy"] == result["metrics"]["eval/accuracy"]
    assert "training on cpu" in (tmp_path / "here" / "run.log").read_text()
    # No server there: the run continues, says so once, and keeps what the store has missed.
    missing = f"tracking.uri=http://127.0.0.1:{free_port()}"
    again = call("reproduce", "here", missing, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "identical" in again.stdout
    assert again.stderr.count("does not answer as it should") == 1
    assert len(pending.find_pending([tmp_path / "runs"])) == 1


@pytest.mark.parametrize(
    ("signum", "code", "more"), [(signal.SIGINT, 130, []), (signal.SIGTERM, 143, ["runtime.num_processes=1"])]
)
def test_a_signal_stops_all_processes_after_the_step(tmp_path, quick, signum, code, more, mark):
    slow = ["plugins=[rank_plugin]", "optimizer.name=one_breaks", "training.epochs=20"]
    process = start("run", *quick, *slow, "hydra.run.dir=cut", cwd=tmp_path, SLOW_S="0.2", **PLUGIN)
    metrics = tmp_path / "cut" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") > 5)
    began = time.monotonic()
    interrupt(process, signum)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert time.monotonic() - began < 30
    assert "KILLED" in out
    assert "Traceback" not in err
    assert not children(mark)
    assert list((tmp_path / "cut" / "checkpoints").glob("step-*"))
    (run,) = mlflow_runs(tmp_path)
    assert run.info.status == "KILLED"
    done = call(
        "run", *quick, *slow, *more, "hydra.run.dir=on", "resume=cut", "training.epochs=20", cwd=tmp_path, SLOW_S="0",
        **PLUGIN,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ("processes" in done.stderr) is bool(more), done.stderr  # another number of them is reported
    result = RunResult.read(tmp_path / "on")
    assert result.status is Status.FINISHED
    assert result.cost.steps == 20 * 4


def test_two_signals_stop_all_processes_at_once(tmp_path, quick, mark):
    slow = ["plugins=[rank_plugin]", "optimizer.name=one_breaks"]
    breaks = {"RANK_BREAKS": "1:2:hang", **PLUGIN}
    process = start("run", *quick, *slow, "hydra.run.dir=cut", cwd=tmp_path, **breaks)
    metrics = tmp_path / "cut" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 1)
    interrupt(process)
    time.sleep(1)
    assert process.poll() is None  # the step never ends
    interrupt(process)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert not children(mark)
    assert RunResult.read(tmp_path / "cut").status is Status.KILLED


def test_no_process_outlives_a_killed_parent_and_its_run_is_ended_by_the_next_start(tmp_path, quick, mark):
    slow = ["plugins=[rank_plugin]", "optimizer.name=one_breaks", "training.epochs=20"]
    process = start("run", *quick, *slow, "hydra.run.dir=cut", cwd=tmp_path, SLOW_S="0.2", **PLUGIN)
    metrics = tmp_path / "cut" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") > 1)
    assert len(children(mark)) >= 2
    process.kill()
    process.communicate()
    wait_for(lambda: not children(mark), limit_s=30)
    (run,) = mlflow_runs(tmp_path)
    assert run.info.status == "RUNNING"  # nobody was left to say otherwise
    done = call("run", *quick, "runtime.num_processes=1", "training.epochs=1", "hydra.run.dir=next", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(run.info.status for run in mlflow_runs(tmp_path)) == ["FINISHED", "KILLED"]


def test_every_way_to_fail_of_several_processes_is_recorded_and_the_sweep_continues(tmp_path, quick, mark):
    (tmp_path / "hungry.txt").write_text("hungry")
    ways = {
        0: TrialState.COMPLETE,
        2: TrialState.FAILED,
        3: TrialState.FAILED,
        4: TrialState.FAILED,
        7: TrialState.COMPLETE,
        8: TrialState.COMPLETE,
    }
    swept = [
        *TRIALS_ALONE, "plugins=[sweep_plugin]", "optimizer.name=breaking", "sweep.sampler=grid",
        f"sweep.n_trials={len(ways)}",
        f"optimizer.weight_decay={','.join(str(way / 1000) for way in ways)}", "sweep.trial_timeout_s=25",
        "runtime.slots=2", "freeze.depth=2", "training.epochs=1",
    ]  # fmt: skip
    done = call("sweep", "depth_only", *quick, *swept, cwd=tmp_path, **PLUGIN)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "depth_only"
    found = {round(p.params["optimizer.weight_decay"] * 1000): p for p in trials_in(folder)}
    assert {way: trial.state for way, trial in found.items()} == ways
    assert re.match(r"(process \d of 2: )?SystemExit: 5", found[2].outcome.reason)
    assert re.match(r"process \d of 2 was killed by signal 9", found[3].outcome.reason)
    assert "resumed from its last checkpoint" in found[3].outcome.note
    assert re.match(r"process \d of 2 was killed by signal 9.*resumed from its last", found[7].outcome.note)
    assert found[4].outcome.reason.startswith("timeout")
    assert "out of memory: retried with half the batch" in found[8].outcome.note
    spec = json.loads((folder / f"{found[8].number:03d}" / "spec.json").read_text())
    assert (spec["training"]["batch_size"], spec["training"]["accumulation_steps"]) == (8, 2)
    assert not [run for run in mlflow_runs(tmp_path) if run.info.status == "RUNNING"]
    assert not children(mark)


def test_a_sweep_prunes_trials_of_several_processes(tmp_path, quick, mark):
    swept = [
        *TRIALS_ALONE, "sweep.n_trials=3", "sweep.rung_epochs=null", "sweep.pruner.name=percentile",
        "sweep.pruner.startup_trials=1",
        "sweep.pruner.percentile=1.0", "freeze.depth=0", "training.objective=loss", "training.direction=minimize",
    ]  # fmt: skip
    fixed = [override for override in quick if not override.startswith("optimizer.lr=")]
    done = call("sweep", "lr_only", *fixed, *swept, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = trials_in(tmp_path / "runs" / "lr_only")
    assert {trial.state for trial in found} == {TrialState.COMPLETE, TrialState.PRUNED}
    by_status = {run.data.tags.get("frostline.status") for run in mlflow_runs(tmp_path)}
    assert {"PRUNED", "FINISHED"} <= by_status
    assert not [run for run in mlflow_runs(tmp_path) if run.info.status == "RUNNING"]
    assert not children(mark)
