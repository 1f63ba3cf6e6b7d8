"""What frostline's records, audit and callbacks cost over a plain Trainer script that freezes correctly.

A: what a careful user writes by hand (benchmarks/careful.py). No audit, no hashes, no records.
B: `frostline.train.run` of the same spec, recorded in its folder (MLflow off), without anything that saves computation:
   no prefix cache, rows at random, the last block for all positions.

Same rows, tokens, batches, threads and dtype (fp32), in one process, alternating, model loaded anew each time. The
ratio B / A of wall times is what counts; absolute times are of a shared machine.

    python benchmarks/run_overhead.py [--repeats 5] [--rows 512] [--depth 5]
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

from careful import careful, plain
from frostline.config import compose_run
from frostline.provenance import capture
from frostline.records.run_context import RunContext
from frostline.records.run_folder import RunFolder
from frostline.spec import RunSpec
from frostline.train import run


def by_frostline(spec: RunSpec, folder: Path) -> None:
    """B: the same run, recorded and audited."""
    with RunFolder(folder, spec) as recorder:
        run(spec, RunContext(recorder, folder))


def main() -> None:
    """Alternates A and B and prints medians, ranges and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--depth", type=int, default=5)
    options = parser.parse_args()
    overrides = [f"dataset.train_rows={options.rows}", "dataset.eval_rows=256", f"freeze.depth={options.depth}"]
    spec = plain(compose_run([*overrides, "runtime.progress=off", "runtime.device=cpu"]))
    scratch = Path(tempfile.mkdtemp(prefix="frostline-bench-"))
    times: dict[str, list[float]] = {"A": [], "B": []}
    for repeat in range(options.repeats + 1):  # the first round warms caches and is left out
        for name, work in (("A", careful), ("B", by_frostline)):
            folder = scratch / f"{name}{repeat}"
            began = time.perf_counter()
            work(spec, folder)
            if repeat:
                times[name].append(time.perf_counter() - began)
            shutil.rmtree(folder)
    shutil.rmtree(scratch)
    ratios = [b / a for a, b in zip(times["A"], times["B"], strict=True)]
    platform = capture()["platform"]
    print(
        f"{platform['cpu']}, {torch.get_num_threads()} threads, torch {torch.__version__}, fp32, {' '.join(overrides)}"
    )
    for name, label in (("A", "plain Trainer"), ("B", "frostline")):
        values = times[name]
        spread = f"range {min(values):.2f} to {max(values):.2f} s"
        print(f"{name} {label:14} median {statistics.median(values):.2f} s, {spread}")
    print(
        f"B / A: median {statistics.median(ratios):.3f}, range {min(ratios):.3f} to {max(ratios):.3f} (n={len(ratios)})"
    )


if __name__ == "__main__":
    main()
