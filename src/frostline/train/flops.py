"""Owns: an estimate of what training costs in floating-point operations. Must not know: how long it takes."""

from __future__ import annotations

from torch import nn


def flops_per_epoch(model: nn.Module, num_tokens: int) -> float:
    """Returns the floating-point operations of one pass over the rows, padding left out.

    2 per parameter and token forward, 4 more backward for those that are trained (Kaplan et al. 2020, arXiv
    2001.08361, section 2.1); embeddings are looked up, not multiplied; attention scores are left out, as there. Frozen
    blocks under the trained ones cost no backward pass.

    Args:
        model: Frozen as it will be trained.
        num_tokens: Of all rows.
    """
    looked_up = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    sizes: list[tuple[int, bool]] = [(p.numel(), p.requires_grad) for p in model.parameters() if id(p) not in looked_up]
    every = sum(size for size, _ in sizes)
    trained = sum(size for size, has_grad in sizes if has_grad)
    return float(num_tokens * (2 * every + 4 * trained))
