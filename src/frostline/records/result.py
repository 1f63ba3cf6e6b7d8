"""The result of a run and its JSON form."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from frostline.errors import UserError, listing
from frostline.hashes import sealed, unsealed

RESULT_SCHEMA = 1
"""Version of `result.json`."""

RESULT_FILE = "result.json"


class Status(StrEnum):
    """How a run ended; MLflow's own names, but for PRUNED, which it doesn't know."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"
    PRUNED = "PRUNED"  # stopped before its end because it promised little, or to be resumed later


class Cause(StrEnum):
    """Why a run is not FINISHED, for decisions; `reason` says it to people."""

    PAUSED = "paused"  # PRUNED at the end of rung 1: it is resumed if the sweep promotes it
    PRUNED = "pruned"  # PRUNED by a pruner
    DIVERGED = "diverged"  # FAILED: the loss was not finite
    OUT_OF_MEMORY = "out of memory"  # FAILED
    PROCESS_KILLED = "process killed"  # FAILED: one of its processes was killed from outside
    MACHINE = "machine"  # FAILED: a full disk, a file system that is no longer there; it can be resumed
    INTERRUPTED = "interrupted"  # KILLED by SIGINT
    TERMINATED = "terminated"  # KILLED by SIGTERM
    PREEMPTED = "preempted"  # KILLED: a cluster's scheduler wants the machine back
    LOST_PEER = "lost peer"  # FAILED: a process of the run could not reach another one
    WORKER_DIED = "worker died"  # FAILED: the worker process that trained it ended
    TEMPLATE_DIED = "template died"  # FAILED: the process that the worker was forked from ended, and with it the worker
    TIMED_OUT = "timed out"  # FAILED: no heartbeat for `sweep.trial_timeout_s`
    NO_OBJECTIVE = "no objective"  # FAILED: the objective is missing, or not a finite number
    ERROR = "error"  # FAILED: an exception, see `error`


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The number that a run is judged by."""

    metric: str
    value: float
    direction: str


@dataclass(frozen=True, kw_only=True)
class ParamCount:
    """Parameters (scalars, not tensors) by whether they are trained."""

    num_trainable: int
    num_frozen: int

    @property
    def num_total(self) -> int:
        """All parameters."""
        return self.num_trainable + self.num_frozen


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """What was frozen.

    Attributes:
        name: The config's choice.
        depth: The number of lowest blocks that are frozen, if it counts them.
        num_blocks: Of the model.
        words: What was frozen, for people.
    """

    name: str
    depth: int | None
    num_blocks: int
    words: str


@dataclass(frozen=True, kw_only=True)
class CacheUse:
    """How a run, or one phase of a gradually unfrozen run, used the prefix cache.

    Attributes:
        depth: The lowest blocks whose outputs were read from the cache; None: the run did without the cache.
        position: The only position that the last block computes, if the head reads one position.
        threads: CPU threads that computed the hidden states, if not as many as the run has.
        dropped: The run was resumed without the cache that it started with.
        dtype: In which numbers the hidden states were kept.
    """

    depth: int | None = None
    position: str | None = None
    threads: int | None = None
    dropped: bool = False
    dtype: str = "float32"

    @property
    def is_on(self) -> bool:
        """Whether the run read from the cache to its end."""
        return self.depth is not None and not self.dropped

    def __str__(self) -> str:
        if self.depth is None:
            return "off"
        parts = [f"depth {self.depth}"]
        parts += [f"{self.position} position"] if self.position else []
        parts += [f"filled on {self.threads} threads"] if self.threads else []
        parts += [self.dtype] if self.dtype != "float32" else []
        return ", ".join(parts + (["then off"] if self.dropped else []))


def read_cache_uses(value: Any) -> tuple[CacheUse, ...]:
    """Reads `provenance.compute.prefix_cache`: a list with one `CacheUse` for each phase; without any, no cache."""
    return tuple(CacheUse(**use) for use in value or ()) or (CacheUse(),)


def describe_cache_uses(uses: Sequence[CacheUse]) -> str:
    """Returns `off`, or how each phase used the prefix cache, for people."""
    return " | ".join(map(str, uses)) if any(use.depth is not None for use in uses) else "off"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run took.

    Attributes:
        train_s: Seconds of wall time in training steps, evaluations left out.
        eval_s: Seconds in evaluations.
        setup_s: Seconds before the first step: data, tokenization, model.
        steps: Optimizer steps.
        peak_bytes: Largest memory during the run: of the device if it is a GPU, else of the process.
        peak_of: What `peak_bytes` measures: `cuda` or `process`.
        flops: Floating-point operations of the training steps, estimated (`train.flops`); None if unknown.
        fill_s: Seconds of the set-up in which this run computed hidden states for the prefix cache; None without it.
        epochs: Passes over the training rows.
        num_evals: Times that the held-out rows were scored.
        saved_s: Passes over the rows that were not run through the frozen blocks, times the seconds that such a pass
            took when the cache was filled: on the threads of all slots, rows of like length together, so that it is
            rather too little. None without the cache.
    """

    train_s: float
    eval_s: float
    setup_s: float
    steps: int
    peak_bytes: int
    peak_of: str
    flops: float | None = None
    fill_s: float | None = None
    saved_s: float | None = None
    epochs: float = 0.0
    num_evals: int = 0


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The proof that what was to be frozen was.

    Attributes:
        frozen_unchanged: Every frozen tensor, buffers included, has the same sha256 after the run as before.
        absent_from_optimizer: No frozen parameter was in the optimizer.
        pinned_in_eval: Every frozen module was in eval mode at the end, after Trainer's `model.train()` calls; with
            `training.frozen_dropout` it need not be.
        num_tensors: Frozen tensors that were hashed.
        changed: Names of those that changed.
    """

    frozen_unchanged: bool
    absent_from_optimizer: bool
    pinned_in_eval: bool
    num_tensors: int
    changed: tuple[str, ...] = ()

    @property
    def violation(self) -> str:
        """What was not as it should be, in words."""
        if not self.frozen_unchanged:
            return f"frozen tensors changed ({listing(self.changed)})"
        if not self.absent_from_optimizer:
            return "frozen parameters are in the optimizer"
        return "frozen modules were not in eval mode"


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One run's outcome: what `result.json` holds.

    Attributes:
        name: The run's coordinates.
        status: How it ended.
        reason: Why it isn't FINISHED, in one line.
        cause: The same for decisions; None of a FINISHED run.
        error: Of a failure by an exception: its type and the innermost own function that it passed through, for example
            `ValueError at frostline.train.loss:step_loss`. Failures with equal `cause` and `error` are alike.
        spec_digest: Of the spec that was run.
        objective: None when the run did not get that far.
        metrics: `eval/accuracy` etc. of the weights that were kept.
        step: The optimizer step of these weights.
        weights_sha256: Of the trained tensors that were kept, names and bytes; of PRUNED runs too, which keep no model.
        params: Counts of parameters.
        freeze: What was frozen.
        cost: Time and memory.
        audit: Whether the frozen part really did not move.
        drift: One row per block: sum and relative size of the change.
        data: Sizes, label counts, duplicates, overlap, truncation.
        provenance: Versions, platform, threads, git, hashes of weights and data.
        files: sha256 of the files of its folder that later commands read, by relative path.
        schema: Version of this form.
    """

    name: str
    status: Status
    reason: str | None
    spec_digest: str
    cause: Cause | None = None
    error: str | None = None
    objective: Objective | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    step: int | None = None
    weights_sha256: str | None = None
    params: ParamCount | None = None
    freeze: Frozen | None = None
    cost: Cost | None = None
    audit: Audit | None = None
    drift: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    schema: int = RESULT_SCHEMA

    @property
    def cache_uses(self) -> tuple[CacheUse, ...]:
        """How each phase of the run used the prefix cache."""
        return read_cache_uses((self.provenance.get("compute") or {}).get("prefix_cache"))

    @property
    def prefix_cache(self) -> str:
        """The same, for people."""
        return describe_cache_uses(self.cache_uses)

    def to_json(self) -> str:
        """Returns `result.json`: valid JSON, in which NaN and infinities are the texts `nan`, `inf`, `-inf`."""
        return sealed(finite(asdict(self)), indent=2)

    @classmethod
    def from_json(cls, text: str) -> RunResult:
        """Reads `result.json`.

        Raises:
            UserError: It isn't one, or is of another schema version.
        """
        try:
            schema = json.loads(text)["schema"]
            if schema != RESULT_SCHEMA:
                raise UserError(f"result.json has schema {schema}, this frostline reads {RESULT_SCHEMA}")
            data = unsealed(text)
            known = {item.name for item in fields(cls)}
            values = {key: value for key, value in data.items() if key in known}
            values["status"] = Status(data["status"])
            values["cause"] = Cause(data["cause"]) if data["cause"] else None
            if not all(isinstance(data[key], dict) for key in ("data", "provenance", "metrics")):
                raise TypeError("data, provenance and metrics are groups of keys")
            values["metrics"] = {key: float(value) for key, value in data["metrics"].items()}
            for key, part in (
                ("objective", Objective),
                ("params", ParamCount),
                ("freeze", Frozen),
                ("cost", Cost),
                ("audit", Audit),
            ):
                values[key] = None if data[key] is None else part(**data[key])
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"this is no result.json: {type(error).__name__}: {error}") from error

    @classmethod
    def read(cls, folder: Path) -> RunResult:
        """Reads the result of a run's folder.

        Raises:
            UserError: There is none, or it can't be read.
        """
        path = folder / RESULT_FILE
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: no run's result there ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: is no text") from error


def finite(value: Any) -> Any:
    """Returns `value` with NaN and infinities as text, so that it is valid JSON and says what it was."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
