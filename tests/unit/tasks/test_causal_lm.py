"""Causal language modelling: labels of tokens, losses over a vocabulary, what rows say of a mean over tokens."""

from __future__ import annotations

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertLMHeadModel, Gemma2Config

from frostline.advisor import row_vector
from frostline.advisor.rows import is_collapsed
from frostline.config import compose_run
from frostline.data.token_table import NO_LABEL
from frostline.errors import DataError, ModelError, SpecError
from frostline.metrics import ComputeMetrics
from frostline.models.causal import check_causal
from frostline.records.predictions import RowScores
from frostline.spec import PLAIN_LOSS, TASKS, LossOptions
from frostline.tasks.causal_lm import CausalEncoder
from frostline.train import output_head as output_head_module
from frostline.train.output_head import output_head
from tests.support.language_models import END, save_language_model

TASK = TASKS.get("causal_lm")
TALK = [
    {"role": "user", "content": "good ?"}, {"role": "assistant", "content": "bad ."},
    {"role": "user", "content": "why ?"}, {"role": "assistant", "content": "the story"},
]  # fmt: skip


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request, tmp_path_factory):
    return save_language_model(request.param, tmp_path_factory.mktemp("lm") / request.param)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(save_language_model("gpt2", tmp_path_factory.mktemp("tokenizer") / "gpt2"))


def learned(tokenizer, row):
    """The texts of the tokens that have a label, read off the labels."""
    return tokenizer.decode([label for label in row if label != NO_LABEL])


def encoded(tokenizer, max_tokens=64, **columns):
    return CausalEncoder(tokenizer, max_tokens)({name: [value] for name, value in columns.items()})


def test_each_position_has_the_token_behind_it(tokenizer):
    row = encoded(tokenizer, text="the film was good")
    [ids], [labels] = row["input_ids"], row["labels"]
    assert tokenizer.decode(ids) == f"the film was good{END}"
    assert labels == [*ids[1:], NO_LABEL]
    assert row["truncated"] == [False]


def test_of_a_completion_alone_the_loss_is_taken(tokenizer):
    [ids], [labels] = list(encoded(tokenizer, text="the film", target=" was good").values())[:2]
    assert tokenizer.decode(ids) == f"the film was good{END}"
    assert learned(tokenizer, labels) == f" was good{END}"
    prompt = tokenizer("the film")["input_ids"]
    assert labels[: len(prompt) - 1] == [NO_LABEL] * (len(prompt) - 1)
    assert labels[len(prompt) - 1] == ids[len(prompt)]


def test_of_a_conversation_the_assistants_turns(tokenizer):
    [ids], [labels] = list(encoded(tokenizer, messages=json.dumps(TALK)).values())[:2]
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(TALK, tokenize=False)
    assert learned(tokenizer, labels) == "bad .\nthe story\n"


def test_a_row_is_cut_behind_the_prompt(tokenizer):
    prompt = len(tokenizer("the film was")["input_ids"])
    row = encoded(tokenizer, max_tokens=prompt + 1, text="the film was", target=" good and long and good")
    assert row["truncated"] == [True]
    assert len(row["input_ids"][0]) == prompt + 1
    assert sum(label != NO_LABEL for label in row["labels"][0]) == 1
    for max_tokens in (prompt, prompt - 1):
        with pytest.raises(
            DataError, match=f"a prompt of {prompt} tokens leaves none of training.max_tokens={max_tokens}"
        ):
            encoded(tokenizer, max_tokens=max_tokens, text="the film was", target=" good")
    with pytest.raises(DataError, match="a row has no token to predict from another: remove it: ''"):
        encoded(tokenizer, text="")


def test_a_template_that_looks_back_or_is_missing_is_refused(tokenizer):
    own = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    own.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(DataError, match="chat template writes a conversation otherwise when it goes on"):
        encoded(own, messages=json.dumps(TALK))
    own.chat_template = "{{ raise_exception('no user may speak') }}"
    with pytest.raises(ModelError, match="chat template can't write .* no user may speak"):
        encoded(own, messages=json.dumps(TALK))
    own.chat_template = None
    with pytest.raises(ModelError, match=r"dataset\.messages_column: the model's tokenizer has no chat template"):
        encoded(own, messages=json.dumps(TALK))


def batch_of(tokenizer, rows=6):
    texts = ["the film was good", "a bad story", "what a wonderful film with heart and a long end"] * (rows // 3)
    table = CausalEncoder(tokenizer, 64)({"text": texts})
    width = max(map(len, table["input_ids"]))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in table["input_ids"]])
    labels = torch.tensor([row + [NO_LABEL] * (width - len(row)) for row in table["labels"]])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in table["input_ids"]])
    return {"input_ids": ids, "attention_mask": mask}, labels


def gradients(model, loss):
    return torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)


