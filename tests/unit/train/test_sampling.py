"""Batches from flat arrays, and the order of rows of like length."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler
from transformers import AutoTokenizer, DataCollatorWithPadding

from frostline.data.fillers import is_row
from frostline.data.token_table import Padding, TokenTable
from frostline.prefix_cache.collate import Collator
from frostline.spec import TASKS, LossOptions
from frostline.train.sampling import LengthGroupedSampler, PaddedSampler


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
    sampler, again = LengthGroupedSampler(array, size, seed), LengthGroupedSampler(array, size, seed)
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
    sampler = LengthGroupedSampler(lengths, 32, 0)

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
    whole, halves = LengthGroupedSampler(lengths, 16, 3), LengthGroupedSampler(lengths, 8 * 2, 3)
    assert list(whole) == list(halves)


@pytest.mark.parametrize(
    ("labels", "task"), [([0, 1, 1], TASKS.get("classification")), ([0.5, -100.0, 2.0], TASKS.get("regression"))]
)
def test_fillers_are_rows_that_no_loss_counts(tokenizer, labels, task):
    rows = Dataset.from_dict({**tokenizer(["good film", "a", "so bad it is good"]), "labels": labels})
    table = TokenTable(rows)
    collate = Collator(table, table, Padding.of(tokenizer))
    batch = collate([2, 3, 1, 3])  # there is no row 3
    assert is_row(batch["labels"]).tolist() == [True, False, True, False]
    assert batch["input_ids"][1].tolist() == batch["input_ids"][0].tolist()
    torch.manual_seed(0)
    logits = torch.randn(4, 2 if task is TASKS.get("classification") else 1, requires_grad=True)
    loss = task.summed_loss(logits, batch["labels"], LossOptions(may_fill=True))
    real = torch.tensor([0, 2])
    assert torch.allclose(loss, task.summed_loss(logits[real], collate([2, 1])["labels"]))
    (grad,) = torch.autograd.grad(loss, logits)
    assert grad[[1, 3]].abs().max() == 0
    assert grad[[0, 2]].abs().min() > 0
    nothing = task.summed_loss(logits, collate([3, 3, 3, 3])["labels"], LossOptions(may_fill=True))
    assert nothing == 0
    assert torch.autograd.grad(nothing, logits)[0].abs().max() == 0
    assert is_row(collate([0, 1, 2])["labels"]).all()  # a true -100 is a row


@settings(deadline=None)
@given(total=st.integers(1, 50), size=st.integers(1, 8), ranks=st.integers(1, 4), epoch=st.integers(0, 3))
def test_each_process_gets_its_share_of_the_very_batches_of_one(total, size, ranks, epoch):
    lengths = np.random.default_rng(0).integers(1, 20, total)
    alone = LengthGroupedSampler(lengths, size * ranks, seed=1)
    alone.set_epoch(epoch)
    filled = PaddedSampler(LengthGroupedSampler(lengths, size * ranks, seed=1), size * ranks, filler=total)
    filled.set_epoch(epoch)
    batches = BatchSampler(filled, size, drop_last=False)
    shards = [list(BatchSamplerShard(batches, ranks, rank)) for rank in range(ranks)]
    assert len({len(shard) for shard in shards}) == 1
    steps = [[row for shard in shards for row in shard[step] if row != total] for step in range(len(shards[0]))]
    assert steps == list(BatchSampler(alone, size * ranks, drop_last=False))
