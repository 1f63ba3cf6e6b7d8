"""`frostline predict --vectors`: those that transformers gives, in files that others read, whatever their size."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from frostline.errors import ModelError
from frostline.inference import embeddings
from frostline.inference.embeddings import Encoder, Pooling


def alone(folder, texts, pool, block=None):
    """Each text in a batch of its own, by transformers alone."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found = []
    for text in texts:
        with torch.no_grad():
            output = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        hidden = (output.last_hidden_state if block is None else output.hidden_states[block])[0]
        vector = {"first": hidden[0], "last": hidden[-1], "mean": hidden.mean(0)}.get(pool, output.pooler_output[0])
        found.append(vector.numpy())
    return np.stack(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pool", "block"), [("mean", None), ("first", 2), ("last", None), ("mean", 0), ("pooler", None)]
)
def test_parquet_holds_each_rows_vector_label_and_text(
    frostline, tiny_overrides, tiny_model, in_tmp, monkeypatch, pool, block
):
    monkeypatch.setattr(embeddings, "CHUNK_BATCHES", 2)  # several row groups
    more = [] if block is None else ["--block", str(block)]
    pooled = ["model.location=" + str(tiny_model)]
    code, out, err = frostline(
        "predict", "--vectors", *tiny_overrides, *pooled, "dataset.test_fraction=0.2", "training.eval_batch_size=16",
        "--pool", pool,
        "--text", *more,
    )  # fmt: skip
    assert code == 0, err
    assert out.startswith("embeddings.parquet: 96 train, 32 eval, 32 test rows x 32 numbers")
    table = pd.read_parquet("embeddings.parquet")
    assert table["set"].value_counts().to_dict() == {"train": 96, "eval": 32, "test": 32}
    assert table.groupby("set")["row"].apply(list).map(lambda rows: rows == list(range(len(rows)))).all()
    assert set(table["label"]) == {"positive", "negative"}
    some = table.sample(12, random_state=0)
    wanted = alone(tiny_model, some["text"], pool, block)
    assert np.stack(some["embedding"]) == pytest.approx(wanted, abs=1e-5)
    file = pq.ParquetFile("embeddings.parquet")
    assert file.metadata.num_row_groups == 5
    about = json.loads(file.schema_arrow.metadata[b"frostline"])
    assert (about["pool"], about["block"], about["label_names"]) == (pool, block, ["negative", "positive"])


def test_safetensors_holds_the_same(frostline, tiny_overrides, in_tmp, monkeypatch):
    monkeypatch.setattr(embeddings, "CHUNK_BATCHES", 2)
    common = ["predict", "--vectors", *tiny_overrides, "training.eval_batch_size=16", "dataset.train_rows=101"]
    assert frostline(*common)[0] == 0
    code, _, err = frostline(*common, "--out", "vectors.safetensors")
    assert code == 0, err
    table, tensors = pd.read_parquet("embeddings.parquet"), load_file("vectors.safetensors")
    assert set(tensors) == {"train", "train.labels", "eval", "eval.labels"}
    for name in ("train", "eval"):
        part = table[table["set"] == name]
        assert np.array_equal(tensors[name].numpy(), np.stack(part["embedding"]))
        assert tensors[f"{name}.labels"].tolist() == [int(label == "positive") for label in part["label"]]
    with safe_open("vectors.safetensors", "pt") as file:
        assert json.loads(file.metadata()["frostline"])["model"] == "tiny"


@pytest.mark.slow
def test_a_trained_runs_model_on_its_own_rows_and_on_others(frostline, tiny_overrides, in_tmp):
    assert (
        frostline("run", *tiny_overrides, "freeze=none", "optimizer.lr=1e-2", "tracking=off", "hydra.run.dir=r")[0] == 0
    )
    assert frostline("predict", "--vectors", *tiny_overrides, "--pool", "pooler", "--set", "eval")[0] == 0
    before = np.stack(pd.read_parquet("embeddings.parquet")["embedding"])
    code, out, err = frostline("predict", "--vectors", "r", "--pool", "pooler", "--set", "eval", "--text")
    assert code == 0, err
    table = pd.read_parquet("embeddings.parquet")
    after = np.stack(table["embedding"])
    assert after == pytest.approx(alone("r/model", table["text"], "pooler"), abs=1e-5)
    assert np.abs(after - before).max() > 1e-3
    own = [each for each in tiny_overrides if each.startswith("dataset")]
    for data in (own, []):  # named anew; and the run's own, cut
        code, out, _ = frostline("predict", "--vectors", "r", *data, "dataset.eval_rows=7")
        assert code == 0
        assert "128 train, 7 eval rows" in out


