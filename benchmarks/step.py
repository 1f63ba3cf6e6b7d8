"""A training step of the suffix: frostline's Trainer against a raw PyTorch loop, and against the FLOP model.

raw:  a loop over the same batches with the same model (blocks k.. and head, hidden states from the cache), fused AdamW
      over the same groups, the same clipping and schedule: what is left if Trainer and all records are taken away.
ours: the same steps in `frostline.train.run`, evaluations and checkpoints left out; setting up is not counted.
hand: a careful user's Trainer step at that depth, without a cache (benchmarks/careful.py).
files: on a GPU, ours with hidden states read from the files for each batch, not kept in the GPU's memory.

They alternate; each is the time of a whole epoch over its steps. The FLOP model of docs/how-it-is-fast.md says what a
step by hand costs over a step of the suffix, if all floating-point operations took the same time.

What Trainer does once before the first step is part of `ours`: with few rows it shows.

    python benchmarks/step.py [--depths 3 5 6] [--rows 1024] [--repeats 5]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, get_scheduler

from careful import careful
from frostline.config import compose_run
from frostline.data.token_table import Padding
from frostline.prefix_cache import attach, gpu_memory
from frostline.prefix_cache.collate import Collator
from frostline.provenance import capture
from frostline.records.result import Status
from frostline.records.run_context import RunContext, Sharing
from frostline.records.run_folder import RunFolder
from frostline.spec import Every, Precision, RunSpec
from frostline.train import prepare, run
from frostline.train.device import seed_everything
from frostline.train.loss import BatchLoss
from frostline.train.sampling import LengthGroupedSampler

SHARING = Sharing(num_runs=100)


def raw(spec: RunSpec, *, compiled: bool = False) -> float:
    """Returns the seconds of a step in a raw loop; compiled: of its second epoch, the first one's are printed."""
    setup = prepare(spec, SHARING)
    assert setup.cached is not None
    model, tables = setup.cached.part, setup.tables
    loss_of, optimizer, rows = BatchLoss(spec.dataset.task), setup.optimizer, spec.training.batch_size
    multiple_of = 8 if setup.machine.device == "cuda" and setup.machine.precision is not Precision.FP32 else 1
    padding = Padding.of(setup.loaded.processor, setup.loaded.model, multiple_of)
    loader: Any = DataLoader(
        range(len(tables.train)),
        batch_size=rows,
        sampler=LengthGroupedSampler(tables.train.lengths, rows, spec.seed),
        collate_fn=Collator(tables.train, tables.evaluation, padding, setup.cached.hidden),
        pin_memory=setup.machine.device == "cuda",
    )
    scheduler = get_scheduler(spec.optimizer.schedule, optimizer, 0, len(loader))
    seed_everything(spec.seed)
    model.train()
    if compiled:
        model = torch.compile(model, dynamic=True)
        began = time.perf_counter()
        epoch(loader, model, loss_of, optimizer, scheduler, spec)
        print(f"  torch.compile: the first epoch of {len(loader)} steps took {time.perf_counter() - began:.1f} s")
    began = time.perf_counter()
    epoch(loader, model, loss_of, optimizer, scheduler, spec)
    return (time.perf_counter() - began) / len(loader)


