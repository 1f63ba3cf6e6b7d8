"""What reaches a store, a terminal or another machine."""

from __future__ import annotations

import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.cases.damaged import FEW, one_line, pend
from tests.conftest import rewrite
from tests.support.sweep_tools import call, mlflow_runs

pytestmark = pytest.mark.slow


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


def test_a12_sync_sends_nothing_to_an_address_that_a_record_names(home, listener):
    uri, received = listener
    (home / "runs/strange").mkdir()
    shutil.copytree(home / "run", home / "runs/strange/run")
    pend(home / "runs/strange/run", uri)
    done = call("ui", "--sync", cwd=home, timeout=60, MLFLOW_TRACKING_TOKEN="geheim")
    one_line(done, 2, f"belongs to {uri}, not to sqlite:///mlflow.db", f"tracking.uri={uri}")
    assert received == []
    done = call("ui", "--sync", f"tracking.uri={uri}", cwd=home, timeout=60)  # named by the user it is asked
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
    done = call("ui", "--sync", "run", "runs", cwd=home, timeout=120)
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
    shown.append(call("show", "loud", cwd=home, timeout=60))
    assert shown[-1].returncode == 0
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
