"""Batches from flat arrays, and the order of rows of like length."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, DataCollatorWithPadding

from frostline.dataset import Padding, TokenTable
from frostline.train.batches import Collator, LikeLengthSampler


@pytest.fixture
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.mark.parametrize("multiple_of", [1, 8])
@pytest.mark.parametrize("labels", [[0, 1, 1], [0.5, -1.0, 2.0]])
def test_a_batch_is_what_transformers_collator_makes(tokenizer, labels, multiple_of):
    texts, pairs = ["good film", "a", "so bad it is good again"], ["yes", "no no no", "maybe"]
    rows = Dataset.from_dict({**tokenizer(texts, pairs), "labels": labels})
    table = TokenTable(rows)
    assert table.lengths.tolist() == [len(ids) for ids in rows["input_ids"]]
    collate = Collator(table, table, Padding.of(tokenizer, None, multiple_of))
    theirs = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=multiple_of)
    for numbers in ([0], [2, 0], [1, 0, 2]):
        wanted = theirs([rows[number] for number in numbers])
        for given_numbers in (numbers, [-1 - number for number in numbers]):  # training and held-out rows
            batch = collate(given_numbers)
            assert batch.keys() == wanted.keys()
            for name, tensor in wanted.items():
                assert torch.equal(batch[name], tensor), name
                assert batch[name].dtype == tensor.dtype, name


def test_a_row_can_be_cut_to_the_token_that_the_head_reads(tokenizer):
    table = TokenTable(Dataset.from_dict({"input_ids": [[5, 6, 7], [8, 9]], "labels": [0, 1]}))
    padding = Padding.of(tokenizer)
    assert table.inputs_at([1, 0], "first", padding)["input_ids"].tolist() == [[8], [5]]
    assert table.inputs_at([1, 0], "last", padding)["input_ids"].tolist() == [[9], [7]]
    assert table.inputs_at([1, 0], "last", padding)["attention_mask"].tolist() == [[1], [1]]
    assert table.last_tokens().tolist() == [7, 9]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=300), st.integers(1, 40), st.integers(0, 3), st.integers(0, 2))
def test_each_epoch_holds_each_row_once_and_depends_on_seed_and_epoch_alone(lengths, size, seed, epoch):
    array = np.array(lengths)
    sampler, again = LikeLengthSampler(array, size, seed), LikeLengthSampler(array, size, seed)
    again.set_epoch(epoch + 1)
    list(again)
    sampler.set_epoch(epoch)
    again.set_epoch(epoch)
    torch.rand(1)  # no global generator has a say
    order = list(sampler)
    assert sorted(order) == list(range(len(lengths)))
    assert order == list(again)
    assert len(sampler) == len(lengths)


def test_rows_of_a_step_are_of_like_length_and_meet_others_each_epoch():
    rng = np.random.default_rng(0)
    lengths = rng.geometric(1 / 27, 4000) + 2
    sampler = LikeLengthSampler(lengths, 32, 0)

    def steps():
        order = np.array(list(sampler))
        return [order[first : first + 32] for first in range(0, len(order), 32)]

    def padded(batches):
        return sum(len(batch) * lengths[batch].max() for batch in batches) / lengths.sum()

    first = steps()
    assert padded(first) < 1.2
    shuffled = rng.permutation(4000)
    assert padded([shuffled[at : at + 32] for at in range(0, 4000, 32)]) > 2.5
    means = np.array([lengths[batch].mean() for batch in first[:-1]])
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3  # short and long steps in turn, not one after the other
    sampler.set_epoch(1)
    mates = {frozenset(batch.tolist()) for batch in first}
    assert not mates & {frozenset(batch.tolist()) for batch in steps()}


def test_accumulation_only_cuts_the_same_steps(tokenizer):
    lengths = np.arange(1, 101)
    whole, halves = LikeLengthSampler(lengths, 16, 3), LikeLengthSampler(lengths, 8 * 2, 3)
    assert list(whole) == list(halves)
