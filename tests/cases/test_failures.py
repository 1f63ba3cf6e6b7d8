"""Inputs and surroundings that once ended a run with a traceback, minutes too late, or with no way out."""

from __future__ import annotations

import getpass
import importlib
import io
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest

from frostline.cli.predict import read_lines
from frostline.errors import DataError, ModelError, UserError
from frostline.models import processors
from frostline.provenance import git_diff, git_state
from frostline.spec import TASKS, MissingLabels
from frostline.tracking import reach
from frostline.tracking.reach import knock
from frostline.tracking.stored_run import source_tags
from tests.cases.test_wrong_numbers import json_lines, rows_of
from tests.conftest import fresh_store, save_tokenizer
from tests.support.sweep_tools import TRIALS_ALONE, call, end_what_was_started, start, trials_in

client = importlib.import_module("frostline.tracking.client")  # the package names a function so, too


@pytest.mark.slow
def test_15_files_of_the_users_own_are_not_taken_for_libraries(tmp_path, tiny_overrides):
    for name in ("evaluate", "datasets", "accelerate", "mlflow", "pip"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the user\\'s {name}.py was run')\n")
    tiny = [each for each in tiny_overrides if not each.startswith("optimizer.lr=")]
    sweep = ("sweep", "lr_x_depth", *tiny, "sweep.n_trials=2", "training.max_steps=2", "training.epochs=null")
    process = start(*sweep, *TRIALS_ALONE, "tracking=off", cwd=tmp_path, as_users_do=True)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, out + err
    assert len(trials_in(tmp_path / "runs" / "lr_x_depth")) == 2
    two = ("run", *tiny, "optimizer.lr=1e-3", "training.max_steps=2", "training.epochs=null", "runtime.num_processes=2")
    scratch = Path(tempfile.mkdtemp())
    process = start(*two, "runtime.threads=2", "tracking=off", cwd=tmp_path, as_users_do=True, TMPDIR=str(scratch))
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, out + err
    assert not list(scratch.iterdir())  # torchrun leaves a folder, if it may choose where
    scratch.rmdir()
    assert "was run" not in out + err


@pytest.mark.slow
def test_16_a_torn_off_part_of_another_launchers_group_trains_alone(tmp_path, tiny_overrides):
    left = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "10.255.255.1", "MASTER_PORT": "29500", "LOCAL_RANK": "1"}
    few = ("training.max_steps=2", "training.epochs=null", "tracking=off")
    done = call("run", *tiny_overrides, *few, cwd=tmp_path, timeout=120, **left)
    assert done.returncode == 0, done.stderr
    assert "note: ignored, since the config decides: LOCAL_RANK=1, MASTER_ADDR=10.255.255.1" in done.stderr


def test_17_a_user_without_a_name(monkeypatch):
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert source_tags("frostline run")["mlflow.user"].isdigit()


