"""Owns: the course of one run, from spec to `RunResult`. Must not know: Hydra, MLflow, Optuna."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from frostline.errors import ModelError, UserError, listing, machine_trouble, origin
from frostline.freezing.freeze import trained_sha256
from frostline.machine import device_of
from frostline.prefix_cache.attach import CachedPrefix
from frostline.provenance import PeakMemory
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
from frostline.records.run_folder import (
    INPUTS,
    MODEL_FOLDER,
    Monitor,
    NullMonitor,
    Recorder,
    RunControl,
    RunStart,
    Sharing,
    metrics_up_to,
)
from frostline.signals import Interrupted, SignalGuard
from frostline.spec import Keep, RunSpec
from frostline.train import callbacks
from frostline.train.checkpoint import CheckpointStore
from frostline.train.distributed import SharedMonitor, World, is_of_collective
from frostline.train.evaluate import evaluate_tables, write_predictions
from frostline.train.flops import flops_per_epoch, sample_of
from frostline.train.loss import DivergedError
from frostline.train.setup import Setup, prepare
from frostline.train.trainer import Assembly, assemble
from frostline.train.unfreezing import UnfreezeSchedule
from frostline.train.worker_setup import freeze_gc

log = logging.getLogger(__name__)


def run(
    spec: RunSpec,
    recorder: Recorder,
    out_dir: Path,
    *,
    overrides: Sequence[str] = (),
    resume_from: Path | None = None,
    monitor: Monitor | None = None,
    until_step: int | None = None,
    sharing: Sharing | None = None,
    world: World | None = None,
) -> RunResult:
    """Trains one model as its spec says.

    Whatever happens to the training, a result comes back and is recorded: FINISHED, FAILED with the reason (an
    exception, a loss that isn't finite, a frozen tensor that moved), PRUNED by the monitor or KILLED by a signal. Only
    what the user can mend is raised.

    Args:
        spec: What to train.
        recorder: Where numbers and the result go.
        out_dir: The run's folder: `model/` and checkpoints are written there.
        overrides: What the user typed, for the record.
        resume_from: Folder of an interrupted run of the same spec, to go on from its newest whole checkpoint; may be
            `out_dir`.
        monitor: Who may stop the run after an evaluation; None: nobody.
        until_step: Stop after this optimizer step, as PRUNED, everything before it computed as in the whole run.
        sharing: Who else will want what the frozen blocks compute; None: nobody.
        world: The processes that train it together, each by a call of its own; None: this one alone. What is recorded
            and asked is the first one's: the others' recorders are told no numbers.

    Raises:
        UserError: Bad input: no run was started.
        Interrupted: A signal came when the last step was done: the run was finished and recorded as FINISHED, but who
            runs several should stop.
    """
    draft: dict[str, Any] = {"name": spec.name(), "spec_digest": spec.digest()}
    memory = PeakMemory()
    world = world or World()
    watch = SharedMonitor(monitor or NullMonitor(), world)
    sharing = sharing or Sharing(num_runs=spec.runtime.num_runs)
    course = TrainingRun(spec, recorder, out_dir, memory, watch, until_step, sharing, world)
    with SignalGuard(patient=world.is_distributed) as guard:
        try:
            result = course.go(guard, draft, tuple(overrides), resume_from)
        except UserError as error:
            if course.started:
                refused = RunResult(
                    status=Status.FAILED, reason=str(error), cause=Cause.ERROR, error=origin(error), **draft,
                    cost=course.cost(),
                )  # fmt: skip
                recorder.finish(refused)
            raise
        except (Interrupted, KeyboardInterrupt) as stop:
            reason = str(stop) or "stopped by SIGINT"
            cause = stop.cause if isinstance(stop, Interrupted) else Cause.INTERRUPTED
            result = RunResult(status=Status.KILLED, reason=reason, cause=cause, **draft, cost=course.cost())
        except (Exception, SystemExit) as error:  # an exit inside a run ends this run, not the sweep
            log.exception("%s failed", spec.name())
            result = RunResult(
                status=Status.FAILED, reason=_reason(error), cause=_cause(error, world), error=origin(error), **draft,
                cost=course.cost(),
            )  # fmt: skip
        guard.defer()  # a signal now must not leave a half-written record
        course.clean_up()
        recorder.finish(result)
    if guard.requested is not None and result.status is Status.FINISHED:
        raise Interrupted(guard.requested)
    return result


class TrainingRun:
    """The steps of one run, in order, and the clock beside them."""

    def __init__(
        self,
        spec: RunSpec,
        recorder: Recorder,
        out_dir: Path,
        memory: PeakMemory,
        monitor: Monitor,
        until_step: int | None,
        sharing: Sharing,
        world: World,
    ) -> None:
        self._sharing = sharing
        self._world = world
        self._spec = spec
        self._until_step = until_step
        self._recorder = recorder
        self._out_dir = out_dir
        self._memory = memory
        self._began = time.monotonic()
        self._monitor = monitor
        self._setup_s: float | None = None
        self._flops_per_epoch: float | None = None
        self._assembly: Assembly | None = None
        self._device = "cpu"
        self._cached: CachedPrefix | None = None
        self._phases: UnfreezeSchedule | None = None
        self._epoch = 0.0
        self._steps: int | None = None
        """The step, if nothing was trained because the checkpoint lay at a step where the monitor says stop."""
        self.started = False
        """Whether the recorder knows of the run."""

    def go(
        self, guard: SignalGuard, draft: dict[str, Any], overrides: tuple[str, ...], resume_from: Path | None
    ) -> RunResult:
        """Prepares, trains, audits, saves. `draft` collects what is known, for a result if this is cut short."""
        spec = self._spec
        freeze_gc()
        store = CheckpointStore(self._out_dir)
        checkpoint = _find_checkpoint(spec, resume_from)
        resumed = read_cache_uses(checkpoint[1]["prefix_cache"]) if checkpoint is not None else None
        setup = self._prepare(resumed)
        if checkpoint is not None:
            _check_inputs(checkpoint[1]["inputs"], setup.provenance, resume_from)
        self._device, self._cached, self._phases = setup.machine.device, setup.cached, setup.phases
        draft |= {
            "params": setup.frozen.params,
            "freeze": setup.frozen.frozen,
            "data": setup.data,
            "provenance": {**setup.provenance, **({"resumed_from": str(resume_from)} if resume_from else {})},
        }
        self.started = True
        self._recorder.start(
            RunStart(
                spec=spec,
                folder=self._out_dir,
                overrides=overrides,
                freeze=setup.frozen.frozen,
                data=setup.data,
                provenance=setup.provenance,
            )
        )
        assembly = self._assembly = assemble(spec, setup, store, self._recorder, guard, self._monitor, self._world)
        if self._until_step is not None:
            assembly.trainer.add_callback(callbacks.StopAtStepCallback(self._until_step, assembly.train_log))
        self._flops_per_epoch = _flops_per_epoch(setup)
        if checkpoint is not None:
            _tell_precision(checkpoint[1]["precision"], setup.machine.precision.value)
            _tell_processes(int(checkpoint[1]["processes"]), self._world.size)
            _tell_versions(checkpoint[1]["versions"], setup.provenance["versions"])
            _carry_over(checkpoint, assembly, resume_from, self._recorder)
        if setup.cached is not None:
            assembly.train_log.fill_s += setup.cached.fill_s
        if setup.phases is not None:
            assembly.train_log.fill_s += setup.phases.fill_s
        log.info(
            "%s: training on %s (%s, %d threads), %d rows, recorded in %s",
            spec.name(), setup.machine.device, setup.machine.precision.value, setup.machine.threads,
            setup.data["train_rows"], self._out_dir,
        )  # fmt: skip
        self._train(assembly, checkpoint, guard)
        kept = self._keep(assembly, setup)
        if setup.phases is not None:
            setup.phases.leave()
            assembly.collator.hidden = None
        audit = setup.frozen.audit(setup.optimizer)
        weights_sha256 = trained_sha256(setup.loaded.model)
        self._world.assert_equal(weights_sha256, "the trained weights")
        draft |= {
            "metrics": kept.metrics,
            "step": kept.step,
            "weights_sha256": weights_sha256,
            "audit": audit,
            "drift": setup.drift.table(audit.changed),
        }
        in_eval = audit.pinned_in_eval or spec.training.frozen_dropout
        if not (audit.frozen_unchanged and audit.absent_from_optimizer and in_eval):
            raise RuntimeError(f"the frozen part was not frozen: {audit}")
        objective = _objective(spec, kept.metrics)
        if assembly.train_log.verdict is not RunControl.GO:
            cause = Cause.PAUSED if assembly.train_log.verdict is RunControl.PAUSE else Cause.PRUNED
            reason = f"{cause} after epoch {self._epoch:g}"
            return RunResult(
                status=Status.PRUNED, reason=reason, cause=cause, objective=objective, **draft, cost=self.cost()
            )
        self._monitor.alive()
        sets, others = evaluate_tables(spec, setup, assembly, kept)
        draft["metrics"] = kept.metrics | others
        if self._world.is_main:
            if others:
                self._recorder.log(others, kept.step or 0)
            write_predictions(sets, spec.dataset.task, self._out_dir)
            spec.freeze.finalize(setup.loaded.model)
            _save_model(setup, self._out_dir / MODEL_FOLDER)
        return RunResult(status=Status.FINISHED, reason=None, objective=objective, **draft, cost=self.cost())

    def _prepare(self, resumed: Sequence[CacheUse] | None) -> Setup:
        """Prepares the first process before the others: they find what it fetched and computed, and keep to it."""
        world, spec, sharing, alive = self._world, self._spec, self._sharing, self._monitor.alive
        if not world.is_distributed:
            return prepare(spec, sharing, resumed, alive)
        world.join(device_of(spec))
        setup = prepare(spec, sharing, resumed, alive, world) if world.is_main else None
        uses = world.shared(setup.provenance["compute"]["prefix_cache"] if setup is not None else None)
        if setup is None:
            setup = prepare(spec, sharing, read_cache_uses(uses), alive, world)
            if setup.provenance["compute"]["prefix_cache"] != uses:
                used = describe_cache_uses(read_cache_uses(uses))
                raise RuntimeError(f"process {world.rank} can't use the prefix cache that the first one uses ({used})")
        return setup

    def _train(self, assembly: Assembly, checkpoint: tuple[Path, dict[str, Any]] | None, guard: SignalGuard) -> None:
        self._setup_s = time.monotonic() - self._began
        train_log = assembly.train_log
        if checkpoint is not None and train_log.last_eval_step == checkpoint[1]["step"]:
            # Killed between this evaluation's checkpoint and the end that the monitor wanted: it is asked again.
            self._epoch = float(checkpoint[1]["epoch"] or 0.0)
            objective = self._spec.training.objective
            train_log.verdict = callbacks.ask_monitor(self._monitor, train_log, objective, self._epoch)
            if train_log.verdict is not RunControl.GO:
                self._steps = int(checkpoint[1]["step"])
                assert assembly.trainer.model is not None
                callbacks.load_weights(assembly.trainer.model, checkpoint[0])
                return
        train_log.begin()
        try:
            assembly.trainer.train(resume_from_checkpoint=str(checkpoint[0]) if checkpoint else None)
        finally:
            assembly.progress.close()
            train_log.end()
            self._epoch = assembly.trainer.state.epoch or 0.0
        state = assembly.trainer.state
        stopped_early = train_log.verdict is RunControl.GO and state.global_step < state.max_steps
        if guard.requested is not None and stopped_early:
            raise Interrupted(guard.requested)
        # All steps are done: what is left is an evaluation and writing files, which a first signal lets pass.

    def _keep(self, assembly: Assembly, setup: Setup) -> callbacks.BestWeights:
        """Evaluates what isn't evaluated yet and leaves the kept weights in the model."""
        trainer, train_log = assembly.trainer, assembly.train_log
        step = self._steps if self._steps is not None else trainer.state.global_step
        if train_log.last_eval_step != step:
            assembly.evaluation.before()
            trainer.evaluate()
            train_log.end()
        if self._spec.training.keep is Keep.LAST:
            return callbacks.BestWeights(step=step, metrics=train_log.last_metrics, logits=train_log.last_logits)
        assert train_log.best.weights is not None, "there was an evaluation"
        if train_log.best.step != step:
            callbacks.put_back(setup.loaded.model, train_log.best.weights)
        return train_log.best

    def clean_up(self) -> None:
        """Removes what an aborted writing left behind."""
        if not self._world.is_main:
            return
        shutil.rmtree(_aside(self._out_dir / MODEL_FOLDER), ignore_errors=True)
        shutil.rmtree(CheckpointStore(self._out_dir).writing, ignore_errors=True)

    def cost(self) -> Cost:
        """Returns what it took so far."""
        train_log = self._assembly.train_log if self._assembly else callbacks.TrainLog()
        steps = self._assembly.trainer.state.global_step if self._assembly else 0
        on_gpu = self._device == "cuda"
        flops = None if self._flops_per_epoch is None else self._flops_per_epoch * self._epoch
        saved_s = None if self._cached is None else self._cached.saved_s(self._epoch, train_log.num_evals)
        if self._phases is not None:
            flops, saved_s = self._phases.flops(self._epoch), self._phases.saved_s(self._epoch)
        return Cost(
            train_s=train_log.train_s,
            eval_s=train_log.eval_s,
            setup_s=self._setup_s if self._setup_s is not None else time.monotonic() - self._began,
            steps=self._steps if self._steps is not None else steps,
            peak_bytes=torch.cuda.max_memory_allocated() if on_gpu else self._memory.read(),
            peak_of="cuda" if on_gpu else "process",
            flops=flops,
            fill_s=None if saved_s is None else train_log.fill_s,
            saved_s=saved_s,
            epochs=self._epoch,
            num_evals=train_log.num_evals,
        )


def _flops_per_epoch(setup: Setup) -> float:
    depth, sample = setup.frozen.prefix_depth, sample_of(setup.tables.train)
    prefix = setup.anatomy.prefix(depth) if depth is not None else ()
    attached = setup.cached if sample is not None else None  # an image is run through the whole model
    if attached is not None:
        attached.detach()
    try:
        return flops_per_epoch(setup.loaded.model, setup.tables.train.num_tokens, prefix=prefix, sample=sample)
    except (ValueError, RuntimeError) as error:
        if sample is None:
            raise
        shape, why = tuple(sample["pixel_values"].shape[1:]), " ".join(str(error).split())[:150]
        raise ModelError(f"the model can't take what its image processor makes, {shape}: {why}") from error
    finally:
        if attached is not None:
            attached.attach()


def _find_checkpoint(spec: RunSpec, resume_from: Path | None) -> tuple[Path, dict[str, Any]] | None:
    if resume_from is None:
        return None
    path, manifest = CheckpointStore(resume_from).newest_whole()
    if manifest["spec_digest"] != spec.digest():
        raise UserError(f"resume={resume_from}: its checkpoint is of another config; compare its spec.json")
    return path, manifest


def _tell_precision(then: str, now: str) -> None:
    """Says that `training.precision=auto` came to something else than where the run began."""
    if then != now:
        log.warning("resume: the run began in %s and goes on in %s, as training.precision=auto decides here", then, now)


def _tell_processes(then: int, now: int) -> None:
    """Says that other processes go on: each draws its own dropout."""
    if then != now:
        log.warning("resume: the run began on %d processes and goes on on %d: dropout draws other numbers", then, now)


def _check_inputs(then: Mapping[str, str], now: Mapping[str, Any], resume_from: Path | None) -> None:
    """Checks that a resumed run has the data, weights, tokenizer and plugins of its checkpoint.

    Raises:
        UserError: Some differ; the message names them.
    """
    other = [
        f"{name} {str(then.get(key, 'none'))[:12]} -> {str(now.get(key, 'none'))[:12]}"
        for key, name in INPUTS.items()
        if then.get(key) != now.get(key)
    ]
    if other:
        raise UserError(f"resume={resume_from}: its inputs changed since the run started: {', '.join(other)}")


def _tell_versions(then: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Says what has another version than the checkpoint was written with."""
    names = ("torch", "transformers", "accelerate", "numpy", "frostline")
    other = [
        f"{name} {then[name]} -> {now.get(name)}" for name in names if name in then and then[name] != now.get(name)
    ]
    if other:
        log.warning("resume: %s: the numbers may differ from those of a run that was not stopped", ", ".join(other))


def _carry_over(
    checkpoint: tuple[Path, dict[str, Any]], assembly: Assembly, resume_from: Path | None, recorder: Recorder
) -> None:
    """Takes the best evaluation and the recorded numbers up to the checkpoint over from the interrupted run."""
    path, manifest = checkpoint
    callbacks.restore_train_log(assembly.train_log, path, manifest)
    assembly.window.carry(manifest["window"])
    best = assembly.train_log.best
    log.info("resuming from %s (best so far: %s)", path, best.value if best.step is not None else "none")
    assert resume_from is not None
    for step, values in metrics_up_to(resume_from, manifest["step"]):
        recorder.log(values, step)


def _objective(spec: RunSpec, metrics: dict[str, float]) -> Objective:
    name = spec.training.objective
    if f"eval/{name}" not in metrics:
        available = listing(key.removeprefix("eval/") for key in metrics)
        raise UserError(f"training.objective={name}: was not computed; there are {available}")
    value = metrics[f"eval/{name}"]
    if not math.isfinite(value):
        raise ValueError(f"the objective {name} is {value}")
    return Objective(metric=name, value=value, direction=spec.training.direction.value)


def _save_model(setup: Setup, target: Path) -> None:
    """Writes the whole model with tokenizer (or image processor) and label names, aside first: `model/` is whole."""
    aside = _aside(target)
    shutil.rmtree(aside, ignore_errors=True)
    setup.loaded.model.save_pretrained(aside)
    setup.loaded.processor.save_pretrained(aside)
    for path in aside.rglob("*"):  # weights come out readable by their owner alone, whatever the umask says
        path.chmod(0o666 & ~_umask())
    shutil.rmtree(target, ignore_errors=True)
    aside.replace(target)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.writing")


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, DivergedError) else f"{type(error).__name__}: {text}"


def _cause(error: BaseException, world: World) -> Cause:
    if isinstance(error, torch.OutOfMemoryError):
        return Cause.OUT_OF_MEMORY
    if machine_trouble(error) is not None:
        return Cause.MACHINE
    if world.is_distributed and is_of_collective(error):
        return Cause.LOST_PEER
    return Cause.DIVERGED if isinstance(error, DivergedError) else Cause.ERROR
