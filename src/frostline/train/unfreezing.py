"""Gradual unfreezing: the phases of a run, and a check that what is frozen in each does not move.

The optimizer holds all that is trained in the end: it passes by what has no
gradient yet, and counts its steps apart.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, get_scheduler

from frostline.errors import SpecError
from frostline.freezing.freeze import changed_tensors, freeze_temporarily, unfreeze
from frostline.freezing.methods.depth import FreezeDepth
from frostline.models.blocks import Anatomy, NamedModule
from frostline.prefix_cache.attach import cache_use, open_cache
from frostline.prefix_cache.request import CachedPrefix, CacheRequest
from frostline.records.result import CacheUse
from frostline.spec import Every, FreezePhase, RunSpec
from frostline.train.flops import flops_per_epoch, of_decoder, sample_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class UnfreezePhase:
    """A phase of gradual unfreezing that the run reaches.

    Attributes:
        phase: The phase.
        end_epoch: The epoch at which it ends, exclusive, counted from 0.
        cached: Its hidden states, if it begins at its frozen depth; detached.
        flops_per_epoch: Estimated; None if unknown.
    """

    phase: FreezePhase
    end_epoch: float
    cached: CachedPrefix | None
    flops_per_epoch: float | None

    def epochs_in(self, epoch: float) -> float:
        """Returns how many epochs it lasted, of a run that was trained for some."""
        return max(0.0, min(epoch, self.end_epoch) - self.phase.first_epoch)


def phases_reached(spec: RunSpec, num_blocks: int, num_rows: int) -> tuple[FreezePhase, ...]:
    """Returns the phases that a run reaches; nothing if its freeze method has none.

    Args:
        spec: The run.
        num_blocks: Of the model.
        num_rows: Training rows.

    Raises:
        SpecError: It ends before the second.
    """
    phases = spec.freeze.phases(num_blocks)
    epochs = num_epochs(spec, num_rows)
    reached = tuple(phase for phase in phases if phase.first_epoch < epochs - 1e-9)
    if phases and len(reached) < 2:
        raise SpecError(
            f"training.max_steps={spec.training.max_steps}: are {epochs:.2g} epochs of {num_rows} rows, and with "
            f"freeze={spec.freeze.name} the head alone takes the first {phases[1].first_epoch}; give more"
        )
    return reached


def num_epochs(spec: RunSpec, num_rows: int) -> float:
    """Returns for how many epochs a run trains."""
    if spec.training.epochs is not None:
        return spec.training.epochs
    return (spec.training.max_steps or 0) / steps_per_epoch(spec, num_rows)


def steps_per_epoch(spec: RunSpec, num_rows: int) -> int:
    """Returns the optimizer steps of an epoch, as Trainer counts them."""
    passes = -(-num_rows // spec.training.batch_size)
    return max(1, -(-passes // spec.training.accumulation_steps))


def open_phases(
    request: CacheRequest, phases: Sequence[FreezePhase], resumed: Sequence[CacheUse] | None
) -> tuple[UnfreezeSchedule, tuple[CacheUse, ...]]:
    """Returns the phases of a run, with the hidden states of those that can use the prefix cache.

    Hidden states of all phases are computed in one pass.

    Args:
        request: For the run; its depth is shared out.
        phases: From `phases_reached`.
        resumed: How the interrupted run used the cache in each phase; None: a new run.

    Returns:
        The phases, the model unchanged; and how each phase uses the cache.
    """
    spec, anatomy, tables = request.spec, request.probe.anatomy, request.tables
    _check_trained(spec, anatomy, phases)
    total = num_epochs(spec, len(tables.train))
    ends = [*(float(phase.first_epoch) for phase in phases[1:]), total]
    frozen = [phase for phase in phases if phase.depth]
    depths = tuple(sorted({*request.sharing.depths, *(phase.depth or 0 for phase in frozen)} - {0}))
    length = sum(end - phase.first_epoch for phase, end in zip(phases, ends, strict=True) if phase.depth)
    # What a phase saves is estimated for all of them together: they are computed in one pass.
    training = replace(spec.training, epochs=length / max(1, len(frozen)) or 1.0, max_steps=None)
    shared = replace(request.sharing, depths=depths, num_runs=request.sharing.num_runs * max(1, len(frozen)))
    before: Sequence[CacheUse | None] = [None] * len(phases)
    if resumed is not None:
        before = resumed if len(resumed) == len(phases) else [CacheUse()] * len(phases)
    opened, uses = [], []
    for phase, end, then in zip(phases, ends, before, strict=True):
        cached = None
        if phase.depth:
            fixed = FreezeDepth(depth=phase.depth)
            own = replace(spec, training=training, freeze=fixed)
            # Other rows are scored by the whole model, when the last phase is over.
            trained = replace(tables, others={})
            cached = open_cache(
                replace(request, spec=own, tables=trained, depth=phase.depth, sharing=shared, resumed=then)
            )
        uses.append(cache_use(cached, then))
        if cached is not None:
            cached.detach()
        flops = flops_per_epoch(
            anatomy.model,
            tables.train.num_tokens,
            prefix=() if phase.depth is None else anatomy.prefix(phase.depth),
            sample=sample_of(tables.train),
            decoder=of_decoder(anatomy, tables.train),
        )
        opened.append(UnfreezePhase(phase=phase, end_epoch=end, cached=cached, flops_per_epoch=flops))
    evals = 1.0 if spec.training.evaluate is Every.EPOCH else 0.0
    if spec.training.eval_steps is not None:
        evals = steps_per_epoch(spec, len(tables.train)) / spec.training.eval_steps
    schedule = UnfreezeSchedule(anatomy, opened, evals_per_epoch=evals)
    return schedule, tuple(uses)


def _check_trained(spec: RunSpec, anatomy: Anatomy, phases: Sequence[FreezePhase]) -> None:
    """Checks that each phase has something to train: output embeddings tied to frozen ones are a head of nothing.

    Raises:
        SpecError: One has not.
    """
    trained = {id(parameter) for parameter in anatomy.model.parameters() if parameter.requires_grad}
    for phase in phases:
        prefix = anatomy.prefix(phase.depth) if phase.depth is not None else ()
        if trained <= {id(parameter) for _, module in prefix for parameter in module.parameters()}:
            raise SpecError(
                f"freeze={spec.freeze.name}: nothing is left to train from epoch {phase.first_epoch} on: the model's "
                "head has no parameters of its own; give freeze=depth"
            )


class UnfreezeSchedule:
    """The phases of a run, and the current one.

    Args:
        anatomy: The model; all that is trained in the last phase takes gradients.
        phases: In order.
        evals_per_epoch: Evaluations in an epoch.
    """

    def __init__(self, anatomy: Anatomy, phases: Sequence[UnfreezePhase], *, evals_per_epoch: float) -> None:
        self._evals_per_epoch = evals_per_epoch
        self._anatomy = anatomy
        self._phases = tuple(phases)
        self._now: UnfreezePhase | None = None
        self._held: tuple[NamedModule, ...] = ()
        self._before: dict[str, str] = {}

    @property
    def cached(self) -> CachedPrefix | None:
        """The hidden states of the current phase."""
        return self._now.cached if self._now is not None else None

    @property
    def phases(self) -> tuple[FreezePhase, ...]:
        """All of them, in order."""
        return tuple(each.phase for each in self._phases)

    @property
    def fill_s(self) -> float:
        """Seconds in which this run computed hidden states for its phases."""
        return sum(each.cached.fill_s for each in self._phases if each.cached is not None)

    def saved_s(self, epoch: float) -> float | None:
        """Returns the seconds of passes that were not run; None without a cache."""
        cached = [each for each in self._phases if each.cached is not None]
        if not cached:
            return None
        spans = [(each.cached, each.epochs_in(epoch)) for each in cached]
        evals = [math.floor(epochs * self._evals_per_epoch + 1e-9) for _, epochs in spans]
        return sum(part.saved_s(epochs, n) for (part, epochs), n in zip(spans, evals, strict=True) if part is not None)

    def flops(self, epoch: float) -> float | None:
        """Returns the floating-point operations of a run that was trained for some epochs."""
        if any(each.flops_per_epoch is None for each in self._phases):
            return None
        return sum((each.flops_per_epoch or 0.0) * each.epochs_in(epoch) for each in self._phases)

    def enter(self, epoch: float) -> None:
        """Makes the model what it is in an epoch (counted from 0).

        Raises:
            RuntimeError: What was frozen until now has moved.
        """
        current = next(each for each in reversed(self._phases) if each.phase.first_epoch <= epoch + 1e-9)
        if current is self._now:
            return
        self.leave()
        last, depth = self._phases[-1].phase.depth, current.phase.depth
        # Frozen now, and not in the end: what is frozen to the end is frozen already.
        modules = () if depth is None else self._anatomy.prefix(depth)
        frozen = {name for name, _ in (() if last is None else self._anatomy.prefix(last))}
        self._held = tuple((name, module) for name, module in modules if name not in frozen)
        self._before = freeze_temporarily(self._held)
        self._now = current
        if current.cached is not None:
            current.cached.attach()
        how = "" if current.cached is None else " (from the prefix cache)"
        trained = "everything" if depth is None else f"what lies above block {depth}"
        if depth == self._anatomy.num_blocks:
            trained = "the head alone"
        log.info("from epoch %g on: %s is trained%s", current.phase.first_epoch, trained, how)

    def leave(self) -> None:
        """Ends the current phase; the model is whole.

        Raises:
            RuntimeError: What was frozen in it has moved.
        """
        if self._now is None:
            return
        if self._now.cached is not None:
            self._now.cached.detach()
        self._now = None
        changed = changed_tensors(self._held, self._before)
        if changed:
            raise RuntimeError(f"what was frozen in a phase has moved: {', '.join(changed[:3])}")
        unfreeze(self._held, mode=self._anatomy.model.training)
        self._held, self._before = (), {}


class UnfreezeCallback(TrainerCallback):
    """Enters each phase at the start of its first epoch.

    Args:
        phases: Of the run.
        use_hidden: Called with the hidden states of the new phase, or None.
    """

    def __init__(self, phases: UnfreezeSchedule, use_hidden: Callable[[CachedPrefix | None], None]) -> None:
        self._phases = phases
        self._use_hidden = use_hidden

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A resumed run also starts in the phase where it stopped."""
        self._phases.enter(math.floor((state.epoch or 0.0) + 1e-9))
        self._use_hidden(self._phases.cached)

    on_epoch_begin = on_train_begin


