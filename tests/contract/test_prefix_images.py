"""The suffix of image models, fed with cached maps and vectors, against the whole model: each architecture, small."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    BitConfig,
    ConvNextConfig,
    ConvNextV2Config,
    Dinov2Config,
    RegNetConfig,
    ResNetConfig,
    SwinConfig,
    Swinv2Config,
    ViTConfig,
)

from frostline.models.blocks import Anatomy, find_blocks
from frostline.prefix_cache.compute import RowsToCompute
from frostline.prefix_cache.entry import CacheError
from frostline.prefix_cache.forward_probe import is_pooled, probe_forward, row_shape
from frostline.prefix_cache.open_or_compute import Prefix, open_or_compute
from frostline.prefix_cache.store import PrefixStore
from frostline.prefix_cache.suffix import HIDDEN, Suffix, read_position

SIZE, ROWS = 64, 7
STAGES = {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 2, 1]}
PATCHES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": SIZE, "patch_size": 16}
WINDOWS = {"image_size": SIZE, "patch_size": 4, "embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4]}
CONFIGS = {
    "resnet": ResNetConfig(embedding_size=8, **STAGES),
    "regnet": RegNetConfig(embedding_size=8, groups_width=8, **STAGES),
    "bit": BitConfig(embedding_size=8, num_groups=4, **STAGES),
    "convnext": ConvNextConfig(patch_size=2, **STAGES),
    "convnextv2": ConvNextV2Config(patch_size=2, **STAGES),
    "swin": SwinConfig(window_size=2, **WINDOWS),
    "swinv2": Swinv2Config(window_size=2, **WINDOWS),
    "vit": ViTConfig(intermediate_size=64, **PATCHES),
    "dinov2": Dinov2Config(mlp_ratio=2, **PATCHES),
}
POOLED = {"resnet": 32, "regnet": 32, "convnext": 32, "convnextv2": 32}
"""Numbers of what the head reads, of networks whose head pools before its first parameters (BiT's normalizes)."""
BOUND = 1e-6
"""Of the largest logit: float32 rounds by 6e-8, and images are computed in batches of other sizes."""


def make(name: str) -> Anatomy:
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_config(CONFIGS[name])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after pretraining: its running means are not those of a batch
            nn.init.normal_(module.running_mean, std=0.1)
    return replace(find_blocks(model), image=(3, SIZE, SIZE))


def images() -> torch.Tensor:
    return torch.randn(ROWS, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def rows() -> RowsToCompute:
    pixels = images()
    lengths = np.ones(ROWS, dtype=np.int64)
    return RowsToCompute(
        name="rows", lengths=lengths, sha256="0", collate=lambda n: {"pixel_values": pixels[list(n)]}, unit_tokens=700
    )


def prefix_of(anatomy: Anatomy, dtype: str = "float32") -> Prefix:
    return Prefix(
        anatomy=anatomy, facts={}, about={}, width=0, dtype=dtype, position=read_position(anatomy), reading=None,
        autocast=nullcontext, threads=torch.get_num_threads(),
    )  # fmt: skip


@pytest.fixture(params=CONFIGS)
def name(request):
    return request.param


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_logits_and_gradients_are_those_of_the_whole_model(tmp_path, name, depth):
    anatomy = make(name)
    prefix = prefix_of(anatomy)
    cached = open_or_compute(PrefixStore(tmp_path, 10**8), prefix, depth, (), rows(), lambda: None).rows
    model, batch = anatomy.model, [3, 0, 6]
    for _, module in anatomy.prefix(depth):
        module.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    whole = model(pixel_values=images()[batch]).logits
    wanted = torch.autograd.grad(whole.square().sum(), trained, allow_unused=True)
    suffix = Suffix(anatomy, depth, None, prefix.position if prefix.is_read(depth) else None)
    suffix.attach()
    hidden = torch.from_numpy(cached.single(np.array(batch)))[:, None]
    part = model(pixel_values=torch.zeros(3, 1, 1, 1), **{HIDDEN: hidden}).logits
    given = torch.autograd.grad(part.square().sum(), trained, allow_unused=True)
    suffix.detach()
    assert (part - whole).abs().max() < BOUND * max(1.0, float(whole.detach().abs().max()))
    for one, other in zip(given, wanted, strict=True):
        assert (one is None) == (other is None)
        assert one is None or (one - other).abs().max() < 1e-4 * max(1.0, float(other.detach().abs().max()))
    assert torch.equal(model(pixel_values=images()[batch]).logits, whole)  # it is whole again


def test_what_the_head_pools_is_what_is_kept_at_full_depth(name):
    anatomy = make(name)
    assert is_pooled(anatomy, 4) == (name in POOLED)
    if name in POOLED:
        assert row_shape(anatomy, 4, None) == (POOLED[name],)
    assert not is_pooled(anatomy, 3)


def test_a_deeper_depth_starts_from_a_shallower_one_in_the_same_bits(tmp_path, name):
    prefix = prefix_of(make(name))
    store = PrefixStore(tmp_path / "both", 10**8)
    open_or_compute(store, prefix, 2, (), rows(), lambda: None)
    for depth in (3, 4):
        deeper = open_or_compute(store, prefix, depth, (), rows(), lambda: None).rows
        alone = open_or_compute(PrefixStore(tmp_path / f"{depth}", 10**8), prefix, depth, (), rows(), lambda: None)
        assert all(np.array_equal(alone.rows[row], deeper[row]) for row in range(ROWS))


def test_one_pass_gives_every_depth_the_same_bits_as_its_own_pass(tmp_path, name):
    prefix = prefix_of(make(name))
    together = PrefixStore(tmp_path / "together", 10**8)
    open_or_compute(together, prefix, 1, (2, 4), rows(), lambda: None)
    for depth in (1, 2, 4):
        alone = open_or_compute(PrefixStore(tmp_path / f"{depth}", 10**8), prefix, depth, (), rows(), lambda: None)
        both = open_or_compute(together, prefix, depth, (), rows(), lambda: None)
        assert both.fill_s == 0
        assert all(np.array_equal(alone.rows[row], both.rows[row]) for row in range(ROWS))


def test_nothing_is_pooled_where_the_head_drops_out_first():
    """A dropout between the last block and the head's weights draws anew at each step: its input is the map."""
    for rate, pooled in ((0.5, None), (0.0, "classifier.2")):
        model = make("resnet").model
        model.classifier = nn.Sequential(nn.Dropout(rate), *model.classifier)
        anatomy = replace(find_blocks(model), image=(3, SIZE, SIZE))
        assert probe_forward(anatomy).pooled == pooled


def test_the_probe_leaves_a_model_as_it_was(name):
    anatomy = make(name)
    before = {key: value.clone() for key, value in anatomy.model.state_dict().items()}
    generator = torch.get_rng_state()
    flags = [module.training for module in anatomy.model.modules()]
    probe_forward(anatomy)
    assert torch.equal(torch.get_rng_state(), generator)
    assert [module.training for module in anatomy.model.modules()] == flags
    assert all(torch.equal(before[key], value) for key, value in anatomy.model.state_dict().items())


def test_halves_are_bounded(tmp_path):
    """float16 rounds to 11 bits: a relative error of at most 2**-11; numbers beyond its range are refused."""
    anatomy = make("resnet")
    full, half = (
        open_or_compute(PrefixStore(tmp_path / kind, 10**8), prefix_of(anatomy, kind), 3, (), rows(), lambda: None).rows
        for kind in ("float32", "float16")
    )
    assert half.shape.num_bytes == full.shape.num_bytes // 2
    numbers = np.arange(ROWS)
    apart = np.abs(half.single(numbers) - full.single(numbers))
    assert (apart <= 2.0**-11 * np.abs(full.single(numbers)) + 2.0**-25).all()
    assert apart.max() > 0
    with torch.no_grad():
        for norm in (module for module in anatomy.blocks[2][1].modules() if isinstance(module, nn.BatchNorm2d)):
            norm.weight.mul_(1e6)
    store = PrefixStore(tmp_path / "beyond", 10**8)
    with pytest.raises(CacheError, match="beyond the range of float16"):
        open_or_compute(store, prefix_of(anatomy, "float16"), 3, (), rows(), lambda: None)


def test_a_batch_is_made_outside_of_half_precision(tmp_path):
    """Augmentation computes, too: its numbers must not depend on who asks for a batch."""
    seen = []
    made = rows()

    def collate(numbers):
        seen.append(torch.is_autocast_enabled("cpu"))
        return made.collate(numbers)

    anatomy = make("resnet")
    half = replace(prefix_of(anatomy), autocast=lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    open_or_compute(PrefixStore(tmp_path, 10**8), half, 2, (), replace(made, collate=collate), lambda: None)
    assert seen
    assert not any(seen)
