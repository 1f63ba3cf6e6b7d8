"""`frostline sweep NAME --plan`: measures a few trials and prints a sweep's forecast."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from frostline.advisor import Advisor, rows_to_settle
from frostline.assets import home
from frostline.decision import least_margin
from frostline.preflight import preflight
from frostline.records.predictions import known
from frostline.report import as_text
from frostline.search import Costs, Forecast, forecast, queue_of
from frostline.spec import Engine, Every, SamplerName, SweepSpec
from frostline.sweeps.folder import describe
from frostline.sweeps.questions import advisors_of, the_advisor
from frostline.sweeps.read_config import Compose, Sweep, read
from frostline.sweeps.slots import ends_of, slots_here, slots_on_gpus, wants_measuring
from frostline.sweeps.trial_runs import sharing_of

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console

    from frostline.train import Probe

_START_S = 7.2
"""Until the first training step of a sweep, as `benchmarks/sweep_overhead.py` measured it (docs/benchmarks.md)."""


def plan_sweep(cfg: DictConfig, arguments: Sequence[str], compose: Compose, nodes: int) -> SweepPlan:
    """Forecasts a sweep.

    Args:
        cfg: The composed config of the multirun.
        arguments: The overrides of the job.
        compose: Composes a trial's config.
        nodes: How many work on it.

    Raises:
        UserError: Bad input; one line.
    """
    sweep = read(cfg, arguments, compose, preflight)
    advisors = advisors_of(describe(sweep, sweep.space.keys), known)
    advisor = the_advisor(advisors)
    plan = _forecast(sweep, advisor, nodes)
    raced = sweep.plan.settle > 0 and advisor is not None and advisor.question.is_raced
    rows = _scored_rows(sweep, plan.measured, raced=raced)
    asks = any(each.question.axis_key is not None for each in advisors.values())
    # Of other metrics it is not known beforehand.
    is_accuracy = sweep.job.run.training.objective == "accuracy"
    margin = least_margin(rows, sweep.plan.confidence) if asks and is_accuracy else None
    about = _about_the_answer(sweep.plan, plan.predicted, rows, margin, raced=raced)
    return SweepPlan(data=_data(plan, margin), text=as_text(lambda console: _print(plan, about, console)))


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """A sweep's forecast; prints as `frostline sweep NAME --plan` does.

    Attributes:
        data: Its numbers, as `frostline sweep NAME --plan --json` prints them: `wall_s`, `trials`, `cache_bytes`,
            `least_margin` ...
        text: The same as a table and sentences.
    """

    data: Mapping[str, Any]
    text: str

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A sweep's forecast.

    Attributes:
        sweep: The sweep.
        measured: What was measured of it.
        predicted: The forecast.
        slots: Trials side by side, on all nodes.
        nodes: How many work on it.
        unit: Of its hours: `core-hours` or `GPU-hours`.
        hours: What it takes of them.
    """

    sweep: Sweep
    measured: Probe
    predicted: Forecast
    slots: int
    nodes: int
    unit: str
    hours: float

    @property
    def limit(self) -> str:
        """What stands in the way of a shorter or a possible sweep."""
        return _limit(self.predicted, self.sweep, self.slots)


def _forecast(sweep: Sweep, advisor: Advisor | None, nodes: int) -> _Plan:
    """Measures trials on a few rows and forecasts the sweep."""
    from frostline.launch import run
    from frostline.train import footprint, probe  # torch: only now

    queue = queue_of(sweep.plan, sweep.space, sweep.enqueue)
    if sweep.plan.sampler is SamplerName.FROST and advisor is not None:
        queue = [*queue, *advisor.opening()]
    machine = slots_here(sweep)
    if wants_measuring(sweep, machine):
        machine = slots_on_gpus(sweep, machine, footprint(*ends_of(sweep, sweep.job.run)))
    on_all = machine.count * nodes
    if sweep.job.engine is Engine.RAY and sweep.job.slots is not None:  # of the whole cluster
        on_all = min(on_all, sweep.job.slots)
    spec = replace(sweep.job.run, runtime=replace(sweep.job.run.runtime, threads=machine.threads))
    ends, _ = ends_of(sweep, spec)
    sharing = sharing_of(sweep, machine.all_threads)
    depths: list[int | None] = [*reversed(sharing.depths)] or [None]  # the deepest first
    print(f"measuring {_several(len(ends), 'trial')} on a few rows ...", file=sys.stderr, flush=True)
    measured = probe(ends, sharing, run)
    costs = Costs(
        epoch_s=_line(measured, depths),
        trial_s=measured.trial_s,
        start_s=_START_S,
        fill_s=measured.fill_s,
        cache_bytes=measured.bytes_per_depth
        * sum(depth is None or 0 < depth < measured.num_blocks for depth in depths),
    )
    predicted = forecast(sweep.plan, queue, depths, _epochs(sweep, measured), costs, on_all)
    unit, busy = ("GPU-hours", len(machine.gpus[0].split(","))) if machine.gpus else ("core-hours", machine.threads)
    return _Plan(
        sweep=sweep,
        measured=measured,
        predicted=predicted,
        slots=on_all,
        nodes=nodes,
        unit=unit,
        hours=predicted.busy_s * busy / 3600,
    )


def _data(plan: _Plan, margin: float | None) -> dict[str, Any]:
    predicted = plan.predicted
    data = {**asdict(predicted), "by_depth": {str(depth): row for depth, row in predicted.by_depth.items()}}
    data |= {plan.unit.replace("-", "_"): plan.hours, "slots": plan.slots, "nodes": plan.nodes}
    return {**data, "limit": plan.limit, "least_margin": margin}


