"""Test rows and other data sets in a run's description: what is refused, what is recorded."""

from __future__ import annotations

import json

import pytest

from frostline.config import compose_run, spec_from_text
from frostline.errors import SpecError


def test_names_become_whole_data_sets_so_that_a_recorded_run_needs_no_composition():
    spec = compose_run(["dataset.also_evaluate=[tweets,amazon]"])
    assert [other.short_name for other in spec.dataset.also_evaluate] == ["tweets", "amazon"]
    assert spec.dataset.also_evaluate[0].member.endswith("tweets_GroundTruth.txt")
    assert spec.flat()["dataset.also_evaluate"] == "tweets,amazon"
    assert spec_from_text(spec.to_json()) == spec
    assert spec.digest() != compose_run([]).digest()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset.also_evaluate=[twets]"], r"also_evaluate\[0\]=twets: no such dataset \(did you mean 'tweets'"),
        (["dataset.also_evaluate=[tweets,tweets]"], r"also_evaluate\[1\]=tweets: stands there more than once"),
        (["dataset.also_evaluate=[stsb]"], r"stsb: is a regression, movie_reviews a classification"),
        (["dataset.test_fraction=0"], r"dataset.test_fraction=0.0: must be between 0 and 1"),
        (["dataset.test_fraction=0.9"], r"leave no rows to train on"),
        (["dataset.test_fraction=0.1", "dataset.test_from=x"], r"either dataset.test_from or dataset.test_fraction"),
        (["dataset.test_at_end=true"], r"dataset.test_at_end: there are no test rows"),
        (["dataset.test_rows=5"], r"dataset.test_rows: there are no test rows"),
        (["dataset.label_separator=''"], r"dataset.label_separator='': must be a text, for example ';'"),
        (["model.init=random"], r"model.init=random: what is frozen would stay random; give freeze=none"),
    ],
)
def test_what_can_not_be_right_is_one_line(overrides, message):
    with pytest.raises(SpecError, match=message):
        compose_run(overrides)


def test_a_recorded_other_set_may_have_no_name_of_other_numbers():
    data = json.loads(compose_run(["dataset.also_evaluate=[tweets]"]).to_json())
    for name in ("eval", "test", "a/b"):
        data["dataset"]["also_evaluate"][0]["name"] = name
        with pytest.raises(SpecError, match="is no name to record numbers under"):
            spec_from_text(json.dumps(data))
