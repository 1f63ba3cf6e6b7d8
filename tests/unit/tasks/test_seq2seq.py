"""Tokens of texts and targets, and what a data set of both must name."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, BertConfig, GPT2Config, T5Config

from frostline.config import compose_run
from frostline.data.token_table import DECODER_INPUTS, NO_LABEL, Padding, TokenTable
from frostline.errors import ModelError, SpecError
from frostline.spec import TASKS
from frostline.tasks.seq2seq import Seq2SeqEncoder
from tests.support.language_models import save_encoder_decoder

TASK = TASKS.get("seq2seq")
DATA = ["dataset=jsonl", "dataset.location=x.jsonl", "dataset.task=seq2seq", "training=seq2seq"]


@pytest.fixture(scope="module", params=["t5", "bart"])
def folder(request, tmp_path_factory):
    return save_encoder_decoder(request.param, tmp_path_factory.mktemp("s2s") / request.param)


@pytest.fixture
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def test_a_target_has_what_the_tokenizer_puts_around_it(tokenizer):
    row = Seq2SeqEncoder(tokenizer, 32, 16)({"text": ["a good film"], "target": ["good"]})
    assert row["input_ids"] == [tokenizer("a good film")["input_ids"]]
    assert row["labels"] == [tokenizer("good")["input_ids"]]
    assert row["labels"][0][-1] == tokenizer.eos_token_id
    assert row["truncated"] == [False]


def test_a_cut_target_keeps_its_end(tokenizer):
    long = "the story is long and the end is bad"
    encode = Seq2SeqEncoder(tokenizer, 4, 3)
    row = encode({"text": ["bad", "bad", long], "target": [long, "bad", "bad"]})
    assert len(row["labels"][0]) == 3
    assert [labels[-1] for labels in row["labels"]] == [tokenizer.eos_token_id] * 3
    assert row["truncated"] == [True, False, True]
    assert len(row["input_ids"][2]) == 4


def test_a_tokenizer_without_an_end_gets_one(tokenizer):
    class Bare:
        eos_token_id = tokenizer.eos_token_id

        def __call__(self, texts=None, text_target=None, **options):
            return tokenizer(texts if texts is not None else text_target, add_special_tokens=False, **options)

    row = Seq2SeqEncoder(Bare(), 32, 16)({"text": ["good"], "target": ["bad"]})
    assert row["labels"][0] == [*tokenizer("bad", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def table_of(*rows):
    columns = {"input_ids": [ids for ids, _ in rows], "labels": [labels for _, labels in rows]}
    return TokenTable(datasets.Dataset.from_dict(columns))


def test_a_decoder_is_given_its_labels_moved_by_one():
    table = table_of(([5, 6, 7], [8, 1]), ([5], [8, 9, 10, 1]))
    padding = Padding(values={}, default=0, has_mask=True, decoder_start=3)
    batch = table.inputs([0, 1], padding)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [5, 0, 0]]
    assert batch[DECODER_INPUTS].tolist() == [[3, 8, 1, 0], [3, 8, 9, 10]]
    labels = table.labels_at(np.array([0, 1]), batch[DECODER_INPUTS].shape[1])
    assert labels.tolist() == [[8, 1, NO_LABEL, NO_LABEL], [8, 9, 10, 1]]
    assert table.all_labels().shape == (2, 4)
    assert (table.num_tokens, table.num_target_tokens) == (4, 6)
    assert DECODER_INPUTS not in table.inputs([0, 1], padding.without_decoder())
    wide = table.inputs([0], Padding(values={}, default=0, has_mask=True, decoder_start=3, multiple_of=8))
    assert wide[DECODER_INPUTS].shape == (1, 8)


def test_the_decoders_inputs_are_those_of_transformers(folder, tokenizer):
    from transformers import AutoModelForSeq2SeqLM

    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    encoded = Seq2SeqEncoder(tokenizer, 32, 16)({"text": ["a film", "bad"], "target": ["good and long", "bad"]})
    table = table_of(*zip(encoded["input_ids"], encoded["labels"], strict=True))
    batch = table.inputs([0, 1], Padding.of(tokenizer, model))
    labels = table.labels_at(np.array([0, 1]), batch[DECODER_INPUTS].shape[1])
    assert torch.equal(batch[DECODER_INPUTS], model.prepare_decoder_input_ids_from_labels(labels=labels))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "dataset.task=seq2seq: name the column of the texts to be written: dataset.target_column"),
        (["dataset.target_column=text"], "dataset.text_column=text: dataset.target_column names the same column"),
        (["dataset.target_column=t", "dataset.messages_column=m"], "give either dataset.messages_column or"),
        (["dataset.messages_column=m"], "dataset.messages_column=m: is for dataset.task=causal_lm"),
        (["dataset.target_column=t", "dataset.pair_column=p"], "set it to null"),
        (["dataset.target_column=t", "training.packing=true"], "training.packing=true: is for dataset.task=causal_lm"),
        (
            ["dataset.target_column=t", "training.max_target_tokens=1"],
            "max_target_tokens=1: must be 2 or more",
        ),
        (["dataset.target_column=t", "training.generate_rows=0"], "training.generate_rows=0: must be 1 or more"),
    ],
)
def test_what_contradicts_the_task_is_refused(more, message):
    with pytest.raises(SpecError, match=message.replace("(", r"\(")):
        compose_run([*DATA, *more])


def test_its_keys_are_for_it_alone():
    with pytest.raises(SpecError, match="training.max_target_tokens=8: is for dataset.task=seq2seq, not causal_lm"):
        compose_run([*DATA[:2], "dataset.task=causal_lm", "training=causal_lm", "training.max_target_tokens=8"])
    with pytest.raises(SpecError, match="generate_rows=8: what is written is compared with dataset.target_col"):
        compose_run([*DATA[:2], "dataset.task=causal_lm", "training=causal_lm", "training.generate_rows=8"])


@pytest.mark.parametrize("config", [GPT2Config(), BertConfig()])
def test_a_model_without_both_stacks_is_refused(config):
    with pytest.raises(ModelError, match=f"{config.model_type} has not both"):
        TASK.auto_class(config)


def test_a_decoder_needs_a_token_to_begin_with(folder):
    with pytest.raises(ModelError, match="names no decoder_start_token_id"):
        TASK.auto_class(T5Config(decoder_start_token_id=None))
    assert TASK.auto_class(AutoConfig.from_pretrained(folder)).__name__ == "AutoModelForSeq2SeqLM"
