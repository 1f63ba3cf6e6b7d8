"""The decision of a sweep: how much to freeze, how sure that is, and what would settle it."""

from frostline.decision.acquisition import next_opening, next_setting, opening_levels, rates_of, scouts
from frostline.decision.decide import Decision, Level, LevelState, Standing, decide, representatives
from frostline.decision.forecast import Requirement, chance_of_settling, least_margin, requirement
from frostline.decision.posterior import Noise, Posterior, seed_prior, with_pending
from frostline.decision.race import RaceEnd, Replicate, next_replicate
from frostline.decision.runs import Axis, Ridge, Run, Setting

__all__ = [
    "Axis",
    "Decision",
    "Level",
    "LevelState",
    "Noise",
    "Posterior",
    "RaceEnd",
    "Replicate",
    "Requirement",
    "Ridge",
    "Run",
    "Setting",
    "Standing",
    "chance_of_settling",
    "decide",
    "least_margin",
    "next_opening",
    "next_replicate",
    "next_setting",
    "opening_levels",
    "rates_of",
    "representatives",
    "requirement",
    "scouts",
    "seed_prior",
    "with_pending",
]
