import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frostline.data.split import deal, order, row_key, seeded, split
from frostline.spec.task import Strata


def keys_of(texts):
    return np.array([row_key(text, None) for text in texts], dtype=np.uint64)


def test_keys_are_the_same_on_any_machine():
    assert row_key("hello", None) == 6042553977968695870
    assert len({row_key("a", None), row_key("a", ""), row_key("a", "b"), row_key("ab", None)}) == 4


@settings(max_examples=50, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=8, max_size=300),
    seed=st.integers(0, 1000),
    fraction=st.floats(0.1, 0.9),
)
def test_a_split_is_whole_disjoint_and_stratified(labels, seed, fraction):
    values = np.array(labels, dtype=float)
    keys = keys_of([f"row {i}" for i in range(len(labels))])
    train, held_out, _ = split(keys, values, strata=Strata.CLASSES, fraction=fraction, seed=seed)
    assert sorted([*train, *held_out]) == list(range(len(labels)))
    for value in np.unique(values):
        total, held = int((values == value).sum()), int((values[held_out] == value).sum())
        assert held == round(fraction * total)


@settings(max_examples=50, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=200),
    seed=st.integers(0, 1000),
    folds=st.integers(2, 7),
)
def test_folds_are_stratified_and_do_not_depend_on_the_order(labels, seed, folds):
    values = np.array(labels, dtype=float)
    keys = keys_of([f"row {i}" for i in range(len(labels))])
    dealt = deal(keys, values, strata=Strata.CLASSES, folds=folds, seed=seed)
    for value in np.unique(values):
        counts = np.bincount(dealt[values == value], minlength=folds)
        assert counts.max() - counts.min() <= 1
    sizes = np.bincount(dealt, minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    shuffle = np.random.default_rng(seed).permutation(len(labels))
    again = deal(keys[shuffle], values[shuffle], strata=Strata.CLASSES, folds=folds, seed=seed)
    assert (again == dealt[shuffle]).all()


def test_equal_texts_lie_in_one_fold_whatever_their_labels():
    texts = [f"text {i // 3}" for i in range(90)]
    labels = (np.arange(90) % 2).astype(float)
    dealt = deal(keys_of(texts), labels, strata=Strata.CLASSES, folds=5, seed=1)
    assert all(len(set(dealt[3 * i : 3 * i + 3])) == 1 for i in range(30))
    sizes = np.bincount(dealt)
    assert sizes.max() - sizes.min() <= 6


def test_folds_of_numbers_have_small_and_large_ones():
    labels = np.arange(100) / 10
    dealt = deal(keys_of([f"row {i}" for i in range(100)]), labels, strata=Strata.TENTHS, folds=5, seed=0)
    means = [labels[dealt == fold].mean() for fold in range(5)]
    assert max(means) - min(means) < 0.5


def test_shuffling_the_file_changes_nothing():
    texts = [f"text {i}" for i in range(400)]
    labels = np.arange(400) % 3
    keys = keys_of(texts)
    shuffle = np.random.default_rng(0).permutation(400)

    def result(k, y, names):
        train, held, _ = split(k, y.astype(float), strata=Strata.CLASSES, fraction=0.2, seed=5)
        return [names[i] for i in order(train, k, y, 5)], [names[i] for i in order(held, k, y, 5)]

    assert result(keys, labels, texts) == result(keys[shuffle], labels[shuffle], [texts[i] for i in shuffle])


def test_equal_texts_of_a_class_stay_on_one_side():
    texts = [f"text {i // 4}" for i in range(400)]  # each four times
    labels = np.zeros(400)
    keys = keys_of(texts)
    for seed in range(5):
        train, held_out, _ = split(keys, labels, strata=Strata.CLASSES, fraction=0.3, seed=seed)
        assert not {texts[i] for i in train} & {texts[i] for i in held_out}
        assert 100 <= len(held_out) <= 140


def test_another_seed_another_split_and_another_order():
    keys, labels = keys_of([f"t{i}" for i in range(200)]), np.zeros(200)
    one, two = (set(split(keys, labels, strata=Strata.CLASSES, fraction=0.5, seed=s)[1]) for s in (0, 1))
    assert 30 < len(one & two) < 70  # independent halves share a quarter
    everything = np.arange(200)
    assert list(order(everything, keys, labels, 0)) != list(order(everything, keys, labels, 1))


def test_the_order_says_nothing_of_the_split():
    # The held-out rows have the smallest splitting hashes; were the order the same hash, train_rows=N would take the
    # rows next to the cut.
    keys = keys_of([f"t{i}" for i in range(2000)])
    ranks = np.argsort(np.argsort(seeded(keys, 0, purpose=0)))
    others = np.argsort(np.argsort(seeded(keys, 0, purpose=1)))
    assert abs(np.corrcoef(ranks, others)[0, 1]) < 0.1


def test_regression_is_stratified_over_the_range():
    values = np.random.default_rng(0).normal(size=1000)
    keys = keys_of([f"t{i}" for i in range(1000)])
    _, held_out, _ = split(keys, values, strata=Strata.TENTHS, fraction=0.2, seed=0)
    assert len(held_out) == 200
    assert abs(values[held_out].mean() - values.mean()) < 0.1
    assert abs(values[held_out].std() - values.std()) < 0.1


def test_shuffling_changes_nothing_for_regression_with_ties():
    texts = [f"text {i}" for i in range(300)]
    values, keys = np.array([i % 4 for i in range(300)], dtype=float), keys_of([f"text {i}" for i in range(300)])
    shuffle = np.random.default_rng(1).permutation(300)
    one = split(keys, values, strata=Strata.TENTHS, fraction=0.2, seed=0)[1]
    two = split(keys[shuffle], values[shuffle], strata=Strata.TENTHS, fraction=0.2, seed=0)[1]
    assert {texts[i] for i in one} == {texts[shuffle[i]] for i in two}


def test_equal_texts_of_one_rating_stay_on_one_side():
    texts = [f"text {i // 3}" for i in range(300)]
    values = np.array([(i // 3) % 5 for i in range(300)], dtype=float)
    train, held_out, _ = split(keys_of(texts), values, strata=Strata.TENTHS, fraction=0.3, seed=0)
    assert not {texts[i] for i in train} & {texts[i] for i in held_out}


def test_a_class_of_one_text_is_trained_on_not_only_evaluated():
    keys, labels = keys_of(["same"] * 20 + [f"t{i}" for i in range(60)]), np.array([1.0] * 20 + [0.0] * 60)
    train, _, _ = split(keys, labels, strata=Strata.CLASSES, fraction=0.2, seed=0)
    assert (labels[train] == 1).sum() == 20


@pytest.mark.parametrize("regression", [False, True])
def test_test_rows_are_taken_from_the_training_rows_and_leave_the_evaluation_rows_alone(regression):
    texts = [f"text {index // 2}" for index in range(400)]  # each twice
    keys = keys_of(texts)
    labels = np.array([(index // 2) % 7 if regression else (index // 2) % 3 == 0 for index in range(400)], dtype=float)
    train, held_out, none = split(
        keys, labels, strata=Strata.TENTHS if regression else Strata.CLASSES, fraction=0.2, seed=3
    )
    assert not len(none)
    fewer, same, aside = split(
        keys, labels, strata=Strata.TENTHS if regression else Strata.CLASSES, fraction=0.2, seed=3, test_fraction=0.25
    )
    assert same.tolist() == held_out.tolist()
    assert sorted([*fewer, *aside]) == train.tolist()
    assert len(aside) == pytest.approx(100, abs=12)
    assert not {texts[row] for row in aside} & {texts[row] for row in fewer}
    assert labels[fewer].mean() == pytest.approx(labels[aside].mean(), abs=0.3 if regression else 0.02)
