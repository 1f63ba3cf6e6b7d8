"""Frozen layers x training size, at one learning rate and at the best of each depth: docs/study.md.

    make study          # all of it; stopped, the same command resumes
    make study-quick    # two sizes, two seeds

The public experiment that it repeats (RoBERTa-base, 5 seeds, learning rate 5e-5 for every depth) can not tell "this
depth is worse" from "this depth wants another learning rate". So each size is swept twice: over a grid of rates, of
which each depth takes the one that is best on the held-out rows, and at that one rate (but where it was the best: those
runs are there). What is compared are test rows, on which nothing was chosen. Each sweep is an ordinary `frostline sweep
study`, with its folder, its MLflow run and its report.

Anything after `--` goes to each sweep: -- runtime.slots=1
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from frostline.advisor import row_vector
from frostline.decision import Axis, Decision, Noise, Run, Setting, Standing, decide, seed_prior
from frostline.decision.rows import covariance
from frostline.records.predictions import Evidence
from frostline.records.trial import TrialRecord, ranked
from frostline.report.significance import compare, interval_of_seeds
from frostline.spec import TEST_SET, short_number
from frostline.sweeps.folder import SweepFolder, read_description
from frostline.sweeps.predictions import evidence_in

SIZES = (100, 500, 1000, 2000)
DEPTHS = (0, 2, 4, 5, 6)
SEEDS = (0, 1, 2, 3, 4)
FIXED_RATE = 5e-5
"""Of the public experiment."""

MARGIN, CONFIDENCE = 0.01, 0.9
"""Of the answer for each training size."""

QUICK = (
    "training.max_steps=60", "sweep.space.optimizer.lr=[2e-4,1e-3]", "dataset.eval_rows=300", "dataset.test_rows=500",
)  # fmt: skip
"""Of `--quick`: enough to see how it works. Short runs are scored on few rows: 2,500 are more than they train on."""

_NONE = -1
"""Stands for freeze=none where depths are numbers: it comes before 0, where the embeddings are frozen."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A depth at a training size.

    Attributes:
        rows: Training rows.
        depth: Frozen blocks, or `_NONE`.
        rate: Learning rate.
        test: Accuracy on the test rows, by seed.
    """

    rows: int
    depth: int
    rate: float
    test: Evidence


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is swept.

    Attributes:
        sizes: Training rows.
        depths: Frozen blocks; freeze=none is added.
        seeds: Of each cell.
        prefix: Of the sweeps' names.
        quick: Whether each run is short, and two rates are tried.
        extra: Overrides of every sweep.
    """

    sizes: Sequence[int]
    depths: Sequence[int]
    seeds: Sequence[int]
    prefix: str
    quick: bool
    extra: Sequence[str]

    def name(self, rows: int, *, tuned: bool, frozen: bool) -> str:
        """Returns the name of one of its sweeps."""
        return f"{self.prefix}-n{rows}-{'tuned' if tuned else 'fixed'}{'' if frozen else '-none'}"

    def command(self, rows: int, depths: Sequence[int], *, tuned: bool) -> list[str]:
        """Returns the command of one of its sweeps, over some depths or over `_NONE` alone."""
        frozen = _NONE not in depths
        return [
            "sweep", "study", f"sweep.name={self.name(rows, tuned=tuned, frozen=frozen)}",
            f"dataset.train_rows={rows}", f"sweep.seeds={_list(self.seeds)}", *(QUICK if self.quick else ()),
            *([] if tuned else [f"sweep.space.optimizer.lr=[{FIXED_RATE}]"]),
            *([f"sweep.space.freeze.depth={_list(depths)}"] if frozen else
              ["freeze=none", "sweep.space.freeze.depth=null"]),
            *self.extra,
        ]  # fmt: skip