def _scored_rows(sweep: Sweep, measured: Probe, *, raced: bool) -> int:
    """Returns the rows that a setting is scored on in the end: every fold's, or those that settle it.

    Args:
        sweep: The sweep.
        measured: What was measured of it.
        raced: Whether further seeds follow the search.
    """
    if sweep.plan.folds is not None:
        rows = measured.eval_rows + measured.train_rows
        # Folds overlap in training rows: all of them are worth fewer rows (`frostline.decision.folds`).
        return round(rows / (1 + (sweep.plan.folds - 1) / sweep.plan.folds))
    if not raced:
        return measured.eval_rows
    epochs = _epochs(sweep, measured)
    trained = measured.train_rows * (epochs if sweep.job.run.training.evaluate is Every.NEVER else min(1.0, epochs))
    return rows_to_settle(measured.eval_rows, measured.eval_rows_at_hand, trained, sweep.plan.settle_rows)


def _line(probe: Probe, depths: Sequence[int | None]) -> Callable[[int | None], float]:
    """Returns seconds of an epoch over the depth: a block more or less costs the same."""
    known = [depth for depth in depths if depth is not None]
    deep, shallow = probe.epoch_s[0], probe.epoch_s[-1]
    if len(known) < 2:
        return lambda _depth: deep
    low, high = min(known), max(known)
    return lambda depth: deep + (shallow - deep) * (high - (high if depth is None else depth)) / (high - low)


def _epochs(sweep: Sweep, probe: Probe) -> float:
    training = sweep.job.run.training
    if training.max_steps is not None:
        return training.max_steps * training.batch_size * training.accumulation_steps / probe.train_rows
    return float(training.epochs or 1.0)


def _limit(predicted: Forecast, sweep: Sweep, workers: int) -> str:
    """Returns what stands in the way of a shorter or a possible sweep."""
    cache = sweep.job.run.runtime.cache
    free = shutil.disk_usage(home() if home().exists() else home().parent).free
    if predicted.cache_bytes > min(cache.max_bytes, free):
        room = "runtime.cache.max_bytes" if cache.max_bytes < free else "the free disk"
        return f"the prefix cache of all depths does not fit into {room}: only some depths would have one"
    if workers >= predicted.trials:
        return f"the longest trial ({_time(predicted.longest_s)}): there are as many slots as trials"
    if predicted.fill_s > 0.3 * predicted.wall_s:
        return f"filling the prefix cache ({_time(predicted.fill_s)} on each node): more slots save little"
    if predicted.idle > 0.3:
        return (
            f"idle slots ({predicted.idle:.0%} of their time): trials are of unlike length, and rung 2 waits for rung 1"
        )
    return "computing: with twice the slots it would take about half"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _print(plan: _Plan, answer: Sequence[str], console: Console) -> None:
    from rich.table import Table

    predicted, sweep, measured = plan.predicted, plan.sweep, plan.measured
    table = Table(box=None, pad_edge=False)
    for name in ("frozen blocks", "trials", "a trial in rung 1" if sweep.plan.has_rungs else "a trial", "to its end"):
        table.add_column(name, justify="right")
    by_depth = sorted(predicted.by_depth.items(), key=lambda row: -1 if row[0] is None else row[0])
    for depth, (count, first, to_the_end) in by_depth:
        table.add_row("-" if depth is None else str(depth), str(count), _time(first), _time(to_the_end))
    console.print(table)
    rungs = f", of which {predicted.num_promoted} are promoted" if sweep.plan.has_rungs else ""
    rows = f"{measured.train_rows} training rows, {measured.eval_rows} held out"
    lines = [
        f"{predicted.trials} trials{rungs}; {rows}",
        f"computing   {plan.hours:.2f} {plan.unit}",
        f"cache       {predicted.cache_bytes / 1e9:.2f} GB on each node, filled in {_time(predicted.fill_s)}",
        f"wall time   {_time(predicted.wall_s)} with {_several(plan.slots, 'slot')} on {_several(plan.nodes, 'node')}, "
        f"idle {predicted.idle:.0%} of the time",
        f"limited by  {plan.limit}",
        *answer,
        f"Taken for granted: {'; '.join(_assumed(sweep, plan.slots))}.",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _assumed(sweep: Sweep, slots: int) -> list[str]:
    """Returns what the forecast takes for granted."""
    assumed = ["trials that the sampler will choose are spread evenly over the depths"]
    if slots > 1:
        assumed.append("trials side by side are as fast as one alone")
    settings = sweep.job.run.flat()
    # These may change how long a trial takes, and one value was measured.
    varying = [key for key in sweep.space.keys if key.startswith(("training.", "dataset."))]
    if varying:
        assumed.append("every trial has " + ", ".join(f"{key}={settings.get(key)}" for key in varying))
    return assumed


def _about_the_answer(
    plan: SweepSpec, predicted: Forecast, rows: int, margin: float | None, *, raced: bool
) -> list[str]:
    """Returns what further seeds may take, and what the rows at hand can settle."""
    lines = []
    if raced:
        lines.append(f"then        fresh seeds for the contenders, up to {_time(plan.settle * predicted.wall_s)} more")
    if margin is not None:
        asked = "too few for" if margin > plan.margin else "enough for"
        lines.append(
            f"answer      {rows} held-out rows can settle a margin of {100 * margin:.1f} points "
            f"at best: {asked} the {100 * plan.margin:g} that sweep.margin asks for"
        )
    return lines


def _several(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number > 1 else "")
