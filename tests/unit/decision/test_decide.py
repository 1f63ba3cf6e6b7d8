"""The decision: posterior, rows, opening, standing, race; each against the known result."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from frostline.decision import (
    Axis,
    LevelState,
    Noise,
    Posterior,
    RaceEnd,
    Replicate,
    Ridge,
    Run,
    Setting,
    Standing,
    chance_of_settling,
    decide,
    next_opening,
    next_replicate,
    next_setting,
    opening_levels,
    rates_of,
    requirement,
    scouts,
    seed_prior,
    with_pending,
)
from frostline.decision.folds import rows_across, seeds_across
from frostline.decision.forecast import covariance_after
from frostline.decision.kernel import matern
from frostline.decision.rows import covariance, of_bootstrap, of_mean


def depths(blocks=6, rates=(-5.0, -2.5), ridge=(-4.0, 1.0, 0.25)):
    levels = tuple(float(level) for level in range(blocks + 1))
    return Axis(
        levels=levels, positions=tuple(level / blocks for level in levels),
        relative_costs=tuple(1.06 - level / blocks for level in levels), rates=rates,
        ridge=None if rates is None else Ridge(base=ridge[0], slope=ridge[1], offset_sd=ridge[2]),
    )  # fmt: skip


AXIS = depths()
QUIET = Noise(rows=None, seed_sd=0.002)


def on_ridge(level, value, seed=0, chosen=True, offset=0.0):
    return Run(
        setting=Setting(level=float(level), rate=AXIS.ridge_rate(float(level), offset)), seed=seed, value=value,
        chosen=chosen,
    )  # fmt: skip


def sure(values, seeds=4):
    """Runs with as many fresh seeds of each level, a tenth of a trial apart."""
    return [
        on_ridge(level, value + 0.001 * ((seed * 7) % 5 - 2), seed, chosen=seed == 0)
        for level, value in enumerate(values)
        for seed in range(seeds)
    ]


def test_the_kernel_is_scikit_learns_matern():
    from sklearn.gaussian_process.kernels import Matern

    places = np.linspace(0, 3, 12)[:, None]
    assert matern(np.abs(places - places.T) / 0.7) == pytest.approx(Matern(length_scale=0.7, nu=2.5)(places))


def test_importing_the_decision_imports_neither_torch_nor_optuna_nor_hydra():
    code = "import sys, frostline.decision; print(sorted({'torch', 'optuna', 'hydra', 'mlflow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- rows --------------------------------------------------------------------------------------------------------------


def test_rows_of_a_mean_give_the_empirical_covariance_of_the_means():
    rng = np.random.default_rng(0)
    hits = rng.random((3, 400)) < 0.8
    found = covariance([of_mean(each) for each in hits])
    assert found == pytest.approx(np.cov(hits, ddof=0) / 400)


def test_runs_on_the_first_rows_of_others_share_those_and_runs_on_other_rows_nothing():
    hits = np.random.default_rng(1).random(100) < 0.7
    shared = covariance([of_mean(hits[:50]), of_mean(hits)])
    centred = (hits[:50] - hits[:50].mean()) @ (hits[:50] - hits.mean())
    assert shared[0, 1] == pytest.approx(centred / 50 / 100)
    apart = covariance([of_mean(hits[:50]), of_mean(hits[50:], first=50)])
    assert apart[0, 1] == 0.0


def test_the_bootstrap_of_an_accuracy_is_that_of_a_mean():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 500)
    runs = [np.where(rng.random(500) < share, labels, 1 - labels) for share in (0.8, 0.7)]

    def accuracy(truth, predicted):
        return float((truth == predicted).mean())

    found = covariance([of_bootstrap(accuracy, labels, each) for each in runs])
    exact = covariance([of_mean(labels == each) for each in runs])
    assert np.diag(found) == pytest.approx(np.diag(exact), rel=0.25)


# -- posterior ---------------------------------------------------------------------------------------------------------


def test_it_goes_through_what_was_measured_without_noise_and_is_unsure_elsewhere():
    runs = [on_ridge(level, 0.80 - 0.01 * level) for level in (0, 2, 4, 6)]
    posterior = Posterior(runs, AXIS, Noise(rows=None, seed_sd=1e-5))
    mean, sd = posterior.mean_and_sd([run.setting for run in runs])
    assert mean == pytest.approx([run.value for run in runs], abs=1e-3)
    _, beside = posterior.mean_and_sd([Setting(level=1.0, rate=AXIS.ridge_rate(1.0))])
    assert beside[0] > 3 * sd.max()


def test_moments_and_draws_agree_with_mean_and_sd():
    runs = sure([0.8, 0.81, 0.8, 0.79, 0.75, 0.7, 0.6], seeds=2)
    posterior = Posterior(runs, AXIS, Noise(rows=np.eye(len(runs)) * 1e-4, seed_sd=0.01))
    settings = sorted({run.setting for run in runs})
    mean, sd = posterior.mean_and_sd(settings)
    moments, spread = posterior.moments(settings)
    assert moments == pytest.approx(mean)
    assert np.sqrt(np.diag(spread)) == pytest.approx(sd)
    drawn = posterior.draws(settings, 20_000, np.random.default_rng(0))
    assert drawn.mean(axis=0) == pytest.approx(mean, abs=5 * sd.max() / 140)


def test_the_best_of_many_noisy_runs_is_taken_back():
    rng = np.random.default_rng(3)
    gaps = []
    for _ in range(10):
        runs = [on_ridge(level, 0.8 + rng.normal(0, 0.02)) for level in range(7)]
        best = max(runs, key=lambda run: run.value)
        mean, _ = Posterior(runs, AXIS, Noise(rows=None, seed_sd=0.02)).mean_and_sd([best.setting])
        assert mean[0] < best.value
        gaps.append(mean[0] - 0.8)
    assert abs(np.mean(gaps)) < 0.016  # the raw best of seven is 0.027 too high


def test_rows_that_all_runs_get_wrong_are_no_difference_between_them():
    count = 7
    together = np.full((count, count), 4e-4) + 1e-6 * np.eye(count)
    runs = [on_ridge(level, 0.8 - 0.004 * level) for level in range(count)]
    settings = [run.setting for run in runs]

    def sd_of_difference(rows):
        _, spread = Posterior(runs, AXIS, Noise(rows=rows, seed_sd=1e-3)).moments(settings)
        return np.sqrt(spread[0, 0] + spread[6, 6] - 2 * spread[0, 6])

    assert sd_of_difference(together) < 0.5 * sd_of_difference(np.eye(count) * 4e-4)


def test_cheap_levels_tell_where_the_best_rates_of_dear_ones_lie():
    def loss(level, offset):
        return 0.7 - 0.05 * (offset - 0.5) ** 2  # the ridge is half a decade higher than expected

    runs = [on_ridge(level, loss(level, offset), offset=offset) for level in (6, 5) for offset in (-0.8, 0.0, 0.8)]
    level, rate = next_opening(AXIS, [(r.setting.level, r.setting.rate) for r in runs], Posterior(runs, AXIS, QUIET))
    assert level == 2.0
    assert 0.2 <= rate - AXIS.ridge_rate(2.0) <= 0.5


def test_rates_that_help_at_one_level_and_harm_at_the_next_are_not_taken_for_noise():
    """Entity F1 of a real sweep of short runs (`docs/sweeps.md`, a class for each word): seeds differ by 0.02."""
    tried = [
        (6, 1e-3, 0.106), (6, 1.58e-4, 0.123), (6, 3e-3, 0.057), (5, 6.81e-4, 0.383), (5, 6.81e-4, 0.408),
        (5, 1.08e-4, 0.005), (5, 3e-3, 0.532), (4, 4.64e-4, 0.483), (4, 4.64e-4, 0.491), (3, 5.01e-4, 0.539),
        (3, 5.01e-4, 0.546), (2, 3.41e-4, 0.552), (2, 3.41e-4, 0.549), (1, 2.33e-4, 0.483), (1, 2.33e-4, 0.440),
        (0, 1.58e-4, 0.423),
    ]  # fmt: skip
    runs = [
        Run(setting=Setting(level=float(depth), rate=math.log10(rate)), seed=place, value=value)
        for place, (depth, rate, value) in enumerate(tried)
    ]
    posterior = Posterior(runs, AXIS, Noise(rows=None, seed_sd=0.055))
    assert posterior.seed_sd < 0.05
    mean, sd = posterior.mean_and_sd([Setting(level=3.0, rate=math.log10(5.01e-4))])
    assert mean[0] == pytest.approx(0.542, abs=0.01)
    assert sd[0] < 0.04


def test_a_posterior_needs_runs_that_learnt():
    with pytest.raises(ValueError, match="learnt something"):
        Posterior([], AXIS, QUIET)
    with pytest.raises(ValueError, match="learnt something"):
        Posterior([replace(on_ridge(0, 0.5), collapsed=True)], AXIS, QUIET)


def test_the_seeds_prior_falls_with_the_training_rows():
    assert seed_prior(0.43, 256) == pytest.approx(0.024, abs=0.001)
    assert seed_prior(0.43, 1024) == pytest.approx(seed_prior(0.43, 256) / 2)


# -- search ------------------------------------------------------------------------------------------------------------


def test_the_opening_begins_at_the_two_cheapest_levels_with_three_rates_each():
    assert [(s.level, round(s.rate, 2)) for s in scouts(AXIS)] == [
        (6.0, -3.0), (6.0, -3.8), (6.0, -2.5), (5.0, -3.17), (5.0, -3.97), (5.0, -2.5),
    ]  # fmt: skip
    narrow = depths(rates=(-4.0, -3.0))
    assert [(s.level, round(s.rate, 2)) for s in scouts(narrow)] == [(6, -3.0), (6, -3.8), (5, -3.17), (5, -3.97)]
    assert [s.level for s in scouts(depths(rates=None))] == [6.0, 5.0]


def test_every_level_of_a_shallow_model_and_nine_of_a_deep_one_get_a_run():
    assert set(opening_levels(AXIS)) == set(AXIS.levels)
    assert set(opening_levels(depths(24))) == set(range(0, 25, 3))
    started: list[tuple[float, float]] = []
    while (found := next_opening(AXIS, started, None)) is not None:
        started.append(found)
    assert len(started) == 11
    assert {level for level, _ in started} == set(AXIS.levels)


def test_after_the_scouts_the_middle_then_the_level_farthest_from_those_tried():
    assert opening_levels(AXIS) == (6, 5, 2, 0, 1, 3, 4)
    assert opening_levels(depths(24)) == (24, 21, 9, 0, 15, 3, 6, 12, 18)
    assert [opening_levels(depths(blocks)) for blocks in (1, 2, 3)] == [(1, 0), (2, 1, 0), (3, 2, 0, 1)]


def test_expected_improvement_prefers_cheap_levels_at_first_and_not_at_the_end():
    runs = [on_ridge(level, 0.8) for level in range(7)]
    posterior = Posterior(runs, AXIS, Noise(rows=None, seed_sd=0.01))
    candidates = [Setting(level=level, rate=rate) for level in AXIS.levels for rate in rates_of(AXIS)]
    first = next_setting(posterior, candidates, progress=0.0)
    last = next_setting(posterior, candidates, progress=1.0)
    assert AXIS.cost(first.level) < AXIS.cost(last.level)
    assert next_setting(posterior, candidates, progress=1.0, exclude=[last]) != last


def test_a_trial_under_way_is_believed_and_not_started_twice():
    runs = [on_ridge(level, 0.8) for level in range(7)]
    posterior = Posterior(runs, AXIS, Noise(rows=np.eye(7) * 1e-4, seed_sd=0.01))
    candidates = [Setting(level=level, rate=rate) for level in AXIS.levels for rate in rates_of(AXIS)]
    first = next_setting(posterior, candidates, progress=1.0)
    second = next_setting(with_pending(posterior, [first]), candidates, progress=1.0, exclude=[first])
    assert abs(second.rate - first.rate) > 0.15 or second.level != first.level


# -- standing ----------------------------------------------------------------------------------------------------------


def test_clear_differences_are_settled_and_the_deepest_good_level_is_taken():
    runs = sure([0.80, 0.80, 0.80, 0.80, 0.75, 0.70, 0.60])
    decision = decide(runs, AXIS, QUIET, margin=0.02, confidence=0.9)
    assert decision.standing is Standing.SETTLED
    assert decision.recommended.level == 3.0
    assert [level.state for level in decision.levels] == [LevelState.GOOD] * 4 + [LevelState.OUT] * 3
    assert decision == decide(runs, AXIS, QUIET, margin=0.02, confidence=0.9)
    assert requirement(decision, Posterior(runs, AXIS, QUIET), rows=512) is None


def test_nothing_is_settled_by_the_runs_that_chose_their_setting():
    runs = [replace(run, chosen=True) for run in sure([0.80, 0.80, 0.80, 0.80, 0.75, 0.70, 0.60])]
    decision = decide(runs, AXIS, QUIET, margin=0.02, confidence=0.9)
    assert decision.standing is Standing.AT_LEAST
    assert {level.level for level in decision.lacking_seeds} == {0.0, 1.0, 2.0, 3.0}


def test_one_level_alone_says_nothing_of_the_others():
    """Three like rates at the deepest level were once taken for depths that are all alike."""
    runs = [on_ridge(6, value, offset=offset) for value, offset in ((0.63, -0.8), (0.67, 0.0), (0.675, 0.5))]
    posterior = Posterior(runs, AXIS, QUIET)
    decision = decide(runs, AXIS, QUIET, margin=0.2, confidence=0.9, posterior=posterior)
    assert not decision.is_comparable
    assert decision.standing is Standing.NOT_SETTLED
    assert {level.state for level in decision.levels} == {LevelState.OPEN}
    assert requirement(decision, posterior, rows=512) is None
    ended = next_replicate(decision, posterior, budget=9.0, spent=0.0, rows=512, started=Counter())
    assert ended is RaceEnd.FUTILE
    both = decide([*runs, on_ridge(0, 0.7)], AXIS, QUIET, margin=0.2, confidence=0.9)
    assert both.is_comparable
    assert both.standing is Standing.AT_LEAST


def test_noise_larger_than_the_margin_leaves_it_open_with_a_guess():
    runs = [on_ridge(level, value) for level, value in enumerate((0.80, 0.82, 0.79, 0.81, 0.80, 0.78, 0.70))]
    noise = Noise(rows=np.eye(7) * 0.02**2, seed_sd=0.02)
    decision = decide(runs, AXIS, noise, margin=0.005, confidence=0.9)
    assert decision.standing is Standing.NOT_SETTLED
    assert decision.open_levels
    assert decision.recommended.expected_loss <= max(level.expected_loss for level in decision.levels)
    assert decision.recommended.most_loss > 0.005


def test_a_wider_margin_never_makes_a_level_worse():
    runs = sure([0.80, 0.795, 0.79, 0.785, 0.75, 0.70, 0.60], seeds=2)
    narrow = decide(runs, AXIS, QUIET, margin=0.005, confidence=0.9)
    wide = decide(runs, AXIS, QUIET, margin=0.03, confidence=0.9)
    assert all(n.p_within <= w.p_within for n, w in zip(narrow.levels, wide.levels, strict=True))
    assert wide.recommended.level >= narrow.recommended.level


def test_collapsed_runs_are_counted_and_left_out():
    runs = sure([0.80, 0.80, 0.80, 0.80, 0.75, 0.70, 0.60])
    dead = [replace(on_ridge(0, 0.5, seed=9), collapsed=True), replace(on_ridge(2, float("nan"), 9), collapsed=True)]
    decision = decide([*runs, *dead], AXIS, QUIET, margin=0.02, confidence=0.9)
    assert decision.levels == tuple(
        replace(level, collapsed=int(level.level in {0.0, 2.0}))
        for level in decide(runs, AXIS, QUIET, margin=0.02, confidence=0.9).levels
    )
    assert len(decision.collapsed) == 2
    with pytest.raises(ValueError, match="no run learnt anything"):
        decide(dead, AXIS, QUIET, margin=0.02, confidence=0.9)


@pytest.mark.parametrize(("margin", "confidence"), [(0.0, 0.9), (float("nan"), 0.9), (0.01, 0.5), (0.01, 1.0)])
def test_parameters_out_of_range(margin, confidence):
    with pytest.raises(ValueError, match="must be above"):
        decide(sure([0.8] * 7), AXIS, QUIET, margin=margin, confidence=confidence)


def test_an_axis_must_fit_together():
    with pytest.raises(ValueError, match="as many positions"):
        replace(AXIS, positions=(0.0,))
    with pytest.raises(ValueError, match="levels repeat"):
        replace(AXIS, levels=(1.0,) * 7)
    with pytest.raises(ValueError, match="costs are above 0"):
        replace(AXIS, relative_costs=(0.0,) * 7)
    with pytest.raises(ValueError, match="ridge"):
        replace(AXIS, ridge=None)


# -- race --------------------------------------------------------------------------------------------------------------


def undecided(seed_sd=0.006):
    rng = np.random.default_rng(5)
    runs = [on_ridge(n, v + rng.normal(0, seed_sd)) for n, v in enumerate((0.80, 0.81, 0.805, 0.80, 0.78, 0.7, 0.6))]
    noise = Noise(rows=np.eye(7) * 0.002**2, seed_sd=seed_sd)
    return runs, Posterior(runs, AXIS, noise), decide(runs, AXIS, noise, margin=0.01, confidence=0.9)


def test_the_race_serves_the_contender_with_the_fewest_seeds_the_cheapest_first():
    _, posterior, decision = undecided()
    contenders = decision.contenders
    given = []
    for _ in contenders:
        found = next_replicate(decision, posterior, budget=100.0, spent=0.0, rows=512, started=Counter(given))
        assert isinstance(found, Replicate)
        assert found.ordinal == 0
        given.append(found.setting)
    assert [setting.level for setting in given] == sorted((level.level for level in contenders), reverse=True)
    again = next_replicate(decision, posterior, budget=100.0, spent=0.0, rows=512, started=Counter(given))
    assert (again.setting, again.ordinal) == (given[0], 1)


def test_the_race_ends_with_its_budget():
    _, posterior, decision = undecided()
    assert next_replicate(decision, posterior, budget=0.0, spent=0.0, rows=512, started={}) is RaceEnd.OUT_OF_BUDGET
    assert next_replicate(decision, posterior, budget=1.0, spent=0.99, rows=512, started={}) is RaceEnd.OUT_OF_BUDGET


def test_a_settled_question_gets_no_further_seed():
    runs = sure([0.80, 0.80, 0.80, 0.80, 0.75, 0.70, 0.60])
    decision = decide(runs, AXIS, QUIET, margin=0.02, confidence=0.9)
    posterior = Posterior(runs, AXIS, QUIET)
    assert next_replicate(decision, posterior, budget=9.0, spent=0.0, rows=512, started={}) is RaceEnd.SETTLED


def test_a_race_that_rows_can_not_settle_is_given_up():
    rng = np.random.default_rng(0)
    runs = [on_ridge(n, 0.8 + rng.normal(0, 0.02), seed, chosen=seed == 0) for n in range(7) for seed in range(3)]
    noise = Noise(rows=np.eye(len(runs)) * 0.03**2, seed_sd=0.01)
    posterior = Posterior(runs, AXIS, noise)
    decision = decide(runs, AXIS, noise, margin=0.002, confidence=0.9)
    started = Counter(run.setting for run in runs if not run.chosen)
    assert next_replicate(decision, posterior, budget=20.0, spent=10.0, rows=64, started=started) is RaceEnd.FUTILE
    needed = requirement(decision, posterior, rows=64)
    assert needed.seeds is None
    assert needed.chance < 0.5


def test_more_seeds_and_more_rows_make_a_decision_more_likely():
    _, posterior, decision = undecided()
    few = chance_of_settling(decision, posterior, 1, rows=512, new_rows=512)
    many = chance_of_settling(decision, posterior, 32, rows=512, new_rows=512)
    assert few <= many
    rows = Noise(rows=np.eye(7) * 0.01**2, seed_sd=0.006)
    noisy = Posterior(posterior.runs, AXIS, rows)
    unsure = decide(list(posterior.runs), AXIS, rows, margin=0.01, confidence=0.9)
    narrow = chance_of_settling(unsure, noisy, 16, rows=512, new_rows=512)
    assert narrow <= chance_of_settling(unsure, noisy, 16, rows=512, new_rows=20_000)


def test_what_more_rows_bring_is_counted_once():
    """A race under way: half the runs were scored on four times the rows. The forecast is that of equal rows."""
    runs = undecided()[1].runs
    counts = np.where(np.arange(len(runs)) % 2, 2048.0, 512.0)
    shared = np.sqrt(np.minimum.outer(counts, counts) / np.maximum.outer(counts, counts))
    scale = np.outer(1 / np.sqrt(counts), 1 / np.sqrt(counts))
    alike = 0.5 + 0.5 * np.eye(len(runs))
    mixed = Noise(rows=0.2 * scale * shared * alike, seed_sd=0.006, counts=counts)
    equal = Noise(rows=0.2 / 512 * alike, seed_sd=0.006)
    posterior, after = Posterior(runs, AXIS, equal), []
    for noise in (equal, mixed):
        posterior.noise = noise
        after.append(covariance_after(posterior, np.eye(3) * 1e-4, [0, 1, 2], 4, 512, 2048))
    assert after[0] == pytest.approx(after[1])


# -- folds -------------------------------------------------------------------------------------------------------------


def test_folds_of_one_setting_share_their_training_rows():
    rows = np.diag([0.04, 0.04, 0.09, 0.09]) ** 2
    rows[0, 1] = rows[1, 0] = 0.5 * 0.04 * 0.04
    rows[2, 3] = rows[3, 2] = 0.5 * 0.09 * 0.09
    shared = rows_across(rows, [0, 0, 1, 1], ["a", "b", "a", "c"], num_folds=4)
    assert np.diag(shared) == pytest.approx(np.diag(rows))
    assert shared[0, 1] == pytest.approx(rows[0, 1])
    assert shared[0, 2] == pytest.approx(0.04 * 0.09 / 4)  # one setting, two folds
    assert shared[1, 2] == pytest.approx(0.5 * 0.04 * 0.09 / 4)  # two settings, two folds
    seeds = seeds_across([0, 0, 1, 1], ["a", "b", "a", "c"], num_folds=4)
    assert seeds == pytest.approx(np.array([[1, 0, 0.25, 0], [0, 1, 0, 0], [0.25, 0, 1, 0], [0, 0, 0, 1]]))


def test_a_mean_over_folds_has_the_variance_of_nadeau_and_bengio():
    folds, settings = range(5), ["a"] * 5
    total = rows_across(np.eye(5) * 0.01, folds, settings, 5) + 0.02 * seeds_across(folds, settings, 5)
    weights = np.full(5, 0.2)
    # (1/k + held out / trained on) times the variance that independent runs show, which is 1 - 1/k of the whole
    expected = (1 / 5 + 1 / 4) * 0.03 * (1 - 1 / 5)
    assert weights @ total @ weights == pytest.approx(expected)


def test_estimates_that_do_not_fit_together_give_a_covariance_still():
    rows = np.full((6, 6), 0.98) + 0.02 * np.eye(6)
    rows[0, 1] = rows[1, 0] = 0.1
    found = rows_across(rows, [0, 0, 0, 1, 1, 1], ["a", "b", "c", "a", "b", "c"], num_folds=2)
    assert np.linalg.eigvalsh(found)[0] > -1e-12


def test_further_folds_settle_what_further_seeds_on_the_same_rows_cannot():
    rng = np.random.default_rng(0)
    hits = {level: rng.random(75) < 0.8 for level in range(7)}
    runs = [on_ridge(level, 0.8 - (0.1 if level == 6 else 0.0)) for level in range(7)]
    rows = covariance([of_mean(hits[level]) for level in range(7)])
    chances = []
    for num_folds in (1, 20):
        noise = Noise(rows=rows, seed_sd=0.002, num_folds=num_folds)
        decision = decide(runs, AXIS, noise, margin=0.03, confidence=0.9)
        posterior = Posterior(runs, AXIS, noise)
        chances.append(chance_of_settling(decision, posterior, 16, rows=75, new_rows=75))
    assert chances[1] > chances[0] + 0.2
