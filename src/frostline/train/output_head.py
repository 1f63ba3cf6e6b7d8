"""Losses over a vocabulary without the logits of a whole batch.

32 rows of 128 tokens have 4,096 x 50,257 logits: 0.8 GB in float32, and as much again for their gradient. Of these only
target tokens count, and they can be computed some at a time, again in the backward pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from frostline.data.token_table import DECODER_INPUTS, NO_LABEL
from frostline.spec import LossOptions, Task

log = logging.getLogger(__name__)

MAX_LOGITS = 1 << 24
"""Logits that are computed at a time: 64 MB in float32 (assumed: small beside a model, large for a matrix product)."""

_ALIKE = 1e-5
"""How far logits may be apart, of their size, for a head to be taken for a model's last step."""


class OutputHead:
    """Takes the output embeddings out of a model's forward and computes losses with them, some tokens at a time.

    Attached, the model returns the head's input as its logits.

    Args:
        model: Whose logits are what its output embeddings return.
        task: Says what the loss of a token is.
        autocast: Makes the context in which the model computes.
    """

    def __init__(self, model: Any, task: Task, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        self._head: nn.Module = model.get_output_embeddings()
        self._own = self._head.forward
        self._task = task
        self._autocast = autocast

    def attach(self) -> None:
        """The model returns the head's input."""
        self._head.forward = MethodType(_as_it_is, self._head)

    def detach(self) -> None:
        """The model is as it was."""
        self._head.__dict__.pop("forward", None)

    def summed_loss(self, hidden: torch.Tensor, labels: torch.Tensor, options: LossOptions) -> torch.Tensor:
        """Returns the sum of the losses of a batch, as `Task.summed_loss` does for its logits.

        Args:
            hidden: The head's input, `[B, T, D]`.
            labels: `[B, T]`.
            options: Of the loss.
        """
        is_target = labels != NO_LABEL
        vectors, targets = hidden[is_target], labels[is_target]
        size = self._chunk()

        def of_part(part: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
            return self._task.summed_loss(self._logits(part), own, options)

        parts = list(zip(torch.split(vectors, size), torch.split(targets, size), strict=True))
        if len(parts) <= 1 or not torch.is_grad_enabled():
            losses = [of_part(*part) for part in parts]
        else:  # what is not kept is computed again in the backward pass
            losses = [checkpoint(of_part, *part, use_reentrant=False) for part in parts]
        return torch.stack(losses).sum() if losses else hidden.sum() * 0.0

    @torch.no_grad()
    def reduce(self, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Returns what an evaluation keeps of each row, as `Task.reduce` does for its logits.

        Args:
            hidden: The head's input, `[B, T, D]`.
            labels: `[B, T]`.
        """
        rows = max(1, self._chunk() // labels.shape[1])
        parts = zip(torch.split(hidden, rows), torch.split(labels, rows), strict=True)
        return torch.cat([self._task.reduce(self._logits(part), own) for part, own in parts])

    def _chunk(self) -> int:
        weight: Any = self._head.weight
        return max(1, MAX_LOGITS // int(weight.shape[0]))

    def _logits(self, vectors: torch.Tensor) -> torch.Tensor:
        with self._autocast():
            logits: torch.Tensor = self._own(vectors)
        return logits.float()


def _as_it_is(head: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    del head
    return hidden


@torch.no_grad()
def output_head(model: Any, task: Task, autocast: Callable[[], AbstractContextManager[Any]]) -> OutputHead | None:
    """Returns a model's output embeddings, to be attached; None, and a line why, if its logits are other numbers.

    Args:
        model: A language model, whole.
        task: Says what the loss of a token is.
        autocast: Makes the context in which the model computes.
    """
    if model.get_output_embeddings() is None:
        return None
    head = OutputHead(model, task, autocast)
    ids = torch.arange(4, device=next(model.parameters()).device)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs[DECODER_INPUTS] = ids
    was_training = model.training
    model.eval()  # dropout would draw from the run's generator
    try:
        whole = model(**inputs).logits.float()
        hidden = None
        with suppress(RuntimeError):  # BART adds a bias of its own to the logits
            head.attach()
            hidden = model(**inputs).logits
    finally:
        head.detach()
        model.train(was_training)
    part = head._own(hidden) if hidden is not None and hidden.shape[:-1] == whole.shape[:-1] else None
    if part is not None and (part - whole).abs().max() <= _ALIKE * whole.abs().max() + 1e-7:
        return head
    log.info("%s changes its logits behind the head: they are held for a whole batch", type(model).__name__)
    return None
