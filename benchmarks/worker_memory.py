"""Whether a warm worker grows: its memory after each of many trials of a tiny model, all in one process.

The slope is that of a straight line through the trials after the first tenth, in which caches fill.

    python benchmarks/worker_memory.py --trials 500
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from sweep_overhead import make_parts


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--mlflow", action="store_true", help="record in MLflow (SQLite), which is off otherwise")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="frostline-bench-") as name:
        folder = Path(name)
        make_parts(folder)
        command = [
            sys.executable, "-m", "frostline", "sweep", "lr_x_depth", "model=path", f"model.location={folder / 'tiny'}",
            "dataset=csv", f"dataset.location={folder / 'moods.csv'}", "training.batch_size=16", "sweep.sampler=random",
            "training.max_tokens=32", "training.epochs=1", "runtime.device=cpu", "runtime.threads=1", "runtime.slots=1",
            f"sweep.n_trials={options.trials}", "sweep.settle=0", "sweep.baseline=false", "sweep.keep_models=none",
            *([] if options.mlflow else ["tracking=off"]),
        ]  # fmt: skip
        env = {**os.environ, "FROSTLINE_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(
            command, cwd=folder, env=env, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        seen: list[float] = []
        workers: set[int] = set()
        for line in process.stderr:
            if line.startswith("["):
                worker = worker_of(process.pid)
                workers.add(worker)
                seen.append(rss(worker))
                if len(seen) % 50 == 0:
                    print(f"{len(seen)} trials: worker {seen[-1] / 1e6:.1f} MB, parent {rss(process.pid) / 1e6:.1f} MB")
                    sys.stdout.flush()
        assert process.wait() == 0
        assert len(seen) == options.trials
        assert len(workers) == 1, "the worker was replaced"
    first = options.trials // 10
    slope = np.polyfit(np.arange(first, options.trials), seen[first:], 1)[0]
    print(f"a warm worker grows by {slope / 1e3:.1f} kB a trial, over trials {first} to {options.trials}")


def worker_of(parent: int) -> int:
    """Returns the process id of the worker: the fork of the parent's template."""
    templates = children(parent)
    found = [pid for template in templates for pid in children(template)]
    assert len(found) == 1, found
    return found[0]


def children(pid: int) -> list[int]:
    """Returns the children of a process."""
    return [int(word) for task in Path(f"/proc/{pid}/task").glob("*/children") for word in task.read_text().split()]


def rss(pid: int) -> float:
    """Returns the resident memory of a process, in bytes."""
    match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return 1024.0 * int(match.group(1))


if __name__ == "__main__":
    main()
