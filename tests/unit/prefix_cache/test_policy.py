"""Whether caching a frozen prefix pays."""

from __future__ import annotations

import pytest

from frostline.prefix_cache.policy import num_passes, reason_to_skip
from frostline.records.run_context import Sharing


@pytest.mark.parametrize(
    ("passes", "reason"),
    [
        (1.0, "caching would save only 1.0 forward passes and costs one"),
        (1.49, "caching would save only 1.5 forward passes and costs one"),
        (1.5, None),
        (30.0, None),
    ],
)
def test_it_pays_from_one_and_a_half_passes(passes, reason):
    assert reason_to_skip(passes) == reason


def test_passes_are_counted_over_all_runs_epochs_and_evaluations(make_spec):
    spec = make_spec("training.epochs=3")
    assert num_passes(spec, Sharing(num_runs=1), 128, (900, 100)) == 3
    assert num_passes(spec, Sharing(num_runs=4), 128, (900, 100)) == 12
    at_end = make_spec("training.epochs=3", "training.evaluate=never")
    assert num_passes(at_end, Sharing(num_runs=1), 128, (900, 100)) == pytest.approx(2.8)


def test_steps_are_counted_as_epochs(make_spec):
    spec = make_spec("training.epochs=null", "training.max_steps=16")
    assert num_passes(spec, Sharing(num_runs=1), 128, (900, 100)) == 2  # 8 steps of 16 rows an epoch
