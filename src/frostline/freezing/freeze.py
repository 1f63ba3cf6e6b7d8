"""Freezes parts of a model: gradients off, whole parts pinned in eval mode, audited by hashes.

Must not know: the cache of the prefix's activations; how a run trains.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING

import torch
from torch import nn

from frostline.models.blocks import Anatomy, NamedModule
from frostline.models.quantized import is_packed, packed_parts
from frostline.process_cache import PROCESS_CACHE
from frostline.records.result import Audit, Frozen, ParamCount
from frostline.spec import FreezeMethod

if TYPE_CHECKING:
    from torch.optim import Optimizer

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FrozenPart:
    """The frozen part of a model, with its hashes from before the run.

    Attributes:
        model: The whole model.
        modules: What is frozen whole and pinned in eval mode, lowest first.
        extra_params: Names of frozen parameters outside of these.
        prefix_depth: How many of the lowest blocks are frozen whole, and the embeddings with them: what a run may begin
            above; None if the embeddings are trained.
        frozen: The choice, and the depth that it means.
        params: Counts of the whole model.
        before: sha256 of each frozen tensor, by name.
    """

    model: nn.Module
    modules: tuple[NamedModule, ...]
    extra_params: tuple[str, ...]
    prefix_depth: int | None
    frozen: Frozen
    params: ParamCount
    before: dict[str, str]

    def audit(self, optimizer: Optimizer) -> Audit:
        """Compares the frozen part with what it was, and looks for it in the optimizer.

        Args:
            optimizer: The one that trained the rest.
        """
        now = dict(_tensors(self.model, self.modules, self.extra_params))
        changed = tuple(sorted(n for n, value in self.before.items() if n not in now or _sha256(now[n]) != value))
        ids = {id(tensor) for tensor in now.values()}
        optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return Audit(
            frozen_unchanged=not changed,
            absent_from_optimizer=not ids & optimized,
            pinned_in_eval=not any(m.training for _, module in self.modules for m in module.modules()),
            num_tensors=len(self.before),
            changed=changed,
        )


def freeze(
    anatomy: Anatomy,
    spec: FreezeMethod,
    origin: str | None = None,
    *,
    fresh: Sequence[str] = (),
    dropout: bool = False,
    hashed: bool = True,
) -> FrozenPart:
    """Freezes what is chosen of a model, in place.

    It takes no gradient, and parts that are frozen whole (the embeddings, a block, a module above the blocks) stay in
    eval mode whatever `model.train()` is called: Trainer calls it at every step, which would bring back their dropout
    and, with batch norm, move their statistics. In a part of which some is trained, dropout stays as it is.

    Args:
        anatomy: The model. What is counted was checked against it before (`FreezeMethod.check`).
        spec: What to freeze.
        origin: Names the file that every frozen tensor was just read from, and how. What was hashed of it earlier in
            this process is not hashed again: the audit then also finds a tensor that was not read as it was before.
        fresh: Names of tensors that are not as in that file: a head's.
        dropout: Don't pin them, so that they drop out in training. A statistic that moves is found by the audit.
        hashed: False: it will not be audited, for example when it has no values (meta device).

    Returns:
        The frozen part, hashed as it is now.

    Raises:
        SpecError: A pattern finds no parameter, or nothing of the kind that is to be trained is there.
    """
    chosen = spec.choose(anatomy)
    named = dict(anatomy.model.named_parameters())
    for _, module in chosen.modules:
        module.requires_grad_(False)
        if not dropout:
            _pin_in_eval(module)
    if chosen.prefix_depth is not None and not dropout:
        _pin_own_modes(anatomy.stacks)
    for name in chosen.extra_params:
        named[name].requires_grad_(False)
    tensors = dict(_tensors(anatomy.model, chosen.modules, chosen.extra_params))
    ids = {id(tensor) for tensor in tensors.values()}
    before = _hashes_of(origin, tensors, frozenset(fresh)) if hashed else {}
    num_frozen = sum(p.numel() for p in anatomy.model.parameters() if id(p) in ids)
    return FrozenPart(
        model=anatomy.model,
        modules=chosen.modules,
        extra_params=chosen.extra_params,
        prefix_depth=chosen.prefix_depth,
        frozen=Frozen(
            name=spec.name,
            depth=spec.depth_of(anatomy.num_blocks),
            num_blocks=anatomy.num_blocks,
            words=chosen.description,
        ),
        params=ParamCount(
            num_trainable=sum(p.numel() for p in anatomy.model.parameters()) - num_frozen, num_frozen=num_frozen
        ),
        before=before,
    )


_KNOWN: dict[str, dict[str, str]] = PROCESS_CACHE.container({})
"""Hashes of tensors by origin."""


def _hashes_of(origin: str | None, tensors: dict[str, torch.Tensor], fresh: frozenset[str]) -> dict[str, str]:
    if origin is None:
        return {name: _sha256(tensor) for name, tensor in tensors.items()}
    known = _KNOWN.setdefault(origin, {})
    for name, tensor in tensors.items():
        if name not in known and name not in fresh:
            known[name] = _sha256(tensor)
    return {name: _sha256(tensor) if name in fresh else known[name] for name, tensor in tensors.items()}


def trained_sha256(model: nn.Module) -> str:
    """Returns a sha256 over what training changes: the name and bytes of each parameter with gradient and each buffer.

    Args:
        model: On any device.
    """
    named: list[tuple[str, torch.Tensor]] = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    named += list(model.named_buffers())
    lines = [f"{name} {_sha256(tensor)}" for name, tensor in sorted(named, key=lambda item: item[0])]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def freeze_temporarily(modules: Sequence[NamedModule]) -> dict[str, str]:
    """Freezes modules for a while: no gradients, pinned in eval mode.

    Returns:
        sha256 of each of their tensors, by name: for `changed_tensors`.
    """
    for _, module in modules:
        module.requires_grad_(False)
        _pin_in_eval(module)
    return {name: _sha256(tensor) for name, tensor in _tensors(nn.Module(), tuple(modules), ())}


def changed_tensors(modules: Sequence[NamedModule], before: Mapping[str, str]) -> list[str]:
    """Returns the names of the tensors of temporarily frozen modules that changed."""
    now = dict(_tensors(nn.Module(), tuple(modules), ()))
    return sorted(name for name, value in before.items() if name not in now or _sha256(now[name]) != value)


def unfreeze(modules: Sequence[NamedModule], mode: bool) -> None:
    """Lets temporarily frozen modules be trained again.

    Args:
        modules: By name.
        mode: Whether the model is in training mode.
    """
    for _, module in modules:
        module.requires_grad_(True)
        for inner in module.modules():
            inner.__dict__.pop("train", None)
        module.train(mode)


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    """Takes the place of `nn.Module.train` in a frozen module."""
    del mode
    return module


def _pin_in_eval(module: nn.Module) -> None:
    module.eval()
    for inner in module.modules():
        # An instance attribute, bound: it survives deepcopy, and `nn.Module.train` of a parent finds it.
        inner.train = MethodType(_stay_in_eval, inner)  # type: ignore[method-assign]


def _pin_own_modes(modules: Sequence[NamedModule]) -> None:
    """Pins the mode of modules, and not that of their children: some drop out embeddings by `functional.dropout`."""
    for _, module in modules:
        module.training = False
        module.train = MethodType(_train_children, module)  # type: ignore[method-assign]


def _train_children(module: nn.Module, mode: bool = True) -> nn.Module:
    """Takes the place of `nn.Module.train` in a module whose own mode is pinned."""
    for child in module.children():
        child.train(mode)
    return module


def _tensors(
    model: nn.Module, modules: tuple[NamedModule, ...], extra_params: tuple[str, ...]
) -> Iterator[tuple[str, torch.Tensor]]:
    for prefix, module in modules:
        yield from module.named_parameters(prefix)
        yield from module.named_buffers(prefix)
    if extra_params:
        named = dict(model.named_parameters())
        yield from ((name, named[name]) for name in extra_params)


def _sha256(tensor: torch.Tensor) -> str:
    if is_packed(tensor):  # what it is packed into: the numbers that it stands for are made anew each time
        parts = "\n".join(f"{name} {_sha256(part)}" for name, part in sorted(packed_parts(tensor).items()))
        return hashlib.sha256(parts.encode()).hexdigest()
    data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)  # the bytes, whatever the dtype
    return hashlib.sha256(data.numpy().data).hexdigest()
