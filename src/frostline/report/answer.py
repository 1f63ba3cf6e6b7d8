"""Trials of a sweep -> what it answers: a row for each level of the axis of cost, and the level to take."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from frostline.advisor import NOTHING_FROZEN, Advisor, Fitted, Question, importances
from frostline.decision import Decision, Level, LevelState, Requirement, Setting, Standing
from frostline.records.predictions import EvidenceOf, known
from frostline.records.trial import TrialRecord, TrialState, ranked
from frostline.report.pareto import in_range
from frostline.report.transfer import Baseline, Transfer, transfer_of
from frostline.spec import DEPTH_KEY


@dataclass(frozen=True, kw_only=True)
class LevelRow:
    """A level of the axis of cost (a frozen depth, a LoRA rank) of one combination of swept groups and training rows.

    Attributes:
        level: Its value.
        group: The swept config groups and number of rows, if any: levels of two groups don't compare.
        trial: The trial that the level is judged by; None if the level was not tried to its end.
        mean: Posterior mean of the metric.
        low: Lower end of its 95 % interval.
        high: Upper end.
        most_loss: By how much it is worse than the best setting, at most, with 95 % probability; None: one level was
            tried, which tells nothing of the others.
        p_within: Probability that it is within the margin of the best level; None: likewise.
        state: What is known of it.
        seeds: Of the trial.
        num_trials: Trials at this level, those stopped early included.
        collapsed: Runs at this level that learnt nothing.
        operations: Of training, as recorded, relative to those of the most expensive level; None: unknown.
        seconds: Of training: the median over the runs at this level with the same further keys; None: unknown.
    """

    level: float
    group: str | None
    trial: TrialRecord | None
    mean: float
    low: float
    high: float
    most_loss: float | None
    p_within: float | None
    state: LevelState
    seeds: int
    num_trials: int
    collapsed: int
    operations: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class GroupAnswer:
    """The decision of one combination of swept groups and training rows.

    Attributes:
        group: Its name; None if there is one only.
        decision: Of its trials.
        fitted: What that was made from.
        rows: A row for each level; empty if no axis of cost was swept.
        recommended: The trial to take.
        recommended_row: Its row; None without an axis.
        requirement: What it would take to settle the question; None if it is settled.
        importances: The share of the expected quality's variation that each key explains (`advisor.importances`).
        search_cost: Of the search's runs, relative: the unit of `sweep.settle`.
        is_raced: Whether the sweep can give further seeds.
        failed_seeds: Of those, how many failed, by level.
    """

    group: str | None
    decision: Decision
    fitted: Fitted
    rows: tuple[LevelRow, ...]
    recommended: TrialRecord
    recommended_row: LevelRow | None
    requirement: Requirement | None
    importances: Mapping[str, float] = field(default_factory=dict)
    search_cost: float = 0.0
    is_raced: bool = True
    failed_seeds: Mapping[float, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a sweep says.

    Attributes:
        metric: The objective's name.
        maximize: Whether more of it is better.
        axis_key: The key that trades quality for cost; None if none was swept.
        num_blocks: Of the model, if it is known.
        best: The finished trial with the best value as it was measured, or None.
        groups: A decision for each combination of swept config groups and numbers of training rows.
        main: The one with the best level; None if nothing can be decided.
        learnt: Whether anything beats a constant prediction, with 95 % probability: else that is not known, or none
            does. None where no constant prediction is known.
        num_collapsed: Runs that learnt nothing, of models and sizes of which no run learnt anything.
        seconds_per_cost: What a unit of relative cost took here; None if unknown.
        transfer: The rows' results on other rows than those that they were chosen by.
        filled_s: Seconds to compute hidden states for the prefix cache.
        saved_s: Seconds of forward passes through frozen blocks that it saved.
        num_cached: Trials that used it.
        num_trials: Trials that have an outcome of their own; duplicates and the baseline left out.
        baseline_failed: Why there is no row of full fine-tuning though one was asked for; None: there is, or it wasn't.
        level_names: Of an axis that is a config group (`model`), by level; nothing of an axis of numbers.
    """

    metric: str
    maximize: bool
    axis_key: str | None
    num_blocks: int | None
    best: TrialRecord | None
    groups: tuple[GroupAnswer, ...]
    main: GroupAnswer | None
    learnt: bool | None
    num_collapsed: int
    seconds_per_cost: float | None
    transfer: Transfer = field(default_factory=Transfer)
    filled_s: float = 0.0
    saved_s: float = 0.0
    num_cached: int = 0
    num_trials: int = 0
    baseline_failed: str | None = None
    level_names: tuple[str, ...] = ()

    def level_name(self, level: float) -> str:
        """Returns a level of the axis of cost in a table: `3`; `none` where nothing is frozen; a model's name."""
        if self.level_names:
            return self.level_names[round(level)]
        return "none" if level == NOTHING_FROZEN else f"{level:g}"

    @property
    def rows(self) -> list[LevelRow]:
        """The rows of all groups."""
        return [row for each in self.groups for row in each.rows]

    @property
    def recommended(self) -> TrialRecord | None:
        """The trial to take: the best guess where nothing is settled; the best one where nothing can be decided."""
        return self.main.recommended if self.main is not None else self.best

    @property
    def settle_needed(self) -> int | None:
        """What `sweep.settle` would probably settle the question; None if it is settled, or further seeds can't."""
        main = self.main
        if main is None or not main.is_raced or main.requirement is None or main.requirement.seeds is None:
            return None
        axis, trials = main.fitted.axis, main.fitted.trials
        spent = sum(axis.cost(setting.level) * len(trial.replicates) for setting, trial in trials.items())
        needed = spent * main.fitted.race_cost + main.requirement.cost
        return math.ceil(needed / main.search_cost) if main.search_cost else None

    @property
    def standing(self) -> Standing | None:
        """How far the question is answered; None without an axis of cost, or if nothing can be decided."""
        return self.main.decision.standing if self.main is not None and self.main.rows else None


