"""Mixup: partners by row and epoch, and a loss that does not depend on how a step is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frostline.data.mixup import Mixup, mix_labels, unmix
from frostline.spec import TASKS, LossOptions
from frostline.train.loss import BatchLoss

CLASSIFICATION = TASKS.get("classification")
LABELS = torch.tensor([0, 1, 2, 1])
OTHERS = torch.tensor([1, 1, 0, 2])
SHARES = np.array([1.0, 0.25, 0.5, 0.0], dtype=np.float32)
LOGITS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def test_partners_and_shares_depend_on_row_and_epoch_alone():
    mixup = Mixup(alpha=0.4, seed=3)
    partners, shares = mixup.draw(np.array([5, 2, 9]), np.array([1, 1, 1]), 10)
    again, same = mixup.draw(np.array([9, 5]), np.array([1, 1]), 10)
    assert again.tolist() == [partners[2], partners[0]]
    assert same.tolist() == [shares[2], shares[0]]
    later, _ = mixup.draw(np.arange(10), np.full(10, 2), 10)
    now, drawn = mixup.draw(np.arange(10), np.full(10, 1), 10)
    assert later.tolist() != now.tolist()
    assert ((drawn >= 0) & (drawn <= 1)).all()


def test_the_loss_is_that_of_both_labels_by_their_shares():
    loss = BatchLoss(CLASSIFICATION, options=LossOptions(label_smoothing=0.1), mixes=True)
    own, other = (
        torch.nn.functional.cross_entropy(LOGITS, labels, reduction="none", label_smoothing=0.1)
        for labels in (LABELS, OTHERS)
    )
    shares = torch.from_numpy(SHARES)
    expected = (own * shares + other * (1 - shares)).sum() / 4
    labels = mix_labels(LABELS, OTHERS, SHARES)
    assert loss({"logits": LOGITS}, labels, 4).item() == pytest.approx(expected.item(), rel=1e-6)
    halves = sum(loss({"logits": LOGITS[rows]}, labels[rows], 4).item() for rows in (slice(0, 1), slice(1, 4)))
    assert halves == pytest.approx(expected.item(), rel=1e-6)


def test_a_filler_counts_for_nothing():
    filled = LABELS.clone()
    filled[2] = -100
    own, other, _ = unmix(mix_labels(filled, OTHERS, SHARES), "int64")
    assert own.tolist() == [0, 1, -100, 1]
    assert other.tolist() == [1, 1, -100, 2]
    numbers = torch.tensor([0.5, torch.nan])
    own, other, _ = unmix(mix_labels(numbers, torch.tensor([1.0, 2.0]), SHARES[:2]), "float64")
    assert own.isnan().tolist() == other.isnan().tolist() == [False, True]


def test_an_evaluation_is_neither_smoothed_nor_mixed():
    loss = BatchLoss(CLASSIFICATION, options=LossOptions(label_smoothing=0.3), mixes=True)
    with torch.no_grad():
        value = loss({"logits": LOGITS}, LABELS, 4)
    assert value.item() == pytest.approx(torch.nn.functional.cross_entropy(LOGITS, LABELS).item(), rel=1e-6)
