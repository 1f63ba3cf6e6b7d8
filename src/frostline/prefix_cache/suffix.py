"""A model that starts at a depth: frozen blocks are skipped, hidden states are injected.

Must not know: where the hidden states come from; how it is trained. No list of architectures: the model's own forward
runs, so that masks, pooling and head are its own; only the frozen blocks are taken out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn

from frostline.models.blocks import Anatomy

HIDDEN = "prefix_hidden"
"""Key of a batch: the hidden states after the last frozen block, `[B, T, D]`."""

_PIXELS = "pixel_values"

HIDDEN_AT = "prefix_at"
"""Key of a batch that brings none: where they lie, `[B, T]`."""


class Suffix:
    """Makes a model take `prefix_hidden` (or `prefix_at`) beside its own inputs, and skip its lowest blocks.

    The model stays the same object with the same parameters and names: it is trained, saved and audited as ever.

    Args:
        anatomy: The model taken apart.
        depth: How many blocks are passed by, 1 or more.
        take: Returns hidden states `[B, T, D]` by where they lie, `[B, T]`; None: batches bring them.
    """

    def __init__(
        self, anatomy: Anatomy, depth: int, take: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> None:
        assert 1 <= depth <= anatomy.num_blocks
        self._model = anatomy.model
        self._blocks = [block for _, block in anatomy.blocks[:depth]]
        self._take = take
        self._hidden: torch.Tensor | None = None
        self._was_used = False
        self._before: list[tuple[nn.Module, Any]] = []
        seen = _probe(anatomy)
        self._num_outputs = seen.num_outputs
        # One module that alone makes what the blocks are given need not run either.
        self._embeddings = [anatomy.embeddings[0][1]] if seen.embeddings_are_one else []

    @property
    def passes_embeddings_by(self) -> bool:
        """Whether the embeddings need not run, so that nothing looks at the model's own input."""
        return bool(self._embeddings)

    def attach(self) -> None:
        """Replaces forward: a batch must bring `prefix_hidden`, or `prefix_at` if `take` is given."""
        suffix, own = self, self._model.forward
        modules = (self._model, *self._blocks, *self._embeddings)
        self._before = [(module, module.__dict__.get("forward")) for module in modules]

        def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            del module
            hidden = kwargs.pop(HIDDEN) if suffix._take is None else suffix._take(kwargs.pop(HIDDEN_AT))
            suffix._hidden, suffix._was_used = hidden, False
            try:
                output = own(*args, **kwargs)
            finally:
                suffix._hidden = None
            assert suffix._was_used, "the model did not come by its last frozen block"
            return output

        # Instance attributes: they are no parameters, so nothing of this is saved with the model.
        self._model.forward = MethodType(forward, self._model)
        for block in self._blocks:
            block.forward = MethodType(self._skip_block, block)
        for embeddings in self._embeddings:
            embeddings.forward = MethodType(self._inject_hidden, embeddings)

    def detach(self) -> None:
        """The model is as it was."""
        for module, forward in self._before:
            _put(module, forward)
        self._before = []

    def _skip_block(self, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        hidden = self._hidden
        assert hidden is not None, "a block ran outside of the model's forward"
        self._was_used |= block is self._blocks[-1]
        return as_output(hidden, self._num_outputs)

    def _inject_hidden(self, embeddings: nn.Module, *args: Any, **kwargs: Any) -> Any:
        del embeddings, args, kwargs
        assert self._hidden is not None, "the embeddings ran outside of the model's forward"
        return self._hidden


@contextmanager
def replaced(module: nn.Module, forward: Any) -> Iterator[None]:
    """Another forward within a context."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        _put(module, before)


def _put(module: nn.Module, forward: Any) -> None:
    if forward is None:
        module.__dict__.pop("forward", None)
    else:
        module.forward = forward


class TrainableModel(nn.Module):
    """What of a model is trained, as a model of its own: its parameters alone, under the names of the whole model.

    What walks over modules and parameters - the optimizer's clipping, `zero_grad`, `train()`, checkpoints - then comes
    by nothing that is frozen. Its forward is the whole model's.

    Args:
        anatomy: The model taken apart, its suffix attached.
        depth: How many blocks are passed by.
    """

    def __init__(self, anatomy: Anatomy, depth: int) -> None:
        super().__init__()
        frozen = {module for _, part in anatomy.prefix(depth) for module in part.modules()}
        trained = [*anatomy.blocks[depth:], *anatomy.head]
        for name, module in trained:
            self._graft(name, module)
        # Not registered: a tuple is no module. Their flag is all that `train()` has to change in what lies between.
        self._whole = (anatomy.model,)
        inside = {module for _, part in trained for module in part.modules()}
        self._between = tuple(module for module in anatomy.model.modules() if module not in inside | frozen)

    @property
    def config(self) -> Any:
        """The whole model's config."""
        return self._whole[0].config

    def forward(self, **inputs: Any) -> Any:
        """Returns what the whole model returns for a batch with `prefix_hidden` or `prefix_at`."""
        return self._whole[0](**inputs)

    def train(self, mode: bool = True) -> TrainableModel:
        """Sets the mode of what is trained, and of the containers around it."""
        super().train(mode)
        for module in self._between:
            module.training = mode
        return self

    def _graft(self, name: str, module: nn.Module) -> None:
        *path, last = name.split(".")
        parent: nn.Module = self
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent._modules[part]  # type: ignore[assignment]
        parent.add_module(last, module)


@dataclass(frozen=True, kw_only=True)
class _Seen:
    num_outputs: int | None
    embeddings_are_one: bool
    num_vectors: int


def num_outputs(anatomy: Anatomy) -> int | None:
    """Returns how many things the blocks of a model return, the first being the hidden states; None: these alone.

    Args:
        anatomy: The model taken apart; it is run once, on `probe_inputs`.
    """
    return _probe(anatomy).num_outputs


def vectors_of_image(anatomy: Anatomy) -> int:
    """Returns how many vectors a model's lowest block is given for an image: one of each patch, and others."""
    return _probe(anatomy).num_vectors


def reads_images(anatomy: Anatomy) -> bool:
    """Returns whether a model takes pixels."""
    return anatomy.image is not None


def as_output(hidden: torch.Tensor, count: int | None) -> Any:
    """Returns hidden states as a block would, by `num_outputs`; what else a block returns (attention) is not used."""
    return hidden if count is None else (hidden, *[None] * (count - 1))


@torch.no_grad()
def _probe(anatomy: Anatomy) -> _Seen:
    """Runs a model once, on `probe_inputs`, and looks at what its lowest block is given and gives."""
    seen: dict[str, Any] = {}
    model = anatomy.model
    was_training = model.training
    model.eval()  # dropout would draw from the run's generator

    def record(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        del module
        seen[name] = (inputs[0] if inputs else None, output)

    handles = [anatomy.blocks[0][1].register_forward_hook(partial(record, "block"))]
    if len(anatomy.embeddings) == 1:
        handles.append(anatomy.embeddings[0][1].register_forward_hook(partial(record, "embeddings")))
    try:
        model.base_model(**probe_inputs(anatomy))  # type: ignore[operator]
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    block_input, output = seen["block"]
    embeddings = seen.get("embeddings", (None, None))[1]
    return _Seen(
        num_outputs=len(output) if isinstance(output, tuple) else None,
        embeddings_are_one=embeddings is not None and embeddings is block_input,
        num_vectors=int(block_input.shape[1]),
    )


def hidden_size(model: nn.Module) -> int:
    """Returns the numbers of a hidden state, D."""
    config: Any = model.config
    return int(config.hidden_size)


def probe_inputs(anatomy: Anatomy) -> dict[str, torch.Tensor]:
    """Returns something to try a model with, on its device: three tokens, or an image without anything on it."""
    if anatomy.image is None:
        return {"input_ids": probe_ids(anatomy)}
    device = next(anatomy.model.parameters()).device
    return {_PIXELS: torch.zeros(1, *anatomy.image, device=device)}


def probe_ids(anatomy: Anatomy, length: int = 3) -> torch.Tensor:
    """Returns token ids to try a model with, `[1, length]`, on its device."""
    device = next(anatomy.model.parameters()).device
    pad = getattr(anatomy.model.config, "pad_token_id", None)
    ids = [token for token in range(length + 1) if token != pad][:length]
    return torch.tensor([ids], device=device)


def read_position(anatomy: Anatomy) -> str | None:
    """Returns which position of the last hidden state the head reads: `first`, `last`, or None if it isn't just one.

    Found by the gradient of the logits on a row of three tokens and two of padding, or on an image.

    Args:
        anatomy: The model taken apart.
    """
    model, last, total = anatomy.model, 2, 5
    if reads_images(anatomy):
        inputs = probe_inputs(anatomy)
        total = vectors_of_image(anatomy)
        last = total - 1
    else:
        ids = probe_ids(anatomy, total)
        pad = getattr(model.config, "pad_token_id", None)
        ids[0, last + 1 :] = 0 if pad is None else pad
        inputs = {"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1, 0, 0]], device=ids.device)}
    device = next(model.parameters()).device
    width = hidden_size(model)
    was_training = model.training
    suffix = Suffix(anatomy, anatomy.num_blocks)
    suffix.attach()
    model.eval()
    try:
        own = torch.Generator().manual_seed(0)  # the global one is the run's
        hidden = torch.randn(1, total, width, generator=own).to(device).requires_grad_(True)
        with torch.enable_grad():
            logits = model(**inputs, prefix_hidden=hidden).logits
            (gradient,) = torch.autograd.grad(logits.float().square().sum(), hidden)
    finally:
        suffix.detach()
        model.train(was_training)
    read = gradient[0].abs().sum(-1).nonzero().flatten().tolist()
    return {(0,): "first", (last,): "last"}.get(tuple(read))