def test_18_a_letter_and_a_number_are_a_class(tmp_path):
    codes = ("E10", "E11", "E1", "e5")
    text = "text,label\n" + "".join(f"text {n},{codes[n % 4]}\n" for n in range(80))
    assert rows_of(tmp_path, "a.csv", text).label_names == ("E1", "E10", "E11", "e5")
    text = "text,label\n" + "".join(f"text {n},{n % 4}.5\n" for n in range(80))
    with pytest.raises(DataError, match="its values are fractions"):
        rows_of(tmp_path, "b.csv", text)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("postgresql://me:geheim@127.0.0.1:1/runs", "127.0.0.1:1: Connection refused"),
        ("http://127.0.0.1:1", "127.0.0.1:1: Connection refused"),
        ("sqlite:///nowhere/mlflow.db", "nowhere: no such folder"),
    ],
)
def test_19_a_store_that_is_down_costs_one_line(tmp_path, tiny_overrides, uri, reason):
    few = ("training.max_steps=2", "training.epochs=null", f"tracking.uri={uri}")
    done = call("run", *tiny_overrides, *few, "hydra.run.dir=a", cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    reported = [line for line in done.stderr.splitlines() if "MLflow" in line or "retr" in line.lower()]
    assert len(reported) == 1, done.stderr
    assert reason in reported[0]
    assert "geheim" not in done.stderr
    assert reason in (tmp_path / "a" / "run.log").read_text()


@pytest.mark.slow
def test_19_a_store_is_found_to_be_down_within_seconds(monkeypatch):
    with monkeypatch.context() as patch:  # as of an address that swallows packets: none can be counted on here
        patch.setattr(reach, "connect", lambda *_: time.sleep(20))
        with pytest.raises(TimeoutError, match="10.255.255.1:5432: no answer within 2 s"):
            knock("postgresql+psycopg2://10.255.255.1/runs")
    with socket.create_server(("127.0.0.1", 0)) as server:
        knock(f"http://127.0.0.1:{server.getsockname()[1]}")
    for other in ("databricks", "postgresql://a,b/runs", "postgresql:///runs"):
        knock(other)


@pytest.mark.slow
def test_20_a_long_path_of_the_temporary_folder(tmp_path, tiny_overrides):
    long = tmp_path / ("a" * 130)
    long.mkdir()
    two = ("runtime.num_processes=2", "runtime.threads=2", "training.max_steps=2", "training.epochs=null")
    done = call("run", *tiny_overrides, *two, "tracking=off", cwd=tmp_path, TMPDIR=str(long))
    assert done.returncode == 0, done.stderr
    assert not list(long.glob("frostline-*"))


def test_21_bytes_that_are_no_text_get_one_line(monkeypatch):
    def given(data: bytes) -> list[str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return list(read_lines())

    assert given("\ufeffa film\r\nünï\n".encode()) == ["a film", "ünï"]
    with pytest.raises(UserError, match=r"standard input, line 2: is not UTF-8 \(byte 3\); convert it"):
        given(b"fine\nna\xefve\n")


@pytest.mark.parametrize("kind", ["Camembert", "XLMRoberta", "MPNet"])
def test_22_more_tokens_than_positions_are_refused_before_anything_is_trained(tmp_path, kind):
    import transformers

    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, f"{kind}Config")(vocab_size=64, max_position_embeddings=34, pad_token_id=1, **small)
    config.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(ModelError, match="training.max_tokens=34: the model has 32 positions; give that or fewer"):
        processors.load_tokenizer(tmp_path, 34)
    assert processors.load_tokenizer(tmp_path, 32) is not None


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_23_rows_without_a_label_are_refused_or_left_out(tmp_path, form):
    values = [("good", "bad", None)[n % 3] for n in range(90)]
    text = json_lines(values)
    if form == "csv":
        text = "text,label\n" + "".join(f"text {n},{value or ''}\n" for n, value in enumerate(values))
    with pytest.raises(DataError, match=r"row 3: the label is missing; dataset.missing_labels=drop leaves such rows"):
        rows_of(tmp_path, f"a.{form}", text)
    rows = rows_of(tmp_path, f"a.{form}", text, missing_labels=MissingLabels.DROP)
    assert rows.label_names == ("bad", "good")
    assert (rows.report["rows_read"], rows.report["rows_dropped"]) == (90, 30)
    assert any("left out for want of a label, or by another rule of the dataset: 30" in line for line in rows.warnings)


def test_23_labels_that_are_nan_are_missing(tmp_path):
    text = json_lines([0.5, 1.5, 2.5] * 10) + '{"text": "odd", "label": NaN}\n'
    with pytest.raises(DataError, match="row 31: the label is missing"):
        rows_of(tmp_path, "a.jsonl", text, task=TASKS.get("regression"))
    rows = rows_of(tmp_path, "a.jsonl", text, task=TASKS.get("regression"), missing_labels=MissingLabels.DROP)
    assert rows.report["rows_dropped"] == 1


def test_24_many_classes_of_few_rows_train_where_they_are_named(tmp_path):
    names = tuple(f"class{n:02d}" for n in range(60))
    text = "text,label\n" + "".join(f"text {n},{names[n]}\n" for n in range(60))
    with pytest.raises(DataError, match=r"60 different values in 60 rows are no classes; .* name them in"):
        rows_of(tmp_path, "a.csv", text)
    rows = rows_of(tmp_path, "a.csv", text, label_names=names, eval_from="the same")
    assert rows.label_names == names
    assert len(rows.train["text"]) == 60


# -- A1, 13: the MLflow store ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a1_a_store_that_was_half_made_is_made_anew(tmp_path, caplog):
    path = tmp_path / "mlflow.db"
    fresh_store(path)
    # As a kill leaves it: a column is there, the revision that adds it isn't.
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '90e64c465722'")
    made = client.client(f"sqlite:///{path}")
    assert made.create_experiment("one")
    assert (tmp_path / "mlflow.db.half-made").exists()
    assert "was left half made" in caplog.text


def test_a1_a_damaged_store_with_runs_is_left_alone(tmp_path):
    path = tmp_path / "mlflow.db"
    fresh_store(path)
    made = client.client(f"sqlite:///{path}")
    made.create_run("0")
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '90e64c465722'")
    with pytest.raises(Exception, match="out-of-date database schema"):
        client.client(f"sqlite:///{path}?again")
    assert path.exists()
    assert not (tmp_path / "mlflow.db.half-made").exists()


def test_13_a_deleted_experiment_comes_back_without_its_deleted_runs(tmp_path, caplog):
    from mlflow.entities import ViewType

    from frostline.spec import TrackingSpec

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    fresh_store(tmp_path / "mlflow.db")
    made = client.client(uri)
    tracking = TrackingSpec(
        parent_run=None,
        run_name=None,
        params=(),
        enabled=True,
        uri=uri,
        experiment="films",
        log_model=False,
        system_metrics=False,
        tags={},
        git_diff=True,
    )
    first = client.experiment_of(made, tracking)
    old = [made.create_run(first).info.run_id for _ in range(3)]
    made.delete_experiment(first)
    assert client.experiment_of(made, tracking) == first
    assert made.get_experiment(first).lifecycle_stage == "active"
    assert made.search_runs([first]) == []
    assert {run.info.run_id for run in made.search_runs([first], run_view_type=ViewType.DELETED_ONLY)} == set(old)
    assert "its 3 runs stay deleted" in caplog.text


# -- A11: the repository that the current folder lies in ---------------------------------------------------------------


def test_a11_no_command_of_a_repositorys_config_is_run(tmp_path):
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=tmp_path, check=True)

    git("init", "-q", ".")
    (tmp_path / "a.txt").write_text("a\n")
    git("add", ".")
    git("commit", "-qm", "first")
    (tmp_path / ".gitattributes").write_text("* filter=bad diff=bad\n")
    ran = tmp_path.parent / f"{tmp_path.name}-ran"
    for key in ("filter.bad.clean", "diff.bad.textconv"):
        git("config", key, f"touch {ran}; cat")
    git("config", "core.fsmonitor", f"touch {ran}")
    (tmp_path / "a.txt").write_text("b\n")
    state, diff = git_state(tmp_path), git_diff(tmp_path)
    assert state is not None
    assert state["dirty"]
    assert diff is not None
    assert "+b" in diff
    assert not ran.exists()
    git("diff", "HEAD", "--stat")
    assert ran.exists()  # by git itself they are run


@pytest.mark.slow
def test_a10_no_module_of_the_current_folder_is_run(tmp_path):
    for name in ("pip", "mlflow", "accelerate", "uvicorn"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w').close()\n")
    env = {"PIP_INDEX_URL": "http://127.0.0.1:1/simple", "FROSTLINE_HOME": str(tmp_path / "home")}
    done = call("fetch", "model=minilm", cwd=tmp_path, timeout=60, **env)
    assert done.returncode == 2
    assert not (tmp_path / "was_run").exists()
    end_what_was_started()
    fresh_store(tmp_path / "mlflow.db")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    process = start("ui", "--port", str(port), cwd=tmp_path, as_users_do=True)
    assert process.stderr is not None
    assert any("Application startup complete" in line for line in process.stderr)  # of one of its own processes
    assert not (tmp_path / "was_run").exists()