def main() -> int:
    """Runs what is not there yet, and writes the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two sizes, two seeds, two rates, short runs")
    parser.add_argument("--sizes", type=_numbers, help=f"training rows (default: {_list(SIZES)})")
    parser.add_argument("--depths", type=_numbers, help=f"frozen blocks (default: {_list(DEPTHS)})")
    parser.add_argument("--seeds", type=_numbers, help=f"(default: {_list(SEEDS)})")
    parser.add_argument("--prefix", help="of the sweeps' names (default: study, or study-quick)")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of study.md and study.png")
    parser.add_argument("--only-report", action="store_true", help="run nothing: report what is there")
    parser.add_argument("extra", nargs="*", help="overrides of every sweep, after --")
    options = parser.parse_args()
    plan = Plan(
        sizes=options.sizes or ((100, 500) if options.quick else SIZES),
        depths=options.depths or ((0, 4, 5, 6) if options.quick else DEPTHS),
        seeds=options.seeds or (SEEDS[:2] if options.quick else SEEDS),
        quick=options.quick,
        prefix=options.prefix or ("study-quick" if options.quick else "study"),
        extra=options.extra,
    )
    if not options.only_report and (code := run_all(plan)):
        return code
    tables = {tuned: cells_of(plan, tuned=tuned) for tuned in (False, True)}
    if not all(tables.values()):
        print("nothing to report yet: no sweep of this study was finished", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    text = report(plan, tables)
    (options.out / "study.md").write_text(text, encoding="utf-8")
    draw(tables, options.out / "study.png")
    print(text)
    print(f"written: {options.out / 'study.md'}, {options.out / 'study.png'}")
    return 0


def run_all(plan: Plan) -> int:
    """Runs each sweep to its end, one after the other; returns the exit code of the first that did not get there."""
    began = time.monotonic()
    for number, rows in enumerate(plan.sizes, 1):
        for depths in (plan.depths, (_NONE,)):
            for tuned in (True, False):
                wanted = depths if tuned else not_yet_fixed(plan, rows, depths)
                if not wanted:
                    continue
                minutes = (time.monotonic() - began) / 60
                name = plan.name(rows, tuned=tuned, frozen=_NONE not in depths)
                print(f"== size {number} of {len(plan.sizes)}: {name} ({minutes:.0f} min so far)", flush=True)
                command = [sys.executable, "-m", "frostline", *plan.command(rows, wanted, tuned=tuned)]
                code = _run(command)
                if code:
                    print(f"{name} ended with exit code {code}; the same command resumes from there", file=sys.stderr)
                    return code
    print(f"== all of it took {(time.monotonic() - began) / 60:.0f} min", flush=True)
    return 0


def _run(command: Sequence[str]) -> int:
    """Runs a sweep to its end; Ctrl-C is for the sweep alone, which then stops as sweeps do."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return subprocess.run(command, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)


def not_yet_fixed(plan: Plan, rows: int, depths: Sequence[int]) -> list[int]:
    """Returns the depths without runs at the one rate among the tuned ones: the same spec gives the same numbers."""
    there = _cells_in(plan, rows, tuned=True, frozen=_NONE not in depths, rate=FIXED_RATE)
    return [depth for depth in depths if depth not in there]


def cells_of(plan: Plan, *, tuned: bool) -> dict[tuple[int, int], Cell]:
    """Returns the results of the finished sweeps, by training rows and depth."""
    found: dict[tuple[int, int], Cell] = {}
    for rows in plan.sizes:
        for frozen in (True, False):
            cells = _cells_in(plan, rows, tuned=True, frozen=frozen, rate=None if tuned else FIXED_RATE)
            if not tuned:
                cells |= _cells_in(plan, rows, tuned=False, frozen=frozen, rate=FIXED_RATE)
            found |= {(rows, depth): cell for depth, cell in cells.items()}
    return found


