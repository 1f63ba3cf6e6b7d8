"""The end of a sweep's command: report, MLflow, terminal."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.config.recorded import read_spec
from frostline.errors import best_effort
from frostline.preflight import num_blocks as blocks_of
from frostline.provenance import redact
from frostline.records.model_card import CARD_FILE
from frostline.records.run_folder import MODEL_FOLDER, rewrite_card
from frostline.records.trial import TrialRecord, TrialState
from frostline.report import (
    Answer,
    MlflowView,
    ReportData,
    answer_of,
    headline,
    label,
    make_console,
    print_answer,
    standing_lines,
    write_report,
)
from frostline.report.model_rows import ModelRows, calibration_line
from frostline.search import SearchSummary, reason_if_all_failed
from frostline.spec import CostName, Direction
from frostline.sweeps.folder import REPORT_FOLDER, SweepFolder, read_description
from frostline.sweeps.model_rows import model_rows_in
from frostline.sweeps.predictions import evidence_in
from frostline.sweeps.questions import advisors_of
from frostline.sweeps.read_config import Sweep
from frostline.sweeps.trial_runs import TrialRuns
from frostline.tracking.links import UI_ADDRESS

if TYPE_CHECKING:
    from frostline.tracking import SweepRun


_RETRY = "when that is mended, give the same command with sweep.retry_failed=true"


@dataclass(frozen=True, kw_only=True)
class FinishedSweep:
    """A sweep whose command has stopped searching.

    Attributes:
        sweep: What was swept.
        folder: The sweep's.
        runs: Overrides and folders of its trials' runs.
        summary: How the search ended.
        answer: What the sweep says.
        interrupted: By a signal.
    """

    sweep: Sweep
    folder: SweepFolder
    runs: TrialRuns
    summary: SearchSummary
    answer: Answer
    interrupted: bool

    @property
    def trials(self) -> Sequence[TrialRecord]:
        """All trials of the study, and the baseline."""
        return self.summary.trials

    @property
    def progress(self) -> str:
        """How many trials ended how, in one line."""
        return progress_line(self.trials, self.summary.stopped)

    @property
    def recommended_folder(self) -> Path | None:
        """The folder of the recommended trial's run."""
        chosen = self.answer.recommended
        if chosen is None:
            return None
        return self.runs.folder_of(chosen.number if chosen.copy_of is None else chosen.copy_of, self.runs.seeds[0])

    @cached_property
    def rows(self) -> ModelRows | None:
        """What the recommended trial's model says of the held-out rows."""
        return model_rows_in(self.recommended_folder)

    @property
    def recommended_command(self) -> str:
        """What trains the recommended trial again; empty if there is none."""
        return command_again(self.recommended_folder)

    @property
    def failure(self) -> str | None:
        """Why the command failed, in one line; None if it didn't."""
        summary, trials = self.summary, self.trials
        if self.interrupted or summary.fatal is not None:
            return None
        if summary.too_many_failed:
            return f"stopped: {summary.stopped}; the first: {_first_reason(trials)}; {_RETRY}"
        if (reason := reason_if_all_failed(trials)) is not None:
            return f"every trial failed; the first: {reason}; {_RETRY}"
        any_failed = any(trial.state is TrialState.FAILED for trial in trials)
        if summary.complete and self.answer.best is None and any_failed:
            return f"no trial was trained to its end; the first that failed: {_first_reason(trials)}"
        return None


def conclude(finished: FinishedSweep, run: SweepRun) -> str | None:
    """Writes the report, ends the MLflow run, prints the answer.

    Args:
        finished: The sweep.
        run: Its run in MLflow.

    Returns:
        Why the command failed, in one line; None if it didn't.
    """
    from frostline.sweeps.mlflow_summary import record_summary

    sweep, training = finished.sweep, finished.sweep.job.run.training
    maximize = training.direction is Direction.MAXIMIZE
    view = run.publish_view(training.objective, maximize=maximize, keys=sweep.space.keys)
    paths = _write_report(finished, mlflow_view(view))
    _write_cards(finished)
    record_summary(finished, run, view, paths)
    failure = finished.failure
    if not sweep.view.prints_answer:
        return failure
    if finished.answer.best is not None and not finished.interrupted:
        _print_answer(finished, run, view, paths)
    elif not finished.interrupted and finished.summary.fatal is None and failure is None:
        make_console().print(finished.progress, highlight=False, soft_wrap=True, markup=False)
    return failure


