"""What a worker is given for a trial, and what it answers.

Importing this module costs nothing: the parent pickles its dataclasses, and only a worker imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from frostline.config import Job
from frostline.records.run_context import Sharing
from frostline.records.trial import BASELINE_NUMBER, TrialOutcome
from frostline.spec import RunSpec


class Retry(StrEnum):
    """What is done otherwise when a run is trained again."""

    HALF_BATCH = "out of memory: retried with half the batch and twice the accumulation"
    OFF_GPU = "out of memory: retried with the prefix cache's hidden states off the GPU"
    FROM_CHECKPOINT = "resumed from its last checkpoint"


@dataclass(frozen=True, kw_only=True)
class SeedRun:
    """One of a trial's runs.

    Attributes:
        job: What to train.
        folder: Where.
        overrides: What composes it, for the record.
        until_epoch: Pause after this epoch; None: to the end.
    """

    job: Job
    folder: Path
    overrides: tuple[str, ...]
    until_epoch: int | None


@dataclass(frozen=True, kw_only=True)
class TrialJob:
    """What the parent sends to a worker.

    Attributes:
        number: Of the trial.
        name: Its coordinates.
        runs: In the order of the seeds.
        ask: Whether a pruner wants to be asked after each evaluation.
        pauses: Whether rung 2 follows.
        several: Whether the trial is trained with several seeds, in this rung or the next.
        steps_per_run: Reports that a run makes at most: a later seed's are counted on from there.
        parent: MLflow run id of the sweep, or None.
        params: The swept keys.
        sharing: What the sweep's runs have in common.
        replicate: The seed, if this is a further one of a finished trial.
        note: What is known of an earlier attempt, for the record.
        places: Path of each local file on the node, by its path in the config; None: the same path.
    """

    number: int
    name: str
    runs: tuple[SeedRun, ...]
    ask: bool
    pauses: bool
    several: bool
    steps_per_run: int
    parent: str | None
    params: Mapping[str, Any]
    sharing: Sharing
    replicate: int | None = None
    note: str | None = None
    places: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What the parent sends to a worker to learn what a trial takes of a GPU.

    Attributes:
        specs: The deepest and the shallowest trial.
        sharing: What the sweep's runs have in common.
        plugins: Modules to import first.
    """

    specs: tuple[RunSpec, ...]
    sharing: Sharing
    plugins: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """An evaluation, sent to the parent."""

    step: int
    value: float


@dataclass(frozen=True, kw_only=True)
class WarningText:
    """A warning, sent to the parent since a worker's own output goes to a file; or its decision on the prefix cache."""

    text: str


@dataclass(frozen=True, kw_only=True)
class TrialReply:
    """What comes back to the parent.

    Attributes:
        outcome: None if a signal stopped it.
        fatal: What the user must mend.
        machine: Whether that is the machine's trouble, for example a full disk: no fault of what was to be trained.
    """

    outcome: TrialOutcome | None
    fatal: str | None = None
    machine: bool = False


def kind_of(number: int, replicate: int | None) -> str:
    """Returns what a run of a sweep is, for the tag `frostline.kind`: `trial`, `baseline` or `replicate`.

    Args:
        number: Of its trial.
        replicate: The seed, if it is a further one.
    """
    if replicate is not None:
        return "replicate"
    return "baseline" if number == BASELINE_NUMBER else "trial"
