"""`freeze=lora`: low-rank adapters beside the linear layers are trained (LoRA, Hu et al. 2021, arXiv 2106.09685).

peft is an extra: it is imported only where adapters are asked for, and so is torch.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from frostline.errors import ModelError, UserError
from frostline.freezing.choice import Choice, below_head, by_name
from frostline.spec.checks import finite, require
from frostline.spec.freeze import FREEZE_METHODS, FreezeMethod, check_count, key

if TYPE_CHECKING:
    from torch import nn

    from frostline.models.blocks import Anatomy

LORA_PREFIX = "lora_"
"""Part of the names of all parameters of adapters, and of no others."""


@FREEZE_METHODS.register("lora")
@dataclass(frozen=True, kw_only=True, slots=True)
class FreezeAllButAdapters(FreezeMethod):
    """Trains adapters beside the linear layers of the blocks above `depth`, and what lies above the blocks.

    Attributes:
        depth: Number of lowest blocks without adapters, 0 to the model's.
        rank: Of the adapters, 1 to 1024.
        alpha: Their output is multiplied by `alpha / rank`.
        dropout: On their input, 0 <= x < 1.
    """

    name: str = "lora"
    depth: int = key("give the number of frozen blocks, for example freeze.depth=3")
    rank: int = key("give the rank of the adapters, for example freeze.rank=8")
    alpha: float = key("give the scale of the adapters, for example freeze.alpha=16")
    dropout: float = key("give the dropout before the adapters, for example freeze.dropout=0")

    def __post_init__(self) -> None:
        require(self.depth >= 0, "freeze.depth", self.depth, "0 or more (blocks, counted from below)")
        require(1 <= self.rank <= 1024, "freeze.rank", self.rank, "1 to 1024")
        require(finite(self.alpha) and self.alpha > 0, "freeze.alpha", self.alpha, "above 0")
        require(0 <= self.dropout < 1, "freeze.dropout", self.dropout, "at least 0, below 1")

    def choose(self, anatomy: Anatomy) -> Choice:
        """See `FreezeMethod`."""
        frozen = {name for name in below_head(anatomy) if LORA_PREFIX not in name}
        total = anatomy.num_blocks
        if self.depth == total:
            return by_name(anatomy, frozen, f"the embeddings and {total} of {total} blocks")
        blocks = f"the {total} blocks" if self.depth == 0 else f"blocks {self.depth} to {total - 1}"
        return by_name(anatomy, frozen, f"all but adapters in {blocks} and what lies above the blocks")

    def label(self) -> str:
        """See `FreezeMethod`."""
        return f"lora{self.rank}{f'-d{self.depth}' if self.depth else ''}"

    def check(self, num_blocks: int, model_name: str) -> None:
        """See `FreezeMethod`."""
        check_count("depth", self.depth, num_blocks, model_name)

    def check_installed(self) -> None:
        """See `FreezeMethod`."""
        if importlib.util.find_spec("peft") is None:
            raise UserError("freeze=lora: needs peft, which isn't installed: pip install 'frostline[lora]'")

    def depth_of(self, num_blocks: int) -> int | None:
        """See `FreezeMethod`."""
        del num_blocks
        return self.depth

    def prepare(self, anatomy: Anatomy, seed: int) -> bool:
        """Puts an adapter beside every linear layer of the blocks above `depth`: at first they add nothing.

        Raises:
            UserError: peft isn't installed.
            ModelError: The blocks have no linear layers.
        """
        blocks = anatomy.blocks[self.depth :]
        if not blocks:
            return False
        self.check_installed()
        import torch
        from peft import LoraConfig, inject_adapter_in_model
        from torch import nn
        from transformers.pytorch_utils import Conv1D

        modules = [named for prefix, block in blocks for named in block.named_modules(prefix=prefix)]
        layers = {name: module for name, module in modules if isinstance(module, (nn.Linear, Conv1D))}
        if not layers:
            raise ModelError(f"freeze=lora: {type(anatomy.model).__name__} has no linear layers in its blocks")
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # peft says int and multiplies
            lora_dropout=self.dropout,
            target_modules=list(layers),
            fan_in_fan_out=all(isinstance(module, Conv1D) for module in layers.values()),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, anatomy.model)
        anatomy.model.requires_grad_(True)  # peft freezes the head too
        return True

    def finalize(self, model: nn.Module) -> None:
        """Adds each adapter to the layer beside it and takes it out."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
        for name, layer in layers:
            layer.merge()
            parent, _, last = name.rpartition(".")
            base: Any = layer.get_base_layer()
            setattr(model.get_submodule(parent), last, base)
        if hasattr(model, "peft_config"):
            del model.peft_config

    @property
    def may_freeze_a_prefix(self) -> bool:
        """See `FreezeMethod`."""
        return self.depth != 0
