"""The trials of a sweep put to the decision: the answer, the next trial, the next seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from frostline.advisor.fitted import (
    MOST_AT_THE_END,
    MOST_TRIALS,
    Fitted,
    RunTable,
    assumed_noise,
    is_near,
    on_one_thread,
    spread_part,
    train_rows_of,
)
from frostline.advisor.question import Question
from frostline.advisor.rows import constant_prediction, is_collapsed, learnt_nothing, race_rows, row_vector
from frostline.records.predictions import EvidenceOf, RowScores
from frostline.records.trial import TrialRecord, TrialState
from frostline.spec import DEPTH_KEY, EVAL_SET, Params, ordinal

if TYPE_CHECKING:
    import numpy as np

    from frostline.decision import Decision, Noise, RaceEnd, Replicate, Requirement, Setting

    Array = np.ndarray[Any, Any]


_NUM_RANDOM = 1500
"""Random settings among which further keys are searched, drawn anew for each trial."""

_TRAIN_ROWS = 1000
"""Taken for the number of training rows where no run says it."""


@dataclass(kw_only=True)
class Advisor:
    """Answers a sweep's question from its trials.

    Attributes:
        question: Of the sweep.
        find: What is known of a trial on a set of rows.
    """

    question: Question
    find: EvidenceOf
    _vectors: dict[tuple[int, int], Array] = field(default_factory=dict)

    def fit(self, trials: Sequence[TrialRecord], *, grid: bool = False, most: int = MOST_TRIALS) -> Fitted:
        """Returns the runs of the finished trials and their posterior.

        Args:
            trials: All of the sweep.
            grid: Whether settings will be chosen by it: on an axis that can't be counted levels are added.
            most: Trials that it is made from, at most.
        """
        from frostline.decision import Posterior

        question = self.question
        finished = [
            (trial, setting)
            for trial in trials
            if trial.state is TrialState.COMPLETE
            and trial.copy_of is None
            and (setting := question.setting(trial.params)) is not None
        ]
        taken = spread_part(finished, most)
        table = self._table(taken)
        fitted = Fitted(
            axis=question.axis([run.setting.level for run in table.runs], grid=grid), runs=table.runs, noise=None,
            posterior=None, trials=table.trials, constant_score=table.constant_score,
            rows=min(table.numbers, default=0), most_rows=max(table.numbers, default=0), num_folds=question.num_folds,
            num_left_out=len(finished) - len(taken),
        )  # fmt: skip
        if question.is_raced and question.num_folds == 1:  # of folds every row is held out once
            fitted.race_rows, fitted.race_cost = race_rows(list(table.trials.values()), question.settle_rows)
        if table.learnt:
            fitted.noise = self._noise(table)
            fitted.posterior = Posterior(table.learnt, fitted.axis, fitted.noise)
        return fitted

    def _table(self, finished: Sequence[tuple[TrialRecord, Setting]]) -> RunTable:
        """Returns the runs of some trials, one for each seed, and what is known of their rows."""
        from frostline.decision import Run
        from frostline.decision.rows import least_variance

        question, table = self.question, RunTable()
        sign = 1.0 if question.maximize else -1.0
        for trial, setting in finished:
            evidence = self.find(trial, EVAL_SET)
            if evidence is None:
                continue
            table.trials.setdefault(setting, trial)
            for seed, value in sorted(evidence.by_seed.items()):
                rows = evidence.rows.get(seed)
                collapsed = learnt_nothing(question.metric, value) or (rows is not None and is_collapsed(rows))
                chosen = seed not in trial.replicates
                table.runs.append(
                    Run(setting=setting, seed=seed, value=sign * value, chosen=chosen, collapsed=collapsed)
                )
                count = 0 if rows is None else len(rows.labels)
                if rows is not None:
                    table.numbers.append(count)
                    table.constants.append(constant_prediction(rows, question.metric))
                if collapsed:
                    continue
                vector = self._vector(trial.number, seed, rows)
                table.vectors.append(vector)
                table.counts.append(float(count))
                table.folds.append(ordinal(seed, question.seeds) % question.num_folds)
                if vector is not None:
                    least = least_variance(value * count, count) if question.metric == "accuracy" else 0.0
                    table.least.append(least)
                    table.row_sds.append(math.sqrt(max(float(vector @ vector), least) * count))
        return table

    def _noise(self, table: RunTable) -> Noise:
        """Returns how much the values of the runs that learnt something vary by rows and by seeds."""
        import numpy as np

        from frostline.decision import Noise, seed_prior
        from frostline.decision.folds import rows_across, seeds_across
        from frostline.decision.rows import covariance, with_least

        question, alive = self.question, table.learnt
        known = (number for trial in table.trials.values() if (number := train_rows_of(trial)) is not None)
        train_rows = next(known, _TRAIN_ROWS)
        scored: Array | None = None
        rows: Array | None
        if table.vectors and all(vector is not None for vector in table.vectors):
            rows = with_least(covariance([vector for vector in table.vectors if vector is not None]), table.least)
            scored = np.array(table.counts)
            row_sd = sum(table.row_sds) / len(table.row_sds)
        else:
            values = [run.value for run in alive]
            rows, row_sd = assumed_noise(values, table.trials, question.metric, train_rows)
        seeds, settings = None, [run.setting for run in alive]
        if question.num_folds > 1:
            seeds = seeds_across(table.folds, settings, question.num_folds)
            if rows is not None:
                rows = rows_across(rows, table.folds, settings, question.num_folds)
        return Noise(
            rows=rows, seed_sd=max(seed_prior(row_sd, train_rows), 1e-9), seeds=seeds, num_folds=question.num_folds,
            counts=scored if question.num_folds == 1 else None,
        )  # fmt: skip

    def _vector(self, number: int, seed: int, rows: RowScores | None) -> Array | None:
        """Returns what the rows contribute to a run's noise, computed once a run."""
        if rows is None:
            return None
        key = (number, seed)
        if key not in self._vectors:
            vector = row_vector(rows, self.question.metric)
            if vector is None:
                return None
            self._vectors[key] = vector
        return self._vectors[key]

    # -- asking ------------------------------------------------------------------------------------------------------

    @on_one_thread
    def decide(self, trials: Sequence[TrialRecord]) -> tuple[Decision, Fitted] | None:
        """Returns the answer and what it was made from; None if no run learnt anything."""
        from frostline.decision import decide

        fitted = self.fit(trials, most=MOST_AT_THE_END)
        if fitted.posterior is None or fitted.noise is None:
            return None
        decision = decide(
            fitted.runs, fitted.axis, fitted.noise, margin=self.question.margin, confidence=self.question.confidence,
            posterior=fitted.posterior,
        )  # fmt: skip
        return decision, fitted

    @on_one_thread
    def judged(self, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Returns the trial that each level is judged by: one of them will be recommended."""
        from frostline.decision import representatives

        fitted = self.fit(trials)
        if fitted.posterior is None:
            return []
        return [fitted.trials[setting] for setting, tried in representatives(fitted.posterior) if tried]

    @on_one_thread
    def requirement(self, decision: Decision, fitted: Fitted) -> Requirement | None:
        """Returns what it would take to settle the question. See `frostline.decision.requirement`."""
        from frostline.decision import requirement

        assert fitted.posterior is not None
        new_rows = fitted.race_rows if fitted.rows else None
        needed = requirement(decision, fitted.posterior, rows=fitted.rows or 1, new_rows=new_rows)
        return needed and replace(needed, cost=needed.cost * fitted.race_cost)

    def search_cost(self, trials: Sequence[TrialRecord]) -> float:
        """Returns the relative cost of the search's runs that ended, of each seed of a trial.

        Of a trial that was stopped early its share counts, by the recorded operations of the longest run at its level;
        one that failed before it recorded any counts nothing, a PRUNED one without a record in full.
        """
        axis = self.question.axis([s.level for p in trials if (s := self.question.setting(p.params)) is not None])
        cost = 0.0
        longest: dict[float, float] = {}
        stopped: list[tuple[float, float, float]] = []
        for trial in trials:
            setting, outcome = self.question.setting(trial.params), trial.outcome
            if setting is None or outcome is None or trial.copy_of is not None or trial.is_baseline:
                continue
            count = max(1, len(outcome.by_seed))
            full_cost = axis.cost(setting.level) * count
            operations = outcome.cost.get("flops", 0.0) / count
            longest[setting.level] = max(longest.get(setting.level, 0.0), operations)
            if trial.state is TrialState.COMPLETE or (operations == 0 and trial.state is TrialState.PRUNED):
                cost += full_cost
            else:
                stopped.append((setting.level, full_cost, operations))
        return cost + sum(
            full_cost * operations / longest[level] for level, full_cost, operations in stopped if operations
        )

    @on_one_thread
    def next_replicate(
        self, trials: Sequence[TrialRecord], running: Sequence[int], *, settle: float
    ) -> tuple[TrialRecord, Replicate] | RaceEnd:
        """Returns which trial gets a further seed, or why none does.

        Args:
            trials: All of the sweep.
            running: Numbers of the trials of which a further seed is under way, once for each seed.
            settle: The budget, in units of the search's own cost.
        """
        from frostline.decision import RaceEnd, Replicate, next_replicate

        answer = self.decide(trials)
        if answer is None:
            return RaceEnd.FUTILE
        decision, fitted = answer
        assert fitted.posterior is not None
        started = {
            setting: len(trial.replicates) + list(running).count(trial.number)
            for setting, trial in fitted.trials.items()
        }
        spent = sum(count * fitted.axis.cost(setting.level) for setting, count in started.items())
        replicate = next_replicate(
            decision, fitted.posterior, spent=spent, started=started,
            budget=settle * self.search_cost(trials) / fitted.race_cost, rows=fitted.rows or 1,
            new_rows=fitted.race_rows if fitted.rows else None,
        )  # fmt: skip
        if isinstance(replicate, Replicate):
            return fitted.trials[replicate.setting], replicate
        return replicate

    @on_one_thread
    def baseline(self, trials: Sequence[TrialRecord]) -> Params | None:
        """Returns the parameters of full fine-tuning: those that promise most at the shallowest depth, nothing frozen.

        Args:
            trials: All of the study.

        Returns:
            None if no frozen depth is swept, or nothing was learnt.
        """
        from frostline.decision import rates_of, representatives

        question = self.question
        if question.axis_key != DEPTH_KEY or question.freeze != "depth":
            return None
        fitted = self.fit(trials)
        if fitted.posterior is None:
            return None
        template, _ = representatives(fitted.posterior)[0]
        rates = [template.rate]
        if fitted.axis.rates is not None:
            rates = question.listed_rates() or rates_of(fitted.axis)
        candidates = [replace(template, rate=rate) for rate in rates]
        mean, _ = fitted.posterior.mean_and_sd(candidates)
        return {**question.params(candidates[int(mean.argmax())]), DEPTH_KEY: None}

    def opening(self) -> list[Params]:
        """Returns what sampler `frost` tries first, as far as it is known: the rates will follow the runs."""
        import numpy as np

        from frostline.decision import next_opening

        started: list[tuple[float, float]] = []
        question = self.question
        while (setting := next_opening(question.axis(), started, None, question.listed_rates())) is not None:
            started.append(setting)
        template = question.random(np.random.default_rng(0))
        return [question.params(replace(template, level=level, rate=rate)) for level, rate in started]

    # -- proposing ---------------------------------------------------------------------------------------------------

    @on_one_thread
    def propose(self, trials: Sequence[TrialRecord], number: int, total: int, seed: int) -> Params:
        """Returns the parameters of the next trial: the opening first, then expected improvement.

        Args:
            trials: All of the study, those that run or failed too, but for the one that asks.
            number: Of the trial that asks.
            total: Trials that the sweep is to have.
            seed: The sweep's, for what is drawn.
        """
        import numpy as np

        from frostline.decision import next_opening, next_setting, rates_of, with_pending

        question = self.question
        fitted = self.fit(trials, grid=True)
        digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        started = [setting for trial in trials if (setting := question.setting(trial.params)) is not None]
        axis = fitted.axis if fitted.runs else question.axis([setting.level for setting in started], grid=True)
        places = [(setting.level, setting.rate) for setting in started]
        opening = next_opening(axis, places, fitted.posterior, question.listed_rates())
        if opening is not None:
            level, rate = opening
            return question.params(replace(question.random(rng), level=level, rate=rate))
        levels, rates = axis.levels, question.listed_rates() or rates_of(axis)
        template = question.random(rng)
        if template.others or template.groups:
            candidates = [
                replace(question.random(rng), level=float(rng.choice(levels)), rate=float(rng.choice(rates)))
                for _ in range(_NUM_RANDOM)
            ]
        else:
            candidates = [replace(template, level=level, rate=rate) for level in levels for rate in rates]
        exclude = [setting for setting in candidates if any(is_near(setting, other) for other in started)]
        if fitted.posterior is None:  # nothing learnt anything yet: elsewhere, then
            fresh = [setting for setting in candidates if setting not in set(exclude)] or candidates
            return question.params(fresh[int(rng.integers(len(fresh)))])
        running = [trial.params for trial in trials if trial.state is TrialState.RUNNING]
        pending = [setting for params in running if (setting := question.setting(params)) is not None]
        posterior = with_pending(fitted.posterior, pending)
        chosen = next_setting(posterior, candidates, progress=len(started) / max(1, total), exclude=exclude)
        return question.params(chosen)
