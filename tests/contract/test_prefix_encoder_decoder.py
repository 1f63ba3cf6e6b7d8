"""Encoders and decoders fed with cached states of the encoder, against the whole model: each architecture, small."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LongT5Config, LongT5ForConditionalGeneration

from frostline.data.token_table import DECODER_INPUTS
from frostline.freezing.freeze import freeze
from frostline.freezing.methods.depth import FreezeDepth
from frostline.models.blocks import find_blocks
from frostline.prefix_cache.compute import RowsToCompute, compute_hidden_states
from frostline.prefix_cache.suffix import HIDDEN, Suffix, TrainableModel
from tests.unit.models.test_encoder_decoder import KINDS, OF_T5, build

ALL = [*KINDS, LongT5ForConditionalGeneration]
BOUND = 1e-6
"""Of the largest logit."""
LENGTHS = (3, 9, 5)


def make(kind):
    if kind is LongT5ForConditionalGeneration:
        torch.manual_seed(0)
        return kind(LongT5Config(vocab_size=64, **OF_T5, decoder_start_token_id=0))
    return build(kind)


def rows():
    rng = np.random.default_rng(0)
    ids = [[*rng.integers(5, 60, length - 1).tolist(), 2] for length in LENGTHS]  # BART's classifier reads the end

    def collate(numbers):
        longest = max(len(ids[number]) for number in numbers)
        batch = torch.full((len(numbers), longest), 1)
        mask = torch.zeros_like(batch)
        for place, number in enumerate(numbers):
            batch[place, : len(ids[number])] = torch.tensor(ids[number])
            mask[place, : len(ids[number])] = 1
        return {"input_ids": batch, "attention_mask": mask}

    return RowsToCompute(name="rows", lengths=np.array(LENGTHS), sha256="0", collate=collate)


def states_after(anatomy, depth, table):
    """What follows the encoder's block, padded, of all rows."""
    states = torch.zeros(len(LENGTHS), max(LENGTHS), anatomy.model.config.d_model)

    def take(_depth, numbers, counts, vectors):
        for number, own in zip(numbers, torch.split(vectors, list(counts)), strict=True):
            states[number, : len(own)] = own

    compute_hidden_states(anatomy, table, [depth], take)
    return states


@pytest.mark.parametrize("depth", range(1, 6))
@pytest.mark.parametrize("kind", ALL)
def test_logits_and_gradients_are_those_of_the_whole_model(kind, depth):
    model = make(kind)
    anatomy, table = find_blocks(model), rows()
    frozen = freeze(anatomy, FreezeDepth(depth=depth), hashed=False)
    assert frozen.prefix_depth == depth
    batch = dict(table.collate(range(len(LENGTHS))))
    if kind.__name__.endswith(("Generation", "MTModel")):
        batch[DECODER_INPUTS] = torch.tensor([[2, 7, 8, 9], [2, 11, 12, 13], [2, 20, 21, 22]])
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    model.eval()
    expected = model(**batch).logits
    gradients = torch.autograd.grad(expected.square().sum(), list(trained.values())) if trained else ()
    cached = anatomy.cached_depth(depth)
    assert cached == min(depth, 2)
    suffix = Suffix(anatomy, cached)
    states = states_after(anatomy, cached, table)
    suffix.attach()
    part = TrainableModel(anatomy, depth)
    assert {id(p) for p in part.parameters()} >= {id(p) for p in trained.values()}
    logits = part(**batch, **{HIDDEN: states}).logits
    again = torch.autograd.grad(logits.square().sum(), list(trained.values())) if trained else ()
    suffix.detach()
    apart, scale = (float(each.detach().abs().max()) for each in (logits - expected, expected))
    assert apart <= BOUND * max(1.0, scale)
    for one_way, other in zip(gradients, again, strict=True):
        assert torch.allclose(one_way, other, rtol=1e-4, atol=1e-5 * float(one_way.abs().max()) + 1e-12)