def epoch(loader: Any, model: Any, loss_of: Any, optimizer: Any, scheduler: Any, spec: RunSpec) -> None:
    """One pass over the rows, as a raw loop does it."""
    device = next(model.parameters()).device
    half = torch.autocast(device.type, torch.bfloat16, enabled=spec.training.precision is Precision.BF16)
    for made in loader:
        batch = {name: values.to(device, non_blocking=True) for name, values in made.items()}
        labels = batch.pop("labels")
        with half:
            output = model(**batch)
        loss_of(output, labels, len(labels)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.optimizer.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize()


def ours(spec: RunSpec) -> float:
    """Returns the seconds of a step in frostline."""
    with tempfile.TemporaryDirectory() as name, RunFolder(Path(name) / "run", spec) as folder:
        result = run(spec, RunContext(folder, Path(name) / "run", sharing=SHARING))
    assert result.status is Status.FINISHED, result.reason
    assert result.prefix_cache != "off"
    assert result.cost is not None
    return result.cost.train_s / result.cost.steps


def from_files(spec: RunSpec) -> float:
    """Returns the seconds of a step in frostline if hidden states are not kept in the GPU's memory."""
    gpu_memory.forget()
    share, gpu_memory.MAX_SHARE = gpu_memory.MAX_SHARE, 0.0
    try:
        return ours(spec)
    finally:
        gpu_memory.MAX_SHARE = share


def hand(spec: RunSpec) -> float:
    """Returns the seconds of a careful user's step."""
    seconds: list[float] = []
    real = Trainer._maybe_log_save_evaluate

    def timed(self: Any, *arguments: Any, **more: Any) -> Any:
        began = time.perf_counter()
        try:
            return real(self, *arguments, **more)
        finally:
            seconds.append(time.perf_counter() - began)

    train = Trainer.train

    def train_timed(self: Any, *arguments: Any, **more: Any) -> Any:
        began = time.perf_counter()
        result = train(self, *arguments, **more)
        seconds.append(-(time.perf_counter() - began))
        return result

    Trainer._maybe_log_save_evaluate, Trainer.train = timed, train_timed
    try:
        with tempfile.TemporaryDirectory() as name:
            careful(spec, Path(name))
    finally:
        Trainer._maybe_log_save_evaluate, Trainer.train = real, train
    rows = spec.dataset.train_rows or 0
    return -sum(seconds) / -(-rows // spec.training.batch_size)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=[3, 5, 6])
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-hand", action="store_true", help="only ours and raw")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--model", type=Path, help="a folder (benchmarks/random_bert.py makes one); default: MiniLM")
    parser.add_argument("--compile", action="store_true", help="also the raw loop under torch.compile")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    seen = capture()
    cpu, version = seen["platform"]["cpu"], seen["versions"]["torch"]
    gpu = f"{torch.cuda.get_device_name()}, " if options.device == "cuda" else ""
    print(f"{gpu}{cpu}, {options.threads} threads, torch {version}, {options.precision}, {options.rows} rows, batch 32")
    with tempfile.TemporaryDirectory(prefix="frostline-bench-") as name:
        attach.PREFIX_FOLDER = str(Path(name) / "prefix")  # not the user's own cache
        for depth in options.depths:
            overrides = [f"freeze.depth={depth}", f"dataset.train_rows={options.rows}", "dataset.eval_rows=64"]
            overrides += [f"training.precision={options.precision}"]
            if options.model is not None:
                overrides += ["model=path", f"model.location={options.model}"]
            overrides += [
                f"runtime.device={options.device}",
                f"runtime.threads={options.threads}",
                "runtime.progress=off",
            ]
            spec = compose_run([*overrides, "training.evaluate=never", "training.checkpoint=never", "tracking=off"])
            by_hand = replace(spec, training=replace(spec.training, evaluate=Every.EPOCH))
            ours(spec)  # fills the cache
            times: dict[str, list[float]] = {"raw": [], "ours": [], "hand": [], "files": []}
            for _ in range(options.repeats):
                times["raw"].append(raw(spec))
                times["ours"].append(ours(spec))
                if options.device == "cuda":
                    times["files"].append(from_files(spec))
                if not options.skip_hand:
                    times["hand"].append(hand(by_hand))
            medians = {key: f"{statistics.median(values) * 1e3:.2f} ms" for key, values in times.items() if values}
            print(f"depth {depth}: {medians}")
            for one, other in (("ours", "raw"), ("hand", "ours"), ("files", "ours")):
                if not times[one]:
                    continue
                found = [a / b for a, b in zip(times[one], times[other], strict=True)]
                span = f"{min(found):.2f} to {max(found):.2f}, n={len(found)}"
                print(f"  {one} / {other}: {statistics.median(found):.2f} ({span})")
            if options.compile:
                eager, faster = raw(spec), raw(spec, compiled=True)
                print(f"  raw / raw under torch.compile: {eager / faster:.2f}")
            blocks = (
                spec.model.num_blocks or json.loads((options.model / "config.json").read_text())["num_hidden_layers"]
            )
            if depth < blocks:
                print(f"  FLOP model, hand / suffix: {(3 * blocks - 2 * depth) / (3 * (blocks - depth)):.2f}")


if __name__ == "__main__":
    main()
