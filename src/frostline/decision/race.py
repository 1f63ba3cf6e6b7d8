"""Whom the race gives its next seed: fresh seeds for the contenders until the question is settled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from frostline.decision.decide import Decision, Standing, State, chance_of_settling
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
        ordinal: Of its fresh seeds, counted from 0, those under way included.
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
    new_rows: int | None = None,
    running: Sequence[Setting] = (),
) -> Replicate | RaceEnd:
    """Returns who gets the next seed: the contender with the fewest fresh ones, the cheapest first.

    Args:
        decision: As it stands.
        posterior: That it was made from.
        budget: That the race may spend in all, relative.
        spent: By replicates that ended or are under way.
        rows: Held-out rows that the search's runs were scored on.
        new_rows: That the race's runs are scored on; None: the same.
        running: Settings of replicates under way: they count as if they were there.
    """
    if decision.standing is Standing.SETTLED:
        return RaceEnd.SETTLED
    under_way = Counter(running)
    contenders = [level for level in decision.levels if level.state is not State.OUT and level.tried]
    chosen = min(contenders, key=lambda level: (level.fresh + under_way[level.setting], level.cost))
    count = chosen.fresh + under_way[chosen.setting]
    if spent + chosen.cost > budget * (1 + 1e-9):
        return RaceEnd.OUT_OF_BUDGET
    if count >= _FIRST_ROUND:
        seeds_left = max(1, int((2 * budget - spent) / sum(level.cost for level in contenders)))
        chance = chance_of_settling(decision, posterior, seeds_left, rows=rows, new_rows=new_rows or rows)
        if chance < _FUTILE:
            return RaceEnd.FUTILE
    return Replicate(setting=chosen.setting, ordinal=count)
