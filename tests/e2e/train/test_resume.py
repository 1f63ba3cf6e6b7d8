"""Checkpoints that are whole, and runs that resume from them as if nothing had happened."""

import importlib
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from frostline.errors import UserError
from frostline.records.monitor import NullMonitor
from frostline.records.recorder import NullRecorder, Recorders
from frostline.records.result import RunResult, Status
from frostline.records.run_context import RunContext
from frostline.records.run_folder import RunFolder
from frostline.train import run
from frostline.train.checkpoint import MANIFEST, CheckpointStore
from tests.support.sweep_tools import call, start

LENGTH = "training.epochs=4"


class StopAt(NullRecorder):
    """Sends this process a signal while a step is under way, as a terminal does."""

    def __init__(self, step, signum=signal.SIGINT, times=1):
        self._step, self._signum, self._times = step, signum, times

    def log(self, metrics, step):
        if step == self._step - 1 and "train/loss" in metrics:  # the step before has just been recorded
            for _ in range(self._times):
                os.kill(os.getpid(), self._signum)


@pytest.fixture
def train(tmp_path, make_spec):
    count = iter(range(100))

    def call(*overrides, stop=None, resume_from=None, monitor=None):
        spec = make_spec(LENGTH, *overrides)
        folder = tmp_path / f"run{next(count)}"
        with RunFolder(folder, spec, overrides) as recorder:
            recorders = Recorders([recorder, stop] if stop else [recorder])
            return run(
                spec, RunContext(recorders, folder, resume_from=resume_from, monitor=monitor or NullMonitor())
            ), folder

    return call


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def assert_same(one: Path, other: Path):
    left, right = weights(one), weights(other)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert (one / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()
    results = [RunResult.read(folder) for folder in (one, other)]
    assert results[0].metrics == results[1].metrics
    assert results[0].step == results[1].step


# 8 steps an epoch, 32 in all: inside the first epoch, at the end of one, inside a later one.
@pytest.mark.parametrize("step", [3, 8, 9, 19, 24, 31])
@pytest.mark.slow
def test_a_resumed_run_ends_in_the_same_bits(train, step):
    whole = train()[1]
    stopped, cut = train(stop=StopAt(step))
    assert stopped.status is Status.KILLED
    assert stopped.reason == "stopped by SIGINT"
    assert not (cut / "model").exists()
    # A signal that comes in the evaluation after step 8 is found when that epoch ends, before step 9.
    assert [p.name for p in CheckpointStore(cut).steps()][-1] == f"step-{8 if step == 9 else step:09d}"
    resumed, folder = train(resume_from=cut)
    assert resumed.status is Status.FINISHED
    assert resumed.provenance["resumed_from"] == str(cut)
    assert_same(whole, folder)


class StopAfter(NullMonitor):
    """Sends this process a signal after a step, whether anything is logged there or not."""

    def __init__(self, step):
        self._left = step

    def heartbeat(self):
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGINT)


# Logs fall on 3, 6, 8 (an epoch's end), 9, 12, 15, 16, ...: stops inside a window and at its end.
@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 8, 10, 11])
def test_the_training_loss_of_a_resumed_run_is_the_mean_of_the_same_steps(train, step):
    each = ["training.log_every=3", "training.evaluate=never", "training.epochs=2"]
    whole = train(*each)[1]
    stopped, cut = train(*each, monitor=StopAfter(step))
    assert stopped.status is Status.KILLED
    last = CheckpointStore(cut).steps()[-1]
    assert last.name == f"step-{step + 1:09d}" or step == 8
    assert_same(whole, train(*each, resume_from=cut)[1])


@pytest.mark.slow
def test_a_run_may_be_stopped_and_resumed_again_and_again(train):
    whole = train()[1]
    first = train(stop=StopAt(5))[1]
    second = train(stop=StopAt(14, signal.SIGTERM), resume_from=first)[1]
    assert_same(whole, train(resume_from=second)[1])


@pytest.mark.slow
def test_the_best_weights_survive_a_stop(train, monkeypatch):
    from frostline.train.callbacks import EvaluationCallback

    real = EvaluationCallback.on_evaluate
    scores = {8: 0.9, 16: 0.5, 24: 0.6, 32: 0.7}

    def scripted(self, args, state, control, **kwargs):
        kwargs["metrics"]["eval_accuracy"] = scores[state.global_step]
        real(self, args, state, control, **kwargs)

    monkeypatch.setattr(EvaluationCallback, "on_evaluate", scripted)
    whole = train()[1]
    cut = train(stop=StopAt(20))[1]
    resumed, folder = train(resume_from=cut)
    assert (resumed.step, resumed.objective.value) == (8, 0.9)
    assert_same(whole, folder)


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(train):
    stopped, cut = train(stop=StopAt(3, times=2))
    assert stopped.status is Status.KILLED
    assert CheckpointStore(cut).steps() == []