def test_a_models_pooler_output_is_its_pooler_on_the_first_token(tiny_model):
    encoder = Encoder(tiny_model, Pooling.POOLER)
    inputs = {"input_ids": torch.tensor([[2, 7, 9, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    hidden = torch.from_numpy(Encoder(tiny_model, Pooling.FIRST).encode(inputs))
    pooler = encoder.model.pooler
    with torch.no_grad():
        by_hand = torch.tanh(pooler.dense(hidden))
    assert np.array_equal(encoder.encode(inputs), by_hand.numpy())


@pytest.mark.slow
def test_minilms_pooler_output_is_its_pooler_on_cls(real_home):
    from frostline.assets import model_folder
    from frostline.config import compose_run

    folder = model_folder(compose_run(["model=minilm"]).model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(["a wonderful film", "two hours I will not get back"], padding=True, return_tensors="pt")
    encoder, first = Encoder(folder, Pooling.POOLER), Encoder(folder, Pooling.FIRST)
    with torch.no_grad():
        by_hand = torch.tanh(encoder.model.pooler.dense(torch.from_numpy(first.encode(inputs))))
    assert np.array_equal(encoder.encode(inputs), by_hand.numpy())
    assert encoder.encode(inputs).shape == (2, 384)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--block", "5"], "--block=5: the model has 4 blocks, so give 0 (the embeddings) to 4"),
        (["--pool", "pooler", "--block", "1"], "--pool=pooler: is made of the last hidden state; it takes no --block"),
        (["--out", "x.csv"], "--out=x.csv: give a name that ends in .parquet or .safetensors"),
        (["--out", "no/x.parquet"], "--out=no/x.parquet: there is no folder no"),
        (["--text", "--out", "x.safetensors"], "--text: safetensors hold numbers only; give --out FILE.parquet"),
        (
            ["model.init=random", "freeze=none"],
            "model.init=random: an untrained model's vectors say nothing; train it, and give the run",
        ),
        (["--set", "test"], "--set=test: the data set has no such rows; give dataset.test_fraction or test_from"),
        (["nowhere/run"], "nowhere/run: no run's folder, no sweep in runs/, and no MLflow run id "
            "(32 hexadecimal digits)"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(frostline, tiny_overrides, in_tmp, arguments, message):
    code, out, err = frostline("predict", "--vectors", *tiny_overrides, *arguments)
    assert (code, out) == (2, "")
    assert err.strip().splitlines()[-1] == f"frostline: {message}"
    assert not list(in_tmp.iterdir())


@pytest.mark.slow
def test_only_the_data_of_a_run_can_be_another(frostline, tiny_overrides, in_tmp):
    (in_tmp / "r").mkdir()
    assert (
        frostline(
            "run", *tiny_overrides, "tracking=off", "hydra.run.dir=q", "training.max_steps=1", "training.epochs=null"
        )[0]
        == 0
    )
    code, _, err = frostline("predict", "--vectors", "q", "model=minilm")
    assert code == 2
    assert "model=minilm: the run has its own model and settings; only dataset can be another" in err
    code, _, err = frostline("predict", "--vectors", "r")
    assert code == 2
    assert "is no run's folder" in err


def test_the_weights_are_checked(frostline, tiny_overrides, in_tmp):
    code, _, err = frostline("predict", "--vectors", *tiny_overrides, f"model.weights_sha256={'a' * 64}")
    assert code == 2
    assert "model.weights_sha256 says aaaaaaaaaaaa" in err


def test_after_the_last_block_is_before_the_final_norm(tmp_path):
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    model = GPT2Model(GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=2, n_positions=64)).eval()
    with torch.no_grad():
        model.ln_f.weight.mul_(3)
    model.save_pretrained(tmp_path)
    inputs = {"input_ids": torch.tensor([[2, 7, 9, 3]])}
    last, normed = Encoder(tmp_path, Pooling.FIRST, 3).encode(inputs), Encoder(tmp_path, Pooling.FIRST).encode(inputs)
    with torch.no_grad():
        by_hand = model.ln_f(torch.from_numpy(last))
    assert by_hand.numpy() == pytest.approx(normed, abs=1e-5)
    assert np.abs(last - normed).max() > 0.1


def test_a_model_without_a_trained_pooler(tmp_path):
    from transformers import BertModel

    from tests.conftest import tiny_config

    BertModel(tiny_config(), add_pooling_layer=False).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has no trained pooler"):
        Encoder(tmp_path, Pooling.POOLER)
    Encoder(tmp_path, Pooling.MEAN)
