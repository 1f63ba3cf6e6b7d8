"""Owns: the course of one run, from spec to `RunResult`. Must not know: Hydra, MLflow, Optuna."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from frostline.errors import UserError, listing
from frostline.provenance import PeakMemory
from frostline.record import METRICS_FILE, Recorder, RunStart
from frostline.result import Cost, Objective, RunResult, Status
from frostline.spec import Keep, RunSpec
from frostline.train import callbacks
from frostline.train.checkpoint import CheckpointStore
from frostline.train.setup import Setup, prepare
from frostline.train.signals import Interrupted, SignalGuard
from frostline.train.trainer import Assembly, assemble

log = logging.getLogger(__name__)

MODEL_FOLDER = "model"


def run(
    spec: RunSpec,
    recorder: Recorder,
    out_dir: Path,
    *,
    overrides: Sequence[str] = (),
    resume_from: Path | None = None,
) -> RunResult:
    """Trains one model as its spec says.

    Whatever happens to the training, a result comes back and is recorded: FINISHED, FAILED with the reason (an
    exception, a loss that isn't finite, a frozen tensor that moved) or KILLED by a signal. Only what the user can mend
    is raised.

    Args:
        spec: What to train.
        recorder: Where numbers and the result go.
        out_dir: The run's folder: `model/` and checkpoints are written there.
        overrides: What the user typed, for the record.
        resume_from: Folder of an interrupted run of the same spec, to go on from its newest whole checkpoint.

    Raises:
        UserError: Bad input: no run was started.
        Interrupted: A signal came when the last step was done: the run was finished and recorded as FINISHED, but who
            runs several should stop.
    """
    draft: dict[str, Any] = {"name": spec.name(), "spec_digest": spec.digest()}
    memory = PeakMemory()
    course = _Course(spec, recorder, out_dir, memory)
    with SignalGuard() as guard:
        try:
            result = course.go(guard, draft, tuple(overrides), resume_from)
        except UserError as error:
            if course.started:
                recorder.finish(RunResult(status=Status.FAILED, reason=str(error), **draft, cost=course.cost()))
            raise
        except (Interrupted, KeyboardInterrupt) as stop:
            reason = str(stop) or "stopped by SIGINT"
            result = RunResult(status=Status.KILLED, reason=reason, **draft, cost=course.cost())
        except (Exception, SystemExit) as error:  # an exit inside a run ends this run, not the sweep
            log.exception("%s failed", spec.name())
            result = RunResult(status=Status.FAILED, reason=_reason(error), **draft, cost=course.cost())
        guard.defer()  # a signal now must not leave a half-written record
        course.clean_up()
        recorder.finish(result)
    if guard.requested is not None and result.status is Status.FINISHED:
        raise Interrupted(guard.requested)
    return result


class _Course:
    """The steps of one run, in order, and the clock beside them."""

    def __init__(self, spec: RunSpec, recorder: Recorder, out_dir: Path, memory: PeakMemory) -> None:
        self._spec = spec
        self._recorder = recorder
        self._out_dir = out_dir
        self._memory = memory
        self._began = time.monotonic()
        self._train_began: float | None = None
        self._train_ended: float | None = None
        self._assembly: Assembly | None = None
        self._device = "cpu"
        self.started = False
        """Whether the recorder knows of the run."""

    def go(
        self, guard: SignalGuard, draft: dict[str, Any], overrides: tuple[str, ...], resume_from: Path | None
    ) -> RunResult:
        """Prepares, trains, audits, saves. `draft` collects what is known, for a result if this is cut short."""
        spec = self._spec
        store = CheckpointStore(self._out_dir)
        checkpoint = _find_checkpoint(spec, resume_from)
        setup = prepare(spec)
        self._device = setup.machine.device
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
                freeze_depth=setup.frozen.frozen.depth,
                data=setup.data,
                provenance=setup.provenance,
            )
        )
        assembly = self._assembly = assemble(spec, setup, store, self._recorder, guard)
        if checkpoint is not None:
            _carry_over(checkpoint, assembly, resume_from, self._recorder)
        log.info(
            "%s: training on %s (%s, %d threads), %d rows, recorded in %s",
            spec.name(), setup.machine.device, setup.machine.precision.value, setup.machine.threads,
            setup.data["train_rows"], self._out_dir,
        )  # fmt: skip
        self._train(assembly, checkpoint[0] if checkpoint else None, guard)
        kept = self._keep(assembly, setup)
        audit = setup.frozen.audit(setup.optimizer)
        draft |= {
            "metrics": kept.metrics,
            "step": kept.step,
            "audit": audit,
            "drift": setup.drift.table(audit.changed),
        }
        if not (audit.frozen_unchanged and audit.absent_from_optimizer and audit.pinned_in_eval):
            raise RuntimeError(f"the frozen part was not frozen: {audit}")
        objective = _objective(spec, kept.metrics)
        _save_model(setup, self._out_dir / MODEL_FOLDER)
        store.remove()
        return RunResult(status=Status.FINISHED, reason=None, objective=objective, **draft, cost=self.cost())

    def _train(self, assembly: Assembly, checkpoint: Path | None, guard: SignalGuard) -> None:
        self._train_began = time.monotonic()
        try:
            assembly.trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            assembly.progress.close()
            self._train_ended = time.monotonic()
        state = assembly.trainer.state
        if guard.requested is not None and state.global_step < state.max_steps:
            raise Interrupted(guard.requested)
        # All steps are done: what is left is an evaluation and writing files, which a first signal lets pass.

    def _keep(self, assembly: Assembly, setup: Setup) -> callbacks.Best:
        """Evaluates what isn't evaluated yet and leaves the kept weights in the model."""
        trainer, ledger = assembly.trainer, assembly.ledger
        step = trainer.state.global_step
        if ledger.last_eval_step != step:
            assembly.evaluation.before()
            trainer.evaluate()
            ledger_time = time.monotonic()
            self._train_ended = max(self._train_ended or 0.0, ledger_time)
        if self._spec.training.keep is Keep.LAST:
            return callbacks.Best(step=step, metrics=ledger.last_metrics)
        assert ledger.best.weights is not None, "there was an evaluation"
        if ledger.best.step != step:
            callbacks.put_back(setup.loaded.model, ledger.best.weights)
        return ledger.best

    def clean_up(self) -> None:
        """Removes what an aborted writing left behind."""
        shutil.rmtree(_aside(self._out_dir / MODEL_FOLDER), ignore_errors=True)
        shutil.rmtree(CheckpointStore(self._out_dir).writing, ignore_errors=True)

    def cost(self) -> Cost:
        """Returns what it took so far."""
        now = time.monotonic()
        began = self._train_began if self._train_began is not None else now
        ended = self._train_ended if self._train_ended is not None else now
        eval_s = self._assembly.ledger.eval_s if self._assembly else 0.0
        on_gpu = self._device == "cuda"
        return Cost(
            train_s=max(0.0, ended - began - eval_s),
            eval_s=eval_s,
            setup_s=began - self._began,
            steps=self._assembly.trainer.state.global_step if self._assembly else 0,
            peak_bytes=torch.cuda.max_memory_allocated() if on_gpu else self._memory.read(),
            peak_of="cuda" if on_gpu else "process",
        )


def _find_checkpoint(spec: RunSpec, resume_from: Path | None) -> tuple[Path, dict[str, Any]] | None:
    if resume_from is None:
        return None
    path, manifest = CheckpointStore(resume_from).newest_whole()
    if manifest.get("spec_digest") != spec.digest():
        raise UserError(f"resume={resume_from}: its checkpoint is of another config; compare its spec.json")
    return path, manifest


def _carry_over(
    checkpoint: tuple[Path, dict[str, Any]], assembly: Assembly, resume_from: Path | None, recorder: Recorder
) -> None:
    """Takes the best evaluation and the recorded numbers up to the checkpoint over from the interrupted run."""
    path, manifest = checkpoint
    callbacks.restore_ledger(assembly.ledger, path, manifest)
    best = assembly.ledger.best
    log.info("resuming from %s (best so far: %s)", path, best.value if best.step is not None else "none")
    assert resume_from is not None
    for line in (resume_from / METRICS_FILE).read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # the torn last line of a killed run
            continue
        step = record.pop("step")
        if step <= manifest["step"]:
            recorder.log({key: float(value) for key, value in record.items()}, step)


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
    """Writes the whole model with tokenizer and label names: aside first, so that `model/` is whole or not there."""
    aside = _aside(target)
    shutil.rmtree(aside, ignore_errors=True)
    setup.loaded.model.save_pretrained(aside)
    setup.loaded.tokenizer.save_pretrained(aside)
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
    return text if type(error).__name__ == "DivergedError" else f"{type(error).__name__}: {text}"
