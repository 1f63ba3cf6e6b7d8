"""Classes of unequal size: rows left out, or weights in the loss; the evaluation stays as it is."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from frostline.data.split import even
from frostline.errors import SpecError
from frostline.records.recorder import NullRecorder
from frostline.records.result import Status
from frostline.records.run_context import RunContext
from frostline.train import run
from frostline.train.loss import BatchLoss, class_weights
from tests.conftest import sentences, write_csv


@pytest.fixture
def skewed(tmp_path):
    rows = [row for index, row in enumerate(sentences(400)) if row[1] == "positive" or index % 16 == 0]
    return write_csv(tmp_path / "skewed.csv", rows)


@pytest.mark.slow
def test_as_many_rows_of_each_class_and_fewer_are_part_of_more(make_spec, skewed, tmp_path):
    plain = run(make_spec(f"dataset.location={skewed}"), RunContext(NullRecorder(), tmp_path / "0"))
    each = plain.data["labels"]["train"]["negative"]
    assert each < 30 < plain.data["labels"]["train"]["positive"]
    result = run(
        make_spec(f"dataset.location={skewed}", "dataset.balance=undersample"),
        RunContext(NullRecorder(), tmp_path / "1"),
    )
    assert result.data["labels"]["train"] == {"negative": each, "positive": each}
    assert result.data["labels"]["eval"] == plain.data["labels"]["eval"]
    some = ["dataset.balance=undersample", "dataset.train_rows=11"]
    fewer = run(make_spec(f"dataset.location={skewed}", *some), RunContext(NullRecorder(), tmp_path / "2"))
    assert fewer.data["labels"]["train"] == {"negative": 5, "positive": 5}
    ordered, labels = np.array([5, 3, 8, 1, 0, 2]), np.array([0, 1, 1, 0, 0, 1, 0, 0, 0], dtype=float)
    assert even(ordered, labels, None).tolist() == [5, 3, 8, 1, 0, 2]  # classes 1 0 0 1 0 1
    assert even(ordered, labels, 4).tolist() == [5, 3, 8, 1]
    assert even(ordered[:3], labels, None).tolist() == [5, 3]


def test_weights_are_scikit_learns_and_the_evaluation_has_none():
    labels = torch.tensor([0] * 30 + [1] * 6 + [2] * 4)
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    assert class_weights(labels, 3).tolist() == pytest.approx(wanted.tolist())
    assert class_weights(labels, 3)[labels].mean() == pytest.approx(1.0)
    assert class_weights(labels, 4).tolist()[3] == 0.0
    from frostline.spec import TASKS, LossOptions

    logits = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    loss = BatchLoss(TASKS.get("classification"), options=LossOptions(class_weights=class_weights(labels, 3)))
    own = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert loss({"logits": logits}, labels).item() == pytest.approx(own.mean().item())
    weighted = (own * class_weights(labels, 3)[labels]).sum() / 40
    assert loss({"logits": logits}, labels, 40).item() == pytest.approx(weighted.item())
    with torch.no_grad():  # an evaluation: Trainer hands over a count there, too
        assert loss({"logits": logits}, labels, 40).item() == pytest.approx(own.mean().item())
    halves = sum(loss({"logits": logits[rows]}, labels[rows], 40).item() for rows in (slice(0, 17), slice(17, 40)))
    assert halves == pytest.approx(weighted.item())  # however it is cut


@pytest.mark.slow
def test_a_rare_class_is_learned_with_weights(make_spec, skewed, tmp_path):
    common = [
        f"dataset.location={skewed}", "freeze=none", "optimizer.lr=3e-3", "training.epochs=6", "training.keep=last",
    ]  # fmt: skip
    plain = run(make_spec(*common), RunContext(NullRecorder(), tmp_path / "plain"))
    weighted = run(make_spec(*common, "dataset.balance=weights"), RunContext(NullRecorder(), tmp_path / "weighted"))
    assert plain.status is weighted.status is Status.FINISHED
    assert plain.data == weighted.data
    assert plain.metrics["eval/balanced_accuracy"] == 0.5  # all rows to the common class
    assert weighted.metrics["eval/balanced_accuracy"] > 0.7
    rows = pq.read_table(tmp_path / "weighted" / "predictions.parquet")["loss"].to_numpy()
    assert weighted.metrics["eval/loss"] == pytest.approx(rows.mean(), rel=1e-4)  # it has no weights


def test_it_is_for_classes(make_spec):
    with pytest.raises(SpecError, match="dataset.balance=weights: is for dataset.task=classification"):
        make_spec("dataset.balance=weights", "dataset.task=regression", "training=regression")
