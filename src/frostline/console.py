"""What a command prints besides its result: errors in one line, and frostline's own log messages."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
import warnings

from frostline.errors import visible


def report_error(error: BaseException, code: int = 2) -> int:
    """Prints one line on stderr and returns the exit code; with FROSTLINE_DEBUG=1 the traceback comes before it."""
    if os.environ.get("FROSTLINE_DEBUG") == "1":
        traceback.print_exception(error)
    print(f"frostline: {visible(str(error))}", file=sys.stderr)
    return code


class _VisibleFormatter(logging.Formatter):
    """Writes control characters out: a message may quote a label, or a record from elsewhere."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def import_progress_bars() -> None:
    """Imports tqdm as transformers does, without its warning in a notebook that has no widgets: plain bars will do."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        importlib.import_module("tqdm.auto")


def configure_logging() -> None:
    """Sends frostline's own messages to stderr, as plain lines."""
    logger = logging.getLogger("frostline")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_VisibleFormatter("%(message)s"))
        # Tracebacks are in the run's log; the terminal gets the reason, in one line.
        handler.addFilter(lambda record: record.exc_info is None or os.environ.get("FROSTLINE_DEBUG") == "1")
        logger.addHandler(handler)
        logger.propagate = False
