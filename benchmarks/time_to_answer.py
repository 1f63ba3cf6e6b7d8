"""How long until a sweep has its answer: `frostline sweep`, as configured by default, against a careful loop.

B: the command `frostline sweep lr_x_depth sweep.settle=0 sweep.baseline=false`, from its start on, processes and
   imports included: all defaults (the opening and the search of sampler `frost`, prefix cache, like lengths, read
   position), MLflow off.
A: the same settings, each trained to the end of its epochs by Trainer, correctly frozen (benchmarks/careful.py), in one
   warm process, imports not counted. Each epoch's evaluation counts. When its first good setting comes is luck: the
   median over 2,000 random orders is reported.

The answer is there when the best held-out accuracy seen so far is within 0.5 points of the best that either ever sees.

    python benchmarks/time_to_answer.py [--rows 1024] [--eval-rows 512] [--points 14] [--repeats 1]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from careful import careful
from frostline.config import compose_run
from frostline.provenance import capture

Seen = list[tuple[float, float]]
"""Seconds since the start, accuracy."""


def common(options: argparse.Namespace) -> list[str]:
    """Returns the overrides of both."""
    rows = [f"dataset.train_rows={options.rows}", f"dataset.eval_rows={options.eval_rows}"]
    return [*rows, "tracking=off", "runtime.device=cpu"]


def by_frostline(options: argparse.Namespace, folder: Path) -> tuple[Seen, list[tuple[int, float]], float]:
    """Returns what B saw and when, its points, and the seconds until its end."""
    command = [sys.executable, "-m", "frostline", "sweep", "lr_x_depth", *common(options)]
    command += [f"sweep.n_trials={options.points}", "sweep.settle=0", "sweep.baseline=false"]
    # An empty cache, but the model and the rows as they were fetched.
    from frostline import assets

    home = folder / "home"
    home.mkdir(parents=True)
    for path in assets.home().iterdir():
        if path.name != "prefix":
            (home / path.name).symlink_to(path)
    env = {**os.environ, "FROSTLINE_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    began, seen = time.perf_counter(), []
    with subprocess.Popen(
        command, cwd=folder, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.match(r"\[\d+/\d+\] .*: accuracy ([\d.]+)", line):
                seen.append((time.perf_counter() - began, float(found[1])))
    assert process.returncode == 0, process.returncode
    points = []
    for path in sorted((folder / "runs" / "lr_x_depth").glob("[0-9]*/point.json")):
        params = json.loads(path.read_text())["params"]
        points.append((int(params["freeze.depth"]), float(params["optimizer.lr"])))
    return seen, points, time.perf_counter() - began


def by_hand(options: argparse.Namespace, points: list[tuple[int, float]]) -> tuple[Seen, float]:
    """Returns what A saw and when, and the seconds until its end."""
    spent, seen = 0.0, []
    for depth, rate in points:
        overrides = [f"freeze.depth={depth}", f"optimizer.lr={rate!r}", "training.epochs=3", "runtime.progress=off"]
        spec = compose_run([*common(options), *overrides, f"runtime.threads={options.threads}"])
        began = time.perf_counter()

        def tell(epoch: int, accuracy: float, start: float = began - spent) -> bool:
            del epoch
            seen.append((time.perf_counter() - start, accuracy))
            return False

        with tempfile.TemporaryDirectory() as name:
            careful(spec, Path(name), tell)
        spent += time.perf_counter() - began
    return seen, spent


def first(seen: Seen, target: float) -> float:
    """Returns when the target was reached; infinite if never."""
    return min((seconds for seconds, accuracy in seen if accuracy >= target), default=float("inf"))


def steps(seen: Seen, began: float = 0.0) -> Seen:
    """Returns what was seen with the seconds since what was seen before."""
    before = [began, *(seconds for seconds, _ in seen)]
    return [(seconds - earlier, accuracy) for (seconds, accuracy), earlier in zip(seen, before, strict=False)]


def reordered(theirs: Seen, num_points: int, target: float, times: int = 2000) -> list[float]:
    """Returns when A would have had the answer if its settings came in other orders, in seconds."""
    epochs = len(theirs) // num_points
    parts = steps(theirs)
    points = [parts[epochs * number : epochs * (number + 1)] for number in range(num_points)]
    rng = random.Random(0)
    orders = (rng.sample(range(num_points), num_points) for _ in range(times))
    return sorted(_until([step for number in order for step in points[number]], target) for order in orders)


def _until(taken: Seen, target: float) -> float:
    spent = 0.0
    for seconds, accuracy in taken:
        spent += seconds
        if accuracy >= target:
            return spent
    return float("inf")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--eval-rows", type=int, default=512)
    parser.add_argument("--points", type=int, default=14)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write what each saw, and when, into this file")
    options = parser.parse_args()
    seen = capture()
    cpu, version = seen["platform"]["cpu"], seen["versions"]["torch"]
    print(f"{cpu}, {options.threads} threads, torch {version}, fp32")
    answers, wholes = [], []
    for repeat in range(options.repeats):
        with tempfile.TemporaryDirectory(prefix="frostline-bench-") as name:
            ours, points, ours_s = by_frostline(options, Path(name))
        theirs, theirs_s = by_hand(options, points)
        if options.json:
            options.json.write_text(json.dumps({"points": points, "A": theirs, "B": ours}))
        best = max(accuracy for _, accuracy in (*ours, *theirs))
        a, b = first(theirs, best - 0.005), first(ours, best - 0.005)
        print(
            f"  {repeat + 1}: best {best:.4f} (A {max(x for _, x in theirs):.4f}, B {max(x for _, x in ours):.4f}); "
            f"answer after A {a:.0f} s, B {b:.0f} s; all {len(points)} points A {theirs_s:.0f} s, B {ours_s:.0f} s",
            flush=True,
        )
        found = reordered(theirs, len(points), best - 0.005)
        tenth = len(found) // 10
        print(
            f"     A in {len(found)} random orders: median {statistics.median(found):.0f} s, of eight in ten "
            f"{found[tenth]:.0f} to {found[-tenth]:.0f} s",
            flush=True,
        )
        answers.append(statistics.median(found) / b)
        wholes.append(theirs_s / ours_s)
    for what, ratios in (("time to answer, median order of A", answers), ("whole search", wholes)):
        print(
            f"{what}, A / B: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, n={len(ratios)})"
        )


if __name__ == "__main__":
    main()
