"""How sure a number is: intervals and tests, against scipy, by hand, and over many made-up sweeps."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from frostline.evidence import Evidence, RowScores
from frostline.report.compare import (
    compare,
    holm,
    interval_of_seeds,
    interval_of_share,
)


def rows(right, losses=None):
    right = np.asarray(right, dtype=bool)
    labels = np.zeros(len(right), dtype=int)
    given = np.zeros(len(right)) if losses is None else np.asarray(losses, dtype=np.float32)
    return RowScores(labels=labels, predicted=np.where(right, 0, 1), losses=given)


def one_seed(scores, value=0.0):
    return Evidence(by_seed={0: value}, rows={0: scores})


def seeds(*values):
    return Evidence(by_seed=dict(enumerate(values)), rows={})


def test_mcnemar_counts_the_rows_on_which_they_differ():
    first = rows([1] * 70 + [1] * 15 + [0] * 5 + [0] * 10)
    second = rows([1] * 70 + [0] * 15 + [1] * 5 + [0] * 10)
    found = compare(one_seed(first), one_seed(second), "accuracy", maximize=True)
    assert found.loss == pytest.approx(0.10)
    assert found.p == pytest.approx(sum(math.comb(20, k) for k in range(15, 21)) / 2**20)
    half = 1.959964 * math.sqrt(20 - 100 / 100) / 100
    assert (found.low, found.high) == pytest.approx((0.10 - half, 0.10 + half), rel=1e-5)
    assert found.is_worse
    back = compare(one_seed(second), one_seed(first), "accuracy", maximize=True)
    assert back.loss == pytest.approx(-0.10)
    assert not back.is_worse
    same = compare(one_seed(first), one_seed(first), "accuracy", maximize=True)
    assert (same.loss, same.p) == (0.0, 1.0)


def test_several_seeds_are_tested_over_the_seeds_they_share():
    first, second = seeds(0.80, 0.82, 0.81, 0.83), seeds(0.79, 0.80, 0.80, 0.825)
    found = compare(first, second, "f1_macro", maximize=True)
    wanted = stats.ttest_rel([0.80, 0.82, 0.81, 0.83], [0.79, 0.80, 0.80, 0.825], alternative="greater")
    assert found.p == pytest.approx(wanted.pvalue)
    two_sided = stats.ttest_rel([0.80, 0.82, 0.81, 0.83], [0.79, 0.80, 0.80, 0.825]).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((two_sided.low, two_sided.high))
    less = compare(seeds(0.5, 0.4, 0.45), seeds(0.7, 0.5, 0.6), "loss", maximize=False)
    assert less.loss == pytest.approx(0.15)
    three = compare(first, Evidence(by_seed={1: 0.8, 2: 0.8, 9: 0.1}, rows={}), "f1_macro", maximize=True)
    assert three is None  # two seeds and no rows: nothing could be significant


def test_of_equal_differences_nothing_is_known_but_their_sign():
    found = compare(seeds(0.90, 0.92, 0.91), seeds(0.89, 0.91, 0.90), "f1_macro", maximize=True)
    assert found.p == 0.125
    assert math.isnan(found.low)
    assert "sign test over 3 seeds" in found.how
    assert compare(seeds(0.9, 0.8, 0.7), seeds(0.9, 0.8, 0.7), "accuracy", maximize=True).p == 1.0
    one, two = rows([1] * 50, [0.5] * 50), rows([1] * 50, [1.5] * 50)
    assert compare(one_seed(one), one_seed(two), "loss", maximize=False).p == pytest.approx(0.5**50)


def test_a_few_seeds_do_not_hide_what_the_rows_show():
    rng = np.random.default_rng(3)
    good, bad = [rows(rng.random(400) < 0.9) for _ in range(2)], [rows(rng.random(400) < 0.6) for _ in range(2)]

    def both(runs):
        return Evidence(
            by_seed={i: float((r.predicted == r.labels).mean()) for i, r in enumerate(runs)}, rows=dict(enumerate(runs))
        )

    found = compare(both(good), both(bad), "accuracy", maximize=True)
    assert found.is_worse
    assert found.p < 1e-6
    assert "twice the smaller p" in found.how
    alone = Evidence(by_seed=both(bad).by_seed, rows={})
    assert compare(both(good), alone, "accuracy", maximize=True) is None
    other = [replace(run, labels=1 - run.labels) for run in bad]
    assert compare(both(good), both(other), "accuracy", maximize=True) is None  # other rows


def test_losses_are_tested_over_the_rows_and_what_is_no_mean_over_rows_is_not():
    rng = np.random.default_rng(0)
    base = rng.exponential(size=400)
    first, second = rows([1] * 400, base), rows([1] * 400, base + rng.normal(0.05, 0.2, 400))
    found = compare(one_seed(first), one_seed(second), "loss", maximize=False)
    wanted = stats.ttest_rel(second.losses.astype(float), first.losses.astype(float), alternative="greater")
    assert found.p == pytest.approx(wanted.pvalue)
    assert compare(one_seed(first), one_seed(second), "f1_macro", maximize=True) is None
    assert compare(one_seed(first), Evidence(by_seed={0: 0.5}, rows={}), "accuracy", maximize=True) is None
    other = rows([1] * 399)
    assert compare(one_seed(first), one_seed(other), "accuracy", maximize=True) is None  # other rows


def test_intervals():
    values = [0.71, 0.74, 0.72, 0.75, 0.73]
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert interval_of_seeds(values) == pytest.approx((high - low) / 2)
    wilson = stats.binomtest(80, 100).proportion_ci(0.95, method="wilson")
    assert interval_of_share(0.80, 100) == pytest.approx(max(wilson.high - 0.80, 0.80 - wilson.low))
    for right, total in ((20, 20), (19, 20), (0, 50), (511, 512)):
        wilson = stats.binomtest(right, total).proportion_ci(0.95, method="wilson")
        half, share = interval_of_share(right / total, total), right / total
        assert share - half <= wilson.low + 1e-12
        assert share + half >= wilson.high - 1e-12


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([]) == []


@pytest.mark.parametrize("num_seeds", [1, 5])
def test_an_equally_good_one_is_called_worse_as_rarely_as_the_level_says(num_seeds):
    rng = np.random.default_rng(num_seeds)
    wrong = 0
    for _ in range(400):
        chance = rng.beta(8, 2, size=300)  # rows are easy or hard alike for both
        runs = [[rows(rng.random(300) < chance) for _ in range(num_seeds)] for _ in range(2)]
        both = [
            Evidence(
                by_seed={i: float((r.predicted == r.labels).mean()) for i, r in enumerate(run)},
                rows=dict(enumerate(run)),
            )
            for run in runs
        ]
        wrong += compare(both[0], both[1], "accuracy", maximize=True).is_worse
    assert wrong / 400 <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 400)