def answer_of(
    trials: Sequence[TrialRecord],
    metric: str,
    advisors: Mapping[str | None, Advisor],
    *,
    maximize: bool,
    num_blocks: int | None,
    evidence: EvidenceOf | None = None,
    baselines: Sequence[Baseline] = (),
) -> Answer:
    """Returns what a sweep says.

    Args:
        trials: All of the study.
        metric: The objective's name.
        advisors: Who answers the question of each group of trials (`TrialRecord.group`).
        maximize: Whether more of the objective is better.
        num_blocks: Of the model, if there is one model and it is known.
        evidence: A trial's quality on a set of rows, row by row where that is at hand; None: what the trials know.
        baselines: Trials of elsewhere to compare each row with.
    """
    find = evidence or known
    groups, num_collapsed = [], 0
    for name, advisor in advisors.items():
        own = [trial for trial in trials if trial.group(advisor.question.axis_key) == name]
        group = _group(name, advisor, own)
        if group is not None:
            groups.append(group)
        else:
            num_collapsed += sum(run.collapsed for run in advisor.fit(own).runs)
    finished = ranked(trials, maximize)
    main = max(groups, key=lambda each: each.decision.best.mean, default=None)
    key = next((advisor.question.axis_key for advisor in advisors.values()), None)
    cached = [p.outcome for p in trials if p.copy_of is None and p.outcome and "saved_s" in p.outcome.cost]
    return Answer(
        metric=metric, maximize=maximize, axis_key=key, num_blocks=num_blocks,
        best=finished[0] if finished else None, groups=tuple(groups), main=main,
        learnt=False if main is None and num_collapsed else _learnt(main, maximize), num_collapsed=num_collapsed,
        seconds_per_cost=_seconds_per_cost(main),
        transfer=transfer_of(
            _by_depth(finished, main if key == DEPTH_KEY else None), baselines, find, metric, maximize=maximize,
            num_blocks=num_blocks, seed_sd=main.decision.seed_sd if main is not None else None,
        ),
        filled_s=sum(outcome.cost.get("fill_s", 0.0) for outcome in cached),
        saved_s=sum(outcome.cost["saved_s"] for outcome in cached), num_cached=len(cached),
        num_trials=sum(p.outcome is not None and p.copy_of is None and not p.is_baseline for p in trials),
        baseline_failed=_why_no_baseline(trials),
        level_names=next((advisor.question.level_names for advisor in advisors.values()), ()),
    )  # fmt: skip


def _why_no_baseline(trials: Sequence[TrialRecord]) -> str | None:
    failed = [trial for trial in trials if trial.is_baseline and trial.state is TrialState.FAILED]
    return failed[0].reason or "unknown" if failed else None


def _by_depth(finished: Sequence[TrialRecord], main: GroupAnswer | None) -> list[tuple[int, TrialRecord]]:
    """Returns a trial for each frozen depth, to be compared on other rows: the one that the answer judges it by.

    A depth whose runs learnt nothing has its best trial: its result on other rows is worth knowing, too.

    Args:
        finished: The best first.
        main: The decision over depths, if there is one.
    """
    group = main.group if main is not None else finished[0].group() if finished else None
    judged = {row.level: row.trial for row in (main.rows if main is not None else ()) if row.trial is not None}
    best: dict[int, TrialRecord] = {}
    for trial in finished:
        if trial.group() == group and trial.depth is not None:
            best.setdefault(trial.depth, judged.get(trial.depth, trial))
    return sorted(best.items())


