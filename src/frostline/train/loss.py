"""The loss of a batch, independent of how the batch is split into micro-batches.

Trainer's own scale depends on accumulation and on the number of processes for sequence classifiers (docs/design.md,
"What the stack really does"), and its log hides NaN as 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from frostline.data.mixup import unmix
from frostline.spec import LossOptions, Task
from frostline.train.distributed import World
from frostline.train.output_head import OutputHead

SummedLoss = Callable[[torch.Tensor, torch.Tensor, LossOptions], torch.Tensor]
"""Outputs, labels and options -> the sum of a batch's losses."""

_LAST_STEP = 2**48


class DivergedError(RuntimeError):
    """The loss is NaN or infinite.

    Attributes:
        step: The first optimizer step (counted from 1) with such a loss.
    """

    def __init__(self, step: int, what: str = "the loss is not finite") -> None:
        super().__init__(f"diverged at step {step}: {what}")
        self.step = step


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
        task: Says what the loss of a row is.
        world: The processes of the run.
        options: In training: class weights, label smoothing. Evaluation is without.
        mixes: Whether training rows are mixed: their labels are `[B, 3]`, see `frostline.data.mixup`.
        head: Attached output embeddings of a language model, whose outputs are then their input; None: logits.

    Attributes:
        step: The optimizer step under way; the training callback sets it.
    """

    def __init__(
        self,
        task: Task,
        world: World | None = None,
        options: LossOptions | None = None,
        *,
        mixes: bool = False,
        head: OutputHead | None = None,
    ) -> None:
        self._task = task
        self._head = head
        self._world = world or World()
        self._plain = LossOptions(may_fill=self._world.is_distributed)
        self._options = replace(options or self._plain, may_fill=self._world.is_distributed)
        self._sum: SummedLoss = task.summed_loss if head is None else head.summed_loss
        if mixes:
            self._sum = self._mixed
        self.step = 1
        self._first_bad: torch.Tensor | None = None

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Returns the loss (scalar).

        Args:
            outputs: With `logits` `[B, C]`.
            labels: `[B]`; of mixed rows `[B, 3]`.
            num_items_in_batch: Rows of the whole optimizer step. An evaluation, which has no gradients, takes this
                batch's, though Trainer hands over a count there, too (transformers 5.23).
        """
        logits = outputs["logits"] if self._head is not None else outputs["logits"].float()
        if num_items_in_batch is None or not torch.is_grad_enabled():
            summed = self._task.summed_loss if self._head is None else self._head.summed_loss
            mean: torch.Tensor = summed(logits, labels, self._plain) / self._task.num_terms(labels)
            return mean
        weights = self._options.class_weights
        if weights is not None and weights.device != logits.device:
            self._options = replace(self._options, class_weights=weights.to(logits.device))
        loss = self._sum(logits, labels, self._options) / num_items_in_batch
        self._note(loss.detach())
        return loss

    def _mixed(self, logits: torch.Tensor, labels: torch.Tensor, options: LossOptions) -> torch.Tensor:
        """Returns the sum of the losses of mixed rows: of both their labels, by their shares.

        A task sums over the rows it is given, so that each row is given alone.
        """
        own, other, shares = unmix(labels, self._task.label_dtype)
        losses = [
            torch.stack(
                [self._task.summed_loss(logits[row : row + 1], of[row : row + 1], options) for of in (own, other)]
            )
            for row in range(len(logits))
        ]
        by_row = torch.stack(losses)
        return (by_row[:, 0] * shares + by_row[:, 1] * (1 - shares)).sum()

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
