"""Trainer callbacks that end training before its last step."""

from __future__ import annotations

import logging
import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from frostline.records.monitor import Monitor, RunControl
from frostline.records.run_folder import FOR_TERMINAL
from frostline.signals import SignalGuard
from frostline.spec import Every, TrainingSpec
from frostline.train.distributed import World
from frostline.train.train_log import TrainLog

log = logging.getLogger(__name__)


class PatienceCallback(TrainerCallback):
    """Ends a run whose objective no longer improves. Comes after `EvaluationCallback`."""

    def __init__(self, patience: int | None, train_log: TrainLog) -> None:
        self._patience = patience
        self._train_log = train_log

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Counts evaluations without a better one."""
        reason = self._train_log.stall(self._patience)
        if reason is not None and 0 < state.global_step < state.max_steps:
            log.info("epoch %g: %s", state.epoch or 0.0, reason, extra={FOR_TERMINAL: True})
            control.should_training_stop = True


class MonitorCallback(TrainerCallback):
    """Reports to the monitor, and stops the run if the monitor wants that. Comes after `EvaluationCallback`."""

    def __init__(self, monitor: Monitor, train_log: TrainLog, objective: str) -> None:
        self._monitor = monitor
        self._train_log = train_log
        self._objective = objective

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Sends a heartbeat."""
        self._monitor.heartbeat()

    on_prediction_step = on_step_end

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Asks the monitor, unless training has not started, is over, or is already being stopped."""
        if (
            state.global_step >= state.max_steps
            or state.global_step == 0
            or self._train_log.verdict is not RunControl.GO
        ):
            return
        self._train_log.verdict = ask_monitor(self._monitor, self._train_log, self._objective, state.epoch or 0.0)
        if self._train_log.verdict is not RunControl.GO:
            control.should_training_stop = True
            control.should_save = self._train_log.verdict is RunControl.PAUSE


def ask_monitor(monitor: Monitor, train_log: TrainLog, objective: str, epoch: float) -> RunControl:
    """Returns the verdict on the newest evaluation."""
    return monitor.evaluated(epoch, train_log.last_metrics.get(f"eval/{objective}", math.nan))


class StopCallback(TrainerCallback):
    """Ends training after the step in which a signal came, to whichever process, with a checkpoint."""

    def __init__(self, guard: SignalGuard, training: TrainingSpec, world: World) -> None:
        self._guard = guard
        self._every = training.checkpoint
        self._evaluates_steps = training.eval_steps is not None
        self._world = world

    def _is_requested(self) -> bool:
        [signum] = self._world.all_reduce_max([self._guard.requested or 0])
        if signum and self._guard.requested is None:
            self._guard.requested = signum
        return signum != 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """From now on a step can be finished."""
        self._guard.defer()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Looks for a signal."""
        if self._is_requested():
            control.should_training_stop = True
            if (
                not epoch_is_whole(state) and state.global_step < state.max_steps
            ):  # else on_epoch_end, which comes next, evaluates and saves
                # An evaluation of this very step comes before the checkpoint: a resumed run would lack it.
                control.should_evaluate = control.should_evaluate and self._evaluates_steps
                control.should_save = self._every is not Every.NEVER

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Trainer comes here after every stop; only a whole epoch is evaluated, or a resumed run would lack it."""
        if self._is_requested():
            control.should_training_stop = True
            is_whole = epoch_is_whole(state)
            control.should_evaluate = control.should_evaluate and is_whole
            control.should_save = is_whole and self._every is not Every.NEVER


class StopAtStepCallback(TrainerCallback):
    """Ends training after a given step; the schedule stays that of the whole run."""

    def __init__(self, step: int, train_log: TrainLog) -> None:
        self._step = step
        self._train_log = train_log

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Looks at the step."""
        if state.global_step >= self._step and state.global_step < state.max_steps:
            self._train_log.verdict = RunControl.PAUSE
            control.should_training_stop = True
            control.should_save = False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Trainer comes here after every stop; only a whole epoch is evaluated here."""
        if self._train_log.verdict is RunControl.PAUSE:
            control.should_evaluate = control.should_evaluate and epoch_is_whole(state)
            control.should_save = False


def epoch_is_whole(state: TrainerState) -> bool:
    """Returns whether training is at the end of an epoch."""
    return state.epoch is not None and math.isclose(state.epoch, round(state.epoch), abs_tol=1e-9)
