"""Models with an encoder and a decoder taken apart."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartForSequenceClassification,
    BlenderbotSmallConfig,
    BlenderbotSmallForConditionalGeneration,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    XGLMConfig,
    XGLMForCausalLM,
)

from frostline.freezing.freeze import freeze
from frostline.freezing.methods.blocks import FreezeBlocks
from frostline.freezing.methods.depth import FreezeDepth
from frostline.models.blocks import count_at, find_blocks, num_blocks_of

OF_T5 = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4}
OF_BART = {
    "d_model": 16, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 40,
}  # fmt: skip
KINDS = {
    T5ForConditionalGeneration: (T5Config, OF_T5, "final_layer_norm"),
    MT5ForConditionalGeneration: (MT5Config, OF_T5, "final_layer_norm"),
    BartForConditionalGeneration: (BartConfig, OF_BART, None),
    BartForSequenceClassification: (BartConfig, OF_BART, None),
    MBartForConditionalGeneration: (MBartConfig, OF_BART, "layer_norm"),
    MarianMTModel: (MarianConfig, {**OF_BART, "pad_token_id": 63, "decoder_start_token_id": 63}, None),
    PegasusForConditionalGeneration: (PegasusConfig, OF_BART, "layer_norm"),
    M2M100ForConditionalGeneration: (M2M100Config, OF_BART, "layer_norm"),
    BlenderbotSmallForConditionalGeneration: (BlenderbotSmallConfig, OF_BART, None),
}


def build(kind, device="cpu"):
    config_class, sizes, _ = KINDS[kind]
    torch.manual_seed(0)
    with torch.device(device):
        return kind(config_class(vocab_size=64, **sizes))


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoders_blocks_come_first(kind):
    model = build(kind)
    anatomy = find_blocks(model)
    assert (anatomy.num_blocks, anatomy.num_encoder_blocks, num_blocks_of(model.config)) == (5, 2, 5)
    assert ["encoder" in name for name, _ in anatomy.blocks] == [True, True, False, False, False]
    norm = KINDS[kind][2]
    assert [name.rpartition(".")[2] for name, _ in anatomy.behind_encoder] == ([] if norm is None else [norm])
    assert not [name for name, _ in anatomy.head if "embed" in name or "shared" in name]


@pytest.mark.parametrize("kind", KINDS)
def test_its_parts_are_the_same_without_weights(kind):
    with_weights, without = find_blocks(build(kind)), find_blocks(build(kind, "meta"))
    names = [[name for _, modules in each.groups() for name, _ in modules] for each in (with_weights, without)]
    assert names[0] == names[1]
    counts = [[count_at(each, depth) for depth in range(6)] for each in (with_weights, without)]
    assert counts[0] == counts[1]


def test_the_final_norm_of_an_encoder_is_frozen_with_its_last_block():
    anatomy = find_blocks(build(T5ForConditionalGeneration))
    norm = "encoder.final_layer_norm"
    assert [norm in [name for name, _ in anatomy.prefix(depth)] for depth in range(6)] == [False] * 2 + [True] * 4
    for depth in range(6):
        parts = [*anatomy.prefix(depth), *anatomy.above(depth)]
        assert len({name for name, _ in parts}) == len(parts)
        inside = {parameter for _, module in parts for parameter in module.parameters()}
        assert inside == set(anatomy.model.parameters())
    chosen = FreezeBlocks(blocks=("1",), embeddings=False).choose(anatomy)
    assert norm in [name for name, _ in chosen.modules]


@pytest.mark.parametrize("kind", [T5ForConditionalGeneration, BartForConditionalGeneration])
def test_a_frozen_encoder_does_not_drop_out_its_embeddings(kind):
    """BART's dropout of embeddings is a function in the encoder's own mode, T5's a module behind the blocks."""
    model = build(kind)
    anatomy = find_blocks(model)
    freeze(anatomy, FreezeDepth(depth=2), hashed=False)
    model.train()
    ids = torch.arange(2, 12)[None]
    first, second = (model.get_encoder()(input_ids=ids).last_hidden_state for _ in range(2))
    assert torch.equal(first, second)
    block = anatomy.blocks[3][1]
    assert block.training
    model.eval()
    assert not block.training


def test_a_decoder_whose_embeddings_are_frozen_does_not_drop_them_out():
    model = XGLMForCausalLM(XGLMConfig(vocab_size=64, d_model=16, ffn_dim=32, num_layers=3, attention_heads=2))
    anatomy = find_blocks(model)
    freeze(anatomy, FreezeDepth(depth=1), hashed=False)
    model.train()
    seen = []
    anatomy.blocks[0][1].register_forward_hook(lambda _module, _inputs, output: seen.append(output[0]))
    for _ in range(2):
        model(input_ids=torch.arange(2, 12)[None])
    assert torch.equal(seen[0], seen[1])
    assert anatomy.blocks[1][1].training
