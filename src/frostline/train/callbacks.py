"""Trainer callbacks: losses, evaluation, recording, checkpoints, stops.

Trainer is composed, not subclassed: each concern is a callback of its own, and they share a `TrainLog`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from frostline.records.recorder import Recorder
from frostline.records.run_folder import INPUTS
from frostline.spec import Direction, TrainingSpec
from frostline.train.checkpoint import CheckpointStore
from frostline.train.device import RngState
from frostline.train.distributed import World
from frostline.train.loss import BatchLoss, DivergedError
from frostline.train.loss_window import LossWindow
from frostline.train.metric_names import evaluation_metrics
from frostline.train.sampling import EpochSampler, PaddedSampler
from frostline.train.stops import epoch_is_whole
from frostline.train.train_log import BEST_FILE, KeptWeights, TrainLog, trained_weights

log = logging.getLogger(__name__)


class LossCallback(TrainerCallback):
    """Gives the loss its step, and ends a diverged run at the step where it diverged."""

    def __init__(self, loss: BatchLoss, check_every: int) -> None:
        self._loss = loss
        self._check_every = check_every

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Counts steps from 1."""
        self._loss.step = state.global_step + 1

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Looks at the loss."""
        if state.global_step % self._check_every == 0:
            self._loss.check()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Looks once more: the last steps may not have been checked."""
        self._loss.check()


class EvaluationCallback(TrainerCallback):
    """Keeps evaluation from disturbing training, times it, and keeps the best weights.

    Each DataLoader iterator draws from the global random generators, so a run that evaluates would end in other weights
    than one that doesn't: their state is put back.
    """

    def __init__(self, spec: TrainingSpec, train_log: TrainLog, recorder: Recorder, model: nn.Module) -> None:
        self._spec = spec
        self._train_log = train_log
        self._recorder = recorder
        self._model = model
        self._trained = frozenset(name for name, p in model.named_parameters() if p.requires_grad)
        self._rng: RngState | None = None
        self._started = 0.0

    def prepare(self) -> None:
        """Called before an evaluation that Trainer doesn't start by itself."""
        self._rng = RngState.capture()
        self._started = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Trainer evaluates right after this, if it does."""
        if control.should_evaluate:
            self.prepare()

    on_epoch_end = on_step_end

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Records the evaluation."""
        assert self._rng is not None, "before() comes before every evaluation"
        self._rng.restore()
        train_log = self._train_log
        train_log.eval_s += time.monotonic() - self._started
        train_log.num_evals += 1
        values = evaluation_metrics(kwargs["metrics"])
        step = state.global_step
        train_log.last_eval_step, train_log.last_metrics = step, values
        self._recorder.log({**values, "train/epoch": float(state.epoch or 0.0)}, step)
        if not math.isfinite(values["eval/loss"]):
            raise DivergedError(step, f"the evaluation loss is {values['eval/loss']}")
        value = values.get(f"eval/{self._spec.objective}", math.nan)
        train_log.since_best += 1
        if self._is_better(value):
            train_log.since_best = 0
            weights = trained_weights(self._model, self._trained)
            train_log.best = KeptWeights(
                step=step, value=value, metrics=values, weights=weights, logits=train_log.last_logits
            )

    def _is_better(self, value: float) -> bool:
        best = self._train_log.best
        if best.step is None or math.isnan(best.value):
            return True
        return value > best.value if self._spec.direction is Direction.MAXIMIZE else value < best.value


class RecordCallback(TrainerCallback):
    """Records the training loss, its gradient norm and the learning rate."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Logs the last steps of an epoch too, which need not be a multiple of `log_every`.

        Trainer also comes here after a stop inside an epoch, where a run that isn't stopped logs nothing.
        """
        control.should_log = epoch_is_whole(state) or state.global_step >= state.max_steps

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Trainer's log of steps has a loss; its log of an evaluation and its summary have not."""
        logs: Mapping[str, float] = kwargs["logs"]
        if "loss" in logs:
            names = {"loss": "train/loss", "grad_norm": "train/grad_norm", "learning_rate": "train/lr"}
            values = {new: float(logs[old]) for old, new in names.items() if old in logs}
            self._recorder.log({**values, "train/epoch": float(state.epoch or 0.0)}, state.global_step)


class CheckpointCallback(TrainerCallback):
    """Publishes what Trainer wrote, with the best weights so far beside it."""

    def __init__(
        self,
        store: CheckpointStore,
        train_log: TrainLog,
        window: LossWindow,
        spec_digest: str,
        provenance: Mapping[str, Any],
        world: World,
    ) -> None:
        self._world = world
        self._store = store
        self._provenance = provenance
        self._train_log = train_log
        self._window = window
        self._spec_digest = spec_digest

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Writes none after the last step: the run's model is saved right after it."""
        if state.global_step >= state.max_steps:
            control.should_save = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Trainer has written all files of this step, once all processes have."""
        window = self._window.read()
        window["loss"] = self._world.all_reduce_mean(window["loss"])
        self._world.barrier()
        if self._world.is_main:
            self._publish(state, window)
        self._world.barrier()

    def _publish(self, state: TrainerState, window: Mapping[str, Any]) -> None:
        best = self._train_log.best
        if best.weights is not None:
            save_file(best.weights, self._store.writing / f"checkpoint-{state.global_step}" / BEST_FILE)
        extra = {
            "spec_digest": self._spec_digest,
            "best": {"step": best.step, "value": best.value, "metrics": best.metrics},
            "since_best": self._train_log.since_best,
            "last": {"step": self._train_log.last_eval_step, "metrics": self._train_log.last_metrics},
            "cost": {
                "train_s": self._train_log.train_s,
                "eval_s": self._train_log.eval_s,
                "num_evals": self._train_log.num_evals,
                "fill_s": self._train_log.fill_s,
            },
            "inputs": {key: self._provenance[key] for key in INPUTS if key in self._provenance},
            "precision": self._provenance["compute"]["precision"],
            "epoch": state.epoch,
            "window": window,
            "versions": dict(self._provenance["versions"]),
            "prefix_cache": self._provenance["compute"]["prefix_cache"],
            "processes": self._world.size,
        }
        self._store.publish(state.global_step, extra)


class RankSeedCallback(TrainerCallback):
    """Lets each process of a run draw its own dropout: Trainer seeds them alike, and they have other rows."""

    def __init__(self, seed: int, world: World) -> None:
        self._seed = seed
        self._world = world

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The first process draws what one alone would; a resumed run gets its own state after this."""
        if not self._world.is_main:
            torch.manual_seed(self._seed + self._world.rank * 2**32)


class SamplerEpochCallback(TrainerCallback):
    """Gives a sampler its epoch.

    Accelerate does not reach it in a resumed epoch: its order would silently be that of another epoch.
    """

    def __init__(self, sampler: PaddedSampler | EpochSampler) -> None:
        self._sampler = sampler

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the first batch."""
        self._sampler.set_epoch(math.floor((state.epoch or 0.0) + 1e-6))
