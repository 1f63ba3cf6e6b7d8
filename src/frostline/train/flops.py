"""Estimates the floating-point operations of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from frostline.data.pixel_table import PixelTable
from frostline.data.row_table import RowTable
from frostline.data.token_table import TokenTable
from frostline.errors import ModelError, in_one_line
from frostline.models.blocks import Anatomy, NamedModule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from frostline.train.setup import Setup


def flops_per_epoch(
    model: nn.Module,
    num_tokens: int,
    prefix: Sequence[NamedModule] = (),
    sample: Mapping[str, torch.Tensor] | None = None,
    decoder: tuple[Sequence[NamedModule], int] | None = None,
) -> float:
    """Returns the floating-point operations of one pass over the rows, padding left out.

    2 per parameter and token forward; backward, 2 for the gradient of what a matrix is given and 2 for that of the
    matrix itself (Kaplan et al. 2020, arXiv 2001.08361, section 2.1): the latter where it is trained, the former
    wherever something below it is, or it is itself. Embeddings are table lookups, not products; attention scores are
    left out, as there.

    Args:
        model: Frozen as it will be trained.
        num_tokens: Of all rows; with a sample, how many rows.
        prefix: What is frozen below everything that is trained: no gradient goes there, whatever the model says.
        sample: One image, `[1, C, H, W]`: a convolution takes its weights to many places, so that operations are
            counted (by `torch.utils.flop_counter`) and not derived from parameters.
        decoder: What runs over other tokens than those, and how many they are: the targets'.
    """
    if sample is not None:
        return num_tokens * _counted(model, sample, prefix)
    looked_up = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    below = {id(p) for _, module in prefix for p in module.parameters()}
    multiplied = [p for p in model.parameters() if id(p) not in looked_up]
    modules, num_targets = decoder if decoder is not None else ((), num_tokens)
    of_decoder = {id(p) for _, module in modules for p in module.parameters()}
    tokens = {id(p): num_targets if id(p) in of_decoder else num_tokens for p in multiplied}
    total = 0
    for p in multiplied:
        is_passed = id(p) not in below
        total += tokens[id(p)] * p.numel() * (2 + 2 * (is_passed and p.requires_grad) + 2 * is_passed)
    typed_model: Any = model
    output = typed_model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if output is not None and id(output.weight) in looked_up:  # tied: a table lookup below, a product above
        total += num_targets * output.weight.numel() * (4 + 2 * output.weight.requires_grad)
    return float(total)


def sample_of(table: RowTable) -> Mapping[str, torch.Tensor] | None:
    """Returns one image of a table; None: it holds texts."""
    return table.inputs([0]) if isinstance(table, PixelTable) else None


@torch.no_grad()
def _counted(model: nn.Module, sample: Mapping[str, torch.Tensor], prefix: Sequence[NamedModule]) -> float:
    """Returns the operations of one image, forward and backward: counted once, forward, without computing anything."""
    every = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    weightless = {name: torch.empty_like(tensor, device="meta") for name, tensor in every.items()}
    inputs = {name: tensor.to("meta") for name, tensor in sample.items()}
    was_training = model.training
    model.eval()  # dropout would draw from the run's generator, and running means would move
    try:
        with FlopCounterMode(display=False) as counter:
            functional_call(model, weightless, (), dict(inputs))
    finally:
        model.train(was_training)
    root = type(model).__name__
    counts = {name.removeprefix(f"{root}."): sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    total = float(counts.get("Global", 0))
    below = sum(counts.get(name, 0) for name, _ in prefix)
    inside = tuple(f"{name}." for name, _ in prefix)
    trained = other = 0.0
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if not own or name.startswith(inside) or any(name == each for each, _ in prefix):
            continue
        other += counts.get(name, 0)
        trained += counts.get(name, 0) if any(parameter.requires_grad for parameter in own) else 0
    passed = total - below
    # What has no weights of its own (attention's products) passes gradients to both of what it multiplies.
    return float(total + passed + trained + (passed - other))


def of_decoder(anatomy: Anatomy, table: RowTable) -> tuple[tuple[NamedModule, ...], int] | None:
    """Returns what of a model runs over target tokens, and how many there are; None: all runs over the rows' own."""
    if anatomy.num_encoder_blocks is None or not isinstance(table, TokenTable):
        return None
    return anatomy.above(anatomy.num_encoder_blocks), table.num_target_tokens


def flops_of_setup(setup: Setup) -> float:
    """Returns the floating-point operations of one epoch of a run, by `flops_per_epoch`.

    Args:
        setup: The run, frozen as it will be trained; an attached prefix cache is taken off for the count.

    Raises:
        ModelError: The model can't take an image as its image processor makes it.
    """
    depth, sample = setup.frozen.prefix_depth, sample_of(setup.tables.train)
    prefix = setup.anatomy.prefix(depth) if depth is not None else ()
    decoder = of_decoder(setup.anatomy, setup.tables.train)
    attached = setup.cached if sample is not None else None  # an image is run through the whole model
    if attached is not None:
        attached.detach()
    try:
        num_tokens = setup.tables.train.num_tokens
        return flops_per_epoch(setup.loaded.model, num_tokens, prefix=prefix, sample=sample, decoder=decoder)
    except (ValueError, RuntimeError) as error:
        if sample is None:
            raise
        shape, why = tuple(sample["pixel_values"].shape[1:]), in_one_line(error, 150)
        raise ModelError(f"the model can't take what its image processor makes, {shape}: {why}") from error
    finally:
        if attached is not None:
            attached.attach()
