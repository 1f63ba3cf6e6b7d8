"""Each named model of the hub, as its own class built small, from a local copy in the hub's layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from frostline.assets import model_folder
from frostline.config import compose_run
from frostline.errors import AssetError, ModelError
from frostline.preflight import num_blocks
from frostline.records.result import Status
from frostline.records.run_context import RunContext
from frostline.records.run_folder import RunFolder
from frostline.train import run
from tests.conftest import TINY, save_tokenizer, sentences, write_csv
from tests.e2e.models.test_timm import NAMED as NAMED_OF_TIMM
from tests.e2e.tasks.test_tokens import save_sentences
from tests.support.pictures import SIZE, save_images

CONF = Path(__file__).parents[3] / "conf" / "model"
NAMED = sorted(path.stem for path in CONF.glob("*.yaml") if "source: hub" in path.read_text() and path.stem != "hub")

SMALL = {"vocab_size": 64, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
KINDS = {
    "albert_base": ("AlbertConfig", {**SMALL, "embedding_size": 8}, 12),
    "bert_base": ("BertConfig", SMALL, 12),
    "bert_large": ("BertConfig", SMALL, 24),
    "distilbert": ("DistilBertConfig", {"vocab_size": 64, "dim": 16, "n_heads": 2, "hidden_dim": 32}, 6),
    "gpt2": ("GPT2Config", {"vocab_size": 64, "n_embd": 16, "n_head": 2, "n_positions": 64, "pad_token_id": 0}, 12),
    "modernbert_base": ("ModernBertConfig", {**SMALL, **SPECIAL, "cls_token_id": 2, "sep_token_id": 3}, 22),
    "roberta_base": ("RobertaConfig", SMALL, 12),
    "roberta_large": ("RobertaConfig", SMALL, 24),
    "smollm2_135m": ("LlamaConfig", {**SMALL, **SPECIAL, "num_key_value_heads": 1}, 30),
}
"""The class behind each name, and how many blocks the published one has."""


PICKLED = {
    "deberta_v3_base": (
        "DebertaV2Config",
        {
            **SMALL, "relative_attention": True, "norm_rel_ebd": "layer_norm", "pos_att_type": ["p2c", "c2p"],
            "share_att_key": True, "position_buckets": 8,
        },
        12,
    ),
    "electra_small": ("ElectraConfig", {**SMALL, "embedding_size": 8}, 12),
    "mpnet_base": ("MPNetConfig", SMALL, 12),
}  # fmt: skip
"""Those whose repositories hold pickled weights alone."""
KINDS |= PICKLED

KINDS_OF_IMAGES = {
    "convnextv2_tiny": ("ConvNextV2Config", {"hidden_sizes": [8, 8, 16, 16], "depths": [3, 3, 9, 3]}, 4),
    "resnet_50": (
        "ResNetConfig", {"embedding_size": 8, "hidden_sizes": [16, 16, 32, 32], "depths": [3, 4, 6, 3]}, 4,
    ),
    "vit_base": (
        "ViTConfig",
        {
            "hidden_size": 16, "num_hidden_layers": 12, "num_attention_heads": 2, "intermediate_size": 32,
            "image_size": SIZE, "patch_size": 16,
        },
        12,
    ),
}  # fmt: skip


def build(name: str, folder: Path) -> None:
    """A model of the class and depth of the published one, without a head, as pretrained ones come."""
    import transformers

    kind, settings, num_blocks = KINDS[name]
    layers = {"DistilBertConfig": "n_layers", "GPT2Config": "n_layer"}.get(kind, "num_hidden_layers")
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**settings, **{layers: num_blocks}, initializer_range=0.1)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    save_tokenizer(folder)


@pytest.fixture
def hub_copy(tmp_path, monkeypatch):
    """Puts a folder where the hub's client keeps a commit of a repository; offline it looks nowhere else."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def put(spec, made: Path, *, pickled: bool = False) -> Path:
        repo = tmp_path / "hub" / f"models--{spec.location.replace('/', '--')}"
        (repo / "refs").mkdir(parents=True)
        snapshot = repo / "snapshots" / spec.revision
        shutil.copytree(made, snapshot)
        if pickled:
            torch.save(load_file(snapshot / "model.safetensors"), snapshot / "pytorch_model.bin")
            (snapshot / "model.safetensors").unlink()
        else:
            (snapshot / "pytorch_model.bin").write_bytes(b"never read")
        return snapshot

    return put


def test_every_named_model_is_tried():
    assert sorted([*KINDS, *KINDS_OF_IMAGES, *NAMED_OF_TIMM, "t5_small"]) == NAMED


