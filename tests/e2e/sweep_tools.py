"""What the sweep tests share: a command in a process of its own, and what it left behind."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from frostline.cli.sweeping.folder import SweepFolder
from frostline.point import Point

TWO_EPOCHS = ("training.epochs=2",)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "frostline", *arguments]


@cache
def _fresh_store() -> Path:
    """A migrated, empty MLflow database: making one takes some six seconds, copying it none."""
    from frostline.tracking import client

    path = Path(tempfile.mkdtemp(prefix="frostline-store-")) / "mlflow.db"
    client(f"sqlite:///{path}")
    return path


def start(*arguments: str, cwd: Path, **env: str) -> subprocess.Popen[str]:
    """A frostline command in a session of its own: its signals are its own."""
    if not (cwd / "mlflow.db").exists() and "tracking=off" not in arguments and arguments[0] in {"sweep", "run"}:
        shutil.copyfile(_fresh_store(), cwd / "mlflow.db")
    return subprocess.Popen(
        command(*arguments), cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, **env}, start_new_session=True,
    )  # fmt: skip


def call(*arguments: str, cwd: Path, timeout: float = 240, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a frostline command to its end; kills it when it takes too long."""
    process = start(*arguments, cwd=cwd, **env)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"timed out:\n{out}\n{err}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def interrupt(process: subprocess.Popen[str], signum: int = signal.SIGINT) -> None:
    os.kill(process.pid, signum)


def wait_for(condition, limit_s: float = 60.0, what: str = "it"):
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen in {limit_s:g} s")


def points(folder: Path) -> list[Point]:
    return SweepFolder(folder).read_points()


def answer_rows(folder: Path) -> list[tuple]:
    """The final table: all that a sweep came to but times."""
    with (folder / "report" / "points.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [tuple(value for key, value in row.items() if key != "train_s") for row in rows]


def mlflow_runs(cwd: Path):
    """All runs of the working directory's MLflow store."""
    from frostline.tracking import client

    made = client(f"sqlite:///{cwd / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in made.search_experiments()]
    return made.search_runs(experiments, max_results=1000)


def worker_pids(parent: int) -> list[int]:
    """The spawned workers of a sweep's process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            line = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == parent and b"spawn_main" in line:
            found.append(int(stat.parent.name))
    return found


def results(folder: Path) -> dict[str, dict]:
    return {
        str(path.parent.relative_to(folder)): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*/result.json")) + sorted(folder.glob("*/s*/result.json"))
    }
