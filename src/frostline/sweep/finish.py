"""Owns: a sweep's last words - report, MLflow's charts and status, the terminal. Must not know: the search."""

from __future__ import annotations

import json
import logging
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.files import refuse_links
from frostline.preflight import num_blocks as blocks_of
from frostline.provenance import redact
from frostline.records.result import Status
from frostline.records.run_folder import SPEC_FILE
from frostline.records.trial import TrialRecord, TrialState, ranked
from frostline.report import (
    Answer,
    Baseline,
    ReportData,
    answer_of,
    headline,
    label,
    level_table,
    make_console,
    print_answer,
    standing_lines,
    write_report,
)
from frostline.search import SearchSummary, check_alike
from frostline.spec import DEPTH_KEY, CostName, Direction
from frostline.sweep.executors import TrialRuns
from frostline.sweep.folder import JOURNAL_FILE, REPORT_FOLDER, SWEEP_FILE, SweepFolder, read_description
from frostline.sweep.predictions import evidence_in
from frostline.sweep.questions import advisors_of
from frostline.sweep.read_config import Sweep
from frostline.tracking.links import UI_ADDRESS

if TYPE_CHECKING:
    from frostline.tracking import SweepRun

log = logging.getLogger(__name__)


def answer_for(sweep: Sweep, folder: SweepFolder, trials: Sequence[TrialRecord]) -> Answer:
    """Returns what a sweep says.

    Args:
        sweep: What was swept.
        folder: The sweep's.
        trials: All of the study.
    """
    training = sweep.job.run.training
    find = evidence_in(folder.folder, sweep.plan.seeds)
    return answer_of(
        trials, training.objective, advisors_of(read_description(folder.folder), find),
        maximize=training.direction is Direction.MAXIMIZE,
        num_blocks=None if "model" in sweep.space.keys else blocks_of(sweep.job.run.model), evidence=find,
    )  # fmt: skip


def conclude(
    sweep: Sweep,
    folder: SweepFolder,
    run: SweepRun,
    runs: TrialRuns,
    summary: SearchSummary,
    answer: Answer,
    *,
    interrupted: bool,
) -> str | None:
    """Writes the report, ends the MLflow run, prints the answer.

    Args:
        sweep: What was swept.
        folder: The sweep's.
        run: The parent run in MLflow.
        runs: For the best run's command.
        summary: How the search ended.
        answer: What the sweep says.
        interrupted: By a signal.

    Returns:
        Why the command failed, in one line; None if it didn't.
    """
    trials = summary.trials
    training = sweep.job.run.training
    maximize = training.direction is Direction.MAXIMIZE
    status = progress_line(trials, summary.stopped)
    command = ""
    chosen = answer.recommended
    if chosen is not None:
        overrides = runs.overrides(chosen.params, runs.seeds[0])
        trained = runs.folder_of(chosen.number if chosen.copy_of is None else chosen.copy_of, runs.seeds[0])
        command = "frostline run " + shlex.join(map(redact, [*overrides, *_threads_of(trained, overrides)]))
    paths: list[Path] = []
    if any(trial.quality is not None for trial in trials):
        material = ReportData(
            name=folder.folder.name,
            trials=trials,
            answer=answer,
            cost=sweep.plan.cost or CostName.TRAIN_S,
            base=_shared(sweep),
            command=command,
            status=status,
        )
        paths = write_report(material, folder.folder / REPORT_FOLDER)
    first_reason = check_alike(trials)
    failed = None
    if interrupted or summary.fatal is not None:
        failed = None
    elif summary.too_many_failed:
        failed = f"stopped: {summary.stopped}; the first: {_first_reason(trials)}"
    elif first_reason is not None:
        failed = f"every trial failed; the first: {first_reason}"
    elif summary.complete and answer.best is None and any(trial.state is TrialState.FAILED for trial in trials):
        failed = f"no trial was trained to its end; the first that failed: {_first_reason(trials)}"
    view = run.publish_view(training.objective, maximize=maximize, keys=sweep.space.keys)
    _record(
        run,
        sweep,
        runs,
        view,
        folder,
        answer,
        trials,
        summary,
        paths,
        status,
        interrupted=interrupted,
        failed=failed is not None,
    )
    if answer.best is None and not interrupted and summary.fatal is None and failed is None:
        make_console().print(status, highlight=False, soft_wrap=True, markup=False)
    if answer.best is not None and not interrupted:
        console = make_console()
        print_answer(answer, console)
        console.print(status, highlight=False, soft_wrap=True, markup=False)
        if answer.settle_needed is not None and summary.complete:
            more = with_settle(sweep.command, answer.settle_needed)
            console.print(f"go on: {more}", highlight=False, soft_wrap=True, markup=False)
        console.print(f"run it again: {command}", highlight=False, soft_wrap=True, markup=False)
        if paths:
            console.print(f"report: {paths[0]}", highlight=False, soft_wrap=True, markup=False)
        if view is not None:
            local = f"frostline ui, then {UI_ADDRESS}{view}" if view.startswith("/") else view
            console.print(f"compare in the MLflow UI: {local}", highlight=False, soft_wrap=True, markup=False)
        missed = run.num_missed()
        if missed:
            # sync sends nothing to an address that only a record names
            words = shlex.split(sweep.command)
            uri = [redact(word) for word in words if word.startswith("tracking.uri=")]
            text = f"not in MLflow yet: {missed} of its runs; frostline sync {shlex.join([str(folder.folder), *uri])}"
            console.print(text, highlight=False, soft_wrap=True, markup=False)
    return failed