def make_scheduler(
    spec: RunSpec, optimizer: torch.optim.Optimizer, total: int, num_rows: int, phases: Sequence[FreezePhase]
) -> LambdaLR:
    """Returns a schedule that begins anew after the first phase, which has a peak learning rate of its own.

    Args:
        spec: The run.
        optimizer: Its groups have the rates that the rest begins with.
        total: Steps of the run.
        num_rows: Training rows.
        phases: Of the run; the first one has a rate.

    Raises:
        SpecError: The schedule is none that can begin anew.
    """
    lr = phases[0].lr
    assert lr is not None
    first = min(total, phases[1].first_epoch * steps_per_epoch(spec, num_rows))
    probe, rest = (_shape(spec, steps) for steps in (first, max(1, total - first)))

    def shape(scale: float) -> Callable[[int], float]:
        return lambda step: scale * probe(step) if step < first else rest(step - first)

    return LambdaLR(optimizer, [shape(lr / group["lr"]) for group in optimizer.param_groups])


def _shape(spec: RunSpec, steps: int) -> Callable[[int], float]:
    """Returns the optimizer's schedule over some steps, as a multiple of its peak."""
    stand_in = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    warmup = math.ceil(spec.optimizer.warmup_ratio * steps)
    scheduler = get_scheduler(spec.optimizer.schedule, stand_in, num_warmup_steps=warmup, num_training_steps=steps)
    if not isinstance(scheduler, LambdaLR):
        raise SpecError(
            f"optimizer.schedule={spec.optimizer.schedule}: can't begin anew, as freeze={spec.freeze.name} asks"
        )
    shape: Callable[[int], float] = scheduler.lr_lambdas[0]
    return shape
