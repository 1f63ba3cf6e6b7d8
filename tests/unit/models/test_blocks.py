import pytest
import torch
import transformers
from transformers import (
    AlbertConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
)

from frostline.errors import ModelError
from frostline.models.blocks import count, count_at, find_blocks, num_blocks_of, whole_as_head

SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ARCHITECTURES = {
    "bert": BertConfig(**SMALL),
    "roberta": RobertaConfig(**SMALL),
    "electra": ElectraConfig(**SMALL, embedding_size=8),
    "distilbert": DistilBertConfig(vocab_size=50, dim=16, n_layers=3, n_heads=2, hidden_dim=32),
    "gpt2": GPT2Config(vocab_size=50, n_embd=16, n_layer=3, n_head=2, pad_token_id=0),
    "mpnet": MPNetConfig(**SMALL),
    "deberta": DebertaV2Config(
        **SMALL, relative_attention=True, norm_rel_ebd="layer_norm", pos_att_type=["p2c", "c2p"]
    ),
    "modernbert": ModernBertConfig(**SMALL, **SPECIAL, cls_token_id=1, sep_token_id=2),
    "llama": LlamaConfig(**SMALL, **SPECIAL),
}


@pytest.fixture(params=ARCHITECTURES, ids=str)
def model(request):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(ARCHITECTURES[request.param])


def test_every_parameter_has_one_place(model):
    anatomy = find_blocks(model)
    assert anatomy.num_blocks == 3
    assert sum(count(modules) for _, modules in anatomy.groups()) == sum(p.numel() for p in model.parameters())


def test_the_parts_run_in_the_order_that_the_structure_says(model):
    """The rule goes by registration; the forward pass has the last word."""
    anatomy = find_blocks(model)
    called = []
    for part, modules in anatomy.groups():
        for _, module in modules:
            for inner in module.modules():
                if any(True for _ in inner.parameters(recurse=False)):
                    inner.register_forward_hook(lambda *a, part=part: called.append(part))
    model(input_ids=torch.tensor([[1, 2, 3]]), attention_mask=torch.ones(1, 3, dtype=torch.long))
    order = [part for part, _ in anatomy.groups()]
    assert [part for i, part in enumerate(called) if part not in called[:i]] == order
    assert called == sorted(called, key=order.index)


def test_what_is_below_a_depth_does_not_feel_what_is_above(model):
    """Gradients stop where the prefix ends: the parts really are a stack."""
    anatomy = find_blocks(model)
    for _, module in anatomy.prefix(2):
        module.requires_grad_(False)
    model(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert all(p.grad is None for _, module in anatomy.prefix(2) for p in module.parameters())
    assert any(p.grad is not None for p in anatomy.blocks[2][1].parameters())


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("mpnet", ["mpnet.encoder.relative_attention_bias"]),
        ("deberta", ["deberta.encoder.rel_embeddings", "deberta.encoder.LayerNorm"]),
        ("llama", []),  # its norm beside the blocks comes after them
    ],
)
def test_what_every_block_reads_is_frozen_with_the_embeddings(name, shared, device):
    with torch.device(device):
        model = AutoModelForSequenceClassification.from_config(ARCHITECTURES[name])
    model.train()
    before = torch.get_rng_state()
    anatomy = find_blocks(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert [part for part, _ in anatomy.embeddings[1:]] == shared
    assert all(parameter.grad is None for parameter in model.parameters())


def test_counts_at_each_depth(model):
    anatomy = find_blocks(model)
    total = sum(p.numel() for p in model.parameters())
    assert count_at(anatomy, None).num_frozen == 0
    frozen = [count_at(anatomy, depth).num_frozen for depth in range(4)]
    assert frozen == sorted(frozen)
    assert frozen[0] == count(anatomy.embeddings)
    assert all(count_at(anatomy, depth).num_total == total for depth in range(4))


def test_berts_199_named_parameters():
    with torch.device("meta"):
        named = list(BertModel(BertConfig()).named_parameters())
    assert len(named) == 199
    shapes = {name: tuple(p.shape) for name, p in named}
    assert [name for name, _ in named][:5] == [
        "embeddings.word_embeddings.weight",
        "embeddings.position_embeddings.weight",
        "embeddings.token_type_embeddings.weight",
        "embeddings.LayerNorm.weight",
        "embeddings.LayerNorm.bias",
    ]
    assert [name for name, _ in named][-2:] == ["pooler.dense.weight", "pooler.dense.bias"]
    assert shapes["embeddings.word_embeddings.weight"] == (30522, 768)
    assert shapes["embeddings.position_embeddings.weight"] == (512, 768)
    assert shapes["encoder.layer.11.intermediate.dense.weight"] == (3072, 768)
    assert shapes["pooler.dense.weight"] == (768, 768)
    assert sum(name.startswith("encoder.layer.0.") for name, _ in named) == 16
    assert sum(p.numel() for _, p in named if p.dim() == 2) == 109_360_128


def test_distilberts_table():
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(DistilBertConfig())
    anatomy = find_blocks(model)
    named = {name: p.numel() for name, p in model.named_parameters()}
    assert named["distilbert.embeddings.word_embeddings.weight"] == 23_440_896
    assert named["distilbert.embeddings.position_embeddings.weight"] == 393_216
    assert sum(n for name, n in named.items() if "embeddings.LayerNorm" in name) == 1_536
    assert sum(count((block,)) for block in anatomy.blocks) == 42_527_232
    above = {name: count(((name, module),)) for name, module in anatomy.head}
    assert above["pre_classifier"] == 590_592
    assert above["classifier"] == 1_538


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            AlbertConfig(vocab_size=50, hidden_size=16, num_attention_heads=2, intermediate_size=32),
            "shares its weights",
        ),
        (
            DebertaV2Config(
                **SMALL, relative_attention=True, pos_att_type=["c2p"], conv_kernel_size=3, conv_act="gelu"
            ),
            "deberta.encoder.conv lies beside the blocks, and does not feed them",
        ),
    ],
)
def test_what_has_no_depth_is_refused_with_the_reason(config, message):
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(ModelError, match=message):
        find_blocks(model)
    whole = whole_as_head(model)
    assert count_at(whole, None).num_trainable == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "name", ["ViT", "DeiT", "Dinov2", "Beit", "Swin", "ConvNext", "ConvNextV2", "ResNet", "RegNet"]
)
def test_models_of_images(name):
    """Of transformers layers are the blocks, of networks in rungs the rungs; all above the last one is the head."""
    config_class = getattr(transformers, f"{name}Config")
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    rungs = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 2, 1]}
    settings = {
        "Swin": {"embed_dim": 8, "depths": [1, 1, 2], "num_heads": [1, 1, 2], "window_size": 4},
        "ConvNext": rungs, "ConvNextV2": rungs,
        "ResNet": {**rungs, "embedding_size": 8},
        "RegNet": {**rungs, "embedding_size": 8, "groups_width": 8},
    }.get(name, {**sizes, "patch_size": 8})  # fmt: skip
    if "image_size" in config_class().to_dict():
        settings["image_size"] = 64
    with torch.device("meta"):
        model = AutoModelForImageClassification.from_config(
            config_class(architectures=[f"{name}ForImageClassification"], **settings)
        )
    anatomy = find_blocks(model)
    assert anatomy.num_blocks == (4 if "hidden_sizes" in settings else 3) == num_blocks_of(model.config)
    above = [name for name, module in anatomy.head if any(True for _ in module.parameters())]
    assert above[-1].startswith(("classifier", "cls_classifier"))
    assert not any("embed" in name for name in above)
    assert count(anatomy.embeddings) > 0
