"""What a sweep's run in MLflow says when the sweep ends: charts, tags, note, files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from frostline.records.result import Status
from frostline.records.trial import ranked
from frostline.report import Answer, headline, label, level_table, standing_lines
from frostline.spec import DEPTH_KEY, CostName
from frostline.sweeps.finish import FinishedSweep
from frostline.sweeps.folder import JOURNAL_FILE, SWEEP_FILE
from frostline.tracking import SweepRun


def record_summary(finished: FinishedSweep, run: SweepRun, view: str | None, paths: Sequence[Path]) -> None:
    """Records the results of a sweep in its MLflow run, and ends the run.

    Args:
        finished: The sweep.
        run: Its run.
        view: The page that compares its trials, if there is one.
        paths: Files of the report.
    """
    answer, trials, summary, runs = finished.answer, finished.trials, finished.summary, finished.runs
    _log_charts(finished, run)
    counts = Counter(trial.state.value.lower() for trial in trials if not trial.is_baseline)
    run.log({f"trials/{name}": float(counts[name]) for name in ("complete", "pruned", "failed")}, 0)
    status = Status.FINISHED
    if finished.interrupted:
        status = Status.KILLED
    elif finished.failure is not None or summary.fatal:
        status = Status.FAILED
    tags = {"frostline.counts": finished.progress, "mlflow.note.content": _note(answer, finished.progress, view)}
    if summary.stopped is not None:
        tags["frostline.reason"] = summary.fatal or summary.stopped
    if answer.best is not None:
        tags["frostline.best"] = answer.best.label()
        tags["frostline.recommendation"] = headline(answer)
        if answer.standing is not None:
            tags["frostline.standing"] = answer.standing.value
    states: dict[Path, dict[str, str]] = {}
    if len(runs.seeds) > 1:  # the first seed's run went to its end, and so is FINISHED, of trials that did not
        states = {
            runs.folder_of(trial.number, runs.seeds[0]): {"frostline.trial_state": trial.state.value}
            for trial in trials
            if trial.outcome is not None
        }
    own = [finished.folder.folder / SWEEP_FILE, finished.folder.folder / JOURNAL_FILE]
    files = [*paths, *(path for path in own if path.is_file())]
    with_model = finished.sweep.plan.log_best_model and status is Status.FINISHED
    run.finish(status, tags, files, best=finished.recommended_folder, with_model=with_model, trials=states)


def _log_charts(finished: FinishedSweep, run: SweepRun) -> None:
    """Logs the best objective over the trials, and quality and seconds over the depth."""
    answer, metric = finished.answer, finished.answer.metric
    chosen = None if answer.main is None else answer.main.recommended_row
    if chosen is not None:  # what the note says, as numbers
        values = {metric: chosen.mean, "low": chosen.low, "high": chosen.high, "p_within": chosen.p_within}
        run.log({f"answer/{name}": value for name, value in values.items() if value is not None}, 0)
    best_so_far: float | None = None
    searched = [trial for trial in finished.trials if not trial.is_baseline]
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
