"""Owns: the loss of a batch, independent of how the batch was cut up. Must not know: the model.

Trainer's own scale depends on accumulation and on the number of processes for sequence classifiers (docs/design.md,
section 8), and its log hides NaN as 0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from frostline.data import NO_LABEL
from frostline.data.fillers import is_row
from frostline.spec import Task
from frostline.train.distributed import World

_LAST_STEP = 2**48


class DivergedError(RuntimeError):
    """The loss is NaN or infinite.

    Attributes:
        step: The first optimizer step (counted from 1) with such a loss.
    """

    def __init__(self, step: int, what: str = "the loss is not finite") -> None:
        super().__init__(f"diverged at step {step}: {what}")
        self.step = step


def losses_of(logits: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], task: Task) -> np.ndarray[Any, Any]:
    """Returns each row's loss, `[N]`: of which training minimizes the mean.

    Where each word has a class: the mean over the row's words, of which training minimizes the mean over all words.

    Args:
        logits: `[N, C]`, or of each token `[N, T, C]`, in double precision.
        labels: `[N]`, or `[N, T]`.
        task: As for `summed_loss`.
    """
    if task is Task.TOKEN_CLASSIFICATION:
        there = labels != NO_LABEL
        losses = np.zeros(labels.shape)
        losses[there] = losses_of(logits[there], labels[there], Task.CLASSIFICATION)
        by_row: np.ndarray[Any, Any] = losses.sum(-1) / np.maximum(there.sum(-1), 1)
        return by_row
    if task is Task.MULTI_LABEL:
        wanted = labels[:, None] >> np.arange(logits.shape[1]) & 1
        every: np.ndarray[Any, Any] = (np.logaddexp(0.0, logits) - logits * wanted).mean(-1)
        return every
    if task is Task.REGRESSION:
        squared: np.ndarray[Any, Any] = (logits[:, 0] - labels) ** 2
        return squared
    highest = logits.max(-1, keepdims=True)
    log_sum = np.log(np.exp(logits - highest).sum(-1)) + highest[:, 0]
    of_rows: np.ndarray[Any, Any] = log_sum - logits[np.arange(len(labels)), labels]
    return of_rows


def summed_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    task: Task,
    may_fill: bool = False,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns the sum of the rows' losses, or where each word has a class of the words' (scalar), fillers left out.

    Args:
        logits: `[B, C]`, or of each token `[B, T, C]`.
        labels: `[B]`, or `[B, T]`.
        task: Cross entropy for classification, squared error for regression; the mean over the classes of the binary
            cross entropy where a row may have several, whose labels are bits (`frostline.data.label_rule`).
        may_fill: Whether there may be fillers.
        weights: Of the classes, `[C]`; None: all weigh alike.
    """
    logits = logits.float()
    if task is Task.TOKEN_CLASSIFICATION:
        logits, labels = logits.flatten(0, 1), labels.flatten()
    if task is Task.MULTI_LABEL:
        rows = is_row(labels)
        bits = labels[:, None] >> torch.arange(logits.shape[1], device=labels.device) & 1
        losses = functional.binary_cross_entropy_with_logits(logits, bits.float(), reduction="none").mean(-1)
        return losses[rows].sum() if may_fill else losses.sum()
    if task is not Task.REGRESSION:
        return functional.cross_entropy(logits, labels, weights, reduction="sum", ignore_index=NO_LABEL)
    wanted, given = labels.float(), logits.squeeze(-1)
    if may_fill:
        rows = is_row(wanted)
        wanted, given = wanted[rows], given[rows]
    return functional.mse_loss(given, wanted, reduction="sum")


def class_weights(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Returns weights by which every class counts alike: rows / (classes x rows of the class), `[C]`.

    Their mean over the rows is 1, so that the loss keeps its size. A class without rows weighs nothing.

    Args:
        labels: Of the training rows, `[N]`.
        num_classes: C.
    """
    counts = torch.bincount(labels, minlength=num_classes).float()
    present = int((counts > 0).sum())
    return torch.where(counts > 0, len(labels) / (present * counts.clamp(min=1)), 0.0)


class BatchLoss:
    """Trainer's `compute_loss_func`: the mean over all rows of an optimizer step.

    The sum over a forward pass's rows is divided by the rows of the whole step, over all accumulated passes, so that
    16 rows give one loss as 1 x 16 and as 8 x 2, a shorter last batch included.

    Args:
        task: Cross entropy for classification, squared error for regression.
        world: The processes of the run.
        weights: Of the classes, in training, `[C]`; None: all weigh alike.

    Attributes:
        step: The optimizer step under way; the training callback sets it.
    """

    def __init__(self, task: Task, world: World | None = None, weights: torch.Tensor | None = None) -> None:
        self._task = task
        self._weights = weights
        self._world = world or World()
        self.step = 1
        self._first_bad: torch.Tensor | None = None

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Returns the loss (scalar).

        Args:
            outputs: With `logits` `[B, C]`.
            labels: `[B]`.
            num_items_in_batch: Rows of the whole optimizer step; None (evaluation) takes this batch's.
        """
        logits, is_distributed = outputs["logits"], self._world.is_distributed
        if num_items_in_batch is None:
            by_word = self._task is Task.TOKEN_CLASSIFICATION
            total = is_row(labels).sum().clamp(min=1) if by_word else len(labels)
            return summed_loss(logits, labels, self._task, is_distributed) / total
        weights = self._weights
        if weights is not None and weights.device != logits.device:
            weights = self._weights = weights.to(logits.device)
        summed = summed_loss(logits, labels, self._task, is_distributed, weights)
        loss = summed / num_items_in_batch
        self._note(loss.detach())
        return loss

    def _note(self, loss: torch.Tensor) -> None:
        if loss.device.type == "cpu":
            if self._first_bad is None and not math.isfinite(float(loss)):
                self._first_bad = torch.tensor(self.step)
            return
        # Kept on the device: asking a GPU after every step would make it wait.
        if self._first_bad is None or self._first_bad.device != loss.device:
            self._first_bad = torch.zeros((), dtype=torch.long, device=loss.device)
        bad = ~torch.isfinite(loss) & (self._first_bad == 0)
        self._first_bad = torch.where(bad, self.step, self._first_bad)

    def check(self) -> None:
        """Raises if a loss since the start was not finite, on any process: collective.

        Raises:
            DivergedError: With the first such step.
        """
        step = 0 if self._first_bad is None else int(self._first_bad)
        [ahead] = self._world.all_reduce_max([_LAST_STEP - step if step else 0])  # the first step has most before it
        if ahead:
            raise DivergedError(_LAST_STEP - ahead)
