"""Reports: tables, figures and one HTML page of results."""

from frostline.report.answer import Answer, GroupAnswer, LevelRow, answer_of
from frostline.report.html import LiveStatus, MlflowView, ReportData, recommendation, write_report
from frostline.report.reproduction import print_differences, print_verdict
from frostline.report.table import level_rows, level_table
from frostline.report.terminal import (
    Row,
    as_text,
    make_console,
    newly_initialized,
    number,
    one_line,
    print_answer,
    print_table,
    summary,
    varying,
)
from frostline.report.text import headline, label, standing_lines
from frostline.report.transfer import Baseline

__all__ = [
    "Answer",
    "Baseline",
    "GroupAnswer",
    "LevelRow",
    "LiveStatus",
    "MlflowView",
    "ReportData",
    "Row",
    "answer_of",
    "as_text",
    "headline",
    "label",
    "level_rows",
    "level_table",
    "make_console",
    "newly_initialized",
    "number",
    "one_line",
    "print_answer",
    "print_differences",
    "print_table",
    "print_verdict",
    "recommendation",
    "standing_lines",
    "summary",
    "varying",
    "write_report",
]
