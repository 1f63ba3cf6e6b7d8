"""Owns: a model that begins at a depth - its frozen blocks are passed by, hidden states come from outside.

Must not know: where the hidden states come from; how it is trained. No list of architectures: the model's own forward
runs, so that masks, pooling and head are its own; only the frozen blocks are taken out of it.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn

from frostline.anatomy import Anatomy

HIDDEN = "prefix_hidden"
"""Key of a batch: the hidden states after the last frozen block, `[B, T, D]`."""


class Suffix:
    """Makes a model take `prefix_hidden` beside its own inputs, and pass its lowest blocks by.

    The model stays the same object with the same parameters and names: it is trained, saved and audited as ever.

    Args:
        anatomy: The model taken apart.
        depth: How many blocks are passed by, 1 or more.
    """

    def __init__(self, anatomy: Anatomy, depth: int) -> None:
        assert 1 <= depth <= anatomy.num_blocks
        self._model = anatomy.model
        self._blocks = [block for _, block in anatomy.blocks[:depth]]
        self._hidden: torch.Tensor | None = None
        self._was_used = False
        self._gives_tuple = returns_tuple(anatomy)

    def attach(self) -> None:
        """From now on the model's forward wants `prefix_hidden`."""
        suffix, own = self, self._model.forward

        def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            del module
            suffix._hidden, suffix._was_used = kwargs.pop(HIDDEN), False
            try:
                output = own(*args, **kwargs)
            finally:
                suffix._hidden = None
            assert suffix._was_used, "the model did not come by its last frozen block"
            return output

        # Instance attributes: they are no parameters, so nothing of this is saved with the model.
        self._model.forward = MethodType(forward, self._model)
        for block in self._blocks:
            block.forward = MethodType(self._pass_by, block)

    def detach(self) -> None:
        """The model is as it was."""
        for module in (self._model, *self._blocks):
            module.__dict__.pop("forward", None)

    def _pass_by(self, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        hidden = self._hidden
        assert hidden is not None, "a block ran outside of the model's forward"
        self._was_used |= block is self._blocks[-1]
        return (hidden,) if self._gives_tuple else hidden


@torch.no_grad()
def returns_tuple(anatomy: Anatomy) -> bool:
    """Returns whether the blocks of a model return a tuple, whose first item is the hidden states.

    Args:
        anatomy: The model taken apart; it is run once, on three tokens.
    """
    found: list[bool] = []
    block, model = anatomy.blocks[0][1], anatomy.model
    was_training = model.training
    model.eval()  # dropout would draw from the run's generator

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        del module, inputs
        found.append(isinstance(output, tuple))

    handle = block.register_forward_hook(look)
    try:
        model.base_model(input_ids=probe_ids(anatomy))  # type: ignore[operator]
    finally:
        handle.remove()
        model.train(was_training)
    return found[0]


def hidden_size(model: nn.Module) -> int:
    """Returns the numbers of a hidden state, D."""
    config: Any = model.config
    return int(config.hidden_size)


def probe_ids(anatomy: Anatomy, length: int = 3) -> torch.Tensor:
    """Returns token ids to try a model with, `[1, length]`, on its device."""
    device = next(anatomy.model.parameters()).device
    pad = getattr(anatomy.model.config, "pad_token_id", None)
    ids = [token for token in range(length + 1) if token != pad][:length]
    return torch.tensor([ids], device=device)


def read_position(anatomy: Anatomy) -> str | None:
    """Returns which position of the last hidden state the head reads: `first`, `last`, or None if it isn't just one.

    Found by the gradient of the logits on a row of three tokens and two of padding.

    Args:
        anatomy: The model taken apart.
    """
    model = anatomy.model
    ids = probe_ids(anatomy, 5)
    mask = torch.tensor([[1, 1, 1, 0, 0]], device=ids.device)
    pad = getattr(model.config, "pad_token_id", None)
    ids[0, 3:] = 0 if pad is None else pad
    width = hidden_size(model)
    was_training = model.training
    suffix = Suffix(anatomy, anatomy.num_blocks)
    suffix.attach()
    model.eval()
    try:
        own = torch.Generator().manual_seed(0)  # the global one is the run's
        hidden = torch.randn(1, 5, width, generator=own).to(ids.device).requires_grad_(True)
        with torch.enable_grad():
            logits = model(input_ids=ids, attention_mask=mask, prefix_hidden=hidden).logits
            (gradient,) = torch.autograd.grad(logits.float().square().sum(), hidden)
    finally:
        suffix.detach()
        model.train(was_training)
    read = gradient[0].abs().sum(-1).nonzero().flatten().tolist()
    return {(0,): "first", (2,): "last"}.get(tuple(read))
