"""Measures on a few rows what a trial takes on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import datasets
import torch
from torch.profiler import ProfilerActivity, profile

from frostline import scratch
from frostline.errors import UserError
from frostline.files import write_atomically
from frostline.freezing.methods.depth import FreezeDepth
from frostline.freezing.methods.none import FreezeNone
from frostline.prefix_cache.forward_probe import numbers_per_unit
from frostline.records.recorder import NullRecorder
from frostline.records.result import Cost, RunResult, Status
from frostline.records.run_context import RunContext, Sharing
from frostline.records.run_folder import SPEC_FILE
from frostline.spec import CacheMode, Every, FreezeMethod, Progress, RunSpec
from frostline.train.data import load_only
from frostline.train.progress import wants_bar
from frostline.train.run import run
from frostline.train.setup import prepare

_ROWS = 512
"""Training rows of a probe (assumed: 16 steps of 32 suffice, and take seconds)."""


Train = Callable[[RunSpec, RunContext], RunResult]
"""Trains one run: see `frostline.train.run`."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What was measured.

    Attributes:
        train_rows: Of the whole data.
        eval_rows: Of the whole data, held out.
        eval_rows_at_hand: That could be held out, but for `dataset.eval_rows`.
        epoch_s: For each of the given specs, seconds of an epoch over the whole data, its evaluation included.
        trial_s: Seconds of a trial beside its epochs, once everything is warm; with several processes their start too.
        fill_s: Seconds of one pass of all rows through the frozen blocks of the deepest spec; 0 without a cache.
        bytes_per_depth: What the hidden states of all rows take, for one depth; 0 without a cache.
        num_blocks: Of the model.
    """

    train_rows: int
    eval_rows: int
    eval_rows_at_hand: int
    epoch_s: tuple[float, ...]
    trial_s: float
    fill_s: float
    bytes_per_depth: float
    num_blocks: int


def probe(specs: Sequence[RunSpec], sharing: Sharing, train: Train = run) -> Probe:
    """Trains each spec for one epoch on a few rows; nothing is recorded.

    Args:
        specs: The deepest first. In this process it is trained twice, since the first trial of a process warms it up;
            a trial on several processes starts new ones each time.
        sharing: How many runs the sweep will have: what the cache is decided by.
        train: Trains one: `frostline.train.run`, or `frostline.launch.run` for several processes.

    Raises:
        UserError: Bad input, or a trial failed.
    """
    if not wants_bar(specs[0].runtime.progress):
        datasets.disable_progress_bars()
    rows = load_only(specs[0])
    small = [_small(spec, rows) for spec in specs]
    on_several = specs[0].runtime.num_processes > 1
    if not on_several:
        _train(small[0], sharing, train)
    began = time.monotonic()
    results = [_train(spec, sharing, train) for spec in small]
    wall_s = time.monotonic() - began
    epoch_s = []
    for result in results:
        assert result.cost is not None
        per_row = result.cost.train_s / result.data["train_rows"], result.cost.eval_s / result.data["eval_rows"]
        epoch_s.append(per_row[0] * rows[0] + per_row[1] * rows[1])
    deepest = results[0]
    assert deepest.cost is not None
    trial_s = deepest.cost.setup_s
    if on_several:
        costs = [result.cost for result in results if result.cost is not None]
        trained_s = sum(cost.train_s + cost.eval_s + (cost.fill_s or 0.0) for cost in costs)
        trial_s = (wall_s - trained_s) / len(results)
    off = replace(small[0].runtime.cache, mode=CacheMode.OFF)
    setup = prepare(replace(small[0], runtime=replace(small[0].runtime, cache=off)))
    fill_s = bytes_per_depth = 0.0
    if deepest.cost.saved_s is not None:  # it trained one epoch and evaluated once: one pass over its rows
        seen = deepest.data["train_rows"] + deepest.data["eval_rows"]
        filled = rows[0] * (setup.tables.train.views or 1) + rows[1]
        tokens = setup.tables.train.lengths.mean() * filled
        fill_s = deepest.cost.saved_s / seen * filled
        bytes_per_depth = 4.0 * tokens * numbers_per_unit(setup.anatomy)
    return Probe(
        train_rows=rows[0],
        eval_rows=rows[1],
        eval_rows_at_hand=deepest.data["eval_rows_at_hand"],
        epoch_s=tuple(epoch_s),
        trial_s=trial_s,
        fill_s=fill_s,
        bytes_per_depth=bytes_per_depth,
        num_blocks=setup.anatomy.num_blocks,
    )


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a trial takes of a GPU.

    Attributes:
        peak_bytes: Memory, at most.
        free_bytes: Memory of the GPU, before any trial.
        busy: Share of a trial's time in steps and evaluations in which the GPU computed: the rest it waited for Python.
    """

    peak_bytes: int
    free_bytes: int
    busy: float


def footprint(specs: Sequence[RunSpec], sharing: Sharing) -> Footprint | None:
    """Trains each spec for one epoch on a few rows; nothing is recorded.

    Args:
        specs: The deepest first: it leaves the GPU most time. The shallowest last: it needs most memory.
        sharing: How many runs the sweep will have: what the cache is decided by.

    Returns:
        None if there is no GPU that torch can use.

    Raises:
        UserError: Bad input, or a trial failed.
    """
    if not torch.cuda.is_available():
        return None
    rows = load_only(specs[0])
    small = [_small(spec, rows) for spec in specs]
    peak_bytes = max(_cost(_train(spec, sharing, run)).peak_bytes for spec in small)  # the first also warms up
    free_bytes = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    cost = _cost(_train(small[0], sharing, run))
    with profile(activities=[ProfilerActivity.CUDA]) as seen:  # slower itself: only the GPU's own time is taken
        _train(small[0], sharing, run)
    busy_s = sum(event.self_device_time_total for event in seen.key_averages()) / 1e6
    return Footprint(
        peak_bytes=peak_bytes, free_bytes=free_bytes, busy=min(1.0, busy_s / max(1e-9, cost.train_s + cost.eval_s))
    )


def _cost(result: RunResult) -> Cost:
    assert result.cost is not None
    return result.cost


def _small(spec: RunSpec, rows: tuple[int, int]) -> RunSpec:
    training = spec.training
    choice: FreezeMethod = spec.freeze
    if choice.first_phase is not None:  # measured as what is frozen to the end: dearer than the phases before
        depth = choice.depth_of(0)
        choice = FreezeNone() if depth is None else FreezeDepth(depth=depth)
    return replace(
        spec,
        freeze=choice,
        dataset=replace(
            spec.dataset,
            train_rows=min(_ROWS, rows[0]),
            eval_rows=min(_ROWS // 2, rows[1]),
            test_at_end=False,
            also_evaluate=(),
        ),
        training=replace(
            training,
            epochs=1.0,
            max_steps=None,
            evaluate=Every.EPOCH,
            checkpoint=Every.NEVER,
            eval_steps=None,
            patience=None,
        ),
        runtime=replace(spec.runtime, progress=Progress.OFF),
    )


def _train(spec: RunSpec, sharing: Sharing, train: Train) -> RunResult:
    with scratch.folder("plan") as name:
        write_atomically(name / SPEC_FILE, spec.to_json())
        result = train(spec, RunContext(NullRecorder(), name, sharing=sharing))
    if result.status is not Status.FINISHED:
        raise UserError(f"the trial that was to be measured ({spec.name()}) ended as {result.status}: {result.reason}")
    return result
