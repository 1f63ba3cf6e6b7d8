"""What the modules of a model return, recorded by running it once on an example input."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from frostline.models.blocks import Anatomy, NamedModule

PIXELS = "pixel_values"
"""Key of a batch of images."""


@dataclass(frozen=True, kw_only=True)
class ModuleOutput:
    """What a module returns for one row.

    Attributes:
        shape: Of its first tensor, the batch dimension left out.
        rest: What it returns beside that tensor, with None for further tensors (attention weights, which nothing
            reads); None: the tensor alone.
        has_more: Whether there are further tensors.
    """

    shape: tuple[int, ...]
    rest: tuple[Any, ...] | None
    has_more: bool = False

    def of(self, hidden: torch.Tensor) -> Any:
        """Returns a tensor in the form in which the module returns it."""
        return hidden if self.rest is None else (hidden, *self.rest)


@dataclass(frozen=True, kw_only=True)
class ForwardProbe:
    """What was recorded of a forward pass.

    Attributes:
        outputs: By the name of the module: embeddings and blocks.
        embeddings_are_one: The lowest block is given what one module returns.
        pooled: Name of the head's first module with parameters, if it reads less than the last block returns and
            nothing random lies between: what it reads is all that a frozen model passes on. None: there is no such
            module.
        pooled_shape: Shape of what it reads, the batch dimension left out.
    """

    outputs: Mapping[str, ModuleOutput]
    embeddings_are_one: bool
    pooled: str | None = None
    pooled_shape: tuple[int, ...] = ()


_PROBES: WeakKeyDictionary[nn.Module, tuple[tuple[int, ...] | None, ForwardProbe]] = WeakKeyDictionary()


def probe_forward(anatomy: Anatomy) -> ForwardProbe:
    """Runs a model once on `probe_inputs`, in eval mode, and records what its modules return.

    Args:
        anatomy: The model taken apart. Its probe is kept while it lives.
    """
    image, probe = _PROBES.get(anatomy.model, (None, None))
    if probe is None or image != anatomy.image:
        probe = _run(anatomy)
        _PROBES[anatomy.model] = anatomy.image, probe
    return probe


def row_shape(anatomy: Anatomy, depth: int, position: str | None) -> tuple[int, ...]:
    """Returns the shape of what is cached of an image after a depth: vectors `[T, D]`, a map, or what the head reads.

    Args:
        anatomy: The model taken apart.
        depth: How many blocks are below.
        position: Which vector alone is cached, if only one is.
    """
    probe = probe_forward(anatomy)
    shape = probe.outputs[anatomy.blocks[depth - 1][0]].shape
    if position is not None:
        return (1, *shape[1:])
    return probe.pooled_shape if is_pooled(anatomy, depth) else shape


def is_pooled(anatomy: Anatomy, depth: int) -> bool:
    """Returns whether what is cached after a depth is what the head's first module with parameters reads."""
    return depth == anatomy.num_blocks and anatomy.image is not None and probe_forward(anatomy).pooled is not None


def numbers_per_unit(anatomy: Anatomy) -> float:
    """Returns how many numbers are cached of a token, or of an image as the mean over the depths."""
    if anatomy.image is None:
        config: Any = anatomy.model.config
        return float(config.hidden_size)
    depths = range(1, anatomy.num_blocks + 1)
    return sum(math.prod(row_shape(anatomy, depth, None)) for depth in depths) / len(depths)


def probe_inputs(anatomy: Anatomy) -> dict[str, torch.Tensor]:
    """Returns something to try a model with, on its device: three tokens, or an image of noise."""
    if anatomy.image is None:
        return {"input_ids": probe_ids(anatomy)}
    device = next(anatomy.model.parameters()).device
    noise = torch.randn(1, *anatomy.image, generator=torch.Generator().manual_seed(0))  # the global one is the run's
    return {PIXELS: noise.to(device)}


def probe_ids(anatomy: Anatomy, length: int = 3) -> torch.Tensor:
    """Returns token ids to try a model with, `[1, length]`, on its device."""
    device = next(anatomy.model.parameters()).device
    pad = getattr(anatomy.model.config, "pad_token_id", None)
    ids = [token for token in range(length + 1) if token != pad][:length]
    return torch.tensor([ids], device=device)


def entry_of(anatomy: Anatomy) -> Any:
    """Returns what is called to run a model's blocks: an encoder, a model without head, or of images all of it."""
    model: Any = anatomy.model
    if anatomy.num_encoder_blocks is not None:
        return model.get_encoder()
    return model if anatomy.image is not None else model.base_model


