"""Re-runs of recorded runs: what `frostline reproduce` does, and `frostline.reproduce` from Python."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.api.find_run import RUNS, run_record
from frostline.api.from_run import changes_of
from frostline.api.recorded_spec import located, refuse_scripts
from frostline.config import compose_job, spec_from_json
from frostline.errors import UserError, best_effort, visible
from frostline.provenance import redact
from frostline.records.result import Status
from frostline.records.run_context import RunContext, Sharing
from frostline.records.run_folder import RunFolder
from frostline.report import as_text, print_verdict
from frostline.reproduction.compare import TOLERANCE, Difference, Verdict, compare, differences
from frostline.reproduction.record import Recorded, curve_of, read_record
from frostline.signals import Interrupted, signal_of
from frostline.spec import CACHE_MAX_BYTES, CacheDtype, CacheMode, Progress
from frostline.sweeps.params import with_params

if TYPE_CHECKING:
    from frostline.api.runs import Run
    from frostline.api.study import Study
    from frostline.config import Job
    from frostline.records.recorder import RunStart
    from frostline.spec import RunSpec
    from frostline.tracking import ChildRun
    from frostline.workers.worker_main import Channel

_BESIDE = ("tracking", "plugins")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to re-run.

    Attributes:
        run: A run's folder, a sweep, or a run id in MLflow.
        overrides: Keys of the run to change on purpose; `tracking` and `plugins`.
        at: Re-run up to this optimizer step only; None: to where the recorded run ended.
        tolerance: How far `equivalent` reaches; None: 0.01.
        metrics: Metrics of the record that may be scripts, and that the user trusts.
        tracking_uri: Where to look a run id up; None: the config's.
        config_dir: A folder of the user's own config groups.
    """

    run: str
    overrides: tuple[str, ...] = ()
    at: int | None = None
    tolerance: float | None = None
    metrics: tuple[str, ...] = ()
    tracking_uri: str | None = None
    config_dir: str | None = None


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """A re-run that has ended.

    Attributes:
        recorded: The record.
        verdict: What the re-run says of it.
        folder: Of the re-run.
        until: The step after which it was to end; None: the record's own end.
    """

    recorded: Recorded
    verdict: Verdict
    folder: Path
    until: int | None


@dataclass(frozen=True)
class Reproduction:
    """A re-run and its verdict; prints as `frostline reproduce` does.

    Attributes:
        conclusion: `identical` (every number and the trained weights are bit-equal), `equivalent` (within the
            tolerance, and something that is known to change bits differs here) or `different`.
        reason: Why, in words.
        run: The re-run.
        text: The numbers side by side, and the verdict.
    """

    conclusion: str
    reason: str
    run: Run
    text: str

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


def reproduce(
    run: Run | Study | str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    at: int | None = None,
    tolerance: float | None = None,
    metrics: Sequence[str] = (),
    tracking_uri: str | None = None,
    config_dir: str | None = None,
) -> Reproduction:
    """Re-runs a recorded run from its recorded config alone, and says whether it came out the same.

    Args:
        run: A run; a study stands for its recommended run. Or a folder, a sweep's name, a run id in MLflow.
        overrides: Keys of the run to change on purpose; `tracking=off`; `plugins=[my_module]`.
        at: Re-run up to this optimizer step only.
        tolerance: How far `equivalent` reaches; None: 0.01.
        metrics: Metrics of the record that are not frostline's own, and may be run: a record can't ask for that itself.
        tracking_uri: Where to look a run id up; None: the config's.
        config_dir: A folder of your own config groups, for tracking.

    Raises:
        UserError: There is no such run, or its inputs can't be had.
        KeyboardInterrupt: A signal ended it.
    """
    from frostline.api.in_worker import call
    from frostline.api.runs import Run
    from frostline.api.study import Study

    run = run.best if isinstance(run, Study) else run
    request = Request(
        run=str(run.folder if isinstance(run, Run) else run), overrides=tuple(overrides), at=at, tolerance=tolerance,
        metrics=tuple(metrics), tracking_uri=tracking_uri, config_dir=config_dir,
    )  # fmt: skip
    again: Rerun = call(f"{__name__}:rerun_in_worker", request=request)
    verdict = again.verdict
    return Reproduction(
        conclusion=verdict.conclusion.value, reason=verdict.reason, run=Run(again.folder),
        text=as_text(lambda console: print_verdict(again.recorded, verdict, again.folder, again.until, console)),
    )  # fmt: skip


