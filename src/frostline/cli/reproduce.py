"""`frostline reproduce RUN`: trains a recorded run again and compares it with its record."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.cli.common import OneLineParser, located, refuse_scripts
from frostline.cli.find_run import RUNS, run_record
from frostline.console import configure_logging
from frostline.errors import UserError, best_effort, visible
from frostline.records.run_context import RunContext

if TYPE_CHECKING:
    import argparse

    from frostline.config import Job
    from frostline.records.recorder import RunStart
    from frostline.reproduction.compare import Verdict
    from frostline.reproduction.record import Recorded
    from frostline.spec import RunSpec
    from frostline.tracking import ChildRun

_BESIDE = ("tracking", "plugins")


def main(arguments: list[str]) -> int:
    """Re-runs a recorded run and prints whether it came out the same.

    Returns:
        0 for identical and equivalent, 1 for different.
    """
    options = _parser().parse_intermixed_args(arguments)
    configure_logging()  # else a store that does not answer is reported in the run's log alone
    from frostline.reproduction.record import read_record

    job = _job(options)
    with ExitStack() as stack:
        folder, run_id = run_record(options.run, options.tracking_uri or job.tracking.uri, stack)
        recorded = read_record(folder, options.run, _parse)
        base = RUNS
        if run_id is None:
            recorded = dataclasses.replace(recorded, spec=located(recorded.spec, folder))
            base = RUNS if os.access(Path.cwd(), os.W_OK) else folder.parent  # beside the run, where we may write
            run_id = _run_of(folder, job)
        elif options.tracking_uri not in {None, job.tracking.uri}:
            run_id = None  # of another store: the re-run can't be its child
    spec = _spec(recorded, [word for word in options.overrides if not _is_beside(word)])
    refuse_scripts(recorded.source, spec.training.metrics, options.metric, job.plugins)
    until = _until(recorded, options.at)
    if options.explain:
        return _explain(recorded, spec)
    return _rerun(recorded, spec, job, options, until, run_id, base)


def _parser() -> OneLineParser:
    import argparse

    parser = OneLineParser(
        prog="frostline reproduce",
        usage="frostline reproduce [-h] [--explain] [--at STEP] [--tolerance X] RUN [KEY=VALUE ...]",
        description="Re-runs a recorded run from its recorded config alone, and says whether it came out the same:\n"
        "identical (every number and the trained weights are bit-equal), equivalent (within the tolerance, and\n"
        "something that is known to change bits differs here) or different. Exit code 0, 0, 1.",
        epilog="""examples:
  frostline reproduce runs/lr_x_depth/016                 a run's folder
  frostline reproduce lr_x_depth                          the best run of a sweep
  frostline reproduce 0123456789abcdef0123456789abcdef    a run id in MLflow
  frostline reproduce runs/single/... --explain           what differs here, without training
  frostline reproduce runs/single/... runtime.threads=1   with something changed on purpose""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder, a sweep (its best run), or a run id in MLflow")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="keys of the run to change; tracking=off")
    parser.add_argument("--explain", action="store_true", help="only say what differs here; nothing is trained")
    parser.add_argument("--at", type=int, metavar="STEP", help="re-run up to this optimizer step only")
    parser.add_argument("--tolerance", type=float, metavar="X", help="how far `equivalent` reaches (0.01)")
    parser.add_argument("--tracking-uri", metavar="URI", help="where to look a run id up; the config's by default")
    parser.add_argument(
        "--metric", action="append", default=[], metavar="NAME",
        help="a metric of the record that is not frostline's own, and may be run: a record can't ask for that itself",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="the verdict as JSON on standard output")
    parser.add_argument("--config-dir", help="a folder of your own config groups, for tracking")
    return parser


def _job(options: argparse.Namespace) -> Job:
    """Composes what is beside the run: where the re-run is recorded, and the plugins that this person trusts."""
    from frostline.config import compose_job

    return compose_job([word for word in options.overrides if _is_beside(word)], options.config_dir)


def _is_beside(word: str) -> bool:
    return word.lstrip("+~").startswith(_BESIDE)


def _parse(text: str) -> RunSpec:
    from frostline.config import spec_from_json

    return spec_from_json(text)


# -- finding the record ----------------------------------------------------------------------------------------------


def _run_of(folder: Path, job: Job) -> str | None:
    """Returns the MLflow run that a folder is recorded in, in the store that the re-run goes to."""
    if not job.tracking.enabled:
        return None
    from frostline.tracking import recorded_run

    return recorded_run(folder, job.tracking.uri)


# -- what is re-run --------------------------------------------------------------------------------------------------


