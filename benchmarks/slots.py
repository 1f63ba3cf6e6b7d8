"""Whole sweeps with different numbers of trials side by side: how `runtime.slots=auto` should choose.

A grid over frozen depths and two rates is run with each number of slots in turn, in an empty home, the start of the
command and filling the prefix cache counted. On CPUs N slots train with cores/N threads each, at least one.
Ratios are of wall time, one slot against N, of the sweeps of one repeat; the median and the range are printed.

    python benchmarks/slots.py --slots 1 2 4 --depths 0 3 5 6                          # MiniLM
    python benchmarks/slots.py --blocks 12 --width 768 --depths 0 6 11 12 --rows 64    # BERT-base size, random weights
    python benchmarks/slots.py --blocks 12 --width 768 --depths 0 6 11 12 --slots 1 4 8 16 --gpu
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import random_bert
from frostline import assets
from frostline.config import compose_run


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", nargs="+", default=["1", "2", "4"], help="numbers, or auto; the first is the base")
    parser.add_argument("--depths", type=int, nargs="+", default=[0, 3, 5, 6])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4])
    parser.add_argument("--rows", type=int, default=512, help="training rows; as many are held out")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--blocks", type=int, help="of a BERT with random weights; default: the configured model")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--gpu", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="frostline-bench-") as name:
        model = []
        if options.blocks is not None:
            source = assets.model_folder(compose_run([]).model)
            folder = Path(name) / "bert"
            random_bert.make(folder, blocks=options.blocks, width=options.width, tokenizer_from=source)
            model = ["model=path", f"model.location={folder}"]
        found: dict[str, list[tuple[float, float]]] = {slots: [] for slots in options.slots}
        for repeat in range(options.repeats):
            for slots in options.slots if repeat % 2 == 0 else options.slots[::-1]:
                found[slots].append(sweep(options, model, slots))
                print(f"{slots} slots: {found[slots][-1][0]:.1f} s", file=sys.stderr, flush=True)
    base = options.slots[0]
    for slots in options.slots[1:]:
        for what, index in (("whole command", 0), ("first trial's beginning to last one's end", 1)):
            ratios = sorted(one[index] / many[index] for one, many in zip(found[base], found[slots], strict=True))
            print(
                f"slots {base} / {slots}, {what}: {statistics.median(ratios):.2f} "
                f"({ratios[0]:.2f} to {ratios[-1]:.2f}, n={len(ratios)})"
            )


def sweep(options: argparse.Namespace, model: list[str], slots: str) -> tuple[float, float]:
    """Returns the seconds of a sweep's command, and those from its first trial's beginning to the last one's end."""
    with tempfile.TemporaryDirectory(prefix="frostline-bench-") as name:
        folder = Path(name)
        lists = {"freeze.depth": options.depths, "optimizer.lr": options.rates}
        command = [
            sys.executable, "-m", "frostline", "sweep", "lr_x_depth", *model, "sweep.sampler=grid", "tracking=off",
            *(f"{key}={','.join(map(str, values))}" for key, values in lists.items()),
            f"sweep.n_trials={len(options.depths) * len(options.rates)}", "sweep.settle=0", "sweep.baseline=false",
            "sweep.keep_models=none", f"runtime.slots={slots}",
            f"dataset.train_rows={options.rows}", f"dataset.eval_rows={options.rows}",
            f"training.epochs={options.epochs}", f"training.max_tokens={options.tokens}",
            f"runtime.device={'cuda' if options.gpu else 'cpu'}",
        ]  # fmt: skip
        env = {**os.environ, "FROSTLINE_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
        began = time.time()
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        wall = time.time() - began
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        runs = folder / "runs" / "lr_x_depth"
        results = list(runs.glob("*/result.json"))
        assert len(results) == len(options.depths) * len(options.rates), done.stderr
        assert all(json.loads(path.read_text())["status"] == "FINISHED" for path in results)
        first = min(path.with_name("spec.json").stat().st_mtime for path in results)
        return wall, max(path.stat().st_mtime for path in results) - first


if __name__ == "__main__":
    main()
