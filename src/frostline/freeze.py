"""Owns: what a frozen depth means - gradients off, prefix pinned in eval mode, bounds checked, audited.

Must not know: the cache of the prefix's activations; how a run trains.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING

import torch
from torch import nn

from frostline.anatomy import Anatomy, NamedModule, count_at
from frostline.result import Audit, Frozen, ParamCount
from frostline.spec import FreezeName, FreezeSpec

if TYPE_CHECKING:
    from torch.optim import Optimizer


@dataclass(frozen=True, kw_only=True)
class FrozenPart:
    """The frozen part of a model, with its hashes from before the run.

    Attributes:
        modules: The frozen modules, lowest first; empty if nothing is frozen.
        frozen: The choice, and the depth that it came to.
        params: Counts of the whole model.
        before: sha256 of each frozen tensor, by name.
    """

    modules: tuple[NamedModule, ...]
    frozen: Frozen
    params: ParamCount
    before: dict[str, str]

    def audit(self, optimizer: Optimizer) -> Audit:
        """Compares the frozen part with what it was, and looks for it in the optimizer.

        Args:
            optimizer: The one that trained the rest.
        """
        after = _hashes(self.modules)
        changed = tuple(sorted(name for name, value in self.before.items() if after.get(name) != value))
        ids = {id(p) for _, module in self.modules for p in module.parameters()}
        optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return Audit(
            frozen_unchanged=not changed,
            absent_from_optimizer=not ids & optimized,
            pinned_in_eval=not any(m.training for _, module in self.modules for m in module.modules()),
            num_tensors=len(self.before),
            changed=changed,
        )


def depth_of(spec: FreezeSpec, num_blocks: int) -> int | None:
    """Returns the depth that a choice comes to: `head` is all blocks, `none` is None."""
    if spec.name is FreezeName.NONE:
        return None
    return num_blocks if spec.name is FreezeName.HEAD else spec.depth


def freeze_prefix(
    anatomy: Anatomy, spec: FreezeSpec, origin: str | None = None, *, dropout: bool = False
) -> FrozenPart:
    """Freezes the embeddings and the lowest blocks of a model, in place.

    They take no gradient, and stay in eval mode whatever `model.train()` is called: Trainer calls it at every step,
    which would bring back their dropout and, with batch norm, move their statistics.

    Args:
        anatomy: The model. Its depth was checked against `spec` before (`RunSpec.check_depth`).
        spec: What to freeze.
        origin: Names the file that every frozen tensor was just read from, and how. What was hashed of it earlier in
            this process is not hashed again: the audit then also finds a tensor that was not read as it was before.
        dropout: Don't pin them, so that they drop out in training. A statistic that moves is found by the audit.

    Returns:
        The frozen part, hashed as it is now.
    """
    depth = depth_of(spec, anatomy.num_blocks)
    assert depth is None or 0 <= depth <= anatomy.num_blocks, "RunSpec.check_depth comes first"
    modules = () if depth is None else anatomy.prefix(depth)
    for _, module in modules:
        module.requires_grad_(False)
        if not dropout:
            _pin_in_eval(module)
    return FrozenPart(
        modules=modules,
        frozen=Frozen(name=spec.name.value, depth=depth, num_blocks=anatomy.num_blocks),
        params=count_at(anatomy, depth),
        before=_hashes(modules) if origin is None else _hashes_of(origin, modules),
    )


_KNOWN: dict[str, dict[str, str]] = {}
"""Hashes of tensors by origin."""


def _hashes_of(origin: str, modules: tuple[NamedModule, ...]) -> dict[str, str]:
    known = _KNOWN.setdefault(origin, {})
    for name, tensor in _tensors(modules):
        if name not in known:
            known[name] = _sha256(tensor)
    return {name: known[name] for name, _ in _tensors(modules)}


def trained_sha256(model: nn.Module) -> str:
    """Returns a sha256 over what training changes: the name and bytes of each parameter with gradient and each buffer.

    Args:
        model: On any device.
    """
    named: list[tuple[str, torch.Tensor]] = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    named += list(model.named_buffers())
    lines = [f"{name} {_sha256(tensor)}" for name, tensor in sorted(named, key=lambda item: item[0])]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    """Takes the place of `nn.Module.train` in a frozen module."""
    del mode
    return module


def _pin_in_eval(module: nn.Module) -> None:
    module.eval()
    for inner in module.modules():
        # An instance attribute, bound: it survives deepcopy, and `nn.Module.train` of a parent finds it.
        inner.train = MethodType(_stay_in_eval, inner)  # type: ignore[method-assign]


def _hashes(modules: tuple[NamedModule, ...]) -> dict[str, str]:
    return {name: _sha256(tensor) for name, tensor in _tensors(modules)}


def _tensors(modules: tuple[NamedModule, ...]) -> Iterator[tuple[str, torch.Tensor]]:
    for prefix, module in modules:
        yield from module.named_parameters(prefix)
        yield from module.named_buffers(prefix)


def _sha256(tensor: torch.Tensor) -> str:
    data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)  # the bytes, whatever the dtype
    return hashlib.sha256(data.numpy().data).hexdigest()