def _spec(recorded: Recorded, overrides: Sequence[str]) -> RunSpec:
    """Returns the recorded spec, on as many threads and with the cache or without, with what is changed on purpose."""
    from frostline.config import value_from_text
    from frostline.errors import nearest
    from frostline.spec import CACHE_MAX_BYTES, CacheDtype, CacheMode, Progress
    from frostline.sweeps.params import with_params

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
    known = spec.flat()
    changes: dict[str, Any] = {}
    for word in overrides:
        key, equals, value = word.partition("=")
        key = "runtime.cache.mode" if key == "runtime.cache" else key
        if not equals or key not in known:
            raise UserError(f"{word}: give KEY=VALUE with a key of the run{nearest(key, known)}")
        changes[key] = value_from_text(value)
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


def _explain(recorded: Recorded, spec: RunSpec) -> int:
    from frostline.report import print_differences
    from frostline.reproduction.compare import differences
    from frostline.spec import CacheMode
    from frostline.train import prepare

    # Nothing is trained, so nothing is filled: a re-run would have the cache as the record has it, or fail.
    quiet = dataclasses.replace(spec.runtime.cache, mode=CacheMode.OFF)
    setup = prepare(dataclasses.replace(spec, runtime=dataclasses.replace(spec.runtime, cache=quiet)))
    compute = dict(recorded.result.provenance.get("compute") or {})
    if spec.runtime.cache.mode is CacheMode.REQUIRE and "prefix_cache" in compute:
        setup.provenance["compute"]["prefix_cache"] = compute["prefix_cache"]
    print_differences(recorded.source, differences(recorded, spec, setup.provenance))
    return 0


def _rerun(
    recorded: Recorded,
    spec: RunSpec,
    job: Job,
    options: argparse.Namespace,
    until: int | None,
    run_id: str | None,
    base: Path,
) -> int:
    from frostline.launch import runner_of
    from frostline.provenance import redact
    from frostline.records.result import Status
    from frostline.records.run_context import Sharing
    from frostline.records.run_folder import RunFolder
    from frostline.report import print_verdict
    from frostline.reproduction.compare import TOLERANCE, compare
    from frostline.reproduction.record import curve_of
    from frostline.signals import Interrupted, exit_code
    from frostline.tracking import recorders_of

    tolerance = TOLERANCE if options.tolerance is None else options.tolerance
    if not (tolerance >= 0 and math.isfinite(tolerance)):
        raise UserError(f"--tolerance {tolerance}: give a number of 0 or more")
    # Microseconds: two re-runs may begin in one second.
    folder = base / "reproduced" / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}-{spec.name()}"
    watch = _Watch(recorded, spec)
    sharing = Sharing(threads=next((use.threads for use in recorded.result.cache_uses if use.threads), None))
    overrides = [redact(word) for word in (recorded.source, *options.overrides)]
    with RunFolder(folder, spec, overrides, keep_diff=job.tracking.git_diff) as run_folder:
        # Its model is the recorded one once more, or not worth keeping.
        tracking = dataclasses.replace(job.tracking, log_model=False)
        recorders = recorders_of(run_folder, spec, tracking, watch, child=_child(recorded, spec, run_id))
        try:
            result = runner_of(spec)(
                spec, RunContext(recorders, folder, overrides=overrides, until_step=until, sharing=sharing)
            )
        except Interrupted as stop:
            return stop.exit_code
    if result.status is Status.KILLED:
        return exit_code(result.cause)
    verdict = compare(recorded, result, curve_of(watch.rows), watch.differences, tolerance=tolerance, until=until)
    _tell_mlflow(job, folder, verdict)
    if options.json:
        print(json.dumps(_as_json(recorded, verdict, folder), ensure_ascii=False))
    else:
        print_verdict(recorded, verdict, folder, until)
    return verdict.exit_code


class _Watch:
    """Compares the re-run's inputs before it trains, and collects its metrics."""

    def __init__(self, recorded: Recorded, spec: RunSpec) -> None:
        self._recorded = recorded
        self._spec = spec
        self.differences: tuple[Any, ...] = ()
        self.rows: list[tuple[int, dict[str, float]]] = []

    def start(self, run: RunStart) -> None:
        """Prints what differs here, before anything is trained."""
        from frostline.reproduction.compare import differences

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


def _as_json(recorded: Recorded, verdict: Verdict, folder: Path) -> dict[str, Any]:
    from frostline.records.result import finite

    data: dict[str, Any] = finite(dataclasses.asdict(verdict))
    return {"source": recorded.source, **data, "run_dir": str(folder)}
