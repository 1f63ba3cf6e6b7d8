"""Owns: results -> tables, figures, one HTML page. Must not know: MLflow, torch, where results come from."""

from frostline.report.answer import Answer, DepthRow, answer_of
from frostline.report.page import Material, write_report
from frostline.report.terminal import (
    Row,
    make_console,
    number,
    one_line,
    print_answer,
    print_table,
    summary,
    varying,
)
from frostline.report.transfer import Baseline
from frostline.report.verdict import print_differences, print_verdict

__all__ = [
    "Answer",
    "Baseline",
    "DepthRow",
    "Material",
    "Row",
    "answer_of",
    "make_console",
    "number",
    "one_line",
    "print_answer",
    "print_differences",
    "print_table",
    "print_verdict",
    "summary",
    "varying",
    "write_report",
]
