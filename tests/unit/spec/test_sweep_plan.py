"""Bad values of a sweep's plan."""

from __future__ import annotations

import pytest

from frostline.errors import SpecError
from tests.unit.search.fake_search import make_plan


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sampler": "tpee"}, r"sweep\.sampler=tpee: no such choice \(did you mean 'tpe'\?\)"),
        ({"pruner": {"name": "medain"}}, r"sweep\.pruner\.name=medain.*median"),
        ({"n_trials": None}, "n_trials is null"),
        ({"n_trials": 0}, "1 or more"),
        ({"seeds": [0, 0]}, "without repetitions"),
        ({"seeds": []}, "a list of seeds"),
        ({"promote_fraction": 0.0}, "above 0"),
        ({"cost": "money"}, r"sweep\.cost=money"),
        ({"cost": "train_s"}, "give sweep.promote_fraction=1"),
        ({"sampler": "gp"}, "learns from finished trials only"),
        ({"sampler": "cmaes", "cost": "flops", "promote_fraction": 1.0}, "one objective only"),
        ({"name": "a/b"}, r"sweep\.name"),
        ({"timeout_s": -1.0}, "seconds above 0"),
    ],
)
def test_a_bad_plan_is_one_line(changes, words):
    with pytest.raises(SpecError, match=words):
        make_plan(**changes)
