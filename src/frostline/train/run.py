"""The course of one run, from its spec to a `RunResult`."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from frostline.errors import UserError, listing, origin
from frostline.freezing.freeze import trained_sha256
from frostline.machine import device_of
from frostline.provenance import PeakMemory
from frostline.records.monitor import RunControl
from frostline.records.recorder import RunStart
from frostline.records.result import (
    CacheUse,
    Cause,
    Cost,
    Objective,
    RunResult,
    Status,
    describe_cache_uses,
    read_cache_uses,
)
from frostline.records.run_context import RunContext
from frostline.records.run_folder import MODEL_FOLDER
from frostline.signals import Interrupted, SignalGuard
from frostline.spec import Keep, RunSpec
from frostline.train import stops
from frostline.train.checkpoint import CheckpointStore
from frostline.train.distributed import SharedMonitor, World
from frostline.train.evaluate import evaluate_tables, write_predictions
from frostline.train.failures import cause_of, reason_of
from frostline.train.flops import flops_of_setup
from frostline.train.generated import write_generated
from frostline.train.model_files import remove_unfinished, save_model
from frostline.train.quantized_prefix import audit_of, make_plain
from frostline.train.resume import ResumePoint
from frostline.train.setup import Setup, prepare
from frostline.train.train_log import KeptWeights, TrainLog, load_weights, restore_weights
from frostline.train.trainer import Assembly, assemble
from frostline.train.worker_setup import freeze_gc

log = logging.getLogger(__name__)


def run(spec: RunSpec, context: RunContext, *, world: World | None = None) -> RunResult:
    """Trains one model as its spec says.

    Whatever happens to the training, a result comes back and is recorded: FINISHED, FAILED with the reason (an
    exception, a loss that isn't finite, a frozen tensor that changed), PRUNED by the monitor or KILLED by a signal.

    Args:
        spec: What to train.
        context: Where it is recorded, who may stop it.
        world: The processes that train it together, each by a call of its own; None: this one alone. Rank 0
            records; the recorders of the other ranks get the result alone.

    Raises:
        UserError: Bad input. A run that had started is recorded as FAILED first.
        Interrupted: A signal came when the last step was done: the run was finished and recorded as FINISHED, but who
            runs several should stop.
    """
    course = TrainingRun(spec, context, world or World())
    with SignalGuard(patient=course.is_distributed) as guard:
        try:
            course.prepare(guard)
            course.train(guard)
            result = course.finish()
        except UserError as error:
            if course.started:
                refused = course.result(Status.FAILED, str(error), Cause.ERROR, error=origin(error))
                context.recorder.finish(refused)
            raise
        except (Interrupted, KeyboardInterrupt) as stop:
            cause = stop.cause if isinstance(stop, Interrupted) else Cause.INTERRUPTED
            result = course.result(Status.KILLED, str(stop) or "stopped by SIGINT", cause)
        except (Exception, SystemExit) as error:  # an exit inside a run ends this run, not the sweep
            log.exception("%s failed", spec.name())
            cause = cause_of(error, is_distributed=course.is_distributed)
            result = course.result(Status.FAILED, reason_of(error), cause, error=origin(error))
        guard.defer()  # a signal now must not leave a half-written record
        course.clean_up()
        context.recorder.finish(result)
    if guard.requested is not None and result.status is Status.FINISHED:
        raise Interrupted(guard.requested)
    return result


class TrainingRun:
    """The steps of one run, in order, the clock beside them, and what is known for its result so far."""

    def __init__(self, spec: RunSpec, context: RunContext, world: World) -> None:
        self._spec = spec
        self._context = context
        self._world = world
        self._monitor = SharedMonitor(context.monitor, world)
        self._memory = PeakMemory()
        self._start_s = time.monotonic()
        self._setup_s: float | None = None
        self._flops_per_epoch: float | None = None
        self._setup: Setup | None = None
        self._assembly: Assembly | None = None
        self._checkpoint: ResumePoint | None = None
        self._epoch = 0.0
        self._steps: int | None = None
        """The checkpoint's step, if the monitor stopped the resumed run before it trained; else None."""
        self._known: dict[str, Any] = {"name": spec.name(), "spec_digest": spec.digest()}
        self.started = False
        """Whether the recorder knows of the run."""

    @property
    def is_distributed(self) -> bool:
        """Whether several processes train it."""
        return self._world.is_distributed

    def prepare(self, guard: SignalGuard) -> None:
        """Loads model and data, freezes, records the start, makes the Trainer."""
        freeze_gc()
        context = self._context
        if context.resume_from is not None:
            self._checkpoint = ResumePoint.open(self._spec, context.resume_from)
        setup = self._setup = self._set_up(None if self._checkpoint is None else self._checkpoint.cache_uses)
        if self._checkpoint is not None:
            self._checkpoint.check_inputs(setup.provenance)
        self._record_start(setup)
        self._assembly = self._assemble(setup, self._checkpoint, guard)

    def finish(self) -> RunResult:
        """Evaluates the weights that are kept, audits, saves."""
        setup, assembly = self._setup, self._assembly
        assert setup is not None
        assert assembly is not None
        kept = self._evaluate(assembly, setup)
        self._audit(setup, assembly, kept)
        objective = _objective(self._spec, kept.metrics)
        if assembly.train_log.verdict is not RunControl.GO:
            cause = Cause.PAUSED if assembly.train_log.verdict is RunControl.PAUSE else Cause.PRUNED
            return self.result(Status.PRUNED, f"{cause} after epoch {self._epoch:g}", cause, objective=objective)
        self._conclude(setup, assembly, kept)
        return self.result(Status.FINISHED, assembly.train_log.stall(self._spec.training.patience), objective=objective)

    def _set_up(self, resumed: Sequence[CacheUse] | None) -> Setup:
        """Prepares the first process before the others: they find what it fetched and computed, and keep to it."""
        world, spec, heartbeat = self._world, self._spec, self._monitor.heartbeat
        sharing = self._context.sharing_of(spec)
        if not world.is_distributed:
            return prepare(spec, sharing, resumed, heartbeat)
        world.init(device_of(spec))
        setup = prepare(spec, sharing, resumed, heartbeat, world) if world.is_main else None
        uses = world.broadcast(setup.provenance["compute"]["prefix_cache"] if setup is not None else None)
        if setup is None:
            setup = prepare(spec, sharing, read_cache_uses(uses), heartbeat, world)
            if setup.provenance["compute"]["prefix_cache"] != uses:
                used = describe_cache_uses(read_cache_uses(uses))
                raise RuntimeError(
                    f"rank {world.rank} can't read the prefix cache of rank 0 ({used}): give runtime.cache=off"
                )
        return setup

    def _record_start(self, setup: Setup) -> None:
        """Records what is trained, before anything is."""
        resume_from = self._context.resume_from
        provenance = {**setup.provenance, **({"resumed_from": str(resume_from)} if resume_from else {})}
        frozen = setup.frozen
        self._known |= {
            "params": frozen.params, "freeze": frozen.frozen, "data": setup.data, "provenance": provenance
        }  # fmt: skip
        self.started = True
        self._context.recorder.start(
            RunStart(
                spec=self._spec,
                folder=self._context.folder,
                overrides=tuple(self._context.overrides),
                freeze=frozen.frozen,
                data=setup.data,
                provenance=setup.provenance,
            )
        )

    def _assemble(self, setup: Setup, checkpoint: ResumePoint | None, guard: SignalGuard) -> Assembly:
        """Makes the Trainer, as far on as the checkpoint is."""
        spec, context = self._spec, self._context
        store = CheckpointStore(context.folder)
        assembly = assemble(spec, setup, store, context.recorder, guard, self._monitor, self._world)
        train_log = assembly.train_log
        if context.until_step is not None:
            assembly.trainer.add_callback(stops.StopAtStepCallback(context.until_step, train_log))
        self._flops_per_epoch = flops_of_setup(setup)
        if checkpoint is not None:
            precision, versions = setup.machine.precision.value, setup.provenance["versions"]
            checkpoint.warn_of_differences(precision, self._world.size, versions)
            checkpoint.carry_over(assembly, context.recorder)
        train_log.fill_s += setup.cached.fill_s if setup.cached is not None else 0.0
        train_log.fill_s += setup.phases.fill_s if setup.phases is not None else 0.0
        log.info(
            "%s: training on %s (%s, %d threads), %d rows, recorded in %s",
            spec.name(), setup.machine.device, setup.machine.precision.value, setup.machine.threads,
            setup.data["train_rows"], context.folder,
        )  # fmt: skip
        return assembly

    def train(self, guard: SignalGuard) -> None:
        """Trains up to the last step, or to where the monitor or a signal ends it."""
        assembly, checkpoint = self._assembly, self._checkpoint
        assert assembly is not None
        self._setup_s = time.monotonic() - self._start_s
        train_log = assembly.train_log
        if checkpoint is not None and train_log.last_eval_step == checkpoint.step:
            # Killed between this evaluation's checkpoint and the end that the monitor wanted: it is asked again.
            self._epoch = checkpoint.epoch
            objective = self._spec.training.objective
            is_over = train_log.stall(self._spec.training.patience) is not None
            if not is_over:
                train_log.verdict = stops.ask_monitor(self._monitor, train_log, objective, self._epoch)
            if is_over or train_log.verdict is not RunControl.GO:
                self._steps = checkpoint.step
                assert assembly.trainer.model is not None
                load_weights(assembly.trainer.model, checkpoint.folder)
                return
        train_log.begin()
        try:
            assembly.trainer.train(resume_from_checkpoint=str(checkpoint.folder) if checkpoint else None)
        finally:
            assembly.progress.close()
            train_log.end()
            self._epoch = assembly.trainer.state.epoch or 0.0
        state = assembly.trainer.state
        stopped_early = train_log.verdict is RunControl.GO and state.global_step < state.max_steps
        if guard.requested is not None and stopped_early:
            raise Interrupted(guard.requested)
        # All steps are done: what is left is an evaluation and writing files, which a first signal lets pass.

    def _evaluate(self, assembly: Assembly, setup: Setup) -> KeptWeights:
        """Evaluates what isn't evaluated yet and leaves the kept weights in the model."""
        trainer, train_log = assembly.trainer, assembly.train_log
        step = self._steps if self._steps is not None else trainer.state.global_step
        if train_log.last_eval_step != step:
            assembly.evaluation.prepare()
            trainer.evaluate()
            train_log.end()
        if self._spec.training.keep is Keep.LAST:
            return KeptWeights(step=step, metrics=train_log.last_metrics, logits=train_log.last_logits)
        assert train_log.best.weights is not None, "there was an evaluation"
        if train_log.best.step != step:
            restore_weights(setup.loaded.model, train_log.best.weights)
        return train_log.best

    def _audit(self, setup: Setup, assembly: Assembly, kept: KeptWeights) -> None:
        """Hashes what was frozen and what was trained.

        Raises:
            RuntimeError: The frozen part was not frozen, or processes have other weights.
        """
        if setup.phases is not None:
            setup.phases.leave()
            assembly.collator.hidden = None
        audit = audit_of(setup)
        weights_sha256 = trained_sha256(setup.loaded.model)
        self._world.assert_equal(weights_sha256, "the trained weights")
        self._known |= {
            "metrics": kept.metrics, "step": kept.step, "weights_sha256": weights_sha256, "audit": audit,
            "drift": setup.drift.table(audit.changed),
        }  # fmt: skip
        in_eval = audit.pinned_in_eval or self._spec.training.frozen_dropout
        if not (audit.frozen_unchanged and audit.absent_from_optimizer and in_eval):
            raise RuntimeError(f"{audit.violation}: a bug of frostline; report it with the run's spec.json")

    def _conclude(self, setup: Setup, assembly: Assembly, kept: KeptWeights) -> None:
        """Scores the kept weights on all sets of rows and writes predictions, model and what it generates."""
        self._monitor.heartbeat()
        sets, others = evaluate_tables(self._spec, setup, assembly, kept)
        if self._world.is_main:
            write_predictions(sets, setup, self._spec.dataset.task, self._context.folder)
            self._spec.freeze.finalize(setup.loaded.model)
            make_plain(setup)
            save_model(setup.loaded, self._context.folder / MODEL_FOLDER)
            others |= write_generated(self._spec, setup.held_out, self._context.folder, self._monitor.heartbeat)
            if others:
                self._context.recorder.log(others, kept.step or 0)
            self._known["metrics"] = kept.metrics | others

    def result(
        self,
        status: Status,
        reason: str | None = None,
        cause: Cause | None = None,
        *,
        error: str | None = None,
        objective: Objective | None = None,
    ) -> RunResult:
        """Returns the result of a run that ends now."""
        return RunResult(
            status=status,
            reason=reason,
            cause=cause,
            error=error,
            objective=objective,
            cost=self._cost(),
            **self._known,
        )

    def clean_up(self) -> None:
        """Removes what an aborted writing left behind."""
        if not self._world.is_main:
            return
        remove_unfinished(self._context.folder / MODEL_FOLDER)
        shutil.rmtree(CheckpointStore(self._context.folder).writing, ignore_errors=True)

    def _cost(self) -> Cost:
        """Returns what it took so far."""
        train_log = self._assembly.train_log if self._assembly else TrainLog()
        steps = self._assembly.trainer.state.global_step if self._assembly else 0
        setup = self._setup
        on_gpu = setup is not None and setup.machine.device == "cuda"
        flops = None if self._flops_per_epoch is None else self._flops_per_epoch * self._epoch
        saved_s = None
        if setup is not None and setup.cached is not None:
            saved_s = setup.cached.saved_s(self._epoch, train_log.num_evals)
        if setup is not None and setup.phases is not None:
            flops, saved_s = setup.phases.flops(self._epoch), setup.phases.saved_s(self._epoch)
        return Cost(
            train_s=train_log.train_s,
            eval_s=train_log.eval_s,
            setup_s=self._setup_s if self._setup_s is not None else time.monotonic() - self._start_s,
            steps=self._steps if self._steps is not None else steps,
            peak_bytes=torch.cuda.max_memory_allocated() if on_gpu else self._memory.read(),
            peak_of="cuda" if on_gpu else "process",
            flops=flops,
            fill_s=None if saved_s is None else train_log.fill_s,
            saved_s=saved_s,
            epochs=self._epoch,
            num_evals=train_log.num_evals,
        )


def _objective(spec: RunSpec, metrics: Mapping[str, float]) -> Objective:
    name = spec.training.objective
    if f"eval/{name}" not in metrics:
        available = listing(key.removeprefix("eval/") for key in metrics)
        raise UserError(f"training.objective={name}: was not computed; there are {available}")
    value = metrics[f"eval/{name}"]
    if not math.isfinite(value):
        raise ValueError(f"the objective {name} is {value}")
    return Objective(metric=name, value=value, direction=spec.training.direction.value)
