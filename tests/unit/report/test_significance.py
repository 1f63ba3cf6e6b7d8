"""How sure a number is: intervals and tests, against scipy, by hand, and over many made-up sweeps."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from frostline.records.predictions import Evidence, RowScores
from frostline.report.significance import (
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


def both(runs, start=0):
    return Evidence(
        by_seed={start + i: float((r.predicted == r.labels).mean()) for i, r in enumerate(runs)},
        rows={start + i: run for i, run in enumerate(runs)},
    )


def test_rows_and_seeds_are_added_where_a_seeds_deviation_is_known():
    first = rows([1] * 70 + [1] * 15 + [0] * 5 + [0] * 10)
    second = rows([1] * 70 + [0] * 15 + [1] * 5 + [0] * 10)
    one, two = both([first]), both([second])
    found = compare(one, two, "accuracy", maximize=True, seed_sd=0.03)
    sd = math.sqrt((20 / 100 - 0.1**2) / 100 + 2 * 0.03**2)  # of the rows' differences, and of a seed of each
    assert found.loss == pytest.approx(0.10)
    assert (found.low, found.high) == pytest.approx((0.10 - 1.959964 * sd, 0.10 + 1.959964 * sd), rel=1e-4)
    assert found.p == pytest.approx(stats.norm.sf(0.10 / sd))
    assert "rows and seeds" in found.how
    back = compare(two, one, "accuracy", maximize=True, seed_sd=0.03)
    assert (back.loss, back.p) == pytest.approx((-0.10, 1 - found.p))
    # more seeds, less of their share
    again = compare(both([first] * 4), both([second] * 4), "accuracy", maximize=True, seed_sd=0.03)
    assert (again.high - again.low) / 2 == pytest.approx(
        1.959964 * math.sqrt((20 / 100 - 0.1**2) / 100 + 2 * 0.03**2 / 4), rel=1e-4
    )
    assert compare(one, two, "accuracy", maximize=True) is None  # nothing is known of another seed


def test_three_common_seeds_tell_their_own_deviation():
    first, second = seeds(0.80, 0.82, 0.81, 0.83), seeds(0.79, 0.80, 0.80, 0.825)
    found = compare(first, second, "entity_f1", maximize=True)
    wanted = stats.ttest_rel([0.80, 0.82, 0.81, 0.83], [0.79, 0.80, 0.80, 0.825], alternative="greater")
    assert found.p == pytest.approx(wanted.pvalue)
    two_sided = stats.ttest_rel([0.80, 0.82, 0.81, 0.83], [0.79, 0.80, 0.80, 0.825]).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((two_sided.low, two_sided.high))
    assert "seeds, on these rows" in found.how
    less = compare(seeds(0.5, 0.4, 0.45), seeds(0.7, 0.5, 0.6), "loss", maximize=False)
    assert less.loss == pytest.approx(0.15)
    three = compare(first, Evidence(by_seed={1: 0.8, 2: 0.8, 9: 0.1}, rows={}), "f1_macro", maximize=True)
    assert three is None  # two common seeds


def test_the_rows_widen_what_few_seeds_say():
    rng = np.random.default_rng(3)
    chance = rng.beta(8, 2, size=400)
    good, bad = ([rows(rng.random(400) < chance - less) for _ in range(3)] for less in (0.0, 0.05))
    with_rows = compare(both(good), both(bad), "accuracy", maximize=True)
    without = compare(Evidence(by_seed=both(good).by_seed, rows={}), both(bad), "accuracy", maximize=True)
    assert with_rows.loss == without.loss
    hits = [np.mean([run.predicted == run.labels for run in runs], axis=0) for runs in (good, bad)]
    by_rows = np.var(hits[0] - hits[1]) / 400
    gaps = [both(good).by_seed[seed] - both(bad).by_seed[seed] for seed in range(3)]
    by_seeds = np.var(gaps, ddof=1) / 3
    freedom = 2 * ((by_rows + by_seeds) / by_seeds) ** 2
    half = stats.t.ppf(0.975, freedom) * math.sqrt(by_rows + by_seeds)
    assert (with_rows.high - with_rows.low) / 2 == pytest.approx(half)


def test_other_rows_are_not_compared_and_folds_are():
    rng = np.random.default_rng(3)
    good, bad = [rows(rng.random(400) < 0.9) for _ in range(2)], [rows(rng.random(400) < 0.6) for _ in range(2)]
    other = [replace(run, labels=1 - run.labels) for run in bad]
    assert compare(both(good), both(other), "accuracy", maximize=True, seed_sd=0.01) is None
    folds = [good[0], replace(good[1], labels=1 - good[1].labels, predicted=1 - good[1].predicted)]
    theirs = [bad[0], replace(bad[1], labels=1 - bad[1].labels, predicted=1 - bad[1].predicted)]
    found = compare(both(folds), both(theirs), "accuracy", maximize=True, seed_sd=0.01)
    gaps = [(a.predicted == a.labels).astype(float) - (b.predicted == b.labels) for a, b in zip(good, bad, strict=True)]
    variance = sum(np.var(gap) / 400 for gap in gaps) / 4 + 2 * 0.01**2 / 2
    assert found.high - found.low == pytest.approx(2 * 1.959964 * math.sqrt(variance), rel=1e-4)


def test_further_seeds_may_see_more_rows_than_the_first():
    rng = np.random.default_rng(3)
    good, bad = ([rows(rng.random(size) < chance) for size in (200, 800)] for chance in (0.9, 0.6))
    found = compare(both(good), both(bad), "accuracy", maximize=True, seed_sd=0.01)
    # row by row: the first 200 count in both means, the others in one
    weights = np.zeros((2, 800))
    weights[0, :200], weights[1] = 1 / 200, 1 / 800
    hits = [[np.pad((run.predicted == run.labels) - np.mean(run.predicted == run.labels), (0, 800 - len(run.labels)))
             for run in runs] for runs in (good, bad)]  # fmt: skip
    gap = sum(weight * (a - b) for weight, a, b in zip(weights, *hits, strict=True)) / 2
    variance = gap @ gap + 2 * 0.01**2 / 2
    assert found.high - found.low == pytest.approx(2 * 1.959964 * math.sqrt(variance), rel=1e-4)


def test_losses_go_by_their_rows_and_f1_by_a_bootstrap_over_them():
    rng = np.random.default_rng(0)
    base = rng.exponential(size=400)
    first, second = rows([1] * 400, base), rows([1] * 400, base + rng.normal(0.05, 0.2, 400))
    own = Evidence(by_seed={0: float(first.losses.mean())}, rows={0: first})
    less = Evidence(by_seed={0: float(second.losses.mean())}, rows={0: second})
    found = compare(own, less, "loss", maximize=False, seed_sd=0.0)
    gap = second.losses.astype(float) - first.losses
    assert found.loss == pytest.approx(gap.mean(), rel=1e-5)
    assert found.high - found.loss == pytest.approx(1.959964 * gap.std() / 20, rel=1e-4)
    labels = rng.integers(0, 2, 300)
    sharp, dull = (
        RowScores(labels=labels, predicted=np.where(rng.random(300) < right, labels, 1 - labels), losses=np.zeros(300))
        for right in (0.9, 0.7)
    )
    f1 = compare(one_seed(sharp, 0.9), one_seed(dull, 0.7), "f1_macro", maximize=True, seed_sd=0.0)
    assert 0.02 < (f1.high - f1.low) / 4 < 0.06  # sd of the difference of two shares on 300 rows: 0.033


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


@pytest.mark.slow
@pytest.mark.parametrize(("num_seeds", "known"), [(1, 0.02), (5, 0.02), (5, None)])
def test_an_equally_good_one_is_called_worse_as_rarely_as_the_level_says(num_seeds, known):
    rng = np.random.default_rng(num_seeds)
    wrong = 0
    for _ in range(400):
        chance = rng.beta(8, 2, size=300)  # rows are easy or hard alike for both
        runs = [
            both([rows(rng.random(300) < chance + rng.normal(0, 0.02)) for _ in range(num_seeds)]) for _ in range(2)
        ]
        wrong += compare(*runs, "accuracy", maximize=True, seed_sd=known).is_worse
    assert wrong / 400 <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 400)
