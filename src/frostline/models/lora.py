"""Owns: low-rank adapters in a model, and out of it again. Must not know: what is frozen, how it is trained.

peft is an extra: nothing of it is imported but where adapters are asked for; nor is torch, so that whether it is there
can be asked before that.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from frostline.errors import ModelError, UserError
from frostline.spec import FreezeSpec

if TYPE_CHECKING:
    from torch import nn

    from frostline.models.blocks import NamedModule

MARK = "lora_"
"""Part of the names of all parameters of adapters, and of no others."""


def check_installed() -> None:
    """Refuses to go on without peft.

    Raises:
        UserError: It isn't installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise UserError("freeze=lora: needs peft, which isn't installed: pip install 'frostline[lora]'")


def inject(model: nn.Module, blocks: Sequence[NamedModule], spec: FreezeSpec, seed: int) -> None:
    """Puts an adapter beside every linear layer of some blocks: at first they add nothing.

    Args:
        model: The whole model, changed in place; all of it takes gradients afterwards.
        blocks: Blocks of it.
        spec: Rank, scale and dropout.
        seed: Of the adapters' first weights; the global generator is left as it is.

    Raises:
        UserError: peft isn't installed.
        ModelError: The blocks have no linear layers.
    """
    check_installed()
    import torch
    from peft import LoraConfig, inject_adapter_in_model
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    found = [(name, m) for prefix, block in blocks for name, m in block.named_modules(prefix=prefix)]
    layers = {name: module for name, module in found if isinstance(module, (nn.Linear, Conv1D))}
    if not layers:
        raise ModelError(f"freeze=lora: {type(model).__name__} has no linear layers in its blocks")
    config = LoraConfig(
        r=spec.rank or 1,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # peft says int and multiplies
        lora_dropout=spec.dropout or 0.0,
        target_modules=list(layers),
        fan_in_fan_out=all(isinstance(module, Conv1D) for module in layers.values()),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    model.requires_grad_(True)  # peft freezes the head, too; what is frozen is said elsewhere


def merge(model: nn.Module) -> None:
    """Adds each adapter to the layer beside it and takes it out: the model is of its own class's form again."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, layer in layers:
        layer.merge()
        parent, _, last = name.rpartition(".")
        base: Any = layer.get_base_layer()
        setattr(model.get_submodule(parent), last, base)
    if hasattr(model, "peft_config"):
        del model.peft_config