def rerun_in_worker(request: Request, channel: Channel) -> Rerun:
    """Re-runs a run; called in a worker."""
    del channel
    return rerun(request)


def rerun(request: Request) -> Rerun:
    """Re-runs a recorded run in this process.

    Raises:
        UserError: There is no such run, or its inputs can't be had.
        Interrupted: A signal ended it.
    """
    from frostline.launch import runner_of
    from frostline.tracking import recorders_of

    tolerance = TOLERANCE if request.tolerance is None else request.tolerance
    if not (tolerance >= 0 and math.isfinite(tolerance)):
        raise UserError(f"--tolerance {tolerance}: give a number of 0 or more")
    with ExitStack() as stack:
        recorded, spec, job, run_id, base = _found(request, stack)
    until = _until(recorded, request.at)
    # Microseconds: two re-runs may begin in one second.
    folder = base / "reproduced" / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}-{spec.name()}"
    watch = _Watch(recorded, spec)
    sharing = Sharing(threads=next((use.threads for use in recorded.result.cache_uses if use.threads), None))
    overrides = [redact(word) for word in (recorded.source, *request.overrides)]
    with RunFolder(folder, spec, overrides, keep_diff=job.tracking.git_diff) as run_folder:
        # Its model is the recorded one once more, or not worth keeping.
        tracking = dataclasses.replace(job.tracking, log_model=False, register=None)
        recorders = recorders_of(run_folder, spec, tracking, watch, child=_child(recorded, spec, run_id))
        context = RunContext(recorders, folder, overrides=overrides, until_step=until, sharing=sharing)
        result = runner_of(spec)(spec, context)
    if result.status is Status.KILLED:
        raise Interrupted(signal_of(result.cause))
    verdict = compare(recorded, result, curve_of(watch.rows), watch.differences, tolerance=tolerance, until=until)
    _tell_mlflow(job, folder, verdict)
    return Rerun(recorded=recorded, verdict=verdict, folder=folder, until=until)


def _found(request: Request, stack: ExitStack) -> tuple[Recorded, RunSpec, Job, str | None, Path]:
    """Returns the record, what is to be re-run, where it is recorded, the MLflow run it belongs to, and its base."""
    # What is beside the run: where the re-run is recorded, and the plugins that this person trusts.
    job = compose_job([word for word in request.overrides if _is_beside(word)], request.config_dir)
    folder, run_id = run_record(request.run, request.tracking_uri or job.tracking.uri, stack)
    recorded = read_record(folder, request.run, spec_from_json)
    base = RUNS
    if run_id is None:
        recorded = dataclasses.replace(recorded, spec=located(recorded.spec, folder))
        base = RUNS if os.access(Path.cwd(), os.W_OK) else folder.parent  # beside the run, where we may write
        run_id = _run_of(folder, job)
    elif request.tracking_uri not in {None, job.tracking.uri}:
        run_id = None  # of another store: the re-run can't be its child
    spec = _spec(recorded, [word for word in request.overrides if not _is_beside(word)])
    refuse_scripts(recorded.source, spec.training.metrics, request.metrics, job.plugins)
    return recorded, spec, job, run_id, base


def _is_beside(word: str) -> bool:
    return word.lstrip("+~").startswith(_BESIDE)


def _run_of(folder: Path, job: Job) -> str | None:
    """Returns the MLflow run that a folder is recorded in, in the store that the re-run goes to."""
    if not job.tracking.enabled:
        return None
    from frostline.tracking import recorded_run

    return recorded_run(folder, job.tracking.uri)


