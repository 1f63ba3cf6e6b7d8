"""A model that starts at a depth: frozen blocks are skipped, hidden states are injected.

Must not know: where the hidden states come from; how it is trained. No list of architectures: the model's own forward
runs, so that masks, pooling and head are its own; only the frozen blocks are taken out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn

from frostline.models.blocks import Anatomy, NamedModule
from frostline.prefix_cache.forward_probe import PIXELS, is_pooled, probe_forward, probe_ids, probe_inputs, row_shape

HIDDEN = "prefix_hidden"
"""Key of a batch: the hidden states after the last frozen block, `[B, T, D]`; of images `[B, 1, width]`."""

_SEQUENCE = 2
"""Dimensions of a row that is a sequence of vectors, `[T, D]`."""

HIDDEN_AT = "prefix_at"
"""Key of a batch that brings none: where they lie, `[B, T]`."""


class Suffix:
    """Makes a model take `prefix_hidden` (or `prefix_at`) beside its own inputs, and skip its lowest blocks.

    The model stays the same object with the same parameters and names: it is trained, saved and audited as ever.

    Args:
        anatomy: The model taken apart.
        depth: How many blocks are passed by, 1 or more.
        take: Returns hidden states `[B, T, D]` by where they lie, `[B, T]`; None: batches bring them.
        position: Which vector of an image alone is cached, if only one is.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        depth: int,
        take: Callable[[torch.Tensor], torch.Tensor] | None = None,
        position: str | None = None,
    ) -> None:
        assert 1 <= depth <= anatomy.num_blocks
        self._model = anatomy.model
        self._probe = probe_forward(anatomy)
        self._blocks = anatomy.blocks[:depth]
        self._last = self._blocks[-1][0]
        self._take = take
        # T5's lowest block passes on the bias of positions, which all blocks above it read.
        first = self._probe.outputs[self._blocks[0][0]]
        size = anatomy.num_encoder_blocks or anatomy.num_blocks
        self._rest: tuple[Any, ...] = ()
        self._runs_first = anatomy.image is None and depth < size and first.has_more
        self._image = anatomy.image
        self._row_shape = None if anatomy.image is None else row_shape(anatomy, depth, position)
        self._hidden: torch.Tensor | None = None
        self._was_used = False
        self._before: list[tuple[nn.Module, Any]] = []
        # Of texts, one module that alone makes what the blocks are given need not run either.
        passes_by = anatomy.image is not None or self._probe.embeddings_are_one
        self._embeddings = anatomy.embeddings if passes_by and not self._runs_first else ()
        self._reader: NamedModule | None = None
        if is_pooled(anatomy, depth) and position is None and (name := self._probe.pooled) is not None:
            self._reader = name, anatomy.model.get_submodule(name)

    def attach(self) -> None:
        """Replaces forward: a batch must bring `prefix_hidden`, or `prefix_at` if `take` is given."""
        suffix, own = self, self._model.forward
        skipped = [*self._embeddings, *self._blocks] if self._image is None else self._recorded()
        readers = [] if self._reader is None else [self._reader]
        modules = (self._model, *(module for _, module in (*skipped, *readers)))
        self._before = [(module, module.__dict__.get("forward")) for module in modules]

        def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            del module
            hidden = kwargs.pop(HIDDEN) if suffix._take is None else suffix._take(kwargs.pop(HIDDEN_AT))
            if suffix._image is not None and suffix._row_shape is not None:
                hidden = hidden.reshape(len(hidden), *suffix._row_shape)
                kwargs[PIXELS] = hidden.new_zeros(1, *suffix._image).expand(len(hidden), -1, -1, -1)
            suffix._hidden, suffix._was_used = hidden, False
            try:
                output = own(*args, **kwargs)
            finally:
                suffix._hidden, suffix._rest = None, ()
            assert suffix._was_used, "the model did not come by its last frozen block"
            return output

        # Instance attributes: they are no parameters, so nothing of this is saved with the model.
        self._model.forward = MethodType(forward, self._model)
        skip = self._skip if self._image is None else self._skip_of_image
        for name, module in skipped:
            forward_of = partial(_named, skip, name)
            if self._runs_first and name == self._blocks[0][0]:
                forward_of = partial(_run_first, self, module.forward)
            module.forward = MethodType(forward_of, module)
        for _, module in readers:
            module.forward = MethodType(partial(_read_instead, self, module.forward), module)

    def detach(self) -> None:
        """The model is as it was."""
        for module, forward in self._before:
            _put(module, forward)
        self._before = []

    def _recorded(self) -> list[NamedModule]:
        """Returns what is skipped of a model of images: what was run in the probe."""
        return [item for item in (*self._embeddings, *self._blocks) if item[0] in self._probe.outputs]

    def _skip(self, name: str) -> Any:
        """Stands in for a frozen module: each passes the hidden states on."""
        hidden, output = self._hidden, self._probe.outputs[name]
        assert hidden is not None, "a frozen module ran outside of the model's forward"
        self._was_used |= name == self._last
        return (hidden, *self._rest) if output.has_more and self._rest else output.of(hidden)

    def _skip_of_image(self, name: str) -> Any:
        """Stands in for a frozen module: the last returns the cached rows, the others zeros of their own shape."""
        hidden, output = self._hidden, self._probe.outputs[name]
        assert hidden is not None, "a frozen module ran outside of the model's forward"
        if name == self._last and self._reader is None:
            self._was_used = True
            return output.of(hidden)
        return output.of(hidden.new_zeros(1, *output.shape))


