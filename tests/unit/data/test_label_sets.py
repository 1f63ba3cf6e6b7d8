"""Sets of classes as whole numbers: the same set back, of few classes and of many."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frostline.data.label_sets import (
    as_bits,
    as_label,
    as_labels,
    indicators,
    numbers_per_row,
    tensor_indicators,
)
from frostline.spec import TASKS, LossOptions


@given(st.integers(1, 1000).flatmap(lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1)))))
def test_a_set_comes_back(case):
    num_classes, chosen = case
    bits = sum(1 << index for index in chosen)
    label = as_label(bits, num_classes)
    assert as_bits(label) == bits
    labels = np.array([label, label])
    assert labels.shape == ((2,) if num_classes <= 52 else (2, numbers_per_row(num_classes)))
    shown = indicators(labels, num_classes)
    assert set(np.flatnonzero(shown[0])) == chosen
    assert np.array_equal(as_labels(shown), labels)
    assert np.array_equal(tensor_indicators(torch.from_numpy(labels), num_classes).numpy(), shown)


@pytest.mark.parametrize("num_classes", [3, 52, 53, 1000])
def test_the_loss_is_that_of_indicator_rows(num_classes):
    rng = np.random.default_rng(0)
    shown = (rng.random((6, num_classes)) < 0.2).astype(np.int64)
    logits = rng.normal(size=(6, num_classes))
    task, labels = TASKS.get("multi_label"), as_labels(shown)
    expected = torch.nn.BCEWithLogitsLoss()(torch.from_numpy(logits), torch.from_numpy(shown).double())
    summed = task.summed_loss(torch.from_numpy(logits), torch.from_numpy(labels))
    assert float(summed) / 6 == pytest.approx(float(expected), rel=1e-6)
    assert task.losses_of(logits, labels).mean() == pytest.approx(float(expected), rel=1e-9)
    assert np.array_equal(indicators(task.decide(logits), num_classes), logits > 0)
    assert task.count_labels(labels, [str(index) for index in range(num_classes)]) == {
        str(index): int(count) for index, count in enumerate(shown.sum(0))
    }
    fillers = torch.tensor([False] * 5 + [True])
    marked = torch.from_numpy(labels).masked_fill(fillers if labels.ndim == 1 else fillers[:, None], -100)
    without = task.summed_loss(torch.from_numpy(logits), marked, LossOptions(may_fill=True))
    assert float(without) == pytest.approx(task.losses_of(logits, labels)[:5].sum(), rel=1e-6)
