"""What the sweep tests share: a command in a process of its own, and what it left behind."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from frostline.records.trial import TrialRecord
from frostline.sweeps.folder import BASELINE_FOLDER, SweepFolder
from tests.conftest import fresh_store
from tests.support.forked import Forked, is_read_at_import

TWO_EPOCHS = ("training.epochs=2",)

TRIALS_ALONE = ("sweep.settle=0", "sweep.baseline=false")
"""No further seeds, no full fine-tuning: for tests of what trials do."""

RUNG = ("sweep.sampler=tpe", "sweep.promote_fraction=0.25", *TRIALS_ALONE)
"""A coarse grid, then TPE; one epoch for all, the rest for the best quarter."""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "frostline", *arguments]


_started: list[Forked | subprocess.Popen[str]] = []


def end_what_was_started() -> None:
    """Ends the commands that a test left running: they would keep the cores from the next ones."""
    while _started:
        process = _started.pop()
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None and not hasattr(process, "_readers"):
                stream.close()


def start(
    *arguments: str, cwd: Path, as_users_do: bool = False, before: str = "", **env: str
) -> Forked | subprocess.Popen[str]:
    """A frostline command in a session of its own: its signals are its own.

    Args:
        arguments: The command's.
        cwd: Where.
        as_users_do: Nothing of it is imported beforehand: its workers are forks of a template of its own.
        before: Python that the process runs first, as to break something; not `as_users_do`.
        env: What differs from our environment.
    """
    records = arguments[0] in {"sweep", "run"} and not {"tracking=off", "--plan"} & set(arguments)
    if records and not (cwd / "mlflow.db").exists():
        fresh_store(cwd / "mlflow.db")
    everything = {**os.environ, **env}
    if not as_users_do and not any(map(is_read_at_import, env)):
        _started.append(Forked(list(arguments), cwd, everything, before))
        return _started[-1]
    assert not before
    process = subprocess.Popen(
        command(*arguments), cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=everything, start_new_session=True,
    )  # fmt: skip
    _started.append(process)
    return process


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


def wait_for(condition, limit_s: float = 180.0, what: str = "it"):
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        for process in _started:
            if process.poll() == 2:  # it refused its input: nobody need wait for it
                raise AssertionError(f"{what} did not happen: {process.communicate()[1]}")
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen in {limit_s:g} s")


def trials_in(folder: Path) -> list[TrialRecord]:
    """The trials: without full fine-tuning, which is none."""
    return [trial for trial in SweepFolder(folder).read_trials() if not trial.is_baseline]


def answer_rows(folder: Path) -> list[tuple]:
    """The final table: all results of a sweep but times."""
    with (folder / "report" / "trials.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [tuple(value for key, value in row.items() if key != "train_s") for row in rows]


def mlflow_runs(cwd: Path):
    """All runs of the working directory's MLflow store."""
    from frostline.tracking import client

    made = client(f"sqlite:///{cwd / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in made.search_experiments()]
    return made.search_runs(experiments, max_results=1000)


def worker_pids(parent: int) -> list[int]:
    """The workers of a sweep that was started `as_users_do`: forks of its template, which is left out."""
    of: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            line = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if b"multiprocessing.forkserver" in line:
            of[int(stat.parent.name)] = int(fields[1])
    return [pid for pid, template in of.items() if of.get(template) == parent]


def results(folder: Path) -> dict[str, dict]:
    return {
        str(path.parent.relative_to(folder)): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*/result.json")) + sorted(folder.glob("*/s*/result.json"))
        if BASELINE_FOLDER not in path.parts
    }
