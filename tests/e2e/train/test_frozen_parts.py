"""What is frozen stays bit-equal, the rest moves."""

import math
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

from frostline.errors import UserError
from frostline.records.result import Status
from tests.e2e.train.tiny_run import weights


@pytest.mark.parametrize(
    ("choice", "frozen"),
    [
        (["freeze=last", "freeze.last=1"], r"embeddings|layer\.[0-2]\."),
        (["freeze=fraction", "freeze.fraction=0.5"], r"embeddings|layer\.[01]\."),
        (["freeze=blocks", "freeze.blocks=[0,2-3]"], r"embeddings|layer\.[023]\."),
        (["freeze=blocks", "freeze.blocks=[1]", "freeze.embeddings=false"], r"layer\.1\."),
        (["freeze=pattern", "freeze.pattern=[attention]"], r"attention"),
        (["freeze=bias_only"], r"bert\.(?!pooler).*(?<!\.bias)$"),
        (["freeze=norm_only"], r"bert\.(?!pooler)(?!.*LayerNorm)"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_every_way_of_freezing_leaves_its_part_bit_equal_and_trains_the_rest(train, tiny_model, choice, frozen):
    result, folder, _ = train(*choice, "training.epochs=2")
    assert result.status is Status.FINISHED, result.reason
    before, after = load_file(tiny_model / "model.safetensors"), weights(folder)
    for name, tensor in before.items():
        full = f"bert.{name}"
        if "key.bias" in name or name == "pooler.dense.bias":
            continue  # the gradient of the former is nothing but rounding
        assert torch.equal(tensor, after[full]) is bool(re.search(frozen, full)), full
    audit = result.audit
    assert (audit.frozen_unchanged, audit.absent_from_optimizer, audit.pinned_in_eval) == (True, True, True)
    assert audit.num_tensors == sum(bool(re.search(frozen, f"bert.{name}")) for name in before) + (
        2 * ("embeddings" in frozen)  # two buffers
    )
    moved = {row["part"]: row["num_trainable"] for row in result.drift}
    assert sum(moved.values()) == result.params.num_trainable


def test_a_head_that_is_frozen_is_each_seeds_own(train):
    """It is not in the weights file: what another seed drew in this process says nothing of it."""
    for seed in (0, 1):
        result, _, _ = train("freeze=pattern", "freeze.pattern=[classifier]", f"seed={seed}")
        assert result.status is Status.FINISHED, result.reason
        assert result.audit.num_tensors == 2


def test_the_frozen_part_is_bit_equal_and_the_rest_moved(train, tiny_model):
    result, folder, _ = train("freeze.depth=2")
    before, after = load_file(tiny_model / "model.safetensors"), weights(folder)
    stay = {"pooler.dense.bias", "encoder.layer.3.attention.self.key.bias"}  # the gradient of the latter is 0
    for name, tensor in before.items():
        frozen = name.startswith(("embeddings.", "encoder.layer.0.", "encoder.layer.1."))
        assert torch.equal(tensor, after[f"bert.{name}"]) is frozen or name in stay, name
    drift = {row["part"]: row["sum_abs"] for row in result.drift}
    assert drift["embeddings"] == drift["block 0"] == drift["block 1"] == 0.0
    assert min(drift["block 2"], drift["block 3"], drift["head"]) > 0


@pytest.mark.parametrize(("freeze", "depth"), [("none", None), ("head", 4)])
def test_freeze_none_and_head(train, freeze, depth):
    result, _, _ = train(f"freeze={freeze}")
    assert result.freeze.depth == depth
    drift = {row["part"]: row["sum_abs"] for row in result.drift}
    assert (drift["embeddings"] > 0) is (freeze == "none")
    assert (drift["block 3"] > 0) is (freeze == "none")
    assert drift["head"] > 0


def test_a_frozen_tensor_that_moves_fails_the_run(train, monkeypatch):
    from frostline.train import stops

    def meddle(self, args, state, control, **kwargs):
        with torch.no_grad():
            kwargs["model"].bert.encoder.layer[0].output.dense.bias += 1e-3

    monkeypatch.setattr(stops.StopCallback, "on_train_end", meddle, raising=False)
    result, folder, _ = train("freeze.depth=1")
    assert result.status is Status.FAILED
    assert "frozen tensors changed (" in result.reason
    assert result.audit.changed == ("bert.encoder.layer.0.output.dense.bias",)
    assert not (folder / "model").exists()
    assert math.isnan(next(row["sum_abs"] for row in result.drift if row["part"] == "block 0"))


def test_an_architecture_without_blocks_trains_whole_and_refuses_a_depth(train, tmp_path, tiny_model):
    from transformers import AlbertConfig, AlbertModel

    folder = tmp_path / "albert"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    config = AlbertConfig(
        vocab_size=64,
        embedding_size=16,
        hidden_size=32,
        num_attention_heads=2,
        intermediate_size=64,
        num_hidden_layers=2,
    )
    AlbertModel(config).save_pretrained(folder)
    with pytest.raises(UserError, match="shares its weights across blocks"):
        train(f"model.location={folder}", "freeze.depth=1")
    result, _, _ = train(f"model.location={folder}", "freeze=none")
    assert result.status is Status.FINISHED
    assert result.params.num_frozen == 0


def test_what_is_frozen_drops_out_only_if_asked(train, monkeypatch):
    from transformers.models.bert.modeling_bert import BertLayer

    modes, real = [], BertLayer.forward

    def seen(self, *args, **kwargs):
        if torch.is_grad_enabled():
            modes.append((self.attention.self.layer_idx, self.training))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(BertLayer, "forward", seen)
    curves = {}
    for word in ("false", "true"):
        modes.clear()
        result, folder, _ = train("freeze.depth=2", f"training.frozen_dropout={word}")
        frozen = {mode for index, mode in modes if index < 2}
        assert frozen == {word == "true"}
        assert result.audit.frozen_unchanged
        curves[word] = (folder / "metrics.jsonl").read_text()
    assert curves["false"] != curves["true"]
