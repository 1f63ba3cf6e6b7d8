"""Whom the race gives its next seed: fresh seeds for the contenders until the question is settled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from frostline.decision.decide import Decision, Standing
from frostline.decision.forecast import chance_of_settling
from frostline.decision.posterior import Posterior
from frostline.decision.runs import Setting

_FUTILE = 0.1
"""A race is given up if even twice its budget would settle the question with less than this chance."""

_FIRST_ROUND = 2
"""Fresh seeds that every contender gets before anybody asks whether more are futile."""


class RaceEnd(StrEnum):
    """Why a race gives no further seed."""

    SETTLED = "settled"
    FUTILE = "futile"
    OUT_OF_BUDGET = "out of budget"


@dataclass(frozen=True, kw_only=True)
class Replicate:
    """A setting to be trained with one more seed.

    Attributes:
        setting: That was tried before.
        ordinal: Of its further seeds, counted from 0, failed ones too.
    """

    setting: Setting
    ordinal: int


def next_replicate(
    decision: Decision,
    posterior: Posterior,
    *,
    budget: float,
    spent: float,
    rows: int,
    started: Mapping[Setting, int],
    new_rows: int | None = None,
) -> Replicate | RaceEnd:
    """Returns who gets the next seed: the contender that was given fewest, the cheapest first.

    A contender whose seeds all fail or learn nothing is given no more of them than the first round has.

    Args:
        decision: As it stands.
        posterior: That it was made from.
        budget: That the race may spend in all, relative.
        spent: By replicates that ended or are under way.
        rows: Held-out rows that the search's runs were scored on.
        started: Further seeds of each setting that ended, in whatever way, or are under way.
        new_rows: That the race's runs are scored on; None: the same.
    """
    if decision.standing is Standing.SETTLED:
        return RaceEnd.SETTLED
    if not decision.is_comparable:
        return RaceEnd.FUTILE
    contenders = [level for level in decision.contenders if level.fresh or started.get(level.setting, 0) < _FIRST_ROUND]
    if not contenders:
        return RaceEnd.FUTILE
    chosen = min(contenders, key=lambda level: (started.get(level.setting, 0), level.cost))
    count = started.get(chosen.setting, 0)
    if spent + chosen.cost > budget * (1 + 1e-9):
        return RaceEnd.OUT_OF_BUDGET
    if count >= _FIRST_ROUND:
        seeds_left = max(1, int((2 * budget - spent) / sum(level.cost for level in contenders)))
        chance = chance_of_settling(decision, posterior, seeds_left, rows=rows, new_rows=new_rows or rows)
        if chance < _FUTILE:
            return RaceEnd.FUTILE
    return Replicate(setting=chosen.setting, ordinal=count)
