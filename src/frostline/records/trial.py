"""The result of a sweep's trial."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from frostline.errors import UserError
from frostline.hashes import sealed, unsealed
from frostline.records.result import Cause
from frostline.spec import DEPTH_KEY, LR_KEY, MODEL_KEY, ROWS_KEY, CostName, Params, Value, short_number

BASELINE_NUMBER = -1
"""Of the trial that trains everything (`freeze=none`), which is no trial: its depth is None, outside of the space."""


class TrialState(StrEnum):
    """Where a trial stands."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAILED = "FAILED"


RECOMMENDED_FILE = "recommended.json"
"""In a sweep's report: names the recommended trial, so that a command that takes the best one can say that there is
another."""


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """The result of one rung of a trial.

    Attributes:
        state: COMPLETE (to the end of what was asked), PRUNED (stopped by the pruner), FAILED.
        by_seed: The objective of each seed that was trained.
        scores: The same metric on the other rows that the runs were scored on, by set (`test`, `tweets`) and seed.
        cost: Sums over the seeds of `train_s`, `eval_s` and `flops`, and of `fill_s` and `saved_s` of those that began
            at their frozen depth; `num_trainable` and `eval_rows` of one.
        reason: Why it isn't COMPLETE, for people.
        cause: The same for decisions.
        error: Of a failure by an exception: see `RunResult.error`.
        paused: Whether its rung 2 is left to train.
        loss: The mean over the seeds of the evaluation loss; None if it isn't known.
        learnt: Whether any run does better than a constant prediction could by chance; True where that isn't known.
        resumed: How often its runs were resumed from a checkpoint.
        note: Something to know about it, for example a retry.
    """

    state: TrialState
    by_seed: Mapping[int, float] = field(default_factory=dict)
    scores: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    cause: Cause | None = None
    error: str | None = None
    paused: bool = False
    resumed: int = 0
    note: str | None = None
    loss: float | None = None
    learnt: bool = True

    @property
    def quality(self) -> float | None:
        """The mean of the seeds' objectives."""
        return statistics.fmean(self.by_seed.values()) if self.by_seed else None

    def to_dict(self, rung: int) -> dict[str, Any]:
        """Returns JSON values, with the rung that it belongs to."""
        return {
            "state": self.state.value,
            "by_seed": {str(seed): value for seed, value in self.by_seed.items()},
            "scores": {name: {str(k): v for k, v in values.items()} for name, values in self.scores.items()},
            "cost": dict(self.cost),
            "reason": self.reason,
            "cause": self.cause.value if self.cause else None,
            "error": self.error,
            "paused": self.paused,
            "resumed": self.resumed,
            "note": self.note,
            "loss": self.loss,
            "learnt": self.learnt,
            "rung": rung,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> tuple[TrialOutcome, int]:
        """Reads `to_dict`; returns the rung, too."""
        outcome = cls(
            state=TrialState(data["state"]),
            by_seed={int(seed): float(value) for seed, value in data["by_seed"].items()},
            scores={
                str(name): {int(seed): float(value) for seed, value in values.items()}
                for name, values in data["scores"].items()
            },
            cost=dict(data["cost"]),
            reason=data["reason"],
            cause=Cause(data["cause"]) if data["cause"] else None,
            error=data["error"],
            paused=bool(data["paused"]),
            resumed=int(data["resumed"]),
            note=data["note"],
            loss=data["loss"],
            learnt=bool(data["learnt"]),
        )
        return outcome, int(data["rung"])


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A trial of a sweep.

    Attributes:
        number: Its number in the study; its folder's name.
        params: What was chosen.
        state: Where it stands.
        outcome: Its result; None while it waits or runs. If rung 2 failed, the result of rung 1, with the cause.
        history: Objective after each reported evaluation, by `seed index * epochs + epoch`.
        copy_of: Number of the like trial whose outcome it took over.
        rung: The last rung that was trained: 1 or 2.
        first_rung: The result of rung 1, by which trials were promoted; None if there is one rung.
        replicates: The results of further seeds, trained after the search, by seed.
    """

    number: int
    params: Params
    state: TrialState
    outcome: TrialOutcome | None = None
    history: Mapping[int, float] = field(default_factory=dict)
    copy_of: int | None = None
    rung: int = 1
    first_rung: TrialOutcome | None = None
    replicates: Mapping[int, TrialOutcome] = field(default_factory=dict)

    @property
    def reason(self) -> str | None:
        """Why it isn't COMPLETE, for people; of a second rung that failed it says so."""
        reason = self.outcome.reason if self.outcome else None
        failed_later = reason and self.state is TrialState.FAILED and self.first_rung is not None and self.rung > 1
        return f"rung 2: {reason}" if failed_later else reason

    @property
    def first_quality(self) -> float | None:
        """The quality at the end of rung 1, which all trials have; with one rung its own."""
        return (
            self.first_rung.quality if self.first_rung is not None else self.outcome.quality if self.outcome else None
        )

    @property
    def is_paused(self) -> bool:
        """Whether it has finished rung 1 and may be promoted."""
        return self.outcome is not None and self.outcome.paused

    @property
    def is_baseline(self) -> bool:
        """Whether it is the full fine-tuning that a sweep over depth is compared with."""
        return self.number == BASELINE_NUMBER

    @property
    def by_seed(self) -> dict[int, float]:
        """The objective of each seed, those of the replicates included."""
        own = dict(self.outcome.by_seed) if self.outcome else {}
        for outcome in self.replicates.values():
            own |= outcome.by_seed
        return own

    @property
    def quality(self) -> float | None:
        """The mean of the seeds' objectives; None if it has none."""
        values = self.by_seed
        return statistics.fmean(values.values()) if values else None

    @property
    def spread(self) -> float | None:
        """The standard deviation over the seeds (n - 1); None with one seed."""
        values = list(self.by_seed.values())
        return statistics.stdev(values) if len(values) > 1 else None

    @property
    def depth(self) -> int | None:
        """The frozen depth, if it is swept."""
        value = self.params.get(DEPTH_KEY)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @staticmethod
    def group_of(params: Params) -> str | None:
        """Returns the group that a trial of these parameters is of. See `group`."""
        return TrialRecord(number=0, params=params, state=TrialState.WAITING).group()

    @property
    def model(self) -> str | None:
        """The model, if models are swept."""
        value = self.params.get(MODEL_KEY)
        return None if value is None else str(value)

    @property
    def num_rows(self) -> int | None:
        """The training rows, if their number is swept."""
        value = self.params.get(ROWS_KEY)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def group(self, axis: str | None = None) -> str | None:
        """Returns what depths are compared within, if there are several: choices of config groups, the number of rows.

        Args:
            axis: The key of which one level is compared with another: it makes no groups.
        """
        keys = [key for key in self.params if is_group(key) and key != axis]
        chosen = sorted(keys, key=lambda key: (key != MODEL_KEY, key))
        rows = [f"{self.num_rows} rows"] if self.num_rows is not None and axis != ROWS_KEY else []
        return ", ".join([*(str(self.params[key]) for key in chosen), *rows]) or None

    @property
    def lr(self) -> float | None:
        """The learning rate, if it is swept."""
        value = self.params.get(LR_KEY)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def cost(self, name: CostName) -> float | None:
        """Returns a cost, or None if it isn't known."""
        return self.outcome.cost.get(name.value) if self.outcome else None

    def label(self) -> str:
        """Returns its coordinates: `d4 lr1e-04`."""
        return label(self.params)

    def to_json(self) -> str:
        """Returns what the trial's folder keeps, so that a lost study can be rebuilt."""
        data = {
            "number": self.number,
            "label": self.label(),
            "params": self.params,
            "state": self.state.value,
            "outcome": self.outcome.to_dict(self.rung) if self.outcome else None,
            "history": {str(step): value for step, value in self.history.items()},
            "copy_of": self.copy_of,
            "rung": self.rung,
            "first_rung": self.first_rung.to_dict(1) if self.first_rung else None,
            "replicates": {str(seed): outcome.to_dict(1) for seed, outcome in self.replicates.items()},
        }
        return sealed(data)

    @classmethod
    def from_json(cls, text: str) -> TrialRecord:
        """Reads `to_json`.

        Raises:
            UserError: It isn't one.
        """
        try:
            data = unsealed(text)
            return cls(
                number=int(data["number"]),
                params=dict(data["params"]),
                state=TrialState(data["state"]),
                outcome=TrialOutcome.from_dict(data["outcome"])[0] if data["outcome"] else None,
                history={int(step): float(value) for step, value in data["history"].items()},
                copy_of=data["copy_of"],
                rung=int(data["rung"]),
                first_rung=TrialOutcome.from_dict(data["first_rung"])[0] if data["first_rung"] else None,
                replicates={int(seed): TrialOutcome.from_dict(each)[0] for seed, each in data["replicates"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"this is no trial.json: {type(error).__name__}: {error}") from error


def is_group(key: str) -> bool:
    """Returns whether a swept key is a config group, for example `model`: a key of a run's config has a dot."""
    return "." not in key


def label(params: Mapping[str, Value]) -> str:
    """Returns coordinates in short, depth and learning rate first: `d4 lr1e-04 weight_decay=0.1`, `full lr1e-04`."""
    parts = []
    if DEPTH_KEY in params:
        parts.append("full" if params[DEPTH_KEY] is None else f"d{params[DEPTH_KEY]}")
    if LR_KEY in params:
        value = params[LR_KEY]
        parts.append(f"lr{short_number(float(value))}" if isinstance(value, (int, float)) else f"lr{value}")
    for key, value in params.items():
        if key not in {DEPTH_KEY, LR_KEY}:
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            parts.append(shown if "." not in key else f"{key.rpartition('.')[2]}={shown}")
    return " ".join(parts)


def ranked(trials: Iterable[TrialRecord], maximize: bool) -> list[TrialRecord]:
    """Returns the trials with a finite quality that were not stopped by a pruner, the best first; ties by number."""
    sign = -1.0 if maximize else 1.0
    fit = [
        trial
        for trial in trials
        if trial.quality is not None and math.isfinite(trial.quality) and trial.state is TrialState.COMPLETE
    ]
    return sorted(fit, key=lambda trial: (sign * (trial.quality or 0.0), trial.number))