def test_sigterm_is_named(train):
    assert train(stop=StopAt(3, signal.SIGTERM))[0].reason == "stopped by SIGTERM"


def test_the_handlers_are_put_back(train):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(stop=StopAt(3))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.slow
def test_a_finished_run_keeps_no_checkpoints_and_never_writes_none(train):
    folder = train()[1]
    assert not (folder / "checkpoints").exists()
    stopped, cut = train("training.checkpoint=never", stop=StopAt(20))
    assert stopped.status is Status.KILLED
    assert CheckpointStore(cut).steps() == []


_template: list[Path] = []


@pytest.fixture
def cut(train, tmp_path, tmp_path_factory):
    """A run stopped at step 20: it holds the checkpoints of steps 16 and 20. A copy, to be damaged."""
    if not _template:
        _template.append(tmp_path_factory.mktemp("template") / "cut")
        shutil.copytree(train(stop=StopAt(20))[1], _template[0])
    folder = Path(shutil.copytree(_template[0], tmp_path / "cut"))
    assert [p.name for p in CheckpointStore(folder).steps()] == ["step-000000016", "step-000000020"]
    return folder


def _flip(path: Path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "truncated weights": lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
    "one flipped bit in the weights": lambda f: _flip(f / "model.safetensors"),
    "one flipped bit in the optimizer": lambda f: _flip(f / "optimizer.pt"),
    "empty optimizer": lambda f: (f / "optimizer.pt").write_bytes(b""),
    "no weights": lambda f: (f / "model.safetensors").unlink(),
    "no optimizer": lambda f: (f / "optimizer.pt").unlink(),
    "no scheduler": lambda f: (f / "scheduler.pt").unlink(),
    "no random state": lambda f: (f / "rng_state.pth").unlink(),
    "no trainer state": lambda f: (f / "trainer_state.json").unlink(),
    "no manifest": lambda f: (f / MANIFEST).unlink(),
    "torn manifest": lambda f: (f / MANIFEST).write_text((f / MANIFEST).read_text()[:40]),
    "a manifest that forgets the optimizer": lambda f: _forget(f / MANIFEST, "optimizer.pt"),
    "another checkpoint's weights": lambda f: (f / "model.safetensors").write_bytes(
        (f.parent / "step-000000016" / "model.safetensors").read_bytes()
    ),
    "a link": lambda f: _link(f / "optimizer.pt"),
}


def _forget(manifest: Path, name: str):
    data = json.loads(manifest.read_text())
    del data["files"][name]
    manifest.write_text(json.dumps(data))


def _link(path: Path):
    other = path.with_name("elsewhere")
    path.rename(other)
    path.symlink_to(other)


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(cut, caplog, damage):
    DAMAGE[damage](cut / "checkpoints" / "step-000000020")
    path, manifest = CheckpointStore(cut).newest_whole()
    assert path.name == "step-000000016"
    assert manifest["step"] == 16
    assert "step-000000020 is damaged" in caplog.text


@pytest.mark.slow
def test_after_a_damage_the_result_is_still_the_same(train, cut):
    whole = train()[1]
    (cut / "checkpoints" / "step-000000020" / "optimizer.pt").unlink()
    assert_same(whole, train(resume_from=cut)[1])


def test_a_checkpoint_half_written_is_none(cut):
    store = CheckpointStore(cut)
    (store.writing / "checkpoint-24").mkdir(parents=True)  # what a kill during Trainer's writing leaves
    (store.writing / "checkpoint-24" / "model.safetensors").write_bytes(b"half")
    assert store.newest_whole()[0].name == "step-000000020"


def _edit(manifest: Path, **changes):
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **changes}))


def test_a_checkpoint_of_another_schema_is_refused_and_other_versions_are_reported(train, cut, caplog):
    whole = train()[1]
    manifest = cut / "checkpoints" / "step-000000020" / MANIFEST
    versions = json.loads(manifest.read_text())["versions"]
    _edit(manifest, versions={**versions, "transformers": "5.3.0", "mlflow": "0"})
    _, folder = train(resume_from=cut)
    reported = f"resume: transformers 5.3.0 -> {versions['transformers']}: the numbers may differ"
    assert [record.message for record in caplog.records if record.message.startswith(reported)]
    assert_same(whole, folder)
    _edit(manifest, schema=2)
    with pytest.raises(UserError, match=r"another version of frostline \(schema 2, this one reads 1\)"):
        train(resume_from=cut)


