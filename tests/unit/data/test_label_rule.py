from dataclasses import replace

import datasets
import pytest

from frostline.config import compose_run
from frostline.data.raw_table import RawTable
from frostline.errors import DataError
from frostline.spec import TASKS, DatasetSpec


def spec(**changes) -> DatasetSpec:
    return replace(compose_run(["dataset=csv", "dataset.location=x.csv"]).dataset, **changes)


def label_rule(spec, unique, label_names, num_rows):
    values = [unique[index % len(unique)] for index in range(num_rows)] if unique else ["1"] * num_rows
    table = datasets.Dataset.from_dict({spec.label_column: values})
    names = tuple(label_names) if label_names else None
    return spec.task.make_rule(spec, RawTable(table=table, fingerprint="x", name="x.csv", label_names=names))


def test_texts_become_classes_in_sorted_order():
    rule = label_rule(spec(), ["spam", "ham", "eggs"], None, 100)
    assert rule.names == ("eggs", "ham", "spam")
    assert [rule("eggs"), rule("spam")] == [0, 2]


def test_given_names_fix_the_ids():
    rule = label_rule(spec(label_names=("neg", "pos")), ["pos", "neg"], None, 100)
    assert [rule("neg"), rule("pos")] == [0, 1]


def test_whole_numbers_become_classes_in_order_of_value_even_as_text():
    rule = label_rule(spec(), ["10", "2", "-1"], None, 100)
    assert rule.names == ("-1", "2", "10")
    assert rule("10") == 2


def test_numbers_are_ids_when_names_are_given():
    rule = label_rule(spec(label_names=("neg", "pos")), ["1", "0"], None, 100)
    assert rule("1") == 1
    assert rule.names == ("neg", "pos")


def test_one_and_one_trial_nought_are_one_class():
    rule = label_rule(spec(), ["1", "1.0", "0"], None, 100)
    assert rule.names == ("0", "1")
    assert rule("1.0") == rule("1") == 1


def test_a_tables_own_class_names_are_taken():
    assert label_rule(spec(), [0, 1], ["negative", "positive"], 100).names == ("negative", "positive")


def test_ratings_become_two_classes_and_the_undecided_are_dropped():
    rule = label_rule(spec(threshold=0.0, dead_zone=0.5, label_names=("neg", "pos")), [], None, 10)
    assert [rule("1.2"), rule("-3"), rule("0.49"), rule("-0.5"), rule("0.5")] == [1, 0, None, 0, 1]


def test_regression_keeps_the_number():
    assert label_rule(spec(task=TASKS.get("regression")), [], None, 10)("2.5") == 2.5


@pytest.mark.parametrize(
    ("changes", "unique", "message"),
    [
        ({"label_names": ("a", "b")}, ["a", "c"], r"label 'c'.* is none of a, b"),
        ({"label_names": ("negative", "positive")}, ["positive", "negativ"], r"did you mean 'negative'"),
        ({"label_names": ("a", "b")}, ["0", "7"], r"label 7 is out of range: 2 classes have the ids 0 to 1"),
        ({"label_names": ("a", "b")}, [0, -1], r"label -1 is out of range"),
        ({}, ["0.5", "1.25"], r"are fractions .*dataset.threshold.*dataset.task=regression"),
        ({}, [None, ""], r"all its values are missing"),
        ({}, [f"id{i}" for i in range(60)], r"60 different values in 100 rows are no classes"),
    ],
)
def test_labels_that_do_not_fit_get_one_line(changes, unique, message):
    with pytest.raises(DataError, match=message):
        label_rule(spec(**changes), unique, None, 100)


@pytest.mark.parametrize("value", [None, "", "many", "nan", "inf"])
def test_a_rating_that_is_no_number(value):
    rule = label_rule(spec(threshold=0.0, label_names=("neg", "pos")), [], None, 10)
    with pytest.raises(DataError, match="missing|not a finite number"):
        rule(value)


@pytest.mark.parametrize(
    ("unique", "names"),
    [
        (["007", "7", "08"], ("007", "08", "7")),
        (["9007199254740992", "9007199254740993"], ("9007199254740992", "9007199254740993")),
        (["1_0", "10"], ("10", "1_0")),
        ([1.0, 0.0], ("0", "1")),
        ([True, False], ("False", "True")),  # as CSV files have them
    ],
)
def test_labels_that_look_like_numbers_are_not_merged(unique, names):
    assert label_rule(spec(), unique, None, 100).names == names


@pytest.mark.parametrize("unique", [[0, 1], ["0", "1"]])
def test_a_number_that_is_a_given_name_is_that_name(unique):
    rule = label_rule(spec(label_names=("1", "0")), unique, None, 100)
    assert [rule(unique[0]), rule(unique[1])] == [1, 0]