def with_settle(command: str, settle: int) -> str:
    """Returns a sweep's command with another budget for further seeds."""
    words = [word for word in shlex.split(command) if not word.startswith("sweep.settle=")]
    return shlex.join([*words, f"sweep.settle={settle}"])


def progress_line(trials: Sequence[TrialRecord], stopped: str | None) -> str:
    """Returns how many trials came to what, in words."""
    trials = [trial for trial in trials if not trial.is_baseline]
    counts = Counter(trial.state for trial in trials)
    names = {TrialState.COMPLETE: "to the end", TrialState.PRUNED: "stopped early", TrialState.FAILED: "failed"}
    parts = [f"{counts[state]} {name}" for state, name in names.items() if counts[state]]
    left = counts[TrialState.WAITING] + counts[TrialState.RUNNING]
    parts += [f"{left} left"] if left else []
    copies = sum(trial.copy_of is not None for trial in trials)
    parts += [f"{copies} taken over from like trials"] if copies else []
    return f"{len(trials)} trials: {', '.join(parts)}" + (f"; {stopped}" if stopped else "")


def _record(
    run: SweepRun,
    sweep: Sweep,
    runs: TrialRuns,
    view: str | None,
    folder: SweepFolder,
    answer: Answer,
    trials: Sequence[TrialRecord],
    summary: SearchSummary,
    paths: Sequence[Path],
    status: str,
    *,
    interrupted: bool,
    failed: bool,
) -> None:
    metric = answer.metric
    best_so_far: float | None = None
    searched = [trial for trial in trials if not trial.is_baseline]
    for trial in sorted(ranked(searched, answer.maximize), key=lambda trial: trial.number):
        quality = trial.quality or 0.0
        if best_so_far is None or (quality > best_so_far if answer.maximize else quality < best_so_far):
            best_so_far = quality
        run.log({f"best/{metric}": best_so_far}, trial.number)
    for each in answer.groups:  # depths of two models or sizes don't compare: a curve for each
        end = f"/{each.group}" if len(answer.groups) > 1 else ""
        by = "by_depth" if answer.axis_key == DEPTH_KEY else f"by_{(answer.axis_key or '').rpartition('.')[2]}"
        # A step of MLflow is a whole number.
        rows = [(int(row.level), row, row.trial) for row in each.rows if row.level >= 0 and row.level.is_integer()]
        tried = [(level, row, trial) for level, row, trial in rows if trial is not None]
        run.log_by_step(f"{by}/{metric}{end}", {level: row.mean for level, row, _ in tried})
        times = {level: trial.cost(CostName.TRAIN_S) for level, _, trial in tried}
        run.log_by_step(f"{by}/train_s{end}", {level: value for level, value in times.items() if value is not None})
    counts = Counter(trial.state.value.lower() for trial in trials if not trial.is_baseline)
    run.log({f"trials/{name}": float(counts[name]) for name in ("complete", "pruned", "failed")}, 0)
    outcome = Status.KILLED if interrupted else Status.FAILED if failed or summary.fatal else Status.FINISHED
    tags: dict[str, str] = {"frostline.counts": status, "mlflow.note.content": _note(answer, status, view)}
    if summary.stopped is not None:
        tags["frostline.reason"] = summary.fatal or summary.stopped
    if answer.best is not None:
        tags["frostline.best"] = answer.best.label()
        tags["frostline.recommendation"] = headline(answer)
        if answer.standing is not None:
            tags["frostline.standing"] = answer.standing.value
    told: dict[Path, dict[str, str]] = {}
    if len(runs.seeds) > 1:  # the first seed's run went to its end, and so is FINISHED, of trials that did not
        told = {
            runs.folder_of(trial.number, runs.seeds[0]): {"frostline.trial_state": trial.state.value}
            for trial in trials
            if trial.outcome is not None
        }
    best = None
    chosen = answer.recommended
    if chosen is not None:
        number = chosen.number if chosen.copy_of is None else chosen.copy_of
        best = runs.folder_of(number, runs.seeds[0])
    own = [folder.folder / SWEEP_FILE, folder.folder / JOURNAL_FILE]
    files = [*paths, *(path for path in own if path.is_file())]
    with_model = sweep.plan.log_best_model and outcome is Status.FINISHED
    run.finish(outcome, tags, files, best=best, with_model=with_model, trials=told)


