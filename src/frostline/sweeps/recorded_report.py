"""A sweep's report from its files alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.files import refuse_links
from frostline.records.run_folder import is_locked
from frostline.records.trial import TrialRecord
from frostline.report import Baseline, ReportData, answer_of, write_report
from frostline.spec import CostName, Direction
from frostline.sweeps.finish import command_again, mlflow_view, progress_line
from frostline.sweeps.folder import REPORT_FOLDER, run_folder_of
from frostline.sweeps.model_rows import model_rows_in
from frostline.sweeps.predictions import evidence_in
from frostline.sweeps.questions import advisors_of
from frostline.tracking import saved_view


@dataclass(frozen=True, kw_only=True)
class RecordedReport:
    """What a sweep's files say.

    Attributes:
        data: What a report is made of.
        trained: The folder of the recommended trial's run; None: there is none.
    """

    data: ReportData
    trained: Path | None


def recorded_report(
    folder: Path, description: Mapping[str, Any], trials: Sequence[TrialRecord], baselines: Sequence[Baseline] = ()
) -> RecordedReport:
    """Returns what a sweep says, from its files alone; nothing is written.

    Args:
        folder: The sweep's.
        description: Its `sweep.json`.
        trials: From the trials' files.
        baselines: Trials of other sweeps to compare with.
    """
    find = evidence_in(folder, description["plan"]["seeds"])
    answer = answer_of(
        trials, description["objective"], advisors_of(description, find),
        maximize=description["direction"] == Direction.MAXIMIZE.value, num_blocks=description["num_blocks"],
        baselines=baselines, evidence=find,
    )  # fmt: skip
    cost = description["plan"]["cost"]
    chosen = answer.recommended
    trained = None
    if chosen is not None:
        number = chosen.number if chosen.copy_of is None else chosen.copy_of
        trained = run_folder_of(folder, description, number)
    data = ReportData(
        name=folder.name,
        trials=trials,
        answer=answer,
        cost=CostName(cost) if cost else CostName.TRAIN_S,
        base=description["base"],
        command=command_again(trained),
        status=progress_line(trials, _how_to_resume(folder, description, trials)),
        rows=model_rows_in(trained),
        view=mlflow_view(saved_view(folder)),
    )
    return RecordedReport(data=data, trained=trained)


def _how_to_resume(folder: Path, description: Mapping[str, Any], trials: Sequence[TrialRecord]) -> str | None:
    """Returns what resumes a sweep that was left before its trials had ended; None: nothing has to."""
    if is_locked(folder) or all(trial.outcome is not None and not trial.outcome.paused for trial in trials):
        return None
    name, *words = description.get("command") or [f"+sweep={description['name']}"]
    own = [f"--config-dir={description['config_dir']}"] if "config_dir" in description else []
    return f"resume with: {shlex.join(['frostline', 'sweep', name.removeprefix('+sweep='), *own, *words])}"


def write_again(folder: Path, report: RecordedReport) -> list[Path]:
    """Writes the files of a sweep's report anew; returns them, the page first.

    Args:
        folder: The sweep's.
        report: What they say.

    Raises:
        UserError: What would be written is a link.
    """
    target = folder / REPORT_FOLDER
    refuse_links([target, *target.glob("*")])
    return write_report(report.data, target)
