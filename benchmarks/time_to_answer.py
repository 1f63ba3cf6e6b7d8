"""How long until a sweep has its answer: `frostline sweep`, as configured by default, against a careful loop.

B: the command `frostline sweep lr_x_depth sweep.settle=0 sweep.baseline=false`, from its start on, processes and
   imports included: all defaults (the opening and the search of sampler `frost`, prefix cache, like lengths, read
   position), MLflow off.
A: the same settings, each trained to the end of its epochs by Trainer, correctly frozen (benchmarks/careful.py), in one
   warm process, imports not counted. When its first good setting comes is luck: the median over 2,000 random orders is
   reported.

How good weights are is judged by other rows, which nobody trained on or chose by: among 28 noisy figures of 512 rows
the highest is luck, and being near it says little. Three times are printed:

exist:  until weights of a good setting exist. Good: the mean of both sides' judged accuracy is within 0.5 points of the
        best setting's.
judged: until the weights that one would take, those best on the held-out rows so far, are within 0.5 points of the best
        weights of either side, by the judging rows.
seen:   the same by the held-out rows alone.

    python benchmarks/time_to_answer.py [--rows 1024] [--eval-rows 512] [--points 14] [--repeats 1] [--json FILE]
    python benchmarks/time_to_answer.py --again FILE
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset, concatenate_datasets
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from careful import careful, plain
from frostline import assets
from frostline.config import compose_run
from frostline.provenance import capture
from frostline.train.setup import prepare

NEAR = 0.005
ORDERS = 2000
WORDS = {
    "exist": "weights of a good setting exist",
    "judged": "taken, judged by other rows",
    "seen": "taken, by the held-out rows alone",
    "whole": "whole search",
}


@dataclass(frozen=True)
class TrialRecord:
    """A setting that was trained to its end.

    Attributes:
        depth: Frozen blocks.
        rate: Learning rate.
        seconds: Since the setting before was done, or since the start.
        seen: Accuracy on the held-out rows.
        judged: Accuracy on the judging rows.
    """

    depth: int
    rate: float
    seconds: float
    seen: float
    judged: float


def common(options: argparse.Namespace) -> list[str]:
    """Returns the overrides of both."""
    rows = [f"dataset.train_rows={options.rows}", f"dataset.eval_rows={options.eval_rows}"]
    return [*rows, "tracking=off", "runtime.device=cpu"]


class Judge:
    """Scores weights on rows that nobody trained on or chose by.

    Args:
        options: The command's.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        used = prepare(plain(compose_run([*common(options), "freeze.depth=6"]))).tables
        taken = {tuple(ids) for part in (used.train, used.evaluation) for ids in part.rows["input_ids"]}
        every = ["dataset.train_rows=null", "dataset.eval_rows=null", "tracking=off", "runtime.device=cpu"]
        tables = prepare(plain(compose_run([*every, "freeze.depth=6"]))).tables
        rows: Dataset = concatenate_datasets([tables.evaluation.rows, tables.train.rows])
        rows = rows.filter(lambda row: tuple(row["input_ids"]) not in taken)
        rows = rows.select(range(min(options.judge_rows, len(rows))))
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))
        self._rows = rows.select(order)
        self.num_rows = len(rows)

    def __call__(self, folder: Path) -> float:
        """Returns the accuracy of the weights in a folder."""
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        collate = DataCollatorWithPadding(AutoTokenizer.from_pretrained(folder))
        right = 0
        with torch.inference_mode():
            for batch in DataLoader(self._rows, batch_size=64, collate_fn=collate):
                labels = batch.pop("labels")
                right += int((model(**batch).logits.argmax(-1) == labels).sum())
        return right / self.num_rows


