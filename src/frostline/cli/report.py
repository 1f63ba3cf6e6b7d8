"""`frostline report STUDY`: makes a sweep's report again from its files."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.api.find_run import sweep_folder
from frostline.cli.common import OneLineParser
from frostline.errors import UserError, visible

if TYPE_CHECKING:
    from frostline.sweeps.recorded_report import RecordedReport


def main(arguments: list[str]) -> int:
    """Prints the best trial of each depth and the recommendation; writes the report's files anew."""
    options = _parser().parse_args(arguments)
    folder = sweep_folder(options.study)
    if options.watch:
        from frostline.cli.report_watch import watch

        watch(folder)
    from frostline.console import configure_logging
    from frostline.sweeps.folder import SweepFolder, read_description
    from frostline.sweeps.predictions import baseline_of, other_rows
    from frostline.sweeps.recorded_report import recorded_report, write_again
    from frostline.sweeps.recovery import check_reportable, notes_of, recover

    configure_logging()
    description = read_description(folder)
    recovery = recover(SweepFolder(folder), description)
    for note in notes_of(recovery):
        print(f"warning: {visible(note)}", file=sys.stderr)
    check_reportable(folder, recovery)
    trials = recovery.trials
    baselines = []
    for other in options.against:
        other_folder = sweep_folder(other)
        known = read_description(other_folder)
        if known["objective"] != description["objective"]:
            raise UserError(
                f"--against {other}: is judged by {known['objective']}, {options.study} by {description['objective']}"
            )
        others = other_rows(description["base"], known["base"])
        if others:
            raise UserError(f"--against {other}: was judged on other rows: {'; '.join(others)}")
        baselines.append(baseline_of(other, other_folder, recover(SweepFolder(other_folder), known).trials, known))
    report = recorded_report(folder, description, trials, baselines)
    page, *_ = write_again(folder, report)
    latency = _latency(report.trained, options.study) if options.latency else None
    if options.json:
        print(json.dumps(_as_json(report, page, latency), ensure_ascii=False))
    else:
        _print(report, page, latency)
    return 0


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="frostline report",
        description="What a sweep says: the best trial at each frozen depth, a recommendation, pictures; written to "
        "STUDY/report/ as one HTML page, PNG and CSV.",
        epilog="example: frostline report lr_x_depth",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", metavar="STUDY", help="a sweep's name, for example lr_x_depth, or its folder")
    parser.add_argument(
        "--against",
        metavar="STUDY",
        action="append",
        default=[],
        help="another sweep, to whose best trial each depth is compared, on the same rows; may be given several times",
    )
    parser.add_argument(
        "--latency", action="store_true", help="measure what the recommended model takes for a row, at batch 1 and 32"
    )
    parser.add_argument("--json", action="store_true", help="the answer and its table as JSON")
    parser.add_argument(
        "--watch", action="store_true", help="while the sweep runs: make its page anew as trials end; then the report"
    )
    return parser


def _as_json(report: RecordedReport, page: Path, latency: str | None) -> dict[str, Any]:
    from frostline.records.result import finite
    from frostline.report import level_rows, recommendation

    answer = report.data.answer
    data = {
        "name": report.data.name,
        "answer": None if answer.recommended is None else recommendation(answer),
        "levels": level_rows(answer),
        "status": report.data.status,
        "run_again": report.data.command,
        "recommended_run": None if report.trained is None else str(report.trained),
        "latency": latency,
        "page": str(page),
        "mlflow": None if report.data.view is None else report.data.view.address,
    }
    known: dict[str, Any] = finite(data)
    return known


def _latency(folder: Path | None, study: str) -> str:
    """Returns what the recommended model takes for a row, measured now."""
    if folder is None:
        raise UserError(f"--latency: no trial of {study} was trained to its end")
    if not (folder / "model").is_dir():
        raise UserError(f"--latency: {folder} has no model; sweep.keep_models=recommended keeps it")
    from frostline.api.find_run import trained_spec
    from frostline.sweeps.model_latency import latency_of

    return str(latency_of(trained_spec(folder), folder))


def _print(report: RecordedReport, page: Path, latency: str | None) -> None:
    from frostline.report import make_console, print_answer
    from frostline.report.model_rows import calibration_line

    console, data = make_console(), report.data
    print_answer(data.answer, console)
    calibration = calibration_line(data.rows)
    lines = [f"calibration: {calibration}"] if calibration is not None else []
    lines += [f"latency: {latency}"] if latency is not None else []
    lines += [data.status, *([f"run it again: {data.command}"] if data.command else [])]
    lines += [f"report: {page}", *([f"compare in the MLflow UI: {data.view}"] if data.view is not None else [])]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
