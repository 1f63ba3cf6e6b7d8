"""Owns: an estimate of what training costs in floating-point operations. Must not know: how long it takes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from frostline.anatomy import NamedModule


def flops_per_epoch(model: nn.Module, num_tokens: int, prefix: Sequence[NamedModule] = ()) -> float:
    """Returns the floating-point operations of one pass over the rows, padding left out.

    2 per parameter and token forward; backward, 2 for the gradient of what a matrix is given and 2 for that of the
    matrix itself (Kaplan et al. 2020, arXiv 2001.08361, section 2.1): the latter where it is trained, the former
    wherever something below it is, or it is itself. Embeddings are looked up, not multiplied; attention scores are left
    out, as there.

    Args:
        model: Frozen as it will be trained.
        num_tokens: Of all rows.
        prefix: What is frozen below everything that is trained: no gradient goes there, whatever the model says.
    """
    looked_up = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    below = {id(p) for _, module in prefix for p in module.parameters()}
    multiplied = [p for p in model.parameters() if id(p) not in looked_up]
    every = sum(p.numel() for p in multiplied)
    trained = sum(p.numel() for p in multiplied if p.requires_grad and id(p) not in below)
    passed = sum(p.numel() for p in multiplied if id(p) not in below)
    return float(num_tokens * (2 * every + 2 * trained + 2 * passed))
