"""What differs between two records of a sweep."""

from __future__ import annotations

from frostline.config import compose_run
from frostline.sweeps.folder import differences
from frostline.sweeps.predictions import other_rows


def description(*overrides):
    return {"plan": {}, "space": {}, "base": dict(compose_run(overrides).flat()), "groups": {}}


def test_what_differs_between_two_descriptions_of_a_sweep_is_named():
    now = description()
    assert differences(now, now) == []
    changed = description("dataset.test_fraction=0.2", "training.sampling=random")
    assert differences(now, changed) == [
        "dataset.test_fraction: None -> 0.2", "training.sampling: group_by_length -> random",
    ]  # fmt: skip


def test_keys_of_a_swept_group_too():
    record = {"plan": {}, "space": {}, "base": {}, "groups": {"minilm.model.init": "pretrained"}}
    assert differences(record, record) == []
    other = {**record, "groups": {"minilm.model.init": "random"}}
    assert differences(record, other) == ["minilm.model.init: pretrained -> random"]


def test_which_rows_two_sweeps_are_judged_on():
    one = description()["base"]
    same = description("dataset.train_rows=100", "dataset.balance=weights", "optimizer.lr=1e-3", "model.num_blocks=6")
    assert other_rows(one, same["base"]) == []
    assert other_rows(one, description("dataset.eval_rows=100")["base"]) == ["dataset.eval_rows: None -> 100"]
