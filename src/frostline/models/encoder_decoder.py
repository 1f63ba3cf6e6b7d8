"""Takes a model with an encoder and a decoder apart.

What runs before the blocks of a stack counts as embeddings, and what runs behind the decoder's as head. Which of a
stack's modules that is, is recorded from a forward pass: BART registers the norm of its embeddings behind its blocks,
and T5 drops out with one module on both sides of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from frostline.errors import ModelError, best_effort

NamedModule = tuple[str, nn.Module]


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderParts:
    """The parts of such a model, by name, in the order of its forward pass.

    Attributes:
        embeddings: Token embeddings, and what runs before the blocks of either stack.
        encoder: The encoder's blocks.
        behind_encoder: What runs behind them: a final norm.
        decoder: The decoder's blocks.
        head: What runs behind these.
        stacks: Encoder and decoder.
    """

    embeddings: tuple[NamedModule, ...]
    encoder: tuple[NamedModule, ...]
    behind_encoder: tuple[NamedModule, ...]
    decoder: tuple[NamedModule, ...]
    head: tuple[NamedModule, ...]
    stacks: tuple[NamedModule, ...]


def is_encoder_decoder(model: Any) -> bool:
    """Returns whether a model has an encoder and a decoder of its own."""
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    return bool(getattr(model.config, "is_encoder_decoder", False)) and {"encoder", "decoder"} <= names


def parts_of(model: Any) -> EncoderDecoderParts:
    """Takes a model apart.

    Args:
        model: With both stacks. May live on the meta device.

    Raises:
        ModelError: A stack is not one list of like blocks, or the model can't be run on a few tokens.
    """
    names = {module: name for name, module in model.named_modules()}
    stacks = tuple((names[stack], stack) for stack in (model.get_encoder(), model.get_decoder()))
    blocks = [_blocks_of(model, name, stack) for name, stack in stacks]
    early = _run_before(model, stacks, [own[0][1] for own in blocks])
    embeddings: list[NamedModule] = []
    behind: list[list[NamedModule]] = []
    outside = [item for item in _beside(model, stacks) if any(True for _ in item[1].parameters())]
    embeddings += [item for item in outside if isinstance(item[1], nn.Embedding)]
    for (name, stack), own in zip(stacks, blocks, strict=True):
        list_name = own[0][0].rpartition(".")[0]
        children = [(f"{name}.{key}", child) for key, child in stack.named_children() if f"{name}.{key}" != list_name]
        embeddings += [item for item in children if item[1] in early]
        behind.append([item for item in children if item[1] not in early])
    head = [*behind[1], *(item for item in outside if not isinstance(item[1], nn.Embedding))]
    return EncoderDecoderParts(
        embeddings=tuple(embeddings), encoder=blocks[0], behind_encoder=tuple(behind[0]), decoder=blocks[1],
        head=tuple(head), stacks=stacks,
    )  # fmt: skip


def _blocks_of(model: nn.Module, name: str, stack: nn.Module) -> tuple[NamedModule, ...]:
    lists = [(key, child) for key, child in stack.named_children() if isinstance(child, nn.ModuleList) and len(child)]
    alike = [(key, child) for key, child in lists if len({type(block) for block in child}) == 1]
    if len(alike) != 1:
        raise ModelError(
            f"{type(model).__name__}: expected one list of like blocks in {name}, found {len(alike)}: unsupported "
            "architecture; give freeze=none, or freeze=pattern with the names of parameters"
        )
    key, blocks = alike[0]
    return tuple((f"{name}.{key}.{index}", block) for index, block in enumerate(blocks))


def _beside(model: nn.Module, stacks: tuple[NamedModule, ...]) -> Iterator[NamedModule]:
    """Yields what is neither in a stack nor around one."""

    def walk(parent: nn.Module, prefix: str) -> Iterator[NamedModule]:
        for key, child in parent.named_children():
            name = f"{prefix}{key}"
            if any(stack == name for stack, _ in stacks):
                continue
            if any(stack.startswith(f"{name}.") for stack, _ in stacks):
                yield from walk(child, f"{name}.")
            else:
                yield name, child

    return walk(model, "")


@torch.no_grad()
def _run_before(model: Any, stacks: tuple[NamedModule, ...], first_blocks: list[nn.Module]) -> set[nn.Module]:
    """Returns the modules of the stacks that run before the first block of theirs, by running the model on tokens."""
    early: set[nn.Module] = set()
    started: set[nn.Module] = set()

    def record(module: nn.Module, _inputs: Any) -> None:
        if module in first_blocks:
            started.add(module)
        elif block_of[module] not in started:
            early.add(module)

    block_of = {
        child: block for (_, stack), block in zip(stacks, first_blocks, strict=True) for child in stack.children()
    }
    ids = torch.tensor([[1, 2, 3]], device=model.device)
    was_training, attention = model.training, model.config._attn_implementation
    model.eval()  # dropout would draw from the run's generator
    if model.device.type == "meta" and attention != "eager":
        model.set_attn_implementation("eager")  # others look into the values of a mask
    try:
        # Its head may want other tokens: what runs before the blocks is known then.
        with best_effort("a few tokens"), _recorded(record, [*block_of, *first_blocks]):
            model(input_ids=ids, decoder_input_ids=ids)
    finally:
        model.train(was_training)
        if model.config._attn_implementation != attention:
            model.set_attn_implementation(attention)
    if len(started) < len(first_blocks):
        raise ModelError(f"{type(model).__name__} can't be run on a few tokens: unsupported architecture")
    return early


@contextmanager
def _recorded(record: Any, modules: list[nn.Module]) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(record) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
