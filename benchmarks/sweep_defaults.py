"""Do the defaults of a sweep lose anything? One sweep is trained to the end, every point of it, and asked afterwards.

`sweep.finish`: had only the best share after the first epoch gone on (and the best at each depth, as sweeps do), which
best point would have been found, and at which share of the training time? `sweep.enqueue`: what did the coarse grid
find, what did TPE add? `sweep.space`: which rate was best at each depth, and is it inside of the range?

The sweep goes on where it was interrupted; once it is there, the questions cost nothing.

    python benchmarks/sweep_defaults.py --folder runs/defaults
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from scipy.stats import spearmanr

from frostline.cli.sweeping.folder import SweepFolder
from frostline.point import Outcome, Point, State
from frostline.result import RunResult
from frostline.search.choice import finalists
from frostline.spec import PrunerName, PrunerSpec, SamplerName, SweepSpec
from frostline.spec.sweep import KeepModels

GRID = 12
"""Points of lr_x_depth's coarse grid."""


def main() -> None:
    """Trains what is missing, then prints the answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/defaults"))
    parser.add_argument("--rows", type=int, default=512, help="training rows, and as many held out")
    options = parser.parse_args()
    command = [
        sys.executable, "-m", "frostline", "sweep", "lr_x_depth", f"hydra.sweep.dir={options.folder}",
        "sweep.name=defaults", "sweep.finish=1.0", "sweep.first_epochs=null", f"dataset.train_rows={options.rows}",
        f"dataset.eval_rows={options.rows}", "training.max_tokens=48", "training.batch_size=16", "tracking=off",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    points = [p for p in SweepFolder(options.folder).read_points() if p.state is State.COMPLETE and p.copy_of is None]
    curves = {p.number: curve(options.folder / f"{p.number:03d}") for p in points}
    epochs = max(len(values) for values in curves.values())
    final = {p.number: p.quality or math.nan for p in points}
    times = {p.number: (p.outcome.cost["train_s"] if p.outcome else math.nan) for p in points}
    first = {number: values[0] for number, values in curves.items()}
    rank = spearmanr([first[n] for n in final], [final[n] for n in final]).statistic
    best = max(final, key=lambda number: final[number])
    print(f"{len(points)} points, {epochs} epochs, {options.rows} rows trained on, as many held out")
    print(f"best of all: #{best} {label(points, best)} {final[best]:.4f}")
    print(f"rank correlation of the accuracy after epoch 1 with that at the end: {rank:.2f} (Spearman)")
    for share in (0.1, 0.25, 0.5):
        going = {task.number for task in finalists([waiting(p, first[p.number]) for p in points], plan(share), True)}
        found = max(final[number] for number in going)
        spent = sum(times[n] * (1 if n in going else 1 / epochs) for n in final) / sum(times.values())
        print(
            f"finish={share}: {len(going)} points go on, best found {found:.4f} "
            f"({100 * (final[best] - found):.1f} points lost) for {spent:.2f} of the training time"
        )
    grid, rest = ([value for n, value in final.items() if (n < GRID) is early] for early in (True, False))
    print(f"best of the coarse grid's {len(grid)}: {max(grid):.4f}; of TPE's {len(rest)}: {max(rest):.4f}")
    for depth in sorted({p.depth for p in points if p.depth is not None}):
        here = max((p for p in points if p.depth == depth), key=lambda p: final[p.number])
        print(f"depth {depth}: best {final[here.number]:.4f} at lr {here.lr:.2e}")


def curve(folder: Path) -> list[float]:
    """Returns the accuracy after each epoch."""
    assert RunResult.read(folder).objective is not None
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row["eval/accuracy"] for row in rows if "eval/accuracy" in row]


def waiting(point: Point, value: float) -> Point:
    """Returns the point as it stood after its first epoch."""
    outcome = Outcome(state=State.PRUNED, by_seed={0: value}, more=True)
    return replace(point, state=State.PRUNED, outcome=outcome, stage=1, first_quality=value)


def label(points: list[Point], number: int) -> str:
    """Returns a point's coordinates."""
    return next(p for p in points if p.number == number).label()


def plan(share: float) -> SweepSpec:
    """Returns a plan of two stages."""
    pruner = PrunerSpec(
        name=PrunerName.NONE, startup_trials=0, warmup_epochs=0, percentile=25.0, reduction_factor=4, patience=1,
        p_threshold=0.1,
    )  # fmt: skip
    return SweepSpec(
        name="defaults", new=False, n_trials=28, timeout_s=None, max_failures=None, trial_timeout_s=1800.0,
        retry_failed=False, sampler=SamplerName.TPE, seed=0, pruner=pruner, seeds=None, first_epochs=1, finish=share,
        margin=0.01, confidence=0.9, settle=0.0, settle_rows=None, cost=None, deep_first=True, warm_start=None,
        storage=None, keep_models=KeepModels.NONE,
    )  # fmt: skip


if __name__ == "__main__":
    main()
