"""What a trial of a sweep costs beside its training, and how long a sweep takes to its first training step.

Two sweeps alternate: with MLflow (SQLite, as by default) and with tracking=off. A is what a trial's run takes by
itself: its train_s, eval_s and setup_s (data, model, Trainer) of result.json, without MLflow. B is the time from one
trial's beginning to the next one's, with MLflow. B - A is what launcher, Optuna's journal, MLflow, folders and files
cost a trial in a warm worker. Trials train a tiny model, so that this is most of what there is.

    python benchmarks/sweep_overhead.py --trials 14 --repeats 5
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for _ in range(options.repeats):
        off, on = measure(options.trials, mlflow=False), measure(options.trials, mlflow=True)
        rows.append(
            {
                "overhead a trial, launcher and all stores (B - A)": on["trial_s"] - off["inside_s"],
                "overhead a trial without MLflow": off["trial_s"] - off["inside_s"],
                "start of the command to the first training step": on["first_step_s"],
            }
        )
    for name in rows[0]:
        values = sorted(row[name] for row in rows)
        middle = statistics.median(values)
        print(f"{name}: median {middle:.2f} s, {values[0]:.2f} to {values[-1]:.2f} (n={len(values)})")


def measure(trials: int, *, mlflow: bool) -> dict[str, float]:
    """Runs one sweep in an empty folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_parts(folder)
        command = [
            sys.executable, "-m", "frostline", "sweep", "lr_x_depth", "model=path", f"model.location={folder / 'tiny'}",
            "dataset=csv", f"dataset.location={folder / 'moods.csv'}", "training.batch_size=16",
            "training.max_tokens=32", "training.epochs=1", "runtime.device=cpu", "runtime.threads=1",
            f"sweep.n_trials={trials}", "sweep.settle=0", "sweep.baseline=false",
        ]  # fmt: skip
        if not mlflow:
            command.append("tracking=off")
        env = {**os.environ, "FROSTLINE_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
        began = time.time()
        subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
        runs = folder / "runs" / "lr_x_depth"
        results = [json.loads(path.read_text()) for path in sorted(runs.glob("*/result.json"))]
        logs = [path.read_text() for path in sorted(runs.glob("*/run.log"))]
        first_step = min(stamp(log, "training on") for log in logs)
        # Of the trials after the first: it pays for caches that all of them use.
        begins = sorted((runs / f"{number:03d}" / "spec.json").stat().st_mtime for number in range(trials))
        wall = begins[-1] - begins[1]
        inside = sum(sum(result["cost"][key] for key in ("train_s", "eval_s", "setup_s")) for result in results[1:-1])
        num = trials - 2
        return {"trial_s": wall / num, "inside_s": inside / num, "first_step_s": first_step - began}


def stamp(log: str, words: str) -> float:
    """Returns the time of a log line."""
    line = next(line for line in log.splitlines() if words in line)
    match = re.match(r"(\S+ \S+) ", line)
    assert match is not None
    return datetime.strptime(match.group(1), "%Y-%m-%d %H:%M:%S,%f").timestamp()


def make_parts(folder: Path) -> None:
    """Makes the tiny model and data of the tests."""
    import torch
    from tests.conftest import save_tokenizer, sentences, tiny_config, write_csv
    from transformers import BertModel

    target = folder / "tiny"
    target.mkdir()
    torch.manual_seed(0)
    BertModel(tiny_config()).save_pretrained(target)
    save_tokenizer(target)
    write_csv(folder / "moods.csv", sentences(160))


if __name__ == "__main__":
    main()
