"""`frostline.run`, `reproduce`, `load` and `inspect` from Python."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import frostline as fl
from frostline.records.result import RunResult
from tests.conftest import TINY, sentences, write_csv
from tests.support.sweep_tools import call

OVERRIDES = [*TINY, "training.epochs=2", "freeze.depth=1", "tracking=off"]
ROWS = [{"review": text, "mood": mood} for text, mood in sentences(160)]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory):
    """A run of rows in memory, and what it logged while it trained."""
    folder = tmp_path_factory.mktemp("run")
    logged = []
    before = os.environ.get("FROSTLINE_HOME")
    os.environ["FROSTLINE_HOME"] = str(tmp_path_factory.mktemp("home"))
    trained = fl.run(
        OVERRIDES, model=tiny_model, train=ROWS, text="review", label="mood", folder=folder / "here",
        on_metrics=lambda step, metrics: logged.append((step, dict(metrics))),
    )  # fmt: skip
    yield trained, logged
    os.environ.pop("FROSTLINE_HOME") if before is None else os.environ.update(FROSTLINE_HOME=before)


def test_a_run_is_that_of_the_command_line(run, tmp_path):
    trained, _ = run
    place = trained.spec.dataset.location
    ended = call(
        "run", "dataset=parquet", f"dataset.location={place}", "dataset.text_column=review",
        "dataset.label_column=mood", "model=path", f"model.location={trained.spec.model.location}", *OVERRIDES,
        "hydra.run.dir=here", cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    there = RunResult.read(tmp_path / "here")
    assert there.weights_sha256 == trained.result.weights_sha256
    assert there.metrics == trained.metrics


def test_numbers_come_while_it_trains(run, tmp_path):
    trained, logged = run
    steps = [step for step, metrics in logged if "eval/accuracy" in metrics]
    assert len(steps) == 2
    assert [step for step, _ in logged] == sorted(step for step, _ in logged)
    assert trained.history.loc[steps[-1], "eval/accuracy"] == dict(logged[-1][1])["eval/accuracy"]
    whole = (trained.folder / "metrics.jsonl").read_text()
    torn = fl.Run(shutil.copytree(trained.folder, tmp_path / "torn"))
    (torn.folder / "metrics.jsonl").write_text(whole + '{"step": 99, "train/lo')  # as a killed run leaves it
    assert torn.history.equals(trained.history)


def test_what_is_known_of_a_run(run):
    trained, _ = run
    assert trained.status == "FINISHED"
    assert trained.params["freeze.depth"] == 1
    assert "FINISHED" in repr(trained)
    assert "unchanged (hashes compared)" in str(trained)
    assert fl.load(trained.folder).result == trained.result


def test_its_model_predicts(run):
    trained, _ = run
    model, tokenizer = trained.model()
    assert not model.training
    table = trained.predict(["a great film", "a dreadful story"])
    assert list(table.columns) == ["text", "label", "score", "negative", "positive"]
    logits = model(**tokenizer(["a great film"], return_tensors="pt")).logits.detach().softmax(-1)
    assert table.loc[0, "positive"] == pytest.approx(float(logits[0, 1]), abs=1e-6)
    assert len(trained.predict([])) == 0
    with pytest.raises(fl.UserError, match="give a list of texts"):
        trained.predict("a great film")
    with pytest.raises(fl.UserError, match="single texts"):
        trained.predict(["a"], pairs=["b"])


def test_the_callers_torch_is_as_it_was(run, tiny_model, in_tmp):
    """A notebook's seeds, threads and random states are its own."""
    import torch

    torch.manual_seed(7)
    before = torch.get_rng_state(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    trained, _ = run
    trained.predict(["a great film"])
    fl.run([*OVERRIDES, "training.epochs=1"], model=tiny_model, train=ROWS, text="review", label="mood")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before[1:]


def test_a_run_in_a_folder_that_the_notebook_went_to(run, tiny_model, in_tmp):
    """Worker processes are forks of one that was started elsewhere."""
    write_csv(in_tmp / "rows.csv", sentences(160), ("review", "mood"))
    trained = fl.run([*OVERRIDES, "training.epochs=1"], model=tiny_model, train="rows.csv", text="review", label="mood")
    assert (in_tmp / trained.folder / "result.json").is_file()


def test_it_comes_out_the_same_again(run, in_tmp):
    trained, _ = run
    again = fl.reproduce(trained, ["tracking=off"])
    assert again.conclusion == "identical"
    assert again.run.result.weights_sha256 == trained.result.weights_sha256
    assert "verdict: identical" in str(again)


def test_a_run_like_another_one_with_something_changed(run, in_tmp):
    trained, _ = run
    other = fl.run(["seed=1", "tracking=off"], like=trained)
    differing = {key for key in trained.params if trained.params[key] != other.params[key]} - {"runtime.progress"}
    assert differing == {"seed"}
    assert fl.run(["tracking=off"], like=trained).result.weights_sha256 == trained.result.weights_sha256


def test_a_damaged_record_is_a_user_error(run, in_tmp):
    trained, _ = run
    copy = Path(shutil.copytree(trained.folder, in_tmp / "copy"))
    (copy / "result.json").write_text("{}")
    with pytest.raises(fl.UserError, match=r"result\.json"):  # found by the worker
        fl.reproduce(copy)
    copy = Path(shutil.copytree(trained.folder, in_tmp / "again"))
    (copy / "model" / "config.json").write_text("{}")
    with pytest.raises(fl.UserError, match=r"config\.json"):
        fl.Run(copy).predict(["a good film"])


def test_bad_input_is_a_user_error(tiny_model, in_tmp):
    with pytest.raises(fl.UserError, match=r"freeze\.depth=9"):
        fl.run(["freeze.depth=9"], model=tiny_model, train=ROWS, text="review", label="mood")
    with pytest.raises(fl.UserError, match="one class only"):  # found by the worker
        fl.run(OVERRIDES, model=tiny_model, train=[{**row, "mood": "one"} for row in ROWS], text="review", label="mood")
    with pytest.raises(fl.UserError, match="no run's folder"):
        fl.load("nothing")


def test_a_failed_run_raises_and_keeps_its_record(tiny_model, in_tmp):
    with pytest.raises(fl.RunFailedError, match="diverged at step"):
        fl.run(
            [*OVERRIDES, "optimizer.lr=1e30"], model=tiny_model, train=ROWS, text="review", label="mood", folder="it"
        )
    assert fl.load("it").status == "FAILED"


def test_inspect_prints_what_the_command_prints(tiny_model, in_tmp):
    shown = fl.inspect(tiny_model)
    ended = call("show", "--blocks", "model=path", f"model.location={tiny_model}", cwd=in_tmp)
    assert [line.rstrip() for line in ended.stdout.strip().splitlines()] == str(shown).splitlines()
    assert list(shown.depths["freeze"])[:2] == ["none", "depth=0"]


STOPPED = """
import os, signal, sys, threading
import frostline as fl

def stop(step, metrics):
    if "eval/accuracy" in metrics:
        os.kill(os.getpid(), signal.SIGINT)

try:
    fl.run({overrides}, model={model!r}, train={rows!r}, text="text", label="label", folder="it", on_metrics=stop)
except KeyboardInterrupt as error:
    print("interrupted:", error)
run = fl.load("it")
print(run.status)
again = fl.run([*{overrides}, "resume=it"], model={model!r}, train={rows!r}, text="text", label="label", folder="again")
print(again.result.weights_sha256)
"""


def test_an_interrupt_stops_it_after_a_step_and_it_is_resumed(tiny_model, tiny_csv, in_tmp):
    """A script without `if __name__ == "__main__"`, too."""
    overrides = [*OVERRIDES, "training.epochs=4"]
    code = textwrap.dedent(STOPPED).format(overrides=overrides, model=str(tiny_model), rows=str(tiny_csv))
    (in_tmp / "script.py").write_text(code)
    ended = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    assert "interrupted: stopped by SIGINT; resume it with overrides=[..., 'resume=it']" in ended.stdout
    lines = ended.stdout.split()
    assert "KILLED" in lines
    whole = fl.run(overrides, model=tiny_model, train=tiny_csv, text="text", label="label", folder="whole")
    assert lines[-1] == whole.result.weights_sha256
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