@pytest.mark.slow
def test_t5_is_an_encoder_for_words_and_both_stacks_for_rows(tmp_path, hub_copy):
    from transformers import AutoTokenizer, T5Config, T5Model

    conll = save_sentences(tmp_path / "moods.conll", rows=60)
    data = ["dataset=conll", f"dataset.location={conll}", "training=token_classification", *TINY]
    spec = compose_run(["model=t5_small", *data, "freeze.depth=4", "runtime.cache=require"])
    assert num_blocks(spec) is None  # before it is fetched
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "num_heads": 2, "d_ff": 32, "num_layers": 6}
    (tmp_path / "made").mkdir()
    save_tokenizer(tmp_path / "made")
    end = AutoTokenizer.from_pretrained(tmp_path / "made").sep_token_id  # the head reads the last token of a row
    config = T5Config(**sizes, pad_token_id=0, decoder_start_token_id=0, eos_token_id=end)
    T5Model(config).save_pretrained(tmp_path / "made")
    hub_copy(spec.model, tmp_path / "made")
    with RunFolder(tmp_path / "run", spec) as recorder:
        result = run(spec, RunContext(recorder, tmp_path / "run"))
    assert result.status is Status.FINISHED, result.reason
    assert (result.freeze.num_blocks, result.freeze.depth) == (6, 4)
    assert num_blocks(spec) == 6
    assert result.audit.frozen_unchanged
    rows = ["dataset=csv", f"dataset.location={write_csv(tmp_path / 'rows.csv', sentences(40))}", *TINY]
    whole = compose_run(["model=t5_small", *rows, "freeze.depth=8", "runtime.cache=require"])
    assert num_blocks(whole) == 12
    with RunFolder(tmp_path / "whole", whole) as recorder:
        result = run(whole, RunContext(recorder, tmp_path / "whole"))
    assert (result.freeze.num_blocks, result.freeze.depth) == (12, 8)
    assert result.audit.frozen_unchanged


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(KINDS_OF_IMAGES))
def test_a_named_model_of_images_trains_from_a_copy_of_its_hub_folder(name, tmp_path, hub_copy):
    import transformers
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    kind, settings, num_blocks = KINDS_OF_IMAGES[name]
    data = ["dataset=image_folder", f"dataset.location={save_images(tmp_path / 'images')}", *TINY]
    small = "model.weights_sha256=null"  # the copy is not the published one
    spec = compose_run([f"model={name}", small, *data, "freeze=last", "freeze.last=1"])
    assert len(spec.model.revision) == 40
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(getattr(transformers, kind)(**settings))
    model.save_pretrained(tmp_path / "made")
    ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(tmp_path / "made")
    hub_copy(spec.model, tmp_path / "made")
    with RunFolder(tmp_path / "run", spec) as recorder:
        result = run(spec, RunContext(recorder, tmp_path / "run"))
    assert result.status is Status.FINISHED, result.reason
    assert (result.freeze.num_blocks, result.freeze.depth) == (num_blocks, num_blocks - 1)
    assert result.audit.frozen_unchanged


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_named_model_trains_from_a_copy_of_its_hub_folder(name, tiny_overrides, tmp_path, hub_copy, frostline):
    data = [each for each in tiny_overrides if not each.startswith("model")]
    blocks = KINDS[name][2]
    freeze = ["freeze=none"] if name == "albert_base" else ["freeze=last", "freeze.last=1", "runtime.cache=require"]
    spec = compose_run([f"model={name}", *data, *freeze, "dataset.train_rows=64", "dataset.eval_rows=16"])
    assert len(spec.model.revision) == 40  # a commit
    build(name, tmp_path / "made")
    hub_copy(spec.model, tmp_path / "made", pickled=name in PICKLED)
    if name in PICKLED:
        said = f"frostline fetch model={name} --convert-pickle"
        with pytest.raises(AssetError, match="no safetensors at this commit") as refused:
            model_folder(spec.model)
        assert str(refused.value).endswith(said)
        code, out, err = frostline(*said.split()[1:], *data)
        assert code == 0, err
        converted = model_folder(spec.model) / "model.safetensors"
        assert str(converted.parent) in out
        good = converted.read_bytes()
        converted.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(AssetError, match="is damaged"):
            model_folder(spec.model)
        assert frostline(*said.split()[1:], *data)[0] == 0
        assert converted.read_bytes() == good
    with RunFolder(tmp_path / "run", spec) as recorder:
        result = run(spec, RunContext(recorder, tmp_path / "run"))
    assert result.status is Status.FINISHED, result.reason
    assert result.freeze.num_blocks == (0 if name == "albert_base" else blocks)
    assert result.audit.frozen_unchanged
    before = load_file(tmp_path / "made" / "model.safetensors")
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    if name == "albert_base":
        return
    assert result.freeze.depth == blocks - 1
    assert result.prefix_cache.startswith(f"depth {blocks - 1}")
    same = [key for key in before for other in after if other.endswith(key) and torch.equal(before[key], after[other])]
    assert len(same) >= result.audit.num_tensors - 5  # buffers are not in the file


def test_albert_has_no_depth(tiny_overrides, tmp_path, hub_copy):
    data = [each for each in tiny_overrides if not each.startswith("model")]
    spec = compose_run(["model=albert_base", *data, "freeze.depth=3"])
    build("albert_base", tmp_path / "made")
    hub_copy(spec.model, tmp_path / "made")
    with (
        RunFolder(tmp_path / "run", spec) as recorder,
        pytest.raises(ModelError, match="shares its weights across blocks"),
    ):
        run(spec, RunContext(recorder, tmp_path / "run"))
