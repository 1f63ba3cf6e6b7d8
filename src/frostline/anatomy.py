"""Owns: where the embeddings, the ordered blocks and the head of a model are. Must not know: what is frozen.

Found from the structure: the one list of as many like modules as the config counts layers, what is registered before it
on the way down to it (below), and everything else (above). No list of architectures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from frostline.errors import ModelError
from frostline.result import ParamCount

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NamedModule = tuple[str, nn.Module]


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """A model taken apart, in the order of its forward pass.

    Attributes:
        model: The whole model.
        below: What runs before the blocks: the embeddings.
        blocks: The blocks, lowest first.
        above: What runs after the blocks: pooler, final norm, classifier.
    """

    model: nn.Module
    below: tuple[NamedModule, ...]
    blocks: tuple[NamedModule, ...]
    above: tuple[NamedModule, ...]

    @property
    def num_blocks(self) -> int:
        """How many blocks there are: the largest depth."""
        return len(self.blocks)

    def prefix(self, depth: int) -> tuple[NamedModule, ...]:
        """Returns the embeddings and the lowest `depth` blocks."""
        return (*self.below, *self.blocks[:depth])

    def groups(self) -> Iterator[tuple[str, tuple[NamedModule, ...]]]:
        """Yields `embeddings`, `block 0`, `block 1`, ..., `head` with their modules."""
        yield "embeddings", self.below
        for index, block in enumerate(self.blocks):
            yield f"block {index}", (block,)
        yield "head", self.above


def dissect(model: PreTrainedModel) -> Anatomy:
    """Finds embeddings, blocks and head of a model.

    Args:
        model: Any encoder or decoder with one stack of like blocks. May live on the meta device.

    Raises:
        ModelError: There is no such stack, more than one, or the blocks share parameters; the message says why.
    """
    name = type(model).__name__
    config = model.config
    if hasattr(config, "num_hidden_groups"):
        raise ModelError(f"{name} shares its weights across blocks, so a frozen depth means nothing: use freeze=none")
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{name} has an encoder and a decoder: freezing by depth needs one stack of blocks")
    num_layers = getattr(config, "num_hidden_layers", None)
    base = model.base_model
    base_name = next((key for key, module in model.named_modules() if module is base), "")
    lists = [
        (key, module)
        for key, module in base.named_modules(prefix=base_name)
        if isinstance(module, nn.ModuleList) and _is_stack(module, num_layers)
    ]
    lists = [item for item in lists if not any(item[0].startswith(f"{other}.") for other, _ in lists)]
    if len(lists) != 1:
        found = "none" if not lists else f"{len(lists)} ({', '.join(key for key, _ in lists)})"
        raise ModelError(
            f"{name}: expected one list of {num_layers} like blocks, found {found}: unsupported architecture"
        )
    list_name, stack = lists[0]
    below, above = _beside(model, list_name, base_name)
    anatomy = Anatomy(
        model=model,
        below=below,
        blocks=tuple((f"{list_name}.{index}", block) for index, block in enumerate(stack)),
        above=above,
    )
    _check_whole(anatomy, name)
    return anatomy


def count(modules: tuple[NamedModule, ...]) -> int:
    """Returns the number of parameters (scalars) in modules, shared ones counted once."""
    seen = {id(p): p.numel() for _, module in modules for p in module.parameters()}
    return sum(seen.values())


def count_at(anatomy: Anatomy, depth: int | None) -> ParamCount:
    """Returns trainable and frozen parameters at a depth; None freezes nothing."""
    total = count((("", anatomy.model),))
    frozen = 0 if depth is None else count(anatomy.prefix(depth))
    return ParamCount(num_trainable=total - frozen, num_frozen=frozen)


def _is_stack(module: nn.ModuleList, num_layers: int | None) -> bool:
    kinds = {type(block) for block in module}
    has_parameters = all(any(True for _ in block.parameters()) for block in module)
    return len(module) == num_layers and len(kinds) == 1 and has_parameters


def _beside(
    model: nn.Module, list_name: str, base_name: str
) -> tuple[tuple[NamedModule, ...], tuple[NamedModule, ...]]:
    """Sorts everything beside the way from the model down to the block list into below and above."""
    below: list[NamedModule] = []
    above: list[NamedModule] = []
    outer: list[list[NamedModule]] = []
    parent, parent_name = model, ""
    for part in list_name.split("."):
        before: list[NamedModule] = []
        after: list[NamedModule] = []
        side = before
        for child_name, child in parent.named_children():
            if child_name == part:
                side = after
                continue
            side.append((f"{parent_name}.{child_name}".lstrip("."), child))
        if parent_name.startswith(base_name) and parent_name != base_name:
            _check_shared(parent_name, after)
        if base_name and not parent_name:
            after, before = (
                [*before, *after],
                [],
            )  # beside the base model: the head, wherever it is registered
        below += before
        outer.append(after)
        parent, parent_name = getattr(parent, part), f"{parent_name}.{part}".lstrip(".")
    for level in reversed(outer):
        above += level
    return tuple(below), tuple(above)


def _check_shared(parent_name: str, after: list[NamedModule]) -> None:
    # DeBERTa and MPNet keep a position bias beside their blocks, which every block reads: neither below nor above.
    for name, module in after:
        if any(True for _ in module.parameters()) and "norm" not in type(module).__name__.lower():
            raise ModelError(
                f"{name} beside the blocks of {parent_name} is read by all of them: unsupported architecture"
            )


def _check_whole(anatomy: Anatomy, name: str) -> None:
    parts = [{id(p) for _, m in modules for p in m.parameters()} for _, modules in anatomy.groups()]
    everything = {id(p) for p in anatomy.model.parameters()}
    if set().union(*parts) != everything:
        loose = len(everything - set().union(*parts))
        raise ModelError(f"{name}: {loose} parameters belong to no part of it: unsupported architecture")
    blocks = parts[1:-1]
    if sum(len(block) for block in blocks) != len(set().union(*blocks)):
        raise ModelError(f"{name} shares its weights across blocks, so a frozen depth means nothing: use freeze=none")


def undivided(model: nn.Module) -> Anatomy:
    """Returns the anatomy of a model that can't be dissected: all of it is head. Enough where nothing is frozen."""
    return Anatomy(model=model, below=(), blocks=(), above=tuple(model.named_children()))
