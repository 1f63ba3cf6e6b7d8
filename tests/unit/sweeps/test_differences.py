"""A sweep's record against the config of the command that resumes it: keys that came later change nothing."""

from __future__ import annotations

from frostline.sweeps.differences import differences

PARTS = {"plan": {"n_trials": 4}, "space": {}, "base": {"training.epochs": 3}}


def test_a_key_that_came_later_is_no_difference_where_it_changes_nothing():
    before = {**PARTS, "groups": {"minilm": {"model.name": "minilm"}, "mine": {"model.name": "mine"}}}
    now = {
        **PARTS, "base": {"training.epochs": 3, "training.packing": False, "dataset.augment": "none"},
        "groups": {
            "minilm": {"model.name": "minilm", "model.quantize": None},
            "mine": {"model.name": "mine", "model.quantize": "int8"},
        },
    }  # fmt: skip
    assert differences(before, now) == ["mine.model.quantize: None -> int8"]
    changed = {**now, "base": {**now["base"], "training.packing": True}}
    assert differences(before, changed)[0] == "training.packing: None -> True"
