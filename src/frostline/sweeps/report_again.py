"""A sweep's report made again from its files alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.files import refuse_links
from frostline.records.trial import TrialRecord
from frostline.report import Answer, Baseline, ReportData, answer_of, write_report
from frostline.report.model_rows import ModelRows
from frostline.spec import CostName, Direction
from frostline.sweeps.finish import own_configs, progress_line
from frostline.sweeps.folder import REPORT_FOLDER
from frostline.sweeps.model_rows import model_rows_in
from frostline.sweeps.predictions import evidence_in
from frostline.sweeps.questions import advisors_of
from frostline.sweeps.trial_runs import threads_of


@dataclass(frozen=True, kw_only=True)
class RemadeReport:
    """A report made from files.

    Attributes:
        answer: What the sweep says.
        paths: Of the report, the page first.
        command: What trains the recommended trial again; empty if there is none.
        rows: What its model says of the held-out rows; None: unknown.
        trained: The folder of its run; None: there is none.
    """

    answer: Answer
    paths: list[Path]
    command: str
    rows: ModelRows | None
    trained: Path | None


def report_again(
    folder: Path, description: Mapping[str, Any], trials: Sequence[TrialRecord], baselines: Sequence[Baseline] = ()
) -> RemadeReport:
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
    command, trained = "", None
    if chosen is not None:
        from frostline.sweeps.params import encode

        seeds = description["plan"]["seeds"]
        extra = [f"seed={seeds[0]}"] if seeds else []
        overrides = [*description["command"], *encode(chosen.params), *extra]
        number = chosen.number if chosen.copy_of is None else chosen.copy_of
        trained = folder / f"{number:03d}" / (f"s{seeds[0]}" if seeds and len(seeds) > 1 else "")
        words = [*own_configs(description.get("config_dir")), *overrides, *threads_of(trained, overrides)]
        command = "frostline run " + shlex.join(words)
    status = progress_line(trials, None)
    data = ReportData(
        name=folder.name,
        trials=trials,
        answer=answer,
        cost=CostName(cost) if cost else CostName.TRAIN_S,
        base=description["base"],
        command=command,
        status=status,
        rows=model_rows_in(trained),
    )
    return RemadeReport(
        answer=answer, paths=write_report(data, target), command=command, rows=data.rows, trained=trained
    )