def _named(skip: Callable[[str], Any], name: str, *args: Any, **kwargs: Any) -> Any:
    del args, kwargs
    return skip(name)


@torch.no_grad()
def _run_first(suffix: Suffix, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Runs the lowest block for what it returns beside its hidden states: the blocks behind it pass that on."""
    suffix._rest = own(*args[1:], **kwargs)[1:]
    return suffix._skip(suffix._blocks[0][0])


def _read_instead(suffix: Suffix, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Runs the module that reads what the frozen part passes on, on the cached rows."""
    del args, kwargs
    assert suffix._hidden is not None, "the head ran outside of the model's forward"
    suffix._was_used = True
    return own(suffix._hidden)


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
        trained = anatomy.above(depth)
        for name, module in trained:
            self._graft(name, module)
        # Not registered: a tuple is no module. Their flag is all that `train()` has to change in what lies between.
        self._whole = (anatomy.model,)
        inside = {module for _, part in trained for module in part.modules()}
        outside = [module for module in anatomy.model.modules() if module not in inside | frozen]
        self._between = tuple(module for module in outside if "train" not in module.__dict__)  # else it is pinned

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


def hidden_size(model: nn.Module) -> int:
    """Returns the numbers of a hidden state, D."""
    config: Any = model.config
    return int(config.hidden_size)


def read_position(anatomy: Anatomy) -> str | None:
    """Returns which position of the last hidden state the head reads: `first`, `last`, or None if it isn't just one.

    Found by the gradient of the logits on a row of three tokens and two of padding, or on an image.

    Args:
        anatomy: The model taken apart.
    """
    model, last, total = anatomy.model, 2, 5
    if anatomy.image is not None:
        shape = row_shape(anatomy, anatomy.num_blocks, None)
        if len(shape) != _SEQUENCE:
            return None
        inputs = probe_inputs(anatomy)
        total, width = shape
        last = total - 1
    else:
        width = hidden_size(model)
        ids = probe_ids(anatomy, total)
        pad = getattr(model.config, "pad_token_id", None)
        ids[0, last + 1 :] = 0 if pad is None else pad
        inputs = {"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1, 0, 0]], device=ids.device)}
    device = next(model.parameters()).device
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
