"""Frozen linear layers in 8 or 4 bits, by torchao, and out of memory while nothing reads them.

torchao is imported where a layer is quantized: to import it takes seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from frostline.spec import Quantize

if TYPE_CHECKING:
    from frostline.models.blocks import NamedModule

_NF4_BLOCK, _NF4_SCALERS = 64, 256
"""Weights that share a scale, and scales that share one (Dettmers et al. 2023, arXiv 2305.14314, section 3)."""

_PLAIN = (torch.Tensor, nn.Parameter)


def quantize(blocks: Sequence[NamedModule], kind: Quantize) -> int:
    """Quantizes the weights of the linear layers of some blocks, in place; what computes with them stays in float.

    Args:
        blocks: Frozen.
        kind: `int8`: a scale for each row of a matrix, the values nearest; `nf4`: 4-bit NormalFloat, a scale for each
            64 weights, themselves in 8 bits.

    Returns:
        How many layers were quantized. Those whose weights are no multiple of 64 stay as they are with `nf4`.
    """
    from torchao.quantization import Int8WeightOnlyConfig, quantize_, to_nf4

    layers = list(_layers(blocks))
    count = 0
    for layer in layers:
        if kind is Quantize.INT8:
            quantize_(layer, Int8WeightOnlyConfig())
        elif layer.weight.numel() % _NF4_BLOCK == 0:
            scalers = math.gcd(layer.weight.numel() // _NF4_BLOCK, _NF4_SCALERS)
            layer.weight = nn.Parameter(to_nf4(layer.weight.detach(), _NF4_BLOCK, scalers), requires_grad=False)
        count += is_packed(layer.weight)
    return count


def copy_from_file(model: nn.Module) -> None:
    """Gives each parameter memory of its own: one that lies in the mapped file of weights keeps all of it mapped."""
    for parameter in model.parameters():
        if not is_packed(parameter):
            parameter.data = parameter.data.clone()


def dequantize(blocks: Sequence[NamedModule]) -> None:
    """Replaces quantized weights by the float32 numbers that they stand for, in place."""
    for layer in _layers(blocks):
        weight: Any = layer.weight
        if is_packed(weight):
            values = weight.get_original_weight() if hasattr(weight, "get_original_weight") else weight.dequantize()
            layer.weight = nn.Parameter(values.float().contiguous(), requires_grad=False)


def is_packed(tensor: torch.Tensor) -> bool:
    """Returns whether a tensor is packed into others: quantized."""
    return type(tensor) not in _PLAIN and hasattr(tensor, "__tensor_flatten__")


def packed_parts(tensor: Any) -> dict[str, torch.Tensor]:
    """Returns the tensors that a quantized one is packed into, by name."""
    names, _ = tensor.__tensor_flatten__()
    return {name: getattr(tensor, name).clone(memory_format=torch.contiguous_format) for name in names}


def _layers(blocks: Sequence[NamedModule]) -> Iterator[nn.Linear]:
    for _, block in blocks:
        yield from (module for module in block.modules() if isinstance(module, nn.Linear))


class OffloadedBlocks:
    """Blocks whose parameters lie in a file while nothing reads them; in their place are tensors without values.

    Args:
        blocks: Frozen, and passed by while they are offloaded.
        folder: Where the file is written, a folder of its own.
    """

    def __init__(self, blocks: Sequence[NamedModule], folder: Path) -> None:
        self._places = [
            (f"{name}.{inner}.{key}", module, key)
            for name, block in blocks
            for inner, module in block.named_modules()
            for key in module._parameters
            if module._parameters[key] is not None
        ]
        self._file = folder / "blocks.safetensors"
        self._packed: dict[str, tuple[type, Any]] = {}
        self._device = next(blocks[0][1].parameters()).device
        self._is_out = False

    def offload(self) -> None:
        """Writes the parameters, once, and drops them."""
        if self._is_out:
            return
        if not self._file.exists():
            save_file(dict(self._tensors()), self._file)
        for _, module, key in self._places:
            parameter: Any = module._parameters[key]
            empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
            module._parameters[key] = nn.Parameter(empty, requires_grad=False)
        self._is_out = True

    def restore(self) -> None:
        """Reads them back."""
        if not self._is_out:
            return
        read = load_file(self._file, device=str(self._device))
        for name, module, key in self._places:
            if name in self._packed:
                kind, (meta, size, stride) = self._packed[name]
                prefix = f"{name}/"
                parts = {part.removeprefix(prefix): read[part] for part in read if part.startswith(prefix)}
                tensor = kind.__tensor_unflatten__(parts, meta, size, stride)  # type: ignore[attr-defined]
            else:
                tensor = read[name]
            module._parameters[key] = nn.Parameter(tensor, requires_grad=False)
        self._is_out = False

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields what is written, and notes how packed tensors are put together again."""
        for name, module, key in self._places:
            parameter: Any = module._parameters[key]
            data = parameter.detach()
            if is_packed(data):
                _, meta = data.__tensor_flatten__()
                self._packed[name] = type(data), (meta, data.size(), data.stride())
                yield from ((f"{name}/{part}", own) for part, own in packed_parts(data).items())
            else:
                yield name, data.contiguous()
