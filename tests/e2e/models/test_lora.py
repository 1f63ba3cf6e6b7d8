"""LoRA as one more way of freezing: what is trained, what is saved, from the cache, stopped and resumed."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GPT2Config, GPT2Model

from frostline.errors import UserError
from frostline.freezing.methods import lora
from frostline.records.recorder import NullRecorder, Recorders
from frostline.records.result import Status
from frostline.records.run_context import RunContext
from frostline.records.run_folder import RunFolder
from frostline.train import run
from tests.conftest import save_tokenizer
from tests.e2e.train.test_resume import StopAt

LORA = ("freeze=lora", "optimizer.lr=1e-2", "training.epochs=2")


@pytest.fixture
def train(tmp_path, make_spec):
    count = iter(range(100))

    def trained(*overrides, resume_from=None, stop=None):
        spec = make_spec(*LORA, *overrides)
        folder = tmp_path / f"run{next(count)}"
        with RunFolder(folder, spec, ()) as recorder:
            recorders = Recorders([recorder, StopAt(stop) if stop else NullRecorder()])
            return run(spec, RunContext(recorders, folder, resume_from=resume_from)), folder

    return trained


def saved_predictions(folder, rows):
    """The saved model's classes for the held-out rows, by transformers alone."""
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    with torch.no_grad():
        return [int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) for text in rows]


def held_out_texts(spec, tmp_path):
    from pathlib import Path

    from frostline.data.load import load_rows

    return load_rows(spec.dataset, lambda _: Path(spec.dataset.location), tmp_path / "rows").evaluation["text"]


def test_adapters_and_head_are_trained_and_a_plain_model_is_saved(train, tmp_path, make_spec, tiny_model):
    result, folder = train()
    assert result.status is Status.FINISHED, result.reason
    size, inner, rank = 32, 64, 8
    adapters = 4 * rank * (4 * (size + size) + 2 * (size + inner))  # 4 blocks of 4 square layers and 2 of the MLP
    head = size * size + size + 2 * size + 2  # BERT's pooler and the classifier
    assert result.params.num_trainable == adapters + head
    assert result.audit.frozen_unchanged
    assert result.audit.absent_from_optimizer
    assert result.freeze.words == "all but adapters in the 4 blocks and what lies above the blocks"
    saved, before = load_file(folder / "model" / "model.safetensors"), load_file(tiny_model / "model.safetensors")
    assert not any("lora" in name or "base_layer" in name for name in saved)
    moved = {name for name in before if not torch.equal(saved[f"bert.{name}"], before[name])}
    wanted = {name for name in before if "layer." in name and name.endswith("weight") and "LayerNorm" not in name}
    assert moved - {name for name in moved if name.startswith("pooler")} == wanted
    table = pd.read_parquet(folder / "predictions.parquet")
    assert saved_predictions(folder, held_out_texts(make_spec(), tmp_path)) == table["predicted"].tolist()
    config = json.loads((folder / "model" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]


@pytest.mark.slow
def test_without_a_step_the_adapters_add_nothing(make_spec, tmp_path):
    """So that a run begins where any other begins."""
    spec = make_spec(*LORA, "optimizer.lr=1e-30", "training.epochs=1")
    plain = make_spec("freeze=head", "optimizer.lr=1e-30", "training.epochs=1")
    one, two = (run(each, RunContext(NullRecorder(), tmp_path / str(n))) for n, each in enumerate((spec, plain)))
    assert one.metrics["eval/loss"] == pytest.approx(two.metrics["eval/loss"], abs=1e-6)


@pytest.mark.slow
def test_below_a_depth_there_are_none_and_the_cache_is_used(train):
    plain, _ = train("freeze.depth=3")
    cached, _ = train("freeze.depth=3", "runtime.cache=require")
    assert cached.status is Status.FINISHED, cached.reason
    assert cached.prefix_cache == "depth 3"
    assert cached.metrics["eval/loss"] == pytest.approx(plain.metrics["eval/loss"], abs=1e-5)
    rows = {row["part"]: row for row in plain.drift}
    assert [rows[f"block {index}"]["num_trainable"] > 0 for index in range(4)] == [False, False, False, True]


@pytest.mark.parametrize("stop", [4, 8])
@pytest.mark.slow
def test_a_run_that_was_stopped_resumes_bit_by_bit(train, stop):
    whole, whole_folder = train("freeze.dropout=0.1")
    stopped, cut = train("freeze.dropout=0.1", stop=stop)
    assert stopped.status is Status.KILLED
    resumed, folder = train("freeze.dropout=0.1", resume_from=cut)
    assert resumed.status is Status.FINISHED
    one, two = (load_file(each / "model" / "model.safetensors") for each in (folder, whole_folder))
    assert all(torch.equal(one[name], two[name]) for name in two)
    assert resumed.weights_sha256 == whole.weights_sha256


@pytest.mark.slow
def test_gpt2_whose_layers_are_transposed(make_spec, tmp_path):
    folder = tmp_path / "gpt2"
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=2, eos_token_id=3)
    GPT2Model(config).save_pretrained(folder)
    save_tokenizer(folder)
    spec = make_spec(*LORA, f"model.location={folder}")
    result = run(spec, RunContext(NullRecorder(), tmp_path / "run"))
    assert result.status is Status.FINISHED, result.reason
    table = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    assert saved_predictions(tmp_path / "run", held_out_texts(spec, tmp_path)) == table["predicted"].tolist()


def test_peft_is_an_extra(frostline, monkeypatch, tiny_overrides, make_spec, tmp_path):
    monkeypatch.setattr(lora.importlib.util, "find_spec", lambda name: None)
    code, _, err = frostline("run", *tiny_overrides, "freeze=lora", "tracking=off", f"hydra.run.dir={tmp_path / 'r'}")
    assert code == 2
    assert err.strip() == "frostline: freeze=lora: needs peft, which isn't installed: pip install 'frostline[lora]'"
    with pytest.raises(UserError, match="needs peft"):
        run(make_spec(*LORA), RunContext(NullRecorder(), tmp_path / "run"))


def test_inspect_counts_the_adapters(frostline, tiny_overrides):
    code, out, _ = frostline("show", "--blocks", *tiny_overrides, "freeze=lora", "freeze.rank=4", "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["chosen"]["num_trainable"] == 4 * 4 * (4 * 64 + 2 * 96) + 32 * 32 + 32 + 64 + 2
    assert facts["chosen"]["freeze"] == "lora4"
    assert not any(row["trained"] for row in facts["params"] if "encoder" in row["name"])
