import json
import logging
import math
import subprocess
import time

import pytest

from frostline.config import compose_run, spec_from_text
from frostline.errors import UserError
from frostline.files import write_atomically
from frostline.provenance import PeakMemory, capture, environment, git_diff, git_state, redact, without_user
from frostline.records.recorder import NullRecorder, Recorder, Recorders
from frostline.records.result import Cost, Objective, ParamCount, RunResult, Status
from frostline.records.run_folder import RunFolder


def result(**changes):
    values = {"name": "n", "status": Status.FINISHED, "reason": None, "spec_digest": "d"}
    return RunResult(**{**values, **changes})


def test_a_folder_holds_what_a_run_is_made_of(tmp_path):
    spec = compose_run(["freeze.depth=2"])
    with RunFolder(tmp_path / "r", spec, ["freeze.depth=2"]) as folder:
        folder.log({"train/loss": 0.5}, 1)
        # before the end everything is on disk already: a kill loses nothing
        assert (tmp_path / "r" / "metrics.jsonl").read_text() == '{"step": 1, "train/loss": 0.5}\n'
        logging.getLogger("frostline.test").warning("something")
        folder.finish(result())
    assert spec_from_text((tmp_path / "r" / "spec.json").read_text()) == spec
    assert (tmp_path / "r" / "overrides.yaml").read_text() == "- freeze.depth=2\n"
    assert "WARNING frostline.test: something" in (tmp_path / "r" / "run.log").read_text()
    assert RunResult.read(tmp_path / "r").status is Status.FINISHED
    assert not list((tmp_path / "r").glob("*.tmp"))


def test_a_nan_is_recorded_as_what_it_is_in_valid_json(tmp_path):
    with RunFolder(tmp_path, compose_run()) as folder:
        folder.log({"train/loss": math.nan, "x": math.inf}, 1)
        folder.finish(result(metrics={"eval/loss": math.nan, "eval/x": -math.inf}))

    def strict(token):
        raise AssertionError(f"{token} is no JSON")

    assert json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=strict)["train/loss"] == "nan"
    json.loads((tmp_path / "result.json").read_text(), parse_constant=strict)
    read = RunResult.read(tmp_path)
    assert math.isnan(read.metrics["eval/loss"])
    assert read.metrics["eval/x"] == -math.inf


def test_results_round_trip():
    full = result(
        objective=Objective(metric="accuracy", value=0.5, direction="maximize"),
        metrics={"eval/accuracy": 0.5},
        params=ParamCount(num_trainable=1, num_frozen=2),
        cost=Cost(train_s=1.0, eval_s=2.0, setup_s=0.5, steps=3, peak_bytes=4, peak_of="process"),
        drift=[{"part": "head", "sum_abs": 1.0}],
    )
    assert RunResult.from_json(full.to_json()) == full


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}', '{"schema": 2}', "null"])
def test_what_is_no_result(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UserError):
        RunResult.read(tmp_path)
    with pytest.raises(UserError, match="no run's result there"):
        RunResult.read(tmp_path / "nowhere")


def test_a_folder_with_a_run_in_it_is_not_written_over(tmp_path):
    with RunFolder(tmp_path, compose_run()) as folder:
        folder.finish(result())
    with pytest.raises(UserError, match="holds a run already"), RunFolder(tmp_path, compose_run()):
        pass


def test_folders_with_spaces_and_unicode_work_and_a_file_does_not(tmp_path):
    with RunFolder(tmp_path / "a b ☃", compose_run()):
        pass
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="can't write the run's folder"),
        RunFolder(tmp_path / "file" / "x", compose_run()),
    ):
        pass


def test_bad_input_found_late_is_reported_in_the_folder(tmp_path):
    with pytest.raises(UserError), RunFolder(tmp_path, compose_run()):
        raise UserError("dataset.text_column=x: no such column")
    assert RunResult.read(tmp_path).status is Status.FAILED
    assert "no such column" in RunResult.read(tmp_path).reason


def test_recorders_hand_on_in_order():
    seen = []

    class Spy(NullRecorder):
        def __init__(self, name):
            self.name = name

        def log(self, metrics, step):
            seen.append((self.name, step))

    both: Recorder = Recorders([Spy("a"), Spy("b"), NullRecorder()])
    both.log({"x": 1.0}, 7)
    assert seen == [("a", 7), ("b", 7)]


