"""Models and rows that the read position or the cache must leave alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, BigBirdConfig, DistilBertConfig, GPT2Config

from frostline.data.token_table import Padding, TokenTable
from frostline.data.tokenize import Tokenized
from frostline.models.blocks import find_blocks
from frostline.models.loading import LoadedModel
from frostline.prefix_cache.probe_model import probe_model

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 99}


def rows(*ids):
    table = TokenTable(Dataset.from_dict({"input_ids": list(ids), "labels": [0] * len(ids)}))
    return Tokenized(train=table, evaluation=table, others={}, truncated={})


def loader(config):
    calls = []

    def load():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
        calls.append(model)
        return LoadedModel(model=model, processor=None, weights_sha256="", fresh=()), find_blocks(model)

    return load, calls


def test_a_model_that_exchanges_its_modules_is_left_as_it_is_in_every_run():
    config = BigBirdConfig(**SMALL, attention_type="block_sparse", max_position_embeddings=64, pad_token_id=0)
    load, calls = loader(config)
    for run in (1, 2):
        probe = probe_model(load, rows([5, 6, 7]), wanted=True)
        assert (probe.position, probe.reading, probe.is_steady) == (None, None, False)
        assert probe.loaded.model is calls[-1]
        assert probe.loaded.model.bert.attention_type == "block_sparse"
        assert len(calls) == 1 + run  # loaded again after the first look, and no second look
    fresh, calls = loader(config)
    assert probe_model(fresh, rows([5, 6, 7]), wanted=False).loaded.model.bert.attention_type == "block_sparse"
    assert len(calls) == 1


def test_rows_without_tokens_have_no_position_to_read():
    """GPT-2's tokenizer makes nothing of an empty text: whole blocks give finite gradients for such rows."""
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=40, pad_token_id=0, bos_token_id=1, eos_token_id=1)
    load, _ = loader(config)
    probe = probe_model(load, rows([5, 6, 7], []), wanted=True)
    assert (probe.position, probe.reading, probe.is_steady) == (None, None, True)
    assert probe_model(load, rows([5, 6, 7]), wanted=True).position == "last"
    table, padding = rows([], []).train, Padding(values={}, default=0, has_mask=True)
    assert table.inputs([0, 1], padding)["input_ids"].shape == (2, 1)
    model = probe.loaded.model
    batch = rows([5, 6, 7], []).train.inputs([0, 1], padding)
    model(**batch, labels=torch.tensor([0, 1])).loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_columns_that_the_model_does_not_name_are_left_out(tiny_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    table = TokenTable(Dataset.from_dict({**tokenizer(["so good", "bad"]), "labels": [0, 1]}))
    config = DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=99)
    model = AutoModelForSequenceClassification.from_config(config)
    assert set(table.inputs([0, 1], Padding.of(tokenizer))) == {"input_ids", "token_type_ids", "attention_mask"}
    assert set(table.inputs([0, 1], Padding.of(tokenizer, model))) == {"input_ids", "attention_mask"}


def test_a_config_with_another_padding_id_is_aligned_before_anything_is_asked(tiny_model, tmp_path):
    import shutil

    from transformers import AutoTokenizer

    from frostline.models.loading import load_model
    from frostline.spec import TASKS, ModelSpec, Source

    own = tmp_path / "own"
    shutil.copytree(tiny_model, own)
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps({**config, "pad_token_id": 3}))
    spec = ModelSpec(
        name=None, source=Source.PATH, location=str(own), member=None, sha256=None, revision=None, weights_sha256=None,
        num_blocks=None,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(own)
    loaded = load_model(spec, own, task=TASKS.get("classification"), label_names=("a", "b"), processor=tokenizer)
    assert loaded.model.config.pad_token_id == tokenizer.pad_token_id == 0


@pytest.mark.parametrize("sizes", [[0, 0, 3], [4]])
def test_batches_of_short_rows(sizes):
    table = rows(*[list(range(5, 5 + size)) for size in sizes]).train
    batch = table.inputs(np.arange(len(sizes)), Padding(values={}, default=9, has_mask=True))
    assert batch["attention_mask"].sum(-1).tolist() == sizes
