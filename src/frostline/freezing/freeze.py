"""Owns: what it means that something is frozen - gradients off, whole parts pinned in eval mode, audited.

Must not know: the cache of the prefix's activations; how a run trains.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING

import torch
from torch import nn

from frostline.errors import SpecError
from frostline.models.blocks import Anatomy, NamedModule
from frostline.models.lora import MARK
from frostline.records.result import Audit, Frozen, ParamCount
from frostline.spec import PHASED, FreezeName, FreezeSpec

if TYPE_CHECKING:
    from torch.optim import Optimizer

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FrozenPart:
    """The frozen part of a model, with its hashes from before the run.

    Attributes:
        model: The whole model.
        modules: What is frozen whole and pinned in eval mode, lowest first.
        loose: Names of frozen parameters outside of these.
        prefix_depth: How many of the lowest blocks are frozen whole, and the embeddings with them: what a run may begin
            above; None if the embeddings are trained.
        frozen: The choice, and the depth that it came to.
        params: Counts of the whole model.
        before: sha256 of each frozen tensor, by name.
    """

    model: nn.Module
    modules: tuple[NamedModule, ...]
    loose: tuple[str, ...]
    prefix_depth: int | None
    frozen: Frozen
    params: ParamCount
    before: dict[str, str]

    def audit(self, optimizer: Optimizer) -> Audit:
        """Compares the frozen part with what it was, and looks for it in the optimizer.

        Args:
            optimizer: The one that trained the rest.
        """
        now = dict(_tensors(self.model, self.modules, self.loose))
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


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """What a choice comes to in a model."""

    modules: tuple[NamedModule, ...]
    loose: tuple[str, ...]
    prefix_depth: int | None
    words: str


def freeze(
    anatomy: Anatomy,
    spec: FreezeSpec,
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
        anatomy: The model. What is counted was checked against it before (`RunSpec.check_depth`).
        spec: What to freeze.
        origin: Names the file that every frozen tensor was just read from, and how. What was hashed of it earlier in
            this process is not hashed again: the audit then also finds a tensor that was not read as it was before.
        fresh: Names of tensors that are not as in that file: a head's.
        dropout: Don't pin them, so that they drop out in training. A statistic that moves is found by the audit.
        hashed: False: it will not be audited, as when it has no values (meta device).

    Returns:
        The frozen part, hashed as it is now.

    Raises:
        SpecError: A pattern finds no parameter, or nothing of the kind that is to be trained is there.
    """
    chosen = _choose(anatomy, spec)
    named = dict(anatomy.model.named_parameters())
    for _, module in chosen.modules:
        module.requires_grad_(False)
        if not dropout:
            _pin_in_eval(module)
    for name in chosen.loose:
        named[name].requires_grad_(False)
    tensors = dict(_tensors(anatomy.model, chosen.modules, chosen.loose))
    ids = {id(tensor) for tensor in tensors.values()}
    if not hashed:
        before = {}
    elif origin is None:
        before = {name: _sha256(tensor) for name, tensor in tensors.items()}
    else:
        before = _hashes_of(origin, tensors, frozenset(fresh))
    num_frozen = sum(p.numel() for p in anatomy.model.parameters() if id(p) in ids)
    return FrozenPart(
        model=anatomy.model,
        modules=chosen.modules,
        loose=chosen.loose,
        prefix_depth=chosen.prefix_depth,
        frozen=Frozen(
            name=spec.name.value,
            depth=spec.depth_of(anatomy.num_blocks),
            num_blocks=anatomy.num_blocks,
            words=chosen.words,
        ),
        params=ParamCount(
            num_trainable=sum(p.numel() for p in anatomy.model.parameters()) - num_frozen, num_frozen=num_frozen
        ),
        before=before,
    )


def _choose(anatomy: Anatomy, spec: FreezeSpec) -> _Chosen:
    total = anatomy.num_blocks
    depth = spec.depth_of(total)
    if spec.name is FreezeName.LORA:
        return _all_but_adapters(anatomy, depth or 0)
    if depth is not None:
        assert 0 <= depth <= total, "RunSpec.check_depth comes first"
        return _Chosen(
            modules=anatomy.prefix(depth),
            loose=(),
            prefix_depth=depth,
            words=f"the embeddings and {depth} of {total} blocks" if depth else "the embeddings",
        )
    if spec.name is FreezeName.NONE or spec.name in PHASED:  # of those, what is frozen to the end
        return _Chosen(modules=(), loose=(), prefix_depth=None, words="nothing")
    if spec.blocks is not None:
        numbers = spec.frozen_blocks()
        assert max(numbers) < total, "RunSpec.check_depth comes first"
        below = anatomy.below if spec.embeddings else ()
        listed = ", ".join(str(each) for each in spec.blocks)
        return _Chosen(
            modules=(*below, *(anatomy.blocks[number] for number in numbers)),
            loose=(),
            prefix_depth=_prefix_depth(set(numbers)) if spec.embeddings else None,
            words=f"{'the embeddings and ' if below else ''}{len(numbers)} of {total} blocks ({listed})",
        )
    if spec.pattern is not None:
        return _by_name(anatomy, _matches(anatomy.model, spec.pattern), f"names with {' or '.join(spec.pattern)}")
    return _all_but(anatomy, spec.name)


