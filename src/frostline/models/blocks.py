"""Finds the embeddings, the ordered blocks and the head of a model.

Found from the structure: the one list of as many like modules as the config counts layers (of a convolutional network:
stages), what is registered before it on the way down to it (embeddings), and everything else (head). What lies beside
the list and feeds every block counts as embeddings, too. Of a model with an encoder and a decoder the encoder's blocks
come first, then the decoder's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from frostline.errors import ModelError
from frostline.models import encoder_decoder, timm_models
from frostline.records.result import ParamCount

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NamedModule = tuple[str, nn.Module]


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """A model taken apart, in the order of its forward pass.

    Attributes:
        model: The whole model.
        embeddings: What runs before the blocks.
        blocks: The blocks, lowest first.
        head: What runs after the blocks: pooler, final norm, classifier.
        image: Channels, height and width of what it will be given; None: tokens.
        num_encoder_blocks: How many of the blocks are an encoder's, with a decoder's behind them; None: there is one
            stack.
        behind_encoder: What runs between the two, frozen with the encoder's last block.
        stacks: The modules right around the blocks. Some drop out embeddings by a function, in their own mode.
    """

    model: nn.Module
    embeddings: tuple[NamedModule, ...]
    blocks: tuple[NamedModule, ...]
    head: tuple[NamedModule, ...]
    image: tuple[int, ...] | None = None
    num_encoder_blocks: int | None = None
    behind_encoder: tuple[NamedModule, ...] = ()
    stacks: tuple[NamedModule, ...] = ()

    @property
    def num_blocks(self) -> int:
        """How many blocks there are: the largest depth."""
        return len(self.blocks)

    def prefix(self, depth: int) -> tuple[NamedModule, ...]:
        """Returns the embeddings and the lowest `depth` blocks."""
        units = [modules for _, modules in self.groups()]
        return tuple(item for modules in units[: depth + 1] for item in modules)

    def above(self, depth: int) -> tuple[NamedModule, ...]:
        """Returns the blocks above the lowest `depth`, and the head."""
        units = [modules for _, modules in self.groups()]
        return tuple(item for modules in units[depth + 1 :] for item in modules)

    def cached_depth(self, depth: int) -> int:
        """Returns how many of the lowest `depth` blocks one hidden state for each token of a row can stand for."""
        return depth if self.num_encoder_blocks is None else min(depth, self.num_encoder_blocks)

    def groups(self) -> Iterator[tuple[str, tuple[NamedModule, ...]]]:
        """Yields `embeddings`, `block 0`, `block 1`, ..., `head` with their modules."""
        yield "embeddings", self.embeddings
        for index, block in enumerate(self.blocks):
            is_last = index + 1 == self.num_encoder_blocks
            yield f"block {index}", (block, *self.behind_encoder) if is_last else (block,)
        yield "head", self.head


def find_blocks(model: PreTrainedModel) -> Anatomy:
    """Finds embeddings, blocks and head of a model.

    Args:
        model: With one stack of blocks (an encoder, a decoder, or the stages of a convolutional network), or an
            encoder and a decoder. May live on the meta device.

    Raises:
        ModelError: There is no such stack, or the blocks share parameters; the message says why.
    """
    name = type(model).__name__
    config = model.config
    if hasattr(config, "num_hidden_groups"):
        raise ModelError(
            f"{name} shares its weights across blocks, so a frozen depth means nothing: use freeze=none or "
            "freeze=pattern"
        )
    if getattr(config, "model_type", None) == timm_models.MODEL_TYPE:
        embeddings, blocks, head = timm_models.parts_of(model)
        anatomy = Anatomy(model=model, embeddings=embeddings, blocks=blocks, head=head)
        _check_whole(anatomy, name)
        return anatomy
    if encoder_decoder.is_encoder_decoder(model):
        anatomy = _with_encoder_and_decoder(model)
        _check_whole(anatomy, name)
        return anatomy
    num_layers = num_blocks_of(config)
    base = model.base_model
    base_name = next((key for key, module in model.named_modules() if module is base), "")
    lists = [
        (key, module)
        for key, module in base.named_modules(prefix=base_name)
        if isinstance(module, nn.ModuleList) and _is_stack(module, num_layers)
    ]
    lists = [item for item in lists if not any(item[0].startswith(f"{other}.") for other, _ in lists)]
    if len(lists) != 1:
        listed = "none" if not lists else f"{len(lists)} ({', '.join(key for key, _ in lists)})"
        raise ModelError(
            f"{name}: expected one list of {num_layers} like blocks, found {listed}: unsupported "
            "architecture; give freeze=none, or freeze=pattern with the names of parameters"
        )
    list_name, stack = lists[0]
    parent = list_name.rpartition(".")[0]
    embeddings, head = _beside(model, list_name, base_name)
    shared = _read_by_blocks(model, head, list_name, base_name)
    anatomy = Anatomy(
        model=model,
        embeddings=(*embeddings, *shared),
        blocks=tuple((f"{list_name}.{index}", block) for index, block in enumerate(stack)),
        head=tuple(item for item in head if item not in shared),
        stacks=((parent, model.get_submodule(parent)),),
    )
    _check_whole(anatomy, name)
    return anatomy


def _with_encoder_and_decoder(model: nn.Module) -> Anatomy:
    parts = encoder_decoder.parts_of(model)
    return Anatomy(
        model=model, embeddings=parts.embeddings, blocks=(*parts.encoder, *parts.decoder), head=parts.head,
        num_encoder_blocks=len(parts.encoder), behind_encoder=parts.behind_encoder, stacks=parts.stacks,
    )  # fmt: skip


def num_blocks_of(config: Any) -> int | None:
    """Returns how many blocks a config counts: layers, or the stages of a convolutional network; None: it doesn't.

    Of an encoder and a decoder the blocks of both.
    """
    config = getattr(config, "vision_config", None) or config
    layers = getattr(config, "num_hidden_layers", None)
    if getattr(config, "is_encoder_decoder", False) and isinstance(layers, int):
        behind = getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", None)
        return layers + behind if isinstance(behind, int) else None
    if not isinstance(layers, int) and isinstance(getattr(config, "depths", None), (list, tuple)):
        layers = len(config.depths)
    return layers if isinstance(layers, int) else None


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
    """Returns the modules outside of the block list: embeddings are before it in the model, the head is the rest."""
    embeddings: list[NamedModule] = []
    head: list[NamedModule] = []
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
        if base_name and not parent_name:
            after, before = (
                [*before, *after],
                [],
            )  # beside the base model: the head, wherever it is registered
        embeddings += before
        outer.append(after)
        parent, parent_name = getattr(parent, part), f"{parent_name}.{part}".lstrip(".")
    for level in reversed(outer):
        head += level
    return tuple(embeddings), tuple(head)


def _read_by_blocks(
    model: PreTrainedModel, head: tuple[NamedModule, ...], list_name: str, base_name: str
) -> tuple[NamedModule, ...]:
    """Returns what is registered beside the blocks but read by each of them: DeBERTa's and MPNet's position bias.

    It counts as embeddings: a frozen block must not change through it. Which modules these are is found by whether the
    lowest block's output depends on their parameters.

    Raises:
        ModelError: Something beside the blocks is neither that nor a norm after them.
    """
    parent = list_name.rpartition(".")[0]
    if parent == base_name or not parent.startswith(base_name):
        return ()
    beside = [
        (name, module)
        for name, module in head
        if name.rpartition(".")[0] == parent and any(True for _ in module.parameters())
    ]
    others = [name for name, module in beside if "norm" not in type(module).__name__.lower()]
    if not others:
        return ()
    readers = _read_by_first_block(model, model.get_submodule(f"{list_name}.0"), beside)
    for name in others:
        if not any(name == each for each, _ in readers):
            raise ModelError(f"{name} lies beside the blocks, and does not feed them: unsupported architecture")
    return readers


def _read_by_first_block(
    model: PreTrainedModel, block: nn.Module, modules: list[NamedModule]
) -> tuple[NamedModule, ...]:
    """Returns the modules on whose parameters a block's output depends, by running the model on a few tokens."""
    outputs: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    named = [(item, list(item[1].parameters())) for item in modules]
    flat = [parameter for _, parameters in named for parameter in parameters if parameter.requires_grad]
    ids = torch.tensor([[1, 2, 3]], device=model.device)
    trouble: Exception | None = None
    was_training, handle = model.training, block.register_forward_hook(keep)
    model.eval()  # dropout would draw from the run's generator
    try:
        # On the meta device some models can't read a mask, and some can't do without one.
        for more in ({}, {"attention_mask": torch.ones_like(ids)}):
            outputs.clear()
            try:
                with torch.enable_grad():
                    model.base_model(input_ids=ids, **more)
                    gradients = torch.autograd.grad(outputs[0].sum(), flat, allow_unused=True)
                break
            except Exception as error:  # noqa: BLE001 - whatever a foreign forward raises
                trouble = error
        else:
            raise ModelError(
                f"{type(model).__name__}: what lies beside its blocks can't be identified "
                f"({type(trouble).__name__}): unsupported architecture"
            ) from trouble
    finally:
        handle.remove()
        model.train(was_training)
    read = {id(parameter) for parameter, gradient in zip(flat, gradients, strict=True) if gradient is not None}
    return tuple(item for item, parameters in named if any(id(parameter) in read for parameter in parameters))


def _check_whole(anatomy: Anatomy, name: str) -> None:
    parts = [{id(p) for _, m in modules for p in m.parameters()} for _, modules in anatomy.groups()]
    all_ids = {id(p) for p in anatomy.model.parameters()}
    if set().union(*parts) != all_ids:
        num_left = len(all_ids - set().union(*parts))
        raise ModelError(f"{name}: {num_left} parameters belong to no part of it: unsupported architecture")
    blocks = parts[1:-1]
    if sum(len(block) for block in blocks) != len(set().union(*blocks)):
        raise ModelError(
            f"{name} shares its weights across blocks, so a frozen depth means nothing: use freeze=none or "
            "freeze=pattern"
        )


def whole_as_head(model: nn.Module) -> Anatomy:
    """Returns the anatomy of a model that can't be dissected: all of it is head. Enough where nothing is frozen."""
    return Anatomy(model=model, embeddings=(), blocks=(), head=tuple(model.named_children()))