def test_losses_some_tokens_at_a_time_are_those_of_whole_logits(folder, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    inputs, labels = batch_of(AutoTokenizer.from_pretrained(folder))
    options = LossOptions(label_smoothing=0.1)
    logits = model(**inputs).logits
    expected = TASK.summed_loss(logits, labels, options)
    wanted = gradients(model, expected)
    kept = TASK.reduce(logits, labels)
    monkeypatch.setattr(output_head_module, "MAX_LOGITS", 7 * 400)  # seven tokens at a time
    head = output_head(model, TASK, nullcontext)
    head.attach()
    loss = head.summed_loss(model(**inputs).logits, labels, options)
    given = gradients(model, loss)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for one, other in zip(given, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(head.reduce(model(**inputs).logits, labels), kept, atol=1e-4)
    head.detach()
    assert torch.equal(model(**inputs).logits, logits)


def test_logits_are_never_held_for_a_whole_batch(folder, monkeypatch):
    """The largest tensor that the head makes is what it may make at a time, forward and backward."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    inputs, labels = batch_of(AutoTokenizer.from_pretrained(folder), rows=12)
    monkeypatch.setattr(output_head_module, "MAX_LOGITS", 5 * 400)
    head = output_head(model, TASK, nullcontext)
    head.attach()
    sizes = []
    own = head._own
    head._own = lambda vectors: (sizes.append(vectors.shape[0] * 400), own(vectors))[1]
    head.summed_loss(model(**inputs).logits, labels, PLAIN_LOSS).backward()
    assert max(sizes) <= 5 * 400
    tokens = int((labels != NO_LABEL).sum())
    assert len(sizes) == 2 * -(-tokens // 5)  # once forward, once again in the backward pass


def test_a_model_that_scales_its_logits_keeps_them():
    config = Gemma2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64,
        head_dim=8, vocab_size=99, final_logit_softcapping=0.5, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    assert output_head(model, TASK, nullcontext) is None
    assert "forward" not in model.lm_head.__dict__


def test_the_loss_is_the_one_that_transformers_computes(folder):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    inputs, labels = batch_of(AutoTokenizer.from_pretrained(folder))
    theirs = torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], NO_LABEL)
    expected = model(**inputs, labels=theirs).loss
    ours = TASK.summed_loss(model(**inputs).logits, labels) / TASK.num_terms(labels)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_model_that_sees_what_it_should_predict_is_refused(folder):
    check_causal(AutoModelForCausalLM.from_pretrained(folder), folder)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    with pytest.raises(
        ModelError, match="sees the tokens that it should predict: dataset.task=causal_lm needs a decoder"
    ):
        check_causal(BertLMHeadModel(BertConfig(**small, vocab_size=99)), "a folder")


def test_metrics_are_over_tokens():
    kept, labels = np.array([[2.0, 1.0, 1.0], [9.0, 3.0, 0.0]]), np.zeros((2, 4), dtype=np.int64)
    values = ComputeMetrics(("perplexity", "token_accuracy"), TASK, 3, ())(kept, labels)
    assert values == {"perplexity": pytest.approx(np.exp(11 / 4)), "token_accuracy": 0.25}
    assert TASK.mean_loss(kept, labels) == 11 / 4
    columns = TASK.prediction_columns(kept, labels)
    assert {name: column.tolist() for name, column in columns.items()} == {
        "label": [1, 3], "predicted": [1, 0], "loss": [2.0, 3.0]
    }  # fmt: skip


@pytest.mark.parametrize("metric", ["loss", "perplexity", "token_accuracy"])
def test_rows_contribute_to_a_mean_over_tokens_as_a_bootstrap_says(metric):
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 40, 400)
    rows = RowScores(
        labels=tokens, predicted=rng.binomial(tokens, 0.3), losses=rng.gamma(4.0, 0.5, 400), counts_tokens=True
    )

    def value(chosen):
        sums = rows.losses * tokens if metric != "token_accuracy" else rows.predicted
        ratio = sums[chosen].sum() / tokens[chosen].sum()
        return np.exp(ratio) if metric == "perplexity" else ratio

    drawn = [value(rng.integers(0, 400, 400)) for _ in range(2000)]
    vector = row_vector(rows, metric)
    assert np.sqrt((vector**2).sum()) == pytest.approx(np.std(drawn), rel=0.08)
    assert vector.sum() == pytest.approx(0, abs=1e-12)
    assert row_vector(rows, "accuracy") is None
    assert not is_collapsed(RowScores(labels=tokens, predicted=np.zeros(400), losses=rows.losses, counts_tokens=True))


def test_bad_input_is_one_line():
    for given, message in (
        (
            ["dataset.pair_column=answer"],
            "a prompt and its completion are dataset.text_column and dataset.target_column",
        ),
        (["dataset.image_column=image"], "dataset.task=causal_lm: is for texts"),
        (["dataset.messages_column=talk", "dataset.target_column=a"], "give either dataset.messages_column or"),
    ):
        with pytest.raises(SpecError, match=message):
            compose_run(["dataset.task=causal_lm", *given])
    with pytest.raises(SpecError, match=r"dataset\.target_column: is for tasks that generate texts"):
        compose_run(["dataset.target_column=answer"])
    with pytest.raises(SpecError, match=r"training\.packing=true: is for dataset\.task=causal_lm"):
        compose_run(["training.packing=true"])