def _all_but_adapters(anatomy: Anatomy, depth: int) -> _Chosen:
    parts = [*anatomy.below, *anatomy.blocks]
    names = {key for part, module in parts for key, _ in module.named_parameters(part) if MARK not in key}
    if depth == anatomy.num_blocks:
        return _by_name(anatomy, names, f"the embeddings and {depth} of {depth} blocks")
    beside = f"the {anatomy.num_blocks - depth} blocks" if depth == 0 else f"blocks {depth} to {anatomy.num_blocks - 1}"
    return _by_name(anatomy, names, f"all but adapters in {beside} and what lies above the blocks")


def _all_but(anatomy: Anatomy, name: FreezeName) -> _Chosen:
    """Freezes all below the head but the biases, or the norms."""
    parts = [*anatomy.below, *anatomy.blocks]
    inside = {key for part, module in parts for key, _ in module.named_parameters(part)}
    if name is FreezeName.BIAS_ONLY:
        # Also q_bias, in_proj_bias: what else a layer calls the vector that it adds.
        what, kept = "biases", {key for key in inside if re.search(r"(?:^|_)bias$", key.rpartition(".")[2])}
    else:
        what, kept = "norms", {key for part, module in parts for key in _of_norms(part, module)}
    if not kept or kept == inside:
        found = "no" if not kept else "nothing but"
        raise SpecError(f"freeze={name.value}: {type(anatomy.model).__name__} has {found} {what} below its head")
    return _by_name(anatomy, inside - kept, f"all but the {what} and what lies above the blocks")


def _of_norms(prefix: str, module: nn.Module) -> Iterator[str]:
    for name, inner in module.named_modules(prefix=prefix):
        # A block of a pre-norm model, or a dense layer with its norm, has the word in its name and others' parameters.
        is_leaf = not any(True for child in inner.children() for _ in child.parameters())
        if "norm" in type(inner).__name__.lower() and is_leaf:
            yield from (key for key, _ in inner.named_parameters(name))


def _matches(model: nn.Module, patterns: tuple[str, ...]) -> set[str]:
    """Returns the names of the parameters that one of the patterns is found in.

    Raises:
        SpecError: A pattern is found in none.
    """
    names = [name for name, _ in model.named_parameters()]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    found: set[str] = set()
    for index, pattern in enumerate(patterns):
        hits = {name for name in names if re.search(pattern, name)}
        if not hits:
            raise SpecError(
                f"freeze.pattern[{index}]={pattern}: found in no parameter's name; they are like "
                f"{names[len(names) // 2]} (frostline inspect --params lists them)"
            )
        if not hits & trained - found:
            log.warning("freeze.pattern[%d]=%s freezes nothing that isn't frozen without it", index, pattern)
        found |= hits
    return found


def _by_name(anatomy: Anatomy, frozen: set[str], words: str) -> _Chosen:
    """Sorts frozen parameters into parts that are frozen whole and the others."""
    units: list[tuple[int | None, tuple[NamedModule, ...]]] = [(0, anatomy.below)]
    units += [(index + 1, (block,)) for index, block in enumerate(anatomy.blocks)]
    units += [(None, (module,)) for module in anatomy.above]
    modules: list[NamedModule] = []
    whole: set[int] = set()
    rest = set(frozen)
    for number, unit in units:
        inside = {key for name, module in unit for key, _ in module.named_parameters(name)}
        if inside and inside <= frozen:
            modules += unit
            rest -= inside
            if number is not None:
                whole.add(number)
    return _Chosen(
        modules=tuple(modules),
        loose=tuple(name for name, _ in anatomy.model.named_parameters() if name in rest),
        prefix_depth=_prefix_depth({number - 1 for number in whole if number}) if 0 in whole else None,
        words=words,
    )


def _prefix_depth(blocks: set[int]) -> int:
    """Returns how many of the lowest blocks are among some."""
    depth = 0
    while depth in blocks:
        depth += 1
    return depth


_KNOWN: dict[str, dict[str, str]] = {}
"""Hashes of tensors by origin."""


def _hashes_of(origin: str, tensors: dict[str, torch.Tensor], fresh: frozenset[str]) -> dict[str, str]:
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


def hold(modules: Sequence[NamedModule]) -> dict[str, str]:
    """Freezes modules for a while: no gradients, pinned in eval mode.

    Returns:
        sha256 of each of their tensors, by name: `moved` compares.
    """
    for _, module in modules:
        module.requires_grad_(False)
        _pin_in_eval(module)
    return {name: _sha256(tensor) for name, tensor in _tensors(nn.Module(), tuple(modules), ())}


def moved(modules: Sequence[NamedModule], before: Mapping[str, str]) -> list[str]:
    """Returns the names of the tensors of held modules that are not what they were."""
    now = dict(_tensors(nn.Module(), tuple(modules), ()))
    return sorted(name for name, value in before.items() if name not in now or _sha256(now[name]) != value)


def release(modules: Sequence[NamedModule], mode: bool) -> None:
    """Lets held modules be trained.

    Args:
        modules: They.
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


def _tensors(
    model: nn.Module, modules: tuple[NamedModule, ...], loose: tuple[str, ...]
) -> Iterator[tuple[str, torch.Tensor]]:
    for prefix, module in modules:
        yield from module.named_parameters(prefix)
        yield from module.named_buffers(prefix)
    if loose:
        named = dict(model.named_parameters())
        yield from ((name, named[name]) for name in loose)


def _sha256(tensor: torch.Tensor) -> str:
    data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)  # the bytes, whatever the dtype
    return hashlib.sha256(data.numpy().data).hexdigest()
