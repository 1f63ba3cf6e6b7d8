"""Measures how far each part of a model moved during a run."""

from __future__ import annotations

import math
from typing import Any

import torch

from frostline.models.blocks import Anatomy


class Drift:
    """Remembers the trained tensors of a model and compares them later.

    Frozen tensors are compared too, by the audit's hashes; here they need no copy: what takes no gradient and passed
    the audit has moved by exactly 0, which is read from `changed`.

    Args:
        anatomy: The model, frozen already. Trainable tensors are copied to the CPU: one more copy of the trained part.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        self._before = {
            name: tensor.detach().to("cpu", copy=True)
            for name, tensor in anatomy.model.named_parameters()
            if tensor.requires_grad
        }

    @torch.no_grad()
    def table(self, changed: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """Returns one row for the embeddings, each block and the head.

        Args:
            changed: Frozen tensors that the audit found changed; their rows say NaN, not 0.

        Returns:
            Rows of `part`, `num_params`, `num_trainable`, `sum_abs` (sum of |after - before|) and `relative`
            (L2 norm of the change over L2 norm before).
        """
        after = dict(self._anatomy.model.named_parameters())
        return [self._row(part, after, prefixes, changed) for part, prefixes in self._parts()]

    def _parts(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(part, tuple(name for name, _ in modules)) for part, modules in self._anatomy.groups()]

    def _row(
        self,
        part: str,
        after: dict[str, torch.nn.Parameter],
        prefixes: tuple[str, ...],
        changed: tuple[str, ...],
    ) -> dict[str, Any]:
        def inside(name: str) -> bool:
            return any(name.startswith(f"{prefix}.") for prefix in prefixes)

        names = [name for name in after if inside(name)]
        trained = [name for name in names if name in self._before]
        sum_abs = squared_change = squared_before = 0.0
        for name in trained:
            before = self._before[name].double()
            change = after[name].detach().cpu().double() - before
            sum_abs += change.abs().sum().item()
            squared_change += change.square().sum().item()
            squared_before += before.square().sum().item()
        if any(inside(name) for name in changed):
            sum_abs = squared_change = math.nan
        return {
            "part": part,
            "num_params": sum(after[name].numel() for name in names),
            "num_trainable": sum(after[name].numel() for name in trained),
            "sum_abs": sum_abs,
            "relative": math.sqrt(squared_change / squared_before) if squared_before else math.sqrt(squared_change),
        }