def _write_cards(finished: FinishedSweep) -> None:
    """Puts the sweep's answer into the card of the recommended model, and takes it out of those of others."""
    answer, recommended = finished.answer, finished.recommended_folder
    if recommended is None or not finished.summary.complete:
        return
    sentences = [f"{label(answer)}: {headline(answer)}", *standing_lines(answer)]
    for card in finished.folder.folder.glob(f"**/{MODEL_FOLDER}/{CARD_FILE}"):
        folder = card.parent.parent
        with best_effort("the model card's answer"):
            rewrite_card(folder, read_spec(folder), sentences if folder == recommended else ())


def mlflow_view(address: str | None) -> MlflowView | None:
    """Returns the page in MLflow that `SweepRun.publish_view` named, and how one gets there."""
    if address is None or not address.startswith("/"):
        return None if address is None else MlflowView(command=None, address=address)
    return MlflowView(command="frostline ui", address=f"{UI_ADDRESS}{address}")


def _write_report(finished: FinishedSweep, view: MlflowView | None) -> list[Path]:
    if all(trial.quality is None for trial in finished.trials):
        return []
    data = ReportData(
        name=finished.folder.folder.name,
        trials=finished.trials,
        answer=finished.answer,
        cost=finished.sweep.plan.cost or CostName.TRAIN_S,
        base=_shared_settings(finished.sweep),
        command=finished.recommended_command,
        status=finished.progress,
        rows=finished.rows,
        view=view,
    )
    return write_report(data, finished.folder.folder / REPORT_FOLDER)


def _print_answer(finished: FinishedSweep, run: SweepRun, view: str | None, paths: Sequence[Path]) -> None:
    answer, command = finished.answer, finished.sweep.command
    console = make_console()
    print_answer(answer, console)
    lines = [finished.progress]
    if (calibration := calibration_line(finished.rows)) is not None:
        lines.insert(0, f"calibration: {calibration}")
    if answer.settle_needed is not None and finished.summary.complete:
        lines.append(f"continue with: {finished.sweep.settle_command(answer.settle_needed)}")
    lines.append(f"run it again: {finished.recommended_command}")
    if paths:
        lines.append(f"report: {paths[0]}")
    if view is not None:
        lines.append(f"compare in the MLflow UI: {mlflow_view(view)}")
    if run.registered is not None:
        lines.append(f"registered in MLflow: models:/{run.registered}")
    if missed := run.num_missed():
        # sync sends nothing to an address that only a record names
        uri = [redact(word) for word in shlex.split(command) if word.startswith("tracking.uri=")]
        sync = f"frostline ui --sync {shlex.join([str(finished.folder.folder), *uri])}"
        lines.append(f"not in MLflow yet: {missed} of its runs; {sync}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


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
        num_blocks=None if "model" in sweep.space.keys else blocks_of(sweep.job.run), evidence=find,
    )  # fmt: skip


def command_again(folder: Path | None) -> str:
    """Returns what trains a recorded run again; empty if there is none."""
    return "" if folder is None else shlex.join(["frostline", "run", "--from", str(folder)])


def progress_line(trials: Sequence[TrialRecord], stopped: str | None) -> str:
    """Returns how many trials ended in which state, in words."""
    trials = [trial for trial in trials if not trial.is_baseline]
    counts = Counter(trial.state for trial in trials)
    names = {TrialState.COMPLETE: "to the end", TrialState.PRUNED: "stopped early", TrialState.FAILED: "failed"}
    parts = [f"{counts[state]} {name}" for state, name in names.items() if counts[state]]
    left = counts[TrialState.WAITING] + counts[TrialState.RUNNING]
    parts += [f"{left} not finished"] if left else []
    copies = sum(trial.copy_of is not None for trial in trials)
    parts += [f"{copies} taken over from like trials"] if copies else []
    return f"{len(trials)} trial{'' if len(trials) == 1 else 's'}: {', '.join(parts)}" + (
        f"; {stopped}" if stopped else ""
    )


def _shared_settings(sweep: Sweep) -> dict[str, Any]:
    """Returns what all trials have in common."""
    swept = set(sweep.space.keys)
    groups = tuple(f"{group.key}." for group in sweep.space.groups)
    flat = sweep.job.run.flat()
    return {key: value for key, value in flat.items() if key not in swept and not (groups and key.startswith(groups))}


def _first_reason(trials: Sequence[TrialRecord]) -> str:
    failed = [trial for trial in trials if trial.state is TrialState.FAILED and trial.outcome is not None]
    return (failed[0].reason if failed else None) or "unknown"