def _note(answer: Answer, status: str, view: str | None) -> str:
    lines = [f"**{label(answer).capitalize()}: {headline(answer)}**", ""]
    lines += [f"- {line}" for line in standing_lines(answer)]
    lines += ["", status, ""]
    if view is not None:
        lines += [f"[The trials side by side, the best first]({view})", ""]
    cells = level_table(answer)
    if cells.lines:
        head = [name or "state" for name in cells.head]
        lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        lines += [f"| {' | '.join(line)} |" for line in cells.lines]
    return "\n".join(lines)


def _shared(sweep: Sweep) -> dict[str, Any]:
    swept = set(sweep.space.keys)
    groups = tuple(f"{group.key}." for group in sweep.space.groups)
    flat = sweep.job.run.flat()
    return {key: value for key, value in flat.items() if key not in swept and not (groups and key.startswith(groups))}


def _threads_of(run: Path, overrides: Sequence[str]) -> list[str]:
    """Returns what trains on as many threads as a run did: its share of the cores, where the overrides don't say."""
    if any(override.startswith("runtime.threads=") for override in overrides):
        return []
    try:
        threads = json.loads((run / SPEC_FILE).read_text(encoding="utf-8"))["runtime"]["threads"]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    return [f"runtime.threads={threads}"] if isinstance(threads, int) else []


def _first_reason(trials: Sequence[TrialRecord]) -> str:
    failed = [trial for trial in trials if trial.state is TrialState.FAILED and trial.outcome is not None]
    return (failed[0].reason if failed else None) or "unknown"


def report_again(
    folder: Path, description: Mapping[str, Any], trials: Sequence[TrialRecord], baselines: Sequence[Baseline] = ()
) -> tuple[Answer, list[Path], str]:
    """Makes the report of a sweep from its files alone.

    Args:
        folder: The sweep's.
        description: Its `sweep.json`.
        trials: From the trials' files.
        baselines: Trials of other sweeps to compare with.

    Raises:
        UserError: What would be written is a link.
    """
    target = folder / REPORT_FOLDER
    refuse_links([target, *target.glob("*")])
    maximize = description["direction"] == Direction.MAXIMIZE.value
    num_blocks = description["num_blocks"]
    find = evidence_in(folder, description["plan"]["seeds"])
    answer = answer_of(
        trials, description["objective"], advisors_of(description, find), maximize=maximize, num_blocks=num_blocks,
        baselines=baselines, evidence=find,
    )  # fmt: skip
    cost = description["plan"]["cost"]
    chosen = answer.recommended
    command = ""
    if chosen is not None:
        from frostline.sweep.read_config import encode

        seeds = description["plan"]["seeds"]
        extra = [f"seed={seeds[0]}"] if seeds else []
        overrides = [*description["command"], *encode(chosen.params), *extra]
        number = chosen.number if chosen.copy_of is None else chosen.copy_of
        trained = folder / f"{number:03d}" / (f"s{seeds[0]}" if seeds and len(seeds) > 1 else "")
        command = "frostline run " + shlex.join([*overrides, *_threads_of(trained, overrides)])
    status = progress_line(trials, None)
    material = ReportData(
        name=folder.name,
        trials=trials,
        answer=answer,
        cost=CostName(cost) if cost else CostName.TRAIN_S,
        base=description["base"],
        command=command,
        status=status,
    )
    return answer, write_report(material, target), command