MOMENTS = {
    "before the manifest": "checkpoint.file_sha256 = lambda path: killed()",
    "before the rename": "checkpoint.write_atomically = lambda path, text: (real(path, text), killed())",
    "after the last step": "run.save_model = lambda loaded, folder: killed()",
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_while_a_checkpoint_or_the_model_is_written(train, tiny_overrides, tmp_path, moment):
    """SIGKILL, in a process of its own; at the second checkpoint, or when all steps are done."""
    whole = train()[1]
    script = f"""
import importlib, os, signal
checkpoint = importlib.import_module("frostline.train.checkpoint")
run = importlib.import_module("frostline.train.run")
real, publish = checkpoint.write_atomically, checkpoint.CheckpointStore.publish
def killed():
    os.kill(os.getpid(), signal.SIGKILL)
def at_the_second(self, step, extra):
    if step == 16 and {moment != "after the last step"}:
        {MOMENTS[moment]}
    return publish(self, step, extra)
checkpoint.CheckpointStore.publish = at_the_second
if {moment == "after the last step"}:
    {MOMENTS["after the last step"]}
"""
    arguments = [*tiny_overrides, LENGTH, "tracking=off"]
    cut = tmp_path / "killed"
    process = start("run", *arguments, f"hydra.run.dir={cut}", cwd=tmp_path, before=script)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    names = [path.name for path in CheckpointStore(cut).steps()]
    assert names[-1] == ("step-000000024" if moment == "after the last step" else "step-000000008")
    again = call("run", *arguments, f"hydra.run.dir={tmp_path / 'again'}", f"resume={cut}", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert_same(whole, tmp_path / "again")


def test_no_checkpoint_and_another_config_are_refused(train, cut, tmp_path):
    with pytest.raises(UserError, match="no whole checkpoint"):
        train(resume_from=tmp_path / "nowhere")
    with pytest.raises(UserError, match="its checkpoint is of another config"):
        train("optimizer.lr=5e-4", resume_from=cut)


@pytest.mark.slow
def test_a_torn_last_line_of_the_old_metrics_is_left_out(train, cut):
    whole = train()[1]
    with (cut / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "train/lo')
    assert_same(whole, train(resume_from=cut)[1])


def test_a_malicious_checkpoint_runs_nothing(train, cut, tmp_path):
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self):
            return (open, (str(canary), "w"))

    folder = cut / "checkpoints" / "step-000000020"
    torch.save({"state": Evil(), "param_groups": []}, folder / "optimizer.pt")
    manifest = json.loads((folder / MANIFEST).read_text())
    from frostline.hashes import file_sha256

    file = folder / "optimizer.pt"
    manifest["files"]["optimizer.pt"] = {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    result, _ = train(resume_from=cut)
    assert result.status is Status.FAILED
    assert not canary.exists()


@pytest.mark.parametrize("moment", ["step 32", "last evaluation", "saving", "recording"])
@pytest.mark.slow
def test_a_signal_after_the_last_step_lets_the_run_finish(train, tmp_path, make_spec, monkeypatch, moment):
    """All the work is done: to throw it away would help nobody. But a sweep is stopped."""
    from frostline.train import Interrupted
    from frostline.train.callbacks import EvaluationCallback

    module = importlib.import_module("frostline.train.run")  # the package has a function of this name
    whole = train("training.epochs=1")[1]

    def and_signal(real):
        def call(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGINT)
            return real(*args, **kwargs)

        return call

    if moment == "last evaluation":
        monkeypatch.setattr(EvaluationCallback, "on_evaluate", and_signal(EvaluationCallback.on_evaluate))
    if moment == "saving":
        monkeypatch.setattr(module, "save_model", and_signal(module.save_model))
    if moment == "recording":
        monkeypatch.setattr(RunFolder, "finish", and_signal(RunFolder.finish))
    spec, folder = make_spec(LENGTH, "training.epochs=1"), tmp_path / "cut"
    with RunFolder(folder, spec) as recorder, pytest.raises(Interrupted, match="SIGINT"):
        run(spec, RunContext(Recorders([recorder, StopAt(8)] if moment == "step 32" else [recorder]), folder))
    assert_same(whole, folder)
    assert RunResult.read(folder).status is Status.FINISHED
    assert not list(folder.glob(".*"))
    assert not (folder / "checkpoints").exists()


def test_a_second_signal_while_saving_ends_it_at_once_and_leaves_no_half_model(tmp_path, make_spec, monkeypatch):
    from transformers import PreTrainedTokenizerBase

    def twice(*args, **kwargs):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", twice)
    spec, folder = make_spec("training.epochs=1", "training.checkpoint=never"), tmp_path / "cut"
    with RunFolder(folder, spec) as recorder:
        result = run(spec, RunContext(recorder, folder))
    assert result.status is Status.KILLED
    assert not list(folder.glob(".model*"))
    assert not (folder / "model").exists()