def _spec(recorded: Recorded, overrides: Sequence[str]) -> RunSpec:
    """Returns the recorded spec, on as many threads and with the cache or without, with what is changed on purpose."""
    runtime = dataclasses.replace(recorded.spec.runtime, progress=Progress.AUTO)
    compute = recorded.result.provenance.get("compute") or {}
    threads = compute.get("threads")
    if isinstance(threads, int) and threads > 0:
        runtime = dataclasses.replace(runtime, threads=threads)
    uses = recorded.result.cache_uses
    cached = [use for use in uses if use.depth is not None]
    cache = dataclasses.replace(
        runtime.cache,
        mode=CacheMode.REQUIRE if cached else CacheMode.OFF,
        max_bytes=max(runtime.cache.max_bytes, CACHE_MAX_BYTES),
        dtype=CacheDtype(cached[0].dtype) if cached else runtime.cache.dtype,
    )
    spec = dataclasses.replace(recorded.spec, runtime=dataclasses.replace(runtime, cache=cache))
    changes = changes_of(spec, overrides)
    return with_params(spec, changes) if changes else spec


def _until(recorded: Recorded, at: int | None) -> int | None:
    own = recorded.until()
    if at is None:
        return own
    if at < 1:
        raise UserError(f"--at {at}: give an optimizer step, 1 or more")
    if at < min(recorded.curve, default=1):
        raise UserError(f"--at {at}: the record's first numbers are of step {min(recorded.curve, default=1)}")
    if at > recorded.last_step:
        raise UserError(f"--at {at}: the record ends at step {recorded.last_step}")
    return own if at == recorded.last_step else at


def differences_here(request: Request) -> tuple[Recorded, tuple[Difference, ...]]:
    """Returns a run's record and what differs here; nothing is trained.

    Raises:
        UserError: There is no such run, or its inputs can't be had.
    """
    from frostline.train import prepare  # torch

    with ExitStack() as stack:
        recorded, spec = _found(request, stack)[:2]
    # Nothing is trained, so nothing is filled: a re-run would have the cache as the record has it, or fail.
    quiet = dataclasses.replace(spec.runtime.cache, mode=CacheMode.OFF)
    setup = prepare(dataclasses.replace(spec, runtime=dataclasses.replace(spec.runtime, cache=quiet)))
    compute = dict(recorded.result.provenance.get("compute") or {})
    if spec.runtime.cache.mode is CacheMode.REQUIRE and "prefix_cache" in compute:
        setup.provenance["compute"]["prefix_cache"] = compute["prefix_cache"]
    return recorded, differences(recorded, spec, setup.provenance)


class _Watch:
    """Compares the re-run's inputs before it trains, and collects its metrics."""

    def __init__(self, recorded: Recorded, spec: RunSpec) -> None:
        self._recorded = recorded
        self._spec = spec
        self.differences: tuple[Any, ...] = ()
        self.rows: list[tuple[int, dict[str, float]]] = []

    def start(self, run: RunStart) -> None:
        """Prints what differs here, before anything is trained."""
        self.differences = differences(self._recorded, self._spec, run.provenance)
        for difference in self.differences:
            text = visible(f"differs here: {difference} ({difference.effect.value})")
            print(text, file=sys.stderr, flush=True)

    def log(self, metrics: Any, step: int) -> None:
        """Keeps the numbers."""
        self.rows.append((step, dict(metrics)))

    def finish(self, result: Any) -> None:
        """See `Recorder`."""


def _child(recorded: Recorded, spec: RunSpec, run_id: str | None) -> ChildRun:
    from frostline.tracking import ChildRun

    tags = {
        "frostline.kind": "reproduction",
        "frostline.reproduces": run_id or recorded.source,
        "frostline.reproduces_digest": recorded.result.spec_digest,
    }
    return ChildRun(parent=run_id, name=f"again {spec.name()}", params={}, tags=tags, command="frostline reproduce")


def _tell_mlflow(job: Job, folder: Path, verdict: Verdict) -> None:
    if not job.tracking.enabled:
        return
    from frostline import tracking

    with best_effort("the verdict's tags in MLflow"):  # its troubles were logged when the run was recorded
        run_id = tracking.recorded_run(folder, job.tracking.uri)
        if run_id is not None:
            tags = {"frostline.verdict": verdict.conclusion.value, "frostline.verdict_reason": verdict.reason}
            tracking.tag_run(job.tracking.uri, run_id, tags)
