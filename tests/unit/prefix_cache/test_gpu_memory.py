"""Hidden states in a device's memory: the same vectors as in files, kept from run to run, given back when it is full.

The device is the CPU here, which the code itself never takes: tests/e2e/train/test_gpu.py does the same on a GPU.
"""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from frostline.models.blocks import find_blocks
from frostline.prefix_cache import gpu_memory
from frostline.prefix_cache.compute import RowsToCompute, at_position
from frostline.prefix_cache.gpu_memory import RowOffsets
from frostline.prefix_cache.hidden_states import FileShape, HiddenStates
from frostline.prefix_cache.open_or_compute import Prefix
from frostline.process_cache import PROCESS_CACHE
from tests.conftest import tiny_config

LENGTHS = {"training": np.array([3, 1, 5, 2]), "held-out": np.array([4, 2])}


def vectors_of(lengths, width=4, seed=0):
    return np.random.default_rng(seed).standard_normal((int(lengths.sum()), width)).astype(np.float32)


@pytest.mark.parametrize("is_train", [True, False])
def test_places_trial_to_what_files_would_bring(is_train):
    shapes = [FileShape(lengths=lengths, width=4, dtype="float32") for lengths in LENGTHS.values()]
    both = [vectors_of(shape.lengths, seed=seed) for seed, shape in enumerate(shapes)]
    places, which = RowOffsets(*shapes), 0 if is_train else 1
    data = torch.from_numpy(np.concatenate([np.zeros((1, 4), np.float32), *both]))
    assert places.num_vectors == len(data)
    numbers = np.array([2, 0, 2, 3]) if is_train else np.array([1, 0])
    brought = HiddenStates(both[which], shapes[which]).padded(numbers, 6)
    assert torch.equal(data[places.at(numbers, 6, is_train=is_train)], torch.from_numpy(brought))
    flat = np.concatenate([HiddenStates(both[which], shapes[which])[row] for row in numbers])
    assert torch.equal(data[places.flat(numbers, is_train=is_train)], torch.from_numpy(flat))


@pytest.mark.parametrize(
    ("position", "expected"), [("first", [0, 2, 3]), ("last", [1, 2, 5]), (None, [0, 1, 2, 3, 4, 5])]
)
def test_one_vector_of_each_row(position, expected):
    found, counts = at_position(torch.arange(6)[:, None], [2, 1, 3], position)
    assert found.flatten().tolist() == expected
    assert counts == ([2, 1, 3] if position is None else [1, 1, 1])


@pytest.fixture
def prefix():
    from transformers import BertForSequenceClassification

    torch.manual_seed(0)
    model = BertForSequenceClassification(tiny_config()).eval()
    return Prefix(
        anatomy=find_blocks(model), facts={"weights": "bert"}, about={}, width=32, dtype="float32", position="first",
        reading=None, autocast=nullcontext, threads=1,
    )  # fmt: skip


@pytest.fixture
def tables():
    def table(name, lengths):
        def collate(rows):
            width = int(lengths[list(rows)].max())
            mask = (torch.arange(width) < torch.from_numpy(lengths[list(rows)])[:, None]).long()
            return {"input_ids": torch.full_like(mask, 7) * mask, "attention_mask": mask}

        return RowsToCompute(name=name, lengths=lengths, sha256=name, collate=collate)

    return [table(name, lengths) for name, lengths in LENGTHS.items()]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    PROCESS_CACHE.clear()
    monkeypatch.setattr(gpu_memory, "free_bytes", lambda prefix: 1 << 20)
    gpu_memory.forget()
    yield
    gpu_memory.forget()


def hold(prefix, depth, tables):
    return gpu_memory.keep_on_gpu(prefix, depth, tables, lambda: None)


@torch.no_grad()
@pytest.mark.parametrize("depth", [2, 4])
def test_what_is_held_is_what_the_model_computes(prefix, tables, depth):
    held = hold(prefix, depth, tables)
    assert held.fill_s > 0
    assert min(held.resident.pass_s) > 0
    model = prefix.anatomy.model
    for is_train, table in ((True, tables[0]), (False, tables[1])):
        for row, length in enumerate(table.lengths):
            states = model(**table.collate([row]), output_hidden_states=True).hidden_states[depth][0]
            states = states[:1] if depth == 4 else states  # of the last block only the position that the head reads
            found = held.resident.take(held.resident.places.at(np.array([row]), len(states), is_train=is_train))[0]
            assert (found - states).abs().max() < 1e-5, (is_train, row, length)
    assert not held.resident.data[0].any()


def test_what_is_there_is_used_again_and_the_oldest_makes_room(prefix, tables, monkeypatch):
    first = hold(prefix, 1, tables)
    again = hold(prefix, 1, tables)
    assert again.resident is first.resident
    assert again.fill_s == 0.0
    second = hold(prefix, 2, tables)
    hold(prefix, 1, tables)  # now depth 2 is the oldest
    monkeypatch.setattr(gpu_memory, "free_bytes", lambda prefix: 2 * first.resident.data.nbytes)
    third = hold(prefix, 3, tables)
    assert [each is made.resident for each, made in zip(gpu_memory.resident(), (first, third), strict=True)] == [
        True
    ] * 2
    assert second.resident not in gpu_memory.resident()


def test_other_rows_or_weights_are_others(prefix, tables):
    from dataclasses import replace

    hold(prefix, 1, tables)
    hold(prefix, 1, [tables[0], replace(tables[1], sha256="other")])
    hold(replace(prefix, facts={"weights": "others"}), 1, tables)
    assert len(gpu_memory.resident()) == 3


def test_they_must_fit(prefix, tables, monkeypatch):
    assert gpu_memory.fits(prefix, 1, tables)
    size = 4 * 32 * (11 + 6)
    monkeypatch.setattr(gpu_memory, "free_bytes", lambda prefix: size)
    assert gpu_memory.fits(prefix, 1, tables)
    monkeypatch.setattr(gpu_memory, "free_bytes", lambda prefix: size - 1)
    assert not gpu_memory.fits(prefix, 1, tables)


def test_a_cpu_holds_nothing(prefix, monkeypatch):
    monkeypatch.undo()
    assert gpu_memory.free_bytes(prefix) == 0


def test_a_full_device_is_given_up_for_good(prefix, tables, monkeypatch):
    hold(prefix, 1, tables)
    real = gpu_memory.compute_on_gpu

    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu_memory, "compute_on_gpu", full)
    assert hold(prefix, 2, tables) is None
    assert not gpu_memory.resident()
    monkeypatch.setattr(gpu_memory, "compute_on_gpu", real)
    assert not gpu_memory.fits(prefix, 1, tables)
    assert gpu_memory.give_up() is False  # nothing was left
