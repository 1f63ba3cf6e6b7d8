"""A sweep's record -> the questions that it asks, one for each choice of model; who answers them; who runs the race."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from frostline.advisor import Advisor, Question
from frostline.decision import RaceEnd
from frostline.errors import SpecError
from frostline.records.predictions import EvidenceOf
from frostline.records.trial import TrialRecord
from frostline.spec import ROWS_KEY, Dimension, Direction, FreezeMethod, Params, Space, Value
from frostline.spec.decode import decode


def questions_of(description: Mapping[str, Any]) -> dict[tuple[Value, ...], Question]:
    """Returns the questions of a sweep by the config groups that they choose.

    Args:
        description: As `describe` makes it and `sweep.json` keeps it.
    """
    space = Space.from_description(description["space"])
    axis, cost = description["plan"].get("axis"), description["plan"]["cost"]
    if (group := group_of_axis(space, axis)) is not None:
        [dimensions] = set(space.variants.values())
        return {(): _question(description, {}, (group, *dimensions), cost is None)}
    raced = is_raced(space, cost=cost, axis=axis)
    return {
        chosen: _question(description, description["groups"].get(",".join(map(str, chosen)), {}), dimensions, raced)
        for chosen, dimensions in space.variants.items()
    }


def group_of_axis(space: Space, axis: str | None) -> Dimension | None:
    """Returns the config group that is the axis of cost; None if it is none."""
    return next((group for group in space.groups if group.key == axis), None)


def is_raced(space: Space, *, cost: str | None, axis: str | None) -> bool:
    """Returns whether a race can follow the search: of one question, with one objective.

    Args:
        space: Of the sweep.
        cost: Its second objective.
        axis: The key that is to be cheap, if it is named.
    """
    keys = {each.key for dimensions in space.variants.values() for each in dimensions}
    return len(space.variants) == 1 and (ROWS_KEY not in keys or axis == ROWS_KEY) and cost is None


def _question(
    description: Mapping[str, Any], own: Mapping[str, Any], dimensions: tuple[Dimension, ...], raced: bool
) -> Question:
    settings = {**description["base"], **own}
    answer, axis = description["answer"], description["plan"].get("axis")
    blocks = description["num_blocks"] or settings.get("model.num_blocks")
    question = Question(
        dimensions=tuple(each for each in dimensions if each.key != ROWS_KEY or axis == ROWS_KEY),
        metric=description["objective"],
        maximize=description["direction"] == Direction.MAXIMIZE.value,
        margin=answer["margin"],
        confidence=answer["confidence"],
        num_blocks=blocks,
        optimizer=str(settings.get("optimizer.name")),
        freeze=str(settings.get("freeze.name")),
        seeds=tuple(description["plan"]["seeds"] or (settings["seed"],)),
        num_folds=description["plan"]["folds"] or 1,
        settle_rows=answer.get("settle_rows"),
        chosen_axis=axis,
        sizes=description.get("sizes", {}),
        fixed_position=_fixed_position(settings, blocks),
    )
    return replace(question, is_raced=raced and question.axis_key is not None)


def _fixed_position(settings: Mapping[str, Any], blocks: int | None) -> float:
    """Returns the share of the blocks that all runs freeze; 0 where it is swept, or is no depth.

    Args:
        settings: Of the runs, but those that are swept.
        blocks: Of the model.
    """
    group = {key.partition(".")[2]: value for key, value in settings.items() if key.startswith("freeze.")}
    try:
        method, own = FreezeMethod.decode_as(group, "freeze")
        return decode(method, own, "freeze").frozen_share(blocks)
    except SpecError:  # one of its keys is swept
        return 0.0


def advisors_of(description: Mapping[str, Any], find: EvidenceOf) -> dict[str | None, Advisor]:
    """Returns who answers a sweep's questions, by the group of the trials that each is about (`Trial.group`).

    Args:
        description: Of the sweep.
        find: What is known of a trial on a set of rows.
    """
    space = Space.from_description(description["space"])
    names = [group.key for group in space.groups]
    advisors: dict[str | None, Advisor] = {}
    for chosen, question in questions_of(description).items():
        if question.sizes:
            return {None: Advisor(question=question, find=find)}
        swept = () if question.axis_key == ROWS_KEY else space.variants[chosen]
        rows = next((each for each in swept if each.key == ROWS_KEY), None)
        for number in rows.values() if rows is not None else (None,):
            params: Params = dict(zip(names, chosen, strict=True))
            if number is not None:
                params[ROWS_KEY] = number
            group = TrialRecord.group_of(params)
            advisors[group] = Advisor(question=question, find=find)
    return advisors


def the_advisor(advisors: Mapping[str | None, Advisor]) -> Advisor | None:
    """Returns the advisor of a sweep that asks one question; None of several models or sizes."""
    return next(iter(advisors.values())) if len(advisors) == 1 else None


class SeedRace:
    """Gives further seeds to the trials that the answer depends on.

    Args:
        advisor: Of the sweep.
        settle: The budget, in units of the search's own cost.
        seeds: Of the search's runs.
    """

    def __init__(self, advisor: Advisor, settle: float, seeds: Sequence[int]) -> None:
        self._advisor = advisor
        self._settle = settle
        self._seeds = tuple(seeds)

    def next(
        self, trials: Sequence[TrialRecord], running: Sequence[tuple[int, int | None]]
    ) -> tuple[TrialRecord, int] | RaceEnd:
        """See `Race`."""
        numbers = [number for number, _ in running]
        replicate = self._advisor.next_replicate(trials, numbers, settle=self._settle)
        if isinstance(replicate, RaceEnd):
            return replicate
        trial, _ = replicate
        taken = {*self._seeds, *trial.replicates, *(seed for number, seed in running if number == trial.number)}
        seed = self._seeds[0]
        while seed in taken:  # the same numbers for every trial: their runs are compared in pairs
            seed += 1
        return trial, seed
