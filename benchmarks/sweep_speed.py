"""The trials of a sweep: a careful user's Trainer loop against frostline with its prefix cache.

A: for each trial Trainer with the embeddings and the lowest blocks frozen and pinned in eval mode, fused AdamW over the
   rest, dynamic padding, an evaluation each epoch; in one process, the model loaded anew for each trial.
B: `frostline.train.run` of the same specs in one process, as a sweep's warm worker does it, with folders, audit,
   hashes and checkpoints; `runtime.cache=auto`, an empty cache at the start, filling counted. `B warm`: once more.

Same rows, tokens, batches, order, epochs, threads and dtype (fp32, on the CPU). A and B alternate; the ratio of wall
times A / B is what counts, absolute times are of a shared machine.

    python benchmarks/sweep_speed.py [--depths 5] [--trials 10] [--epochs 3] [--rows 512] [--eval-rows 256]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from frostline.config import compose_run
from frostline.provenance import capture
from frostline.record import RunFolder, Sharing
from frostline.result import Status
from frostline.spec import RunSpec
from frostline.train import cached, run
from run_overhead import by_hand


def trials(options: argparse.Namespace) -> list[RunSpec]:
    """Returns the specs of the trials: the depths in turn, each at its own rate."""
    found = []
    for number in range(options.trials):
        depth = options.depths[number % len(options.depths)]
        overrides = [f"freeze.depth={depth}", f"optimizer.lr={1e-4 * 1.3**number:.3g}", "training.evaluate=epoch"]
        overrides += [f"dataset.train_rows={options.rows}", f"dataset.eval_rows={options.eval_rows}"]
        overrides += [f"training.epochs={options.epochs}", "runtime.device=cpu", f"runtime.threads={options.threads}"]
        found.append(compose_run([*overrides, "runtime.progress=off", "runtime.cache=auto"]))
    return found


def a_loop(specs: list[RunSpec]) -> float:
    """Returns the seconds of A."""
    began = time.perf_counter()
    for spec in specs:
        with tempfile.TemporaryDirectory() as name:
            by_hand(spec, Path(name))
    return time.perf_counter() - began


def b_loop(specs: list[RunSpec]) -> float:
    """Returns the seconds of B."""
    sharing = Sharing(num_runs=len(specs), depths=tuple(sorted({spec.freeze.depth or 0 for spec in specs})))
    began = time.perf_counter()
    for spec in specs:
        with tempfile.TemporaryDirectory() as name:
            with RunFolder(Path(name) / "run", spec) as folder:
                result = run(spec, folder, Path(name) / "run", sharing=sharing)
            assert result.status is Status.FINISHED, result.reason
    return time.perf_counter() - began


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=[5])
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--eval-rows", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    specs = trials(options)
    seen = capture()
    print(f"{seen['platform']['cpu']}, {options.threads} threads, torch {seen['versions']['torch']}, fp32")
    print(f"{options.trials} trials at depths {options.depths}, {options.epochs} epochs of {options.rows} rows")
    cold, warm = [], []
    own = Path(tempfile.mkdtemp(prefix="frostline-bench-")) / "prefix"
    cached.PREFIX_FOLDER = str(own)  # not the user's own cache
    for repeat in range(options.repeats):
        shutil.rmtree(own, ignore_errors=True)
        a, b, again = a_loop(specs), b_loop(specs), b_loop(specs)
        cold.append(a / b)
        warm.append(a / again)
        print(f"  {repeat + 1}: A {a:.1f} s, B {b:.1f} s, B warm {again:.1f} s", flush=True)
    for name, ratios in (("A / B", cold), ("A / B warm", warm)):
        print(f"{name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, n={len(ratios)})")


if __name__ == "__main__":
    main()
