"""A sweep's record of earlier versions: keys that came later say what was done before them."""

from __future__ import annotations

from frostline.cli.sweeping.evidence import other_rows
from frostline.cli.sweeping.folder import differences
from frostline.config import compose_run
from frostline.spec import came_later


def description(*overrides):
    return {"plan": {}, "space": {}, "base": dict(compose_run(overrides).flat()), "groups": {}}


def older(now):
    """What a frostline of schema 5 would have recorded of it."""
    later = {key for key in came_later() if not key.startswith("training.")}
    return {**now, "base": {key: value for key, value in now["base"].items() if key not in later}}


def test_a_sweep_that_was_begun_before_a_key_was_there_goes_on():
    now = description()
    assert len(came_later()) > 15
    assert differences(older(now), now) == []
    changed = description("dataset.test_fraction=0.2", "training.sampling=random")
    assert differences(older(now), changed) == [
        "dataset.test_fraction: None -> 0.2", "training.sampling: group_by_length -> random",
    ]  # fmt: skip
    schema_2 = {**now, "base": {key: value for key, value in now["base"].items() if key not in came_later()}}
    assert differences(schema_2, changed) == [
        "dataset.test_fraction: None -> 0.2", "training.last_block: whole -> read_position",
    ]  # fmt: skip
    assert differences(older(description("optimizer.lr=1e-3")), now) == ["optimizer.lr: 0.001 -> 0.0001"]


def test_keys_of_a_swept_group_too():
    record = {"plan": {}, "space": {}, "base": {}, "groups": {"minilm.model.name": "minilm"}}
    now = {**record, "groups": {"minilm.model.name": "minilm", "minilm.model.init": "pretrained"}}
    assert differences(record, now) == []
    other = {**record, "groups": {"minilm.model.name": "minilm", "minilm.model.init": "random"}}
    assert differences(record, other) == ["minilm.model.init: pretrained -> random"]


def test_which_rows_two_sweeps_are_judged_on():
    one = description()["base"]
    same = description("dataset.train_rows=100", "dataset.balance=weights", "optimizer.lr=1e-3", "model.num_blocks=6")
    assert other_rows(one, same["base"]) == []
    assert other_rows(older(description())["base"], one) == []
    assert other_rows(one, description("dataset.eval_rows=100")["base"]) == ["dataset.eval_rows: None -> 100"]
