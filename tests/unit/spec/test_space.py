"""Search spaces: bounds that include their ends, choices, grids, and what is wrong with them, in one line."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.errors import SpecError
from frostline.spec import Dimension, Space, flat_entries, parse_dimension


def dimension(key, **entry):
    return parse_dimension(key, entry)[0]


def space(**dimensions):
    return Space(groups=(), variants={(): tuple(dimensions.values())})


def test_dotted_and_nested_keys_mean_the_same():
    nested = {"optimizer": {"lr": {"low": 1e-5, "high": 1e-3}}, "freeze": {"depth": [0, 1]}}
    dotted = {"optimizer.lr": {"low": 1e-5, "high": 1e-3}, "freeze.depth": [0, 1]}
    assert flat_entries(nested) == flat_entries(dotted) == dotted


def test_null_takes_a_key_out():
    assert flat_entries({"optimizer": {"lr": None}, "seed": [1]}) == {"seed": [1]}


def test_numbers_without_a_dot_make_whole_numbers_up_to_the_last():
    depth = dimension("freeze.depth", low=0, high=6)
    assert depth.whole
    assert depth.values() == (0, 1, 2, 3, 4, 5, 6)
    assert depth.values(4) == (0, 2, 4, 6)
    assert all(type(value) is int for value in depth.values())
    assert not dimension("training.epochs", low=1.0, high=3).whole


def test_steps_reach_the_upper_bound():
    assert dimension("optimizer.weight_decay", low=0.0, high=0.3, step=0.1).values() == pytest.approx(
        (0, 0.1, 0.2, 0.3)
    )
    assert dimension("training.batch_size", low=8, high=32, step=8).values() == (8, 16, 24, 32)


def test_the_coarse_grid_of_a_logarithmic_range_lies_inside_of_it():
    values = dimension("optimizer.lr", low=1e-5, high=1e-2, log=True).values()
    assert len(values) == 3
    ratios = [later / earlier for earlier, later in itertools.pairwise(values)]
    assert ratios == pytest.approx([10, 10], rel=0.01)
    assert values[0] > 1e-5
    assert values[-1] < 1e-2


def test_computed_values_lie_on_the_steps_and_inside_of_the_range():
    stepped = dimension("optimizer.weight_decay", low=0.0, high=0.3, step=0.1)
    assert stepped.values() == (0.0, 0.1, 0.2, 0.3)  # not 0.30000000000000004, which Optuna refuses
    narrow = dimension("optimizer.lr", low=2.5004e-5, high=2.5049e-5, log=True)
    assert len(set(narrow.values())) == 3
    for value in (*stepped.values(), *narrow.values()):
        (stepped if value < 1e-6 or value > 1e-3 else narrow).check(value)


def test_a_logarithmic_range_of_whole_numbers_is_spread_on_its_scale():
    assert dimension("training.batch_size", low=8, high=128, log=True).values(3) == (8, 32, 128)


def test_a_trial_off_the_steps_is_refused():
    with pytest.raises(SpecError, match="in steps of 2"):
        dimension("freeze.depth", low=0, high=6, step=2).check(3)


def test_choices_that_differ_from_model_to_model_are_refused():
    model = dimension("model", choices=["a", "b"])
    depths = {
        ("a",): (dimension("freeze.depth", choices=[0, 4]),),
        ("b",): (dimension("freeze.depth", choices=[0, 6]),),
    }
    with pytest.raises(SpecError, match="give a range"):
        Space(groups=(model,), variants=depths)


def test_a_choice_given_twice_is_tried_once_with_a_notice():
    found, notices = parse_dimension("freeze.depth", {"choices": [0, 3, 0]})
    assert found.choices == (0, 3)
    assert notices == ["sweep.space.freeze.depth: 0 stands there more than once and is tried once"]


def test_true_and_one_are_two_choices():
    assert parse_dimension("training.x", {"choices": [1, True, 1.0]})[0].choices == (1, True, 1.0)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"low": 1}, "needs low and high"),
        ({"low": 3, "high": 1}, "low=3 is above high=1"),
        ({"low": 0, "high": 1, "log": True}, "must be above 0 with log"),
        ({"low": 1, "high": 2, "log": True, "step": 1}, "either log or step"),
        ({"low": 1, "high": 2, "step": -1}, "must be above 0"),
        ({"low": "a", "high": 2}, "expected a number"),
        ({"low": 1, "high": math.inf}, "finite"),
        ({"choices": []}, "holds no values"),
        ({"choices": "abc"}, "expected a list"),
        ({"choices": [1], "low": 2}, "exclude each other"),
        ({"low": 1, "high": 2, "lgo": True}, "unknown key"),
        ({"low": 1, "high": 2, "coarse": 0}, "1 or more"),
        ({"choices": [[1, 2]]}, "is not a single value"),
        (7, "give {low"),
    ],
)
def test_a_bad_entry_is_one_line_that_names_the_key(entry, words):
    with pytest.raises(SpecError, match=words) as error:
        parse_dimension("optimizer.lr", entry)
    assert str(error.value).startswith("sweep.space.optimizer.lr")


def test_an_empty_space_is_refused():
    with pytest.raises(SpecError, match=r"sweep\.space is empty"):
        Space(groups=(), variants={(): ()})


def test_bounds_follow_the_group():
    model = Dimension(key="model", choices=("small", "large"))
    depths = {name: (dimension("freeze.depth", low=0, high=high),) for name, high in (("small", 1), ("large", 3))}
    both = Space(groups=(model,), variants={(name,): dims for name, dims in depths.items()})
    trials = list(both.grid(coarse=False))
    assert len(trials) == 2 + 4
    assert {"model": "large", "freeze.depth": 3} in trials
    assert {"model": "small", "freeze.depth": 3} not in trials
    with pytest.raises(SpecError, match="outside of the space"):
        both.check({"model": "small", "freeze.depth": 3})
    assert Space.from_description(both.describe()).describe() == both.describe()


@pytest.mark.parametrize(
    ("trial", "words"),
    [
        ({"optimizer.lr": 1e-4}, "freeze.depth is missing"),
        ({"optimizer.lr": 1e-4, "freeze.depth": 9}, "outside"),
        ({"optimizer.lr": 1e-4, "freeze.depth": 1.5}, "outside"),
        ({"optimizer.lr": 1e-4, "freeze.depth": 1, "seed": 1}, "seed is not in sweep.space"),
    ],
)
def test_a_trial_outside_of_the_space_is_refused(trial, words):
    both = space(a=dimension("optimizer.lr", low=1e-5, high=1e-3, log=True), b=dimension("freeze.depth", low=0, high=4))
    with pytest.raises(SpecError, match=words):
        both.check(trial)


@given(low=st.integers(-20, 20), width=st.integers(0, 30), limit=st.integers(1, 9))
def test_a_thinned_grid_is_part_of_the_whole_one_with_its_ends(low, width, limit):
    dim = Dimension(key="freeze.depth", low=low, high=low + width, whole=True)
    every, thin = dim.values(), dim.values(limit)
    assert set(thin) <= set(every)
    assert len(set(thin)) == len(thin) == min(limit, width + 1)
    if limit > 1:
        assert (thin[0], thin[-1]) == (every[0], every[-1])
