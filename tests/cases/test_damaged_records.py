"""Records that are damaged, or a stranger's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from frostline.hashes import hashes_of
from frostline.records.run_folder import RECORDED_FILES
from tests.cases.damaged import FEW, answer, cut, flip, one_line, pend, sweep_words
from tests.conftest import rewrite
from tests.support.sweep_tools import call, start

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model/model.safetensors", flip),
        ("model/tokenizer.json", flip),
        ("model/tokenizer.json", Path.unlink),
        ("model/config.json", lambda path: path.write_text(path.read_text().replace("gelu", "relu"))),
        ("model/added_tokens.json", lambda path: path.write_text('{"good": 3}')),
        ("spec.json", flip),
    ],
    ids=["weights", "tokenizer", "no_tokenizer", "config", "added", "spec"],
)
def test_a6_a_model_that_is_not_as_it_was_trained_predicts_nothing(home, name, damage):
    damage(home / "run" / name)
    for command in (
        ("predict", "run", "a text"),
        ("predict", "--vectors", "run", "--out=x.parquet"),
        ("show", "--test", "run"),
    ):
        done = call(*command, cwd=home, timeout=60)
        one_line(done, 2, name)
        assert done.stdout == ""


def test_a6_a_result_that_is_not_as_it_was_written_is_no_result(home):
    path = home / "run/result.json"
    text = path.read_text()
    value = json.loads(text)["objective"]["value"]
    path.write_text(text.replace(str(value), "0.99"))
    one_line(call("predict", "run", "a text", cwd=home, timeout=60), 2, "result.json", "sha256")
    one_line(call("reproduce", "run", cwd=home, timeout=60), 2, "result.json", "sha256")


def test_a6_a_whole_model_predicts(home):
    done = call("predict", "run", "a text", cwd=home, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a9_a_metric_of_a_strangers_record_is_not_run(home):
    script = home / "canary.py"
    script.write_text(f"open({str(home / 'was_run')!r}, 'w').close()\n")
    run = home / "run"
    spec = json.loads((run / "spec.json").read_text())
    spec["training"]["metrics"] = ["accuracy", "canary.py"]
    (run / "spec.json").write_text(json.dumps(spec))
    rewrite(run / "result.json", lambda data: data.update(files=hashes_of(run, RECORDED_FILES)))
    for command in (["show", "--test"], ["reproduce"]):
        one_line(call(*command, "run", cwd=home, timeout=60), 2, "--metric canary.py")
    assert not (home / "was_run").exists()


@pytest.mark.parametrize("damage", [cut, Path.unlink, flip], ids=["cut", "removed", "flipped"])
@pytest.mark.parametrize("journal", [True, False], ids=["journal", "no_journal"])
def test_a5_a_trials_file_is_damaged_and_the_answer_stays(home, damage, journal):
    before = answer(home)
    damage(home / "runs/s" / f"{before['trial']:03d}" / "trial.json")
    if not journal:
        (home / "runs/s/journal.log").unlink()
    done = call("report", "s", cwd=home, timeout=60)
    assert done.returncode == 0, done.stderr
    assert answer(home) == before
    assert f"{before['trial']:03d}/trial.json: is {'missing' if damage is Path.unlink else 'damaged'}" in done.stderr
    assert ("journal.log" if journal else "the results of its runs") in done.stderr


def test_a5_a_trial_without_any_whole_record_gives_no_other_answer(home):
    before = answer(home)
    for name in ("trial.json", "result.json"):
        cut(home / "runs/s" / f"{before['trial']:03d}" / name)
    (home / "runs/s/journal.log").unlink()
    done = call("report", "s", cwd=home, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "1 of its trials can't be read" in done.stderr
    assert answer(home) == before


@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl", "run.log", ".lock", "model", "spec.json"])
def test_a13_nothing_is_written_or_deleted_through_a_link(home, tiny_overrides, name):
    target = home / "precious"
    target.mkdir()
    (target / "step-000000001").mkdir()
    (target / "step-000000001/work.txt").write_text("mine")
    (target / "work.txt").write_text("mine")
    trial = home / "runs/s/000"
    shutil.rmtree(home / "runs/s/001")
    for each in (trial, home / "new"):
        each.mkdir(exist_ok=True)
        if (each / name).is_dir():
            shutil.rmtree(each / name)
        (each / name).unlink(missing_ok=True)
        (each / name).symlink_to(target if "." not in name else target / "work.txt")
    one_line(call("sweep", "lr_x_depth", *sweep_words(tiny_overrides), cwd=home, timeout=60), 2, name, "is a link")
    one_line(call("run", *tiny_overrides, *FEW, "hydra.run.dir=new", cwd=home, timeout=60), 2, name, "is a link")
    assert sorted(path.name for path in target.rglob("*")) == ["step-000000001", "work.txt", "work.txt"]
    assert {path.read_text() for path in target.rglob("*.txt")} == {"mine"}


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("command", ["predict", "show --test", "reproduce", "predict --vectors"])
def test_a14_a_record_that_blows_up_is_one_line(home, command):
    (home / "run/spec.json").write_text(BOMB)
    more = {"predict": ["a text"], "predict --vectors": ["--out=x.parquet"]}.get(command, [])
    one_line(call(*command.split(), "run", *more, cwd=home, timeout=20), 2, "spec")


def test_a14_the_ui_of_a_damaged_store_is_one_line(home):
    (home / "mlflow.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    one_line(call("ui", cwd=home, timeout=60), 2, "mlflow.db", "move it away")


def test_a14_a_home_that_is_full_names_the_folder(home, tiny_overrides):
    before = (
        "import errno, os, sys\n"
        "def full(event, given):\n"
        "    is_new = event == 'open' and isinstance(given[2], int) and given[2] & os.O_CREAT\n"
        "    if is_new and 'cache/' in str(given[0]):\n"
        "        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(given[0]))\n"
        "sys.addaudithook(full)\n"
    )
    words = ("run", *tiny_overrides, *FEW, "hydra.run.dir=full")
    process = start(*words, cwd=home, before=before, FROSTLINE_HOME=str(home / "cache"))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert "Traceback" not in err
    assert f"{home}/cache" in err
    assert "No space left on device" in err


def test_a5_a_trial_that_is_under_way_is_no_damage(home):
    before = answer(home)
    trial = home / "runs/s" / "004"
    shutil.copytree(home / "runs/s/000", trial / "s0")  # of two seeds the first has ended
    (trial / "s0/trial.json").unlink()
    done = call("report", "s", cwd=home, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert answer(home) == before


def test_a6_predictions_that_were_changed_are_left_out_of_a_report(home):
    flip(home / "runs/s/000/predictions.parquet")
    done = call("report", "s", cwd=home, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "000/predictions.parquet: differs from the run's record (sha256): its rows are not used" in done.stderr


def test_a6_a_damaged_recommended_model_is_trained_again(home, tiny_overrides):
    weights = home / "runs/s" / f"{answer(home)['trial']:03d}" / "model/model.safetensors"
    before = weights.read_bytes()
    flip(weights)
    one_line(call("predict", "runs/s/" + weights.parts[-3], "a text", cwd=home, timeout=60), 2, "model.safetensors")
    done = call("sweep", "lr_x_depth", *sweep_words(tiny_overrides), cwd=home, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "again: its model is damaged" in done.stderr
    assert weights.read_bytes() == before
    assert call("predict", "s", "a text", cwd=home, timeout=60).returncode == 0


def test_a6_sync_records_no_file_that_was_changed(home):
    pend(home / "run", "sqlite:///mlflow.db")
    flip(home / "run/predictions.parquet")
    one_line(
        call("ui", "--sync", "run", cwd=home, timeout=60), 2, "predictions.parquet", "differs from the run's record"
    )
    assert (home / "run/.mlflow-pending.json").exists()
