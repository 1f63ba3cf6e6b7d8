"""Damaged and hostile folders: reported in one line, repaired, or refused; never another answer in silence."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from frostline import assets
from frostline.hashes import hashes_of
from frostline.records.run_folder import RECORDED_FILES
from tests.conftest import rewrite
from tests.e2e.sweep_tools import TRIALS_ALONE, call, mlflow_runs, start, trials_in, wait_for
from tests.unit.assets.test_fetch import FILES, index, model_spec, wheel  # noqa: F401

FEW = ("training.max_steps=2", "training.epochs=null", "tracking=off")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_overrides):
    """A folder with a run in `run/` and a sweep of four trials in `runs/s/`, to be copied."""
    home = tmp_path_factory.mktemp("trained")
    test_rows = ("dataset.test_fraction=0.2",)
    done = call("run", *tiny_overrides, *FEW, *test_rows, "hydra.run.dir=run", cwd=home, timeout=120)
    assert done.returncode == 0, done.stderr
    done = call("sweep", "lr_x_depth", *sweep_words(tiny_overrides), cwd=home, timeout=200)
    assert done.returncode == 0, done.stderr
    return home


def sweep_words(tiny_overrides):
    tiny = [each for each in tiny_overrides if not each.startswith(("optimizer.lr=", "freeze"))]
    return (*tiny, "sweep.name=s", "sweep.n_trials=4", *FEW, *TRIALS_ALONE)


@pytest.fixture
def home(trained, tmp_path):
    """A copy of `trained` to damage."""
    copy = tmp_path / "home"
    shutil.copytree(trained, copy, symlinks=True)
    return copy


def flip(path: Path, at: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(bytes(data))


def cut(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def answer(home: Path) -> dict[str, object]:
    reported = json.loads((home / "runs/s/report/recommended.json").read_text())
    return {key: reported[key] for key in ("trial", "params") if key in reported}


def one_line(done, code: int, *words: str) -> None:
    """Asserts that a command ended with one line on stderr that holds some words."""
    assert done.returncode == code, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0], done.stderr


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
    for command in (("predict", "run", "a text"), ("embed", "run", "--out=x.parquet"), ("test", "run")):
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
    for command in ("test", "reproduce"):
        one_line(call(command, "run", cwd=home, timeout=60), 2, "--metric canary.py")
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


@pytest.mark.parametrize("share", [0.0, 0.33, 0.67, 0.9])
def test_a4_a_journal_that_was_cut_gives_the_same_table(home, tiny_overrides, share):
    before = answer(home)
    rows = (home / "runs/s/report/trials.csv").read_text()
    cut(home / "runs/s/journal.log", share)
    done = call("sweep", "lr_x_depth", *sweep_words(tiny_overrides), cwd=home, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 trials are done" in done.stderr
    assert "rebuilt from" in done.stderr
    assert answer(home) == before
    assert (home / "runs/s/report/trials.csv").read_text() == rows


@pytest.fixture
def listener():
    """An HTTP server that notes what reaches it."""
    received: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def _note(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            received.append((self.path, self.headers.get("Authorization")))
            self.send_error(500)

        do_GET = do_POST = do_PUT = _note  # noqa: N815

        def log_message(self, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", received
    server.shutdown()
    server.server_close()
    thread.join()


def pend(folder: Path, uri: str, **more: object) -> None:
    """Makes a folder one that MLflow has missed, as a stranger could."""
    place = {"uri": uri, "experiment": "e", "log_model": True, "tags": {}}
    missed = {"kind": "run", "tracking": place, "child": None, "why": "", **more}
    (folder / ".mlflow-pending.json").write_text(json.dumps(missed))


def test_a12_sync_sends_nothing_to_an_address_that_a_record_names(home, listener):
    uri, received = listener
    (home / "runs/strange").mkdir()
    shutil.copytree(home / "run", home / "runs/strange/run")
    pend(home / "runs/strange/run", uri)
    done = call("sync", cwd=home, timeout=60, MLFLOW_TRACKING_TOKEN="geheim")
    one_line(done, 2, f"belongs to {uri}, not to sqlite:///mlflow.db", f"tracking.uri={uri}")
    assert received == []
    done = call("sync", f"tracking.uri={uri}", cwd=home, timeout=60)  # named by the user it is asked
    assert done.returncode == 2
    assert received


def test_a12_sync_sends_regular_files_of_the_folder_alone(home):
    from mlflow import MlflowClient

    (home / "secret").mkdir()
    (home / "secret/key.txt").write_text("geheim")
    (home / "run/notes.txt").symlink_to(home / "secret/key.txt")
    (home / "run/more").symlink_to(home / "secret")
    (home / "run/model/key.json").symlink_to(home / "secret/key.txt")
    pend(home / "run", "sqlite:///mlflow.db")
    ending = {
        "status": "FINISHED", "tags": {}, "best": "../../run", "with_model": True,
        "files": ["report/report.html", str(home / "secret/key.txt"), "../../secret/key.txt", "out/key.txt"],
    }  # fmt: skip
    (home / "runs/s/out").symlink_to(home / "secret")
    sweep = {"kind": "sweep", "name": "s", "params": {}, "metrics": [], "view": None, "ending": ending}
    pend(home / "runs/s", "sqlite:///mlflow.db", **sweep)
    done = call("sync", "run", "runs", cwd=home, timeout=120)
    assert "recorded: runs/s" in done.stdout, done.stdout + done.stderr
    assert f"{home.name}" not in done.stdout
    assert "is a link" in done.stderr  # its model is not uploaded from a folder with links
    made = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    experiment = made.get_experiment_by_name("e").experiment_id
    sent = set()
    for run in made.search_runs([experiment]):
        folders = [""]
        for folder in folders:
            for item in made.list_artifacts(run.info.run_id, folder or None):
                (folders.append(item.path) if item.is_dir else sent.add(item.path))
    assert {"report.html", "spec.json"} <= sent
    assert not [name for name in sent if "key" in name or "notes" in name]


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


FULL = "No space left on device; mend that (df -h shows what is full); the same command resumes"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["worker", "parent_too"])
def test_a2_a_full_disk_stops_the_sweep_and_the_same_command_resumes(trained, tmp_path, tiny_overrides, where):
    full = tmp_path / "full"
    words = (*sweep_words(tiny_overrides), "plugins=[full_disk_plugin]")
    env = {"PYTHONPATH": str(Path(__file__).parents[1] / "e2e"), "FULL_DISK": str(full)}
    process = start("sweep", "lr_x_depth", *words, cwd=tmp_path, **env)
    folder = tmp_path / "runs/s"
    wait_for(lambda: len(list(folder.glob("*/trial.json"))) == 1)
    full.write_text(str(process.pid) if where == "worker" else "")
    _, err = process.communicate(timeout=100)
    assert process.returncode == 2, err
    lines = [line for line in err.splitlines() if line.startswith("frostline: ")]
    assert len(lines) == 1, err
    assert FULL in lines[0]
    assert "FAILED" not in err
    full.unlink()
    done = call("sweep", "lr_x_depth", *words, cwd=tmp_path, timeout=100, **env)
    assert done.returncode == 0, done.stderr
    ours, theirs = trials_in(folder), trials_in(trained / "runs/s")
    assert [(p.params, p.state, p.by_seed) for p in ours] == [(p.params, p.state, p.by_seed) for p in theirs]


@pytest.mark.parametrize("damage", ["flip", "cut", "removed"])
def test_a7_an_unpacked_file_that_is_damaged_is_unpacked_again(index, caplog, damage):  # noqa: F811
    data = wheel(FILES)
    index.files["demo-1.0-py3-none-any.whl"] = data
    spec = model_spec(data, "demo/model")
    path = assets.model_folder(spec) / "sub/weights"
    hits = len(index.hits)
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(b"wwx" if damage == "flip" else b"w")
    assert (assets.model_folder(spec) / "sub/weights").read_bytes() == b"www"
    assert "is damaged: unpacking it again" in caplog.text
    assert len(index.hits) == hits  # the archive is still there


@pytest.mark.parametrize("damage", [cut, flip], ids=["cut", "flipped"])
def test_a8_a_damaged_converted_table_is_converted_again(home, tiny_overrides, damage):
    env = {"FROSTLINE_HOME": str(home / "cache")}
    words = ("run", *tiny_overrides, *FEW, "dataset.test_fraction=0.2")
    assert call(*words, "hydra.run.dir=a", cwd=home, timeout=60, **env).returncode == 0
    tables = sorted((home / "cache/datasets").rglob("*.arrow"))
    assert len(tables) >= 3
    for number, table in enumerate(tables):
        before = table.read_bytes()
        damage(table)
        done = call(*words, f"hydra.run.dir=b{number}", cwd=home, timeout=60, **env)
        assert done.returncode == 0, done.stderr
        assert "a converted table is damaged: converting it again" in done.stderr
        assert table.read_bytes() == before
        assert (home / f"b{number}/metrics.jsonl").read_bytes() == (home / "a/metrics.jsonl").read_bytes()


@pytest.mark.parametrize("damage", [cut, flip], ids=["cut", "flipped"])
def test_a8_a_damaged_table_of_a_hub_data_set_is_converted_again(tmp_path, damage):
    (tmp_path / "set").mkdir()
    for split, first in (("train", 0), ("validation", 40)):
        text = "".join(f"a text {n},{'good' if n % 2 else 'bad'}\n" for n in range(first, first + 40))
        (tmp_path / f"set/{split}.csv").write_text(f"text,label\n{text}")
    script = (
        "from frostline.config import compose_run\n"
        "from frostline.data.load import load_rows\n"
        "from pathlib import Path\n"
        "import sys\n"
        "words = ['dataset=hub', f'dataset.location={sys.argv[1]}', 'dataset.eval_from=validation']\n"
        "rows = load_rows(compose_run(words).dataset, None, Path(sys.argv[2]))\n"
        "print(rows.fingerprint, rows.train['text'][:], rows.train['labels'][:])\n"
    )

    def rows() -> subprocess.CompletedProcess[str]:  # each time in a process of its own
        command = [sys.executable, "-c", script, str(tmp_path / "set"), str(tmp_path / "cache")]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    before = rows()
    tables = sorted((tmp_path / "cache").rglob("*.arrow"))
    assert len(tables) >= 2
    for table in tables:
        damage(table)
        after = rows()
        assert after.stdout == before.stdout
        assert "a converted table is damaged: converting it again" in after.stderr


@pytest.mark.slow
def test_a16_nobody_and_nothing_is_left_when_the_parent_is_killed(tmp_path, tiny_overrides):
    scratch = Path(tempfile.mkdtemp())  # short enough for a socket in it
    env = {"PYTHONPATH": str(Path(__file__).parents[1] / "e2e"), "SLOW_S": "0.5", "TMPDIR": str(scratch)}
    words = (*sweep_words(tiny_overrides), "plugins=[sweep_plugin]", "optimizer.name=slow", "tracking=mlflow")
    process = start("sweep", "lr_x_depth", *words, cwd=tmp_path, as_users_do=True, **env)
    before = set(descendants(process.pid))
    wait_for(lambda: len(before.update(descendants(process.pid)) or before) >= 2)  # the template imports for seconds
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 3.0
    while any(is_alive(pid) for pid in before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in before if is_alive(pid)]
    assert list(scratch.iterdir())  # what it could not remove
    again = start("list", "models", cwd=tmp_path, as_users_do=True, **env)
    assert again.wait(60) == 0
    assert list(scratch.iterdir()) == []
    scratch.rmdir()


def descendants(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found += [int(stat.parent.name), *descendants(int(stat.parent.name))]
    return found


def is_alive(pid: int) -> bool:
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a15_escape_sequences_do_not_reach_the_terminal(home, tiny_overrides):
    loud = home / "loud.csv"
    labels = ("good", "ba\x1b[2Jd")
    rows = "".join(f'"text {n}","{labels[n % 2]}"\n' for n in range(80))
    loud.write_text("text,label\n" + rows)
    given = ("model=path", tiny_overrides[1], "dataset=csv", f"dataset.location={loud}", *tiny_overrides[4:])
    shown = []
    done = call("run", *given, *FEW, "hydra.run.dir=loud", cwd=home, timeout=60)
    assert done.returncode == 0, done.stderr
    shown += [done, call("predict", "loud", "a \x1b]0;title\x07text", cwd=home, timeout=60)]
    assert r"\x1b" in shown[-1].stdout
    rewrite(home / "runs/s/sweep.json", lambda data: data["command"].append("+x=\x1b[31mred"))
    shown.append(call("report", "s", cwd=home, timeout=60))
    assert r"+x=\x1b[31mred" in shown[-1].stdout
    rewrite(home / "run/result.json", lambda data: data["provenance"]["versions"].update(torch="\x1b[5m"))
    shown.append(call("reproduce", "run", "tracking=off", cwd=home, timeout=60))
    assert r"\x1b[5m" in shown[-1].stdout + shown[-1].stderr
    shown.append(call("report", "\x1b[31m", cwd=home, timeout=60))
    for done in shown:
        assert "\x1b" not in done.stdout + done.stderr


def test_a17_no_password_is_recorded_and_the_diff_can_be_left_out(tmp_path, tiny_overrides):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "notes.txt").write_text("a")
    subprocess.run(["git", "add", "-A"], cwd=tmp_path, check=True)
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *who, "commit", "-qm", "a"], cwd=tmp_path, check=True)
    (tmp_path / "notes.txt").write_text("geheim3")
    few = ("training.max_steps=2", "training.epochs=null")
    tags = ("tracking.tags.db=postgresql://me:geheim1@host/db", "tracking.tags={src: 's3://k:geheim2@bucket', a: b}")
    done = call("run", *tiny_overrides, *few, *tags, "tracking.git_diff=false", cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    [run] = mlflow_runs(tmp_path)
    assert run.data.tags["a"] == "b"
    assert run.data.tags["db"] == "postgresql://***@host/db"
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != "notes.txt" and ".git" not in path.parts:
            assert b"geheim" not in path.read_bytes(), path
    assert not list(tmp_path.rglob("git.diff"))


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("command", ["predict", "test", "reproduce", "embed"])
def test_a14_a_record_that_blows_up_is_one_line(home, command):
    (home / "run/spec.json").write_text(BOMB)
    more = {"predict": ["a text"], "embed": ["--out=x.parquet"]}.get(command, [])
    one_line(call(command, "run", *more, cwd=home, timeout=20), 2, "spec")


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


@pytest.mark.slow
def test_a3_a_trial_whose_worker_was_killed_is_trained_again(tmp_path, tiny_overrides):
    words = (*sweep_words(tiny_overrides), "plugins=[sweep_plugin]", "optimizer.name=killed_once")
    env = {"PYTHONPATH": str(Path(__file__).parents[1] / "e2e")}
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "killed.txt").touch()
    assert call("sweep", "lr_x_depth", *words, cwd=whole, timeout=120, **env).returncode == 0
    done = call("sweep", "lr_x_depth", *words, cwd=tmp_path, timeout=120, **env)
    assert done.returncode == 0, done.stderr
    assert "killed by signal 9 (out of memory?): trained again from its last checkpoint" in done.stderr
    ours, theirs = trials_in(tmp_path / "runs/s"), trials_in(whole / "runs/s")
    assert [(p.params, p.state, p.by_seed) for p in ours] == [(p.params, p.state, p.by_seed) for p in theirs]
    assert [p.outcome.note is not None for p in ours] == [True, False, False, False]


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
    one_line(call("sync", "run", cwd=home, timeout=60), 2, "predictions.parquet", "differs from the run's record")
    assert (home / "run/.mlflow-pending.json").exists()