def test_an_atomic_write_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_atomically(path, "old")
    monkeypatch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://user:pass@host:5000/x", "http://***@host:5000/x"),
        (
            "tracking.uri=postgresql://me:secret@db/f and https://t@h",
            "tracking.uri=postgresql://***@db/f and https://***@h",
        ),
        (r"http\://me\:secret@host\:9", r"http\://***@host\:9"),  # as Hydra escapes a multirun's overrides
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("mail me@home.org", "mail me@home.org"),
        ("http://user:s3cr/e@t@host:1/x", "http://***@host:1/x"),
    ],
)
def test_passwords_in_uris_are_left_out(text, clean):
    assert redact(text) == clean


def test_provenance_has_versions_platform_and_git(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["/bin/frostline", "run", "tracking.uri=http://u:p@h"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "top-secret-value")
    seen = capture()
    assert seen["versions"]["torch"]
    assert seen["platform"]["cores"] >= 1
    assert seen["command"] == ["frostline", "run", "tracking.uri=http://***@h"]
    assert "top-secret-value" not in json.dumps(seen)
    assert git_state(tmp_path) is None


def test_git_state_tells_dirty_from_clean(tmp_path):
    import subprocess

    def git(*arguments):
        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x", *arguments], check=True
        )

    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "x")
    assert git_state(tmp_path)["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path)["dirty"] is True


def test_peak_memory_is_of_this_run_not_of_the_one_before():
    first = PeakMemory()
    block = bytearray(200_000_000)
    block[::4096] = b"x" * len(block[::4096])
    high = first.read()
    del block
    later = PeakMemory().read()
    assert high - later > 100_000_000


def test_an_environment_lists_packages_as_pip_takes_them_and_no_secrets(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("MKL_CONFIG", "http://me:hunter2@proxy:1")
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "PGPASSWORD", "HOME", "OMPX"):
        monkeypatch.setenv(name, "hunter2")
    seen = environment()
    assert seen["variables"]["OMP_NUM_THREADS"] == "3"
    assert seen["variables"]["MKL_CONFIG"] == "http://***@proxy:1"
    assert not {"HF_TOKEN", "HOME", "OMPX"} & seen["variables"].keys()
    assert "hunter2" not in json.dumps(seen)
    assert any(line.startswith("torch==2.") for line in seen["packages"])
    assert [line for line in seen["packages"] if line.startswith("frostline")]
    assert seen["packages"] == sorted(seen["packages"], key=lambda line: line.split("==")[0].split(" @")[0].lower())


def test_what_is_changed_beside_the_commit_is_kept_within_bounds(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    assert git_diff(tmp_path) is None  # no repository
    git("init")
    (tmp_path / "a.txt").write_text("one\n")
    git("add", ".")
    git("commit", "-m", "one")
    assert git_diff(tmp_path) is None
    (tmp_path / "a.txt").write_text("uri = 'postgresql://me:hunter2@host/db'\n")
    found = git_diff(tmp_path)
    assert "-one" in found
    assert "hunter2" not in found
    (tmp_path / "a.txt").write_text("x" * 5000)
    cut = git_diff(tmp_path, limit_bytes=1000)
    assert len(cut) < 1100
    assert "# cut: 5" in cut


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:p@ss@host/x", "http://***@host/x"),
        ("postgresql://h/db?user=me&password=hunter2&x=1", "postgresql://h/db?user=me&password=***&x=1"),
        ("mail me@host about http://host/a", "mail me@host about http://host/a"),
        (f"http://me:{'t' * 1500}@host/x", "http://***@host/x"),
        ("a=http://u:p@h b=https://v:q@i", "a=http://***@h b=https://***@i"),
    ],
)
def test_passwords_of_uris_are_taken_out(text, shown):
    assert redact(text) == shown


def test_a_long_line_of_addresses_is_no_trouble():
    began = time.monotonic()
    redact("http://host/path" * 20_000)
    assert time.monotonic() - began < 5


def test_an_address_without_its_user():
    assert without_user("http://me:p@ss@host:5000/x") == "http://host:5000/x"


def test_a_change_in_another_encoding_and_a_secret_file_in_the_diff(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "a.txt").write_bytes("gr\u00fcn\n".encode("latin-1"))
    (tmp_path / ".env").write_text("TOKEN=1\n")
    git("add", "-f", ".")
    git("commit", "-m", "one")
    (tmp_path / "a.txt").write_bytes("gr\u00fcner\n".encode("latin-1"))
    (tmp_path / ".env").write_text("TOKEN=hunter2\n")
    found = git_diff(tmp_path)
    assert "a.txt" in found
    assert "hunter2" not in found
