"""How cost grows: time and bytes of the prefix cache against rows, tokens, depth and trials, in four short curves.

For each setting the cache is emptied and one trial of one epoch is run: `fill` is what computing the hidden states
took, `step` the training after it, over its steps. The curve over trials is the wall time of that many trials at depth
5, with the cache (filling counted) and without, by frostline both times. One process; times are of one machine and one
run, the form of the curves is what they show. A picture is drawn to docs/growth.png.

    python benchmarks/growth.py [--rows 1024] [--out docs/growth.png]
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from frostline.config import compose_run
from frostline.prefix_cache import attach
from frostline.provenance import capture
from frostline.records.result import Status
from frostline.records.run_context import RunContext, Sharing
from frostline.records.run_folder import RunFolder
from frostline.train import run

EVAL_ROWS = 128


def trained(prefix: Path, sharing: Sharing, *overrides: str) -> Any:
    """Returns the cost of a trial."""
    fixed = [f"dataset.eval_rows={EVAL_ROWS}", "tracking=off", "runtime.device=cpu", "runtime.progress=off"]
    spec = compose_run([*fixed, f"runtime.threads={torch.get_num_threads()}", *overrides])
    attach.PREFIX_FOLDER = str(prefix)
    with tempfile.TemporaryDirectory() as name, RunFolder(Path(name) / "run", spec) as folder:
        result = run(spec, RunContext(folder, Path(name) / "run", sharing=sharing))
    assert result.status is Status.FINISHED, result.reason
    return result.cost


def trial(prefix: Path, *overrides: str) -> tuple[float, float, float]:
    """Returns seconds of filling, seconds of a step, and megabytes on the disk."""
    shutil.rmtree(prefix, ignore_errors=True)
    cost = trained(prefix, Sharing(num_runs=100), "runtime.cache=require", *overrides)
    size = sum(path.stat().st_size for path in prefix.rglob("*.bin"))
    return cost.fill_s, cost.train_s / cost.steps, size / 1e6


def many(prefix: Path, count: int, mode: str) -> float:
    """Returns the seconds of some trials."""
    shutil.rmtree(prefix, ignore_errors=True)
    sharing = Sharing(num_runs=count)
    began = time.perf_counter()
    for number in range(count):
        more = ["freeze.depth=5", "dataset.train_rows=512", f"optimizer.lr={1e-4 * 1.2**number:.3g}"]
        trained(prefix, sharing, *more, f"runtime.cache={mode}")
    return time.perf_counter() - began


def main() -> None:
    """Measures, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--out", type=Path, default=Path("docs/growth.png"))
    options = parser.parse_args()
    seen = capture()
    cpu, version = seen["platform"]["cpu"], seen["versions"]["torch"]
    title = f"{cpu}, {torch.get_num_threads()} threads, torch {version}, fp32, MiniLM"
    print(title)
    rows, five = f"dataset.train_rows={options.rows}", "freeze.depth=5"
    with tempfile.TemporaryDirectory(prefix="frostline-bench-") as name:
        prefix = Path(name) / "prefix"
        trial(prefix, five, "dataset.train_rows=64")  # imports and first calls
        curves = {
            "training rows": [
                (number, *trial(prefix, five, f"dataset.train_rows={number}")) for number in (256, 512, 1024, 2048)
            ],
            "max_tokens": [
                (number, *trial(prefix, five, rows, f"training.max_tokens={number}")) for number in (8, 16, 32, 64)
            ],
            "frozen depth": [(depth, *trial(prefix, rows, f"freeze.depth={depth}")) for depth in range(1, 7)],
        }
        counts = (1, 2, 4, 8)
        trials = [(count, many(prefix, count, "auto"), many(prefix, count, "off")) for count in counts]
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.4), layout="constrained")
    for axis, (label, trials) in zip(axes, curves.items(), strict=False):
        for values in trials:
            print(f"{label} {values[0]}: fill {values[1]:.2f} s, step {values[2] * 1e3:.1f} ms, {values[3]:.1f} MB")
        x = [values[0] for values in trials]
        axis.plot(x, [values[1] for values in trials], "o-", label="fill, s")
        axis.plot(x, [values[2] * 100 for values in trials], "s-", label="100 steps, s")
        axis.set(xlabel=label, ylim=(0, None))
        other = axis.twinx()
        other.plot(x, [values[3] for values in trials], "^:", color="tab:gray", label="MB on disk")
        other.set(ylim=(0, None))
        lines = [*axis.get_lines(), *other.get_lines()]
        axis.legend(lines, [line.get_label() for line in lines], fontsize=7)
    for count, on, off in trials:
        print(f"trials {count}: cache {on:.1f} s, off {off:.1f} s")
    axes[3].plot(counts, [on for _, on, _ in trials], "o-", label="cache, filling counted")
    axes[3].plot(counts, [off for _, _, off in trials], "s-", label="no cache")
    axes[3].set(xlabel="trials at depth 5, 512 rows", ylabel="s", ylim=(0, None))
    axes[3].legend(fontsize=7)
    figure.suptitle(title, fontsize=9)
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