def _group(name: str | None, advisor: Advisor, trials: Sequence[TrialRecord]) -> GroupAnswer | None:
    answer = advisor.decide(trials)
    if answer is None:
        return None
    decision, fitted = answer
    rows: tuple[LevelRow, ...] = ()
    if advisor.question.axis_key is not None:
        tried = [advisor.question.setting(trial.params) for trial in trials if trial.outcome is not None]
        levels = [setting.level for setting in tried if setting is not None]
        counts = [levels.count(level.level) for level in decision.levels]
        each = zip(decision.levels, counts, strict=True)
        rows = tuple(_row(level, name, fitted, count, advisor.question) for level, count in each)
        if not decision.is_comparable:
            rows = tuple(replace(row, most_loss=None, p_within=None) for row in rows)
        rows = _with_prices(rows, advisor, trials)
    chosen = decision.levels.index(decision.recommended)
    return GroupAnswer(
        group=name, decision=decision, fitted=fitted, rows=rows,
        recommended=fitted.trials[decision.recommended.setting],
        recommended_row=rows[chosen] if rows else None,
        requirement=advisor.requirement(decision, fitted) if rows else None,
        importances=importances(advisor.question, fitted),
        search_cost=advisor.search_cost(trials), is_raced=advisor.question.is_raced,
        failed_seeds=_failed_seeds(fitted),
    )  # fmt: skip


def _failed_seeds(fitted: Fitted) -> dict[float, int]:
    failed = Counter[float]()
    for setting, trial in fitted.trials.items():
        failed[setting.level] += sum(each.state is TrialState.FAILED for each in trial.replicates.values())
    return {level: number for level, number in sorted(failed.items()) if number}


def _with_prices(rows: tuple[LevelRow, ...], advisor: Advisor, trials: Sequence[TrialRecord]) -> tuple[LevelRow, ...]:
    """Returns the rows with what a run takes there: operations, and the median of the measured times.

    Of a level count the runs that differ from the row's trial by the learning rate alone: other keys may change the
    price, too.
    """
    seconds: dict[Setting, list[float]] = {}
    operations: dict[Setting, float] = {}
    for trial in trials:
        setting = _but_for_the_rate(advisor, trial)
        if setting is None or trial.state is not TrialState.COMPLETE or trial.copy_of is not None:
            continue
        for outcome in (trial.outcome, *trial.replicates.values()):
            if outcome is None or not outcome.by_seed:
                continue
            count = len(outcome.by_seed)
            if "train_s" in outcome.cost:
                seconds.setdefault(setting, []).append(outcome.cost["train_s"] / count)
            if "flops" in outcome.cost:
                operations.setdefault(setting, outcome.cost["flops"] / count)
    own = [None if row.trial is None else _but_for_the_rate(advisor, row.trial) for row in rows]
    dearest = next((operations[each] for each in own if each is not None and operations.get(each)), None)
    return tuple(
        replace(
            row,
            operations=operations[each] / dearest if dearest and each in operations else None,
            seconds=statistics.median(seconds[each]) if each in seconds else None,
        )
        for row, each in zip(rows, own, strict=True)
    )


def _but_for_the_rate(advisor: Advisor, trial: TrialRecord) -> Setting | None:
    setting = advisor.question.setting(trial.params)
    return None if setting is None else replace(setting, rate=0.0)


def _row(level: Level, group: str | None, fitted: Fitted, num_trials: int, question: Question) -> LevelRow:
    values = (level.low, level.mean, level.high)
    if not question.maximize:
        values = (-level.high, -level.mean, -level.low)
    low, mean, high = (in_range(value, question.metric) for value in values)
    return LevelRow(
        level=level.level, group=group, trial=fitted.trials.get(level.setting) if level.tried else None,
        mean=mean, low=low, high=high, most_loss=level.most_loss,
        p_within=level.p_within, state=level.state, seeds=level.seeds, num_trials=num_trials,
        collapsed=level.collapsed,
    )  # fmt: skip


def _learnt(main: GroupAnswer | None, maximize: bool) -> bool | None:
    if main is None or main.fitted.constant_score is None:
        return None
    constant = main.fitted.constant_score if maximize else -main.fitted.constant_score
    return any(level.low > constant for level in main.decision.levels if level.tried)


def _seconds_per_cost(main: GroupAnswer | None) -> float | None:
    """Returns the seconds of training and evaluation that a unit of relative cost took, over the search's runs."""
    if main is None:
        return None
    seconds, cost = 0.0, 0.0
    for setting, trial in main.fitted.trials.items():
        if trial.outcome is not None and "train_s" in trial.outcome.cost:
            seconds += trial.outcome.cost["train_s"] + trial.outcome.cost.get("eval_s", 0.0)
            cost += main.fitted.axis.cost(setting.level) * max(1, len(trial.outcome.by_seed))
    return seconds / cost if cost else None