def _cells_in(plan: Plan, rows: int, *, tuned: bool, frozen: bool, rate: float | None) -> dict[int, Cell]:
    """Returns the results of one sweep, by depth, all seeds; without a rate at the best one."""
    folder = Path("runs") / plan.name(rows, tuned=tuned, frozen=frozen)
    if not (folder / "sweep.json").is_file():
        return {}
    seeds = read_description(folder)["plan"]["seeds"]
    find = evidence_in(folder, seeds)
    best: dict[int, TrialRecord] = {}
    for trial in ranked(SweepFolder(folder).read_trials(), True):
        if rate is None or trial.lr == rate:
            best.setdefault(_NONE if trial.depth is None else trial.depth, trial)
    found: dict[int, Cell] = {}
    for depth, trial in best.items():
        test = find(trial, TEST_SET)
        if test is not None and len(test.by_seed) == len(seeds) and trial.lr is not None:
            found[depth] = Cell(rows=rows, depth=depth, rate=trial.lr, test=test)
    return found


def report(plan: Plan, tables: dict[bool, dict[tuple[int, int], Cell]]) -> str:
    """Returns the tables in Markdown."""
    depths = [_NONE, *plan.depths]
    counts = sorted({len(cell.test.by_seed) for table in tables.values() for cell in table.values()})
    lines = [
        f"Accuracy on the test rows: the mean of {' or '.join(map(str, counts))} seeds +- half its 95 % interval "
        f"(Student's t). *good*: within {100 * MARGIN:g} point of the best depth of the line with probability "
        f"{CONFIDENCE:g} (the decision of sweeps over all runs of the line, seeds and test rows together); *out*: "
        "another depth is better by "
        "more than half of that, with the same probability; else *open*.",
        "",
    ]
    for tuned in (False, True):
        title = "The learning rate that is best on the held-out rows, for each depth" if tuned else "One learning rate"
        lines += [f"### {title}{'' if tuned else f', {short_number(FIXED_RATE)}'}", ""]
        lines += ["| rows | " + " | ".join(map(_depth, depths)) + " |", "|---|" + "---|" * len(depths)]
        for rows in plan.sizes:
            cells = [tables[tuned].get((rows, depth)) for depth in depths]
            lines.append(f"| {rows} | " + " | ".join(_cells(cells, tuned=tuned)) + " |")
        lines.append("")
    lines += ["### What tuning gains", "", "Tuned minus fixed, in trials, on the same seeds and rows.", ""]
    lines += ["| rows | " + " | ".join(map(_depth, depths)) + " |", "|---|" + "---|" * len(depths)]
    for rows in plan.sizes:
        gains = [_gain(tables[True].get((rows, depth)), tables[False].get((rows, depth))) for depth in depths]
        lines.append(f"| {rows} | " + " | ".join(gains) + " |")
    lines += ["", f"### How deep, at a margin of {100 * MARGIN:g} point", ""]
    lines += ["| rows | at one rate | tuned |", "|---|---|---|"]
    for rows in plan.sizes:
        lines.append(
            f"| {rows} | " + " | ".join(_how_deep(tables[tuned], rows, depths) for tuned in (False, True)) + " |"
        )
    return "\n".join([*lines, ""])


def decision_of(cells: Sequence[Cell]) -> Decision | None:
    """Returns what the runs of one training size say of each depth; None if there are none.

    No depth is chosen as a reference: all runs give one posterior. Each depth stands for itself, at its learning rate.
    """
    if not cells:
        return None
    own = sorted(cells, key=lambda cell: cell.depth)
    blocks = max(own[-1].depth, 1)
    axis = Axis(
        levels=tuple(float(cell.depth) for cell in own),
        positions=tuple(max(cell.depth, _NONE / 2) / blocks for cell in own),
        relative_costs=tuple(1.1 - cell.depth / blocks for cell in own), rates=None, ridge=None,
    )  # fmt: skip
    runs = [
        Run(setting=Setting(level=float(cell.depth)), seed=seed, value=value, chosen=False)
        for cell in own
        for seed, value in sorted(cell.test.by_seed.items())
    ]
    every = [cell.test.rows.get(seed) for cell in own for seed in sorted(cell.test.by_seed)]
    vectors = [vector for rows in every if rows is not None and (vector := row_vector(rows, "accuracy")) is not None]
    mean = statistics.fmean(run.value for run in runs)
    noise = Noise(
        rows=covariance(vectors) if len(vectors) == len(runs) else None,
        seed_sd=seed_prior(math.sqrt(max(mean * (1 - mean), 1e-4)), own[0].rows),
    )
    return decide(runs, axis, noise, margin=MARGIN, confidence=CONFIDENCE)


