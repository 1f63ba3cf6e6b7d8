"""What the callbacks of one run find out, and the weights that are kept of it."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from frostline.records.monitor import RunControl

BEST_FILE = "best.safetensors"
"""In a checkpoint: the trained tensors of the best evaluation so far."""


@dataclass
class KeptWeights:
    """The best evaluation so far.

    Attributes:
        step: The optimizer step that it belongs to; None before the first evaluation.
        value: The objective.
        metrics: All of its metrics.
        weights: The trained tensors of that step, on the CPU; None when they are the model's present ones.
        logits: Of the held-out rows, `[N, C]`; None after a resume: a checkpoint doesn't keep them.
    """

    step: int | None = None
    value: float = math.nan
    metrics: dict[str, float] = field(default_factory=dict)
    weights: dict[str, torch.Tensor] | None = None
    logits: np.ndarray[Any, Any] | None = None


@dataclass
class TrainLog:
    """What the callbacks of one run find out.

    Attributes:
        best: The evaluation whose weights are kept.
        last_eval_step: The newest evaluation's step.
        last_metrics: The newest evaluation's metrics.
        last_logits: Its logits of the held-out rows, in their order, `[N, C]`.
        eval_s: Seconds spent evaluating, before a resume too.
        num_evals: Evaluations, before a resume too.
        fill_s: Seconds in which hidden states were computed before a resume.
        verdict: What the monitor said last.
        since_best: Evaluations since the best one.
    """

    best: KeptWeights = field(default_factory=KeptWeights)
    last_eval_step: int | None = None
    last_metrics: dict[str, float] = field(default_factory=dict)
    last_logits: np.ndarray[Any, Any] | None = None
    eval_s: float = 0.0
    num_evals: int = 0
    fill_s: float = 0.0
    verdict: RunControl = RunControl.GO
    since_best: int = 0
    _carried: tuple[float, float] = (0.0, 0.0)
    _began: float | None = None
    _ended: float | None = None

    def begin(self) -> None:
        """Training begins: the clock runs."""
        self._began = time.monotonic()

    def end(self) -> None:
        """Training has ended, the last evaluation included; may be called again."""
        self._ended = time.monotonic()

    def carry(self, cost: Mapping[str, Any]) -> None:
        """Takes over what the interrupted run took up to its checkpoint."""
        self._carried = (float(cost["train_s"]), float(cost["eval_s"]))
        self.eval_s = self._carried[1]
        self.num_evals, self.fill_s = int(cost["num_evals"]), float(cost["fill_s"])

    def stall(self, patience: int | None) -> str | None:
        """Returns why a run ends before its last step, for people; None: it goes on.

        Args:
            patience: Evaluations in a row that may not improve the objective; None: any number.
        """
        if patience is None or self.since_best < patience:
            return None
        count = f"{self.since_best} evaluations in a row" if self.since_best > 1 else "an evaluation"
        return f"ended early: {count} did not improve on step {self.best.step}"

    @property
    def train_s(self) -> float:
        """Seconds in training steps so far, evaluations left out."""
        carried_train_s, carried_eval_s = self._carried
        if self._began is None:
            return carried_train_s
        ended = self._ended if self._ended is not None else time.monotonic()
        return carried_train_s + max(0.0, ended - self._began - (self.eval_s - carried_eval_s))


def trained_weights(model: nn.Module, names: Collection[str]) -> dict[str, torch.Tensor]:
    """Returns copies on the CPU of what training changes: the parameters of these names, and buffers."""
    named: list[tuple[str, torch.Tensor]] = [(name, p) for name, p in model.named_parameters() if name in names]
    named += [(name, tensor) for name, tensor in model.named_buffers() if tensor.is_floating_point()]
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in named}


@torch.no_grad()
def restore_weights(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copies weights from `trained_weights` into a model."""
    present = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in weights.items():
        present[name].copy_(tensor)


def load_weights(model: nn.Module, checkpoint: Path) -> None:
    """Puts a checkpoint's weights into a model that won't be trained on.

    Args:
        model: As it was set up.
        checkpoint: Its folder; a model in several files is left as it is, since nothing but a report depends on it.
    """
    path = checkpoint / "model.safetensors"
    if path.is_file():
        names = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
        restore_weights(model, {name: tensor for name, tensor in load_file(path).items() if name in names})


def restore_train_log(train_log: TrainLog, checkpoint: Path, manifest: Mapping[str, Any]) -> None:
    """Fills a log with what a checkpoint knows of the evaluations before it."""
    best, last = manifest["best"], manifest["last"]
    train_log.since_best = int(manifest.get("since_best", 0))
    train_log.last_eval_step, train_log.last_metrics = last["step"], dict(last["metrics"])
    train_log.carry(manifest["cost"])
    if best["step"] is not None:
        train_log.best = KeptWeights(
            step=best["step"],
            value=float(best["value"]),
            metrics=dict(best["metrics"]),
            weights=load_file(checkpoint / BEST_FILE),
        )
