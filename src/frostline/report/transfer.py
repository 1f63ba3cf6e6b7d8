"""How trials do on other rows than those they were chosen by.

A trial is chosen by the held-out rows of its own data set. Test rows say what it is worth there without that choice;
other data sets say what it is worth in other domains. Against a baseline - the head-only probe of the same sweep, a
model trained from scratch - a significant loss is negative transfer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from frostline.records.predictions import Evidence, EvidenceOf
from frostline.records.trial import TrialRecord
from frostline.report.significance import ALPHA, Comparison, compare, holm, interval_of_seeds
from frostline.spec import EVAL_SET


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Something that every row is compared with.

    Attributes:
        name: In words: `the head-only probe`, `scratch`.
        find: Its evidence on a set of rows.
    """

    name: str
    find: Callable[[str], Evidence | None]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A trial on a set of rows.

    Attributes:
        name: Of the set.
        value: The mean over its seeds.
        error: Half the width of the 95 % interval over the seeds; None with one.
    """

    name: str
    value: float
    error: float | None


@dataclass(frozen=True, kw_only=True)
class BaselineComparison:
    """A depth against a baseline on a set of rows.

    Attributes:
        depth: Frozen blocks.
        name: Of the set.
        baseline: Of the baseline.
        comparison: The baseline first: `loss` is by how much the depth is worse.
        p: Adjusted for being one of several such comparisons (Holm).
    """

    depth: int
    name: str
    baseline: str
    comparison: Comparison
    p: float

    @property
    def is_negative_transfer(self) -> bool:
        """Whether the depth is significantly worse than the baseline."""
        return self.p < ALPHA


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """The results of a sweep's rows on all sets.

    Attributes:
        sets: Names, the own held-out rows first; empty if there are no others.
        scores: By depth, in the order of `sets`, as far as they are known.
        against: All comparisons with baselines.
    """

    sets: Sequence[str] = ()
    scores: Sequence[tuple[int, Sequence[Score | None]]] = ()
    against: Sequence[BaselineComparison] = ()


def transfer_of(
    rows: Sequence[tuple[int, TrialRecord]],
    baselines: Sequence[Baseline],
    find: EvidenceOf,
    metric: str,
    *,
    maximize: bool,
    num_blocks: int | None,
    seed_sd: float | None = None,
) -> Transfer:
    """Returns the results of rows on every set, and against baselines.

    Args:
        rows: Depth and its best trial, of one model.
        baselines: Of elsewhere; the head-only probe is added, if it is among the rows.
        find: What is known of a trial on a set.
        metric: What is compared.
        maximize: Whether more of it is better.
        num_blocks: Of the model: where the head-only probe is.
        seed_sd: Standard deviation of the metric from seed to seed; None: unknown.
    """
    names = dict.fromkeys(name for _, trial in rows if trial.outcome is not None for name in trial.outcome.scores)
    sets = [EVAL_SET, *names]
    if not names and not baselines:
        return Transfer()
    probe = next((trial for depth, trial in rows if depth == num_blocks), None)
    every = list(baselines)
    if probe is not None:
        every.append(Baseline(name="the head-only probe", find=lambda name: find(probe, name)))
    points = []
    for baseline in every:
        for depth, trial in rows:
            if trial is probe and baseline is every[-1]:
                continue
            for name in sets:
                first, second = baseline.find(name), find(trial, name)
                comparison = None
                if first is not None and second is not None:
                    comparison = compare(first, second, metric, maximize=maximize, seed_sd=seed_sd)
                if comparison is not None:
                    points.append(
                        BaselineComparison(
                            depth=depth, name=name, baseline=baseline.name, comparison=comparison, p=comparison.p
                        )
                    )
    adjusted = holm([each.p for each in points])
    against = [replace(each, p=p) for each, p in zip(points, adjusted, strict=True)]
    if not names:
        return Transfer(against=against)
    scores = [(depth, [_score(find(trial, name), name) for name in sets]) for depth, trial in rows]
    return Transfer(sets=sets, scores=scores, against=against)


def _score(evidence: Evidence | None, name: str) -> Score | None:
    if evidence is None:
        return None
    values = list(evidence.by_seed.values())
    return Score(name=name, value=evidence.mean, error=interval_of_seeds(values) if len(values) > 1 else None)