def _cells(cells: Sequence[Cell | None], *, tuned: bool) -> list[str]:
    decision = decision_of([cell for cell in cells if cell is not None])
    states = {level.level: level.state.value for level in decision.levels} if decision is not None else {}
    shown = []
    for cell in cells:
        if cell is None:
            shown.append("-")
            continue
        values = list(cell.test.by_seed.values())
        text = f"{cell.test.mean:.3f}"
        text += f" +- {interval_of_seeds(values):.3f}" if len(values) > 1 else ""
        text += f" *{states[cell.depth]}*"
        shown.append(f"{text} ({short_number(cell.rate)})" if tuned else text)
    return shown


def _gain(tuned: Cell | None, fixed: Cell | None) -> str:
    if tuned is None or fixed is None:
        return "-"
    if tuned.rate == fixed.rate:
        return "0 (the same rate)"
    comparison = compare(tuned.test, fixed.test, "accuracy", maximize=True)
    if comparison is None:
        return f"{100 * (tuned.test.mean - fixed.test.mean):+.1f}"
    return f"{100 * comparison.loss:+.1f} ({100 * comparison.low:+.1f} to {100 * comparison.high:+.1f})"


def _how_deep(table: dict[tuple[int, int], Cell], rows: int, depths: Sequence[int]) -> str:
    decision = decision_of([cell for depth in depths if (cell := table.get((rows, depth))) is not None])
    if decision is None:
        return "-"
    deepest = _depth(round(decision.recommended.level))
    names = ", ".join(_depth(round(level.level)) for level in decision.open_levels)
    still = f" (open: {names})" if names else ""
    if decision.standing is Standing.SETTLED:
        return f"settled: {deepest}"
    if decision.standing is Standing.AT_LEAST:
        return f"at least {deepest}{still}"
    return f"not settled, best guess {deepest}{still}"


def draw(tables: dict[bool, dict[tuple[int, int], Cell]], path: Path) -> None:
    """Draws accuracy over depth, a panel for each size."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    sizes = sorted({rows for table in tables.values() for rows, _ in table})
    figure, panels = plt.subplots(1, len(sizes), figsize=(3.4 * len(sizes) + 0.8, 3.8), sharey=True, squeeze=False)
    looks = {False: ("one learning rate", "#8aa0b2", "--", "s"), True: ("tuned for each depth", "#2b6ca3", "-", "o")}
    for axes, rows in zip(panels[0], sizes, strict=True):
        names: list[int] = sorted({depth for table in tables.values() for n, depth in table if n == rows})
        for tuned, table in tables.items():
            label, colour, line, marker = looks[tuned]
            cells = [cell for depth in names if (cell := table.get((rows, depth))) is not None]
            places = [names.index(cell.depth) for cell in cells]
            values = [list(cell.test.by_seed.values()) for cell in cells]
            bars = [interval_of_seeds(each) if len(each) > 1 else 0.0 for each in values]
            axes.errorbar(
                places, [statistics.fmean(each) for each in values], yerr=bars, label=label, color=colour,
                linestyle=line, marker=marker, capsize=3,
            )  # fmt: skip
        axes.set_xticks(range(len(names)), [_depth(depth) for depth in names])
        axes.set_title(f"{rows} training rows", fontsize=11)
        axes.set_xlabel("frozen blocks")
        axes.grid(axis="y", alpha=0.25)
    panels[0][0].set_ylabel("accuracy on the test rows")
    panels[0][0].legend(frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


def _depth(depth: int) -> str:
    return "none" if depth == _NONE else str(depth)


def _list(values: Sequence[int]) -> str:
    return json.dumps(list(values)).replace(" ", "")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.strip("[]").split(","))


if __name__ == "__main__":
    sys.exit(main())