def by_frostline(options: argparse.Namespace, folder: Path, judge: Judge) -> tuple[list[TrialRecord], float]:
    """Returns B's trials in their order, and the seconds until its end."""
    command = [sys.executable, "-m", "frostline", "sweep", "lr_x_depth", *common(options), *options.sweep]
    command += [f"sweep.n_trials={options.trials}", "sweep.settle=0", "sweep.baseline=false", "sweep.keep_models=all"]
    # An empty cache, but the model and the rows as they were fetched.
    home = folder / "home"
    home.mkdir(parents=True)
    for path in assets.home().iterdir():
        if path.name != "prefix":
            (home / path.name).symlink_to(path)
    env = {**os.environ, "FROSTLINE_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    began, ended = time.perf_counter(), []
    with subprocess.Popen(
        command, cwd=folder, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.match(r"\[\d+/\d+\] #(\d+) ", line):
                ended.append((int(found[1]), time.perf_counter() - began))
    assert process.returncode == 0, process.returncode
    whole = time.perf_counter() - began
    trials, before = [], 0.0
    for number, at in ended:
        path = folder / "runs" / "lr_x_depth" / f"{number:03d}"
        params = json.loads((path / "trial.json").read_text())["params"]
        seen = json.loads((path / "result.json").read_text())["objective"]["value"]
        trials.append(
            TrialRecord(
                int(params["freeze.depth"]), float(params["optimizer.lr"]), at - before, seen, judge(path / "model")
            )
        )
        before = at
    return trials, whole


def by_hand(
    options: argparse.Namespace, trials: Sequence[TrialRecord], folder: Path, judge: Judge
) -> list[TrialRecord]:
    """Returns A's trials: of the same settings in the same order."""
    done = []
    for trial in trials:
        overrides = [f"freeze.depth={trial.depth}", f"optimizer.lr={trial.rate!r}", "training.epochs=3"]
        overrides += ["runtime.progress=off", f"runtime.threads={options.threads}"]
        spec = compose_run([*common(options), *overrides])
        seen: list[float] = []

        def tell(epoch: int, accuracy: float, into: list[float] = seen) -> bool:
            del epoch
            into.append(accuracy)
            return False

        began = time.perf_counter()
        careful(spec, folder, tell)
        seconds = time.perf_counter() - began
        done.append(TrialRecord(trial.depth, trial.rate, seconds, seen[-1], judge(folder / "model")))
        shutil.rmtree(folder / "model")
    return done


def until(trials: Sequence[TrialRecord], is_near: Callable[[TrialRecord], bool]) -> float:
    """Returns the seconds until the weights that are best on the held-out rows so far are near; infinite if never."""
    spent, best = 0.0, None
    for trial in trials:
        spent += trial.seconds
        if best is None or trial.seen > best.seen:
            best = trial
            if is_near(best):
                return spent
    return float("inf")


def in_any_order(trials: Sequence[TrialRecord], is_near: Callable[[TrialRecord], bool]) -> list[float]:
    """Returns the same in random orders of the trials, sorted."""
    rng = random.Random(0)
    return sorted(until(rng.sample(trials, len(trials)), is_near) for _ in range(ORDERS))


def first(trials: Sequence[TrialRecord], is_good: Sequence[bool]) -> float:
    """Returns the seconds until the first of the good trials is trained; infinite if there is none."""
    spent = 0.0
    for trial, good in zip(trials, is_good, strict=True):
        spent += trial.seconds
        if good:
            return spent
    return float("inf")


def first_in_any_order(trials: Sequence[TrialRecord], is_good: Sequence[bool]) -> list[float]:
    """Returns the same in random orders of the trials, sorted."""
    rng = random.Random(0)
    orders = (rng.sample(range(len(trials)), len(trials)) for _ in range(ORDERS))
    return sorted(first([trials[i] for i in order], [is_good[i] for i in order]) for order in orders)


def described(found: Sequence[float]) -> str:
    """Returns the median of sorted seconds, and what eight in ten of them lie between."""
    tenth = ORDERS // 10
    return f"{statistics.median(found):.0f} s, eight in ten {found[tenth]:.0f} to {found[-tenth]:.0f} s"


def tell(ours: Sequence[TrialRecord], theirs: Sequence[TrialRecord], ours_s: float) -> dict[str, float]:
    """Prints the results of two passes over the same settings; returns the ratios A / B."""
    theirs_s = sum(trial.seconds for trial in theirs)
    print(f"  all {len(ours)} points A {theirs_s:.0f} s, B {ours_s:.0f} s", flush=True)
    ratios = {"whole": theirs_s / ours_s}
    # A setting is what is recommended; of one seed's weights the best is luck. Both sides trained each setting.
    quality = [(our.judged + their.judged) / 2 for our, their in zip(ours, theirs, strict=True)]
    good = [each >= max(quality) - NEAR for each in quality]
    ours_at, found = first(ours, good), first_in_any_order(theirs, good)
    print(
        f"     exist: best setting {max(quality):.4f}, near it {sum(good)} of {len(ours)}; weights of one after A "
        f"(median of {ORDERS} orders) {described(found)}; B {ours_at:.0f} s"
    )
    ratios["exist"] = statistics.median(found) / ours_at
    for key, value in (("judged", lambda p: p.judged), ("seen", lambda p: p.seen)):
        best = max(map(value, (*ours, *theirs)))
        is_near = lambda p, value=value, best=best: value(p) >= best - NEAR  # noqa: E731
        ours_at, found = until(ours, is_near), in_any_order(theirs, is_near)
        print(
            f"     {key}: best {best:.4f}; near it A {sum(map(is_near, theirs))}, B {sum(map(is_near, ours))} of "
            f"{len(ours)}; taken after A (median of {ORDERS} orders) {described(found)}, in B's order "
            f"{until(theirs, is_near):.0f} s; B {ours_at:.0f} s",
            flush=True,
        )
        ratios[key] = statistics.median(found) / ours_at
    return ratios


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--eval-rows", type=int, default=512)
    parser.add_argument("--judge-rows", type=int, default=4000)
    parser.add_argument("--points", type=int, default=14)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write every trial of both into this file")
    parser.add_argument("--again", type=Path, help="train nothing: print what such a file says")
    parser.add_argument("sweep", nargs="*", help="more overrides of frostline's sweep, after --")
    options = parser.parse_args()
    if options.again:
        kept = json.loads(options.again.read_text())
        ours, theirs = ([TrialRecord(**trial) for trial in kept[side]] for side in "BA")
        for key, ratio in tell(ours, theirs, kept.get("B_s") or sum(p.seconds for p in ours)).items():
            print(f"{WORDS[key]}, A / B: {ratio:.2f}")
        return
    machine = capture()
    cpu, version = machine["platform"]["cpu"], machine["versions"]["torch"]
    judge = Judge(options)
    print(f"{cpu}, {options.threads} threads, torch {version}, fp32; judged by {judge.num_rows} rows", flush=True)
    ratios: dict[str, list[float]] = {key: [] for key in WORDS}
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory(prefix="frostline-bench-") as name:
            ours, ours_s = by_frostline(options, Path(name) / "B", judge)
            theirs = by_hand(options, ours, Path(name) / "A", judge)
        if options.json:
            kept = {"A": [asdict(p) for p in theirs], "B": [asdict(p) for p in ours], "B_s": ours_s}
            options.json.write_text(json.dumps(kept))
        for key, ratio in tell(ours, theirs, ours_s).items():
            ratios[key].append(ratio)
    for key, each in ratios.items():
        print(f"{WORDS[key]}, A / B: {statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f}, n={len(each)})")


if __name__ == "__main__":
    main()
