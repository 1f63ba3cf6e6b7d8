"""Owns: `frostline run` - Hydra's application around one training. Must not know: what Hydra composes."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from frostline import paths
from frostline.cli import session
from frostline.cli.main import report_error
from frostline.config_errors import explain
from frostline.errors import RunFailedError, UserError


def main(arguments: list[str]) -> int:
    """Runs Hydra with the arguments after `frostline run`.

    Returns:
        The exit code.
    """
    configure_logging()
    try:
        launch(arguments)
    except (UserError, RunFailedError) as error:
        session.print_comparison()
        # In a multirun each job has told its own trouble when it happened.
        return 1 if session.current.sweep_dir else report_error(error, 2 if isinstance(error, UserError) else 1)
    except Exception as error:
        known = explain(error)
        if known is None:
            raise
        return report_error(known)
    session.print_comparison()
    return 0


def launch(arguments: list[str]) -> Any:
    """Hands over to Hydra; its exceptions come back unprinted."""
    import hydra

    from frostline.cli.task import task

    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints tracebacks and exits by itself
    sys.argv = ["frostline", *arguments]
    application = hydra.main(version_base="1.3", config_path=str(paths.conf_dir()), config_name="config")(task)
    return application()


def configure_logging() -> None:
    """Sends frostline's own messages to stderr, as plain lines."""
    logger = logging.getLogger("frostline")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        # Tracebacks are in the run's log; the terminal gets the reason, in one line.
        handler.addFilter(lambda record: record.exc_info is None or os.environ.get("FROSTLINE_DEBUG") == "1")
        logger.addHandler(handler)
        logger.propagate = False