@torch.no_grad()
def _run(anatomy: Anatomy) -> ForwardProbe:
    outputs: dict[str, Any] = {}
    first_input: list[torch.Tensor] = []
    model = anatomy.model
    was_training = model.training
    model.eval()  # dropout would draw from the run's generator

    def record(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        del module
        outputs[name] = output
        if name == anatomy.blocks[0][0] and inputs:
            first_input.append(inputs[0])

    modules = anatomy.prefix(anatomy.num_blocks)
    handles = [module.register_forward_hook(partial(record, name)) for name, module in modules]
    try:
        with _head_input(anatomy) as read:
            entry_of(anatomy)(**probe_inputs(anatomy))
        for handle in handles:
            handle.remove()
        pooled = _pooled(anatomy, outputs, read)
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    embeddings = outputs.get(anatomy.embeddings[0][0]) if len(anatomy.embeddings) == 1 else None
    return ForwardProbe(
        outputs={name: _as_output(output) for name, output in outputs.items() if _first(output) is not None},
        embeddings_are_one=embeddings is not None and bool(first_input) and _first(embeddings) is first_input[0],
        pooled=None if pooled is None else pooled[0],
        pooled_shape=() if pooled is None else tuple(pooled[1].shape[1:]),
    )


def _pooled(
    anatomy: Anatomy, outputs: Mapping[str, Any], read: list[tuple[str, torch.Tensor]]
) -> tuple[str, torch.Tensor] | None:
    """Returns the head's first module with parameters and its input, if that is worth being cached."""
    if anatomy.image is None or not read:
        return None
    last = _first(outputs[anatomy.blocks[-1][0]])
    if last is None:
        return None
    is_smaller = math.prod(read[0][1].shape) < math.prod(last.shape)
    return read[0] if is_smaller and not _is_random(anatomy, read[0][1]) else None


def _first(output: Any) -> torch.Tensor | None:
    first = output[0] if isinstance(output, tuple) and output else output
    return first if isinstance(first, torch.Tensor) else None


def _as_output(output: Any) -> ModuleOutput:
    first = _first(output)
    assert first is not None, "only outputs that begin with a tensor are recorded"
    rest, has_more = None, False
    if isinstance(output, tuple):
        rest = tuple(None if isinstance(each, torch.Tensor) else each for each in output[1:])
        has_more = any(isinstance(each, torch.Tensor) for each in output[1:])
    return ModuleOutput(shape=tuple(first.shape[1:]), rest=rest, has_more=has_more)


def _with_parameters(modules: tuple[NamedModule, ...]) -> Iterator[NamedModule]:
    """Yields the modules, of any level, that hold parameters themselves."""
    for name, part in modules:
        for inner, module in part.named_modules():
            if any(True for _ in module.parameters(recurse=False)):
                yield f"{name}.{inner}".rstrip("."), module


@contextmanager
def _head_input(anatomy: Anatomy) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """Records, in a list of one, which module with parameters of the head runs first, and its input."""
    read: list[tuple[str, torch.Tensor]] = []

    def record(name: str, module: nn.Module, inputs: Any) -> None:
        del module
        if not read and inputs and isinstance(inputs[0], torch.Tensor):
            read.append((name, inputs[0]))

    handles = [
        module.register_forward_pre_hook(partial(record, name)) for name, module in _with_parameters(anatomy.head)
    ]
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()


def _is_random(anatomy: Anatomy, expected: torch.Tensor) -> bool:
    """Returns whether the head's input is another one in training: something below it drops out at random.

    Args:
        anatomy: The model taken apart, in eval mode.
        expected: The input in eval mode.
    """
    frozen = {module for _, part in anatomy.prefix(anatomy.num_blocks) for module in part.modules()}
    above = [module for module in anatomy.model.modules() if module not in frozen]
    device = expected.device
    try:
        for module in above:
            # Not `train()`: it would reach what is frozen. A batch norm would update its running means.
            module.training = not isinstance(module, nn.modules.batchnorm._NormBase)
        with _head_input(anatomy) as read, torch.random.fork_rng([device] if device.type == "cuda" else []):
            anatomy.model(**probe_inputs(anatomy))
    finally:
        for module in above:
            module.training = False
    return not (bool(expected.any()) and torch.equal(read[0][1], expected))
