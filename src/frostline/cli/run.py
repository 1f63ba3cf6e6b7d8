"""Owns: `frostline run` - Hydra's application around one training. Must not know: what Hydra composes."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from typing import Any, NoReturn

from frostline import paths
from frostline.cli import session
from frostline.cli.main import report_error
from frostline.config_errors import explain
from frostline.errors import RunFailedError, UserError, visible


def main(arguments: list[str]) -> int:
    """Runs Hydra with the arguments after `frostline run`.

    Returns:
        The exit code.
    """
    configure_logging()
    session.current.command = session.current.command or shlex.join(["frostline", "run", *arguments])
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
    if session.current.exit_code is not None:
        return session.current.exit_code
    session.print_comparison()
    return 0


def launch(arguments: list[str]) -> Any:
    """Hands over to Hydra; its exceptions come back unprinted."""
    import hydra

    from frostline.cli.task import task

    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints tracebacks and exits by itself
    sys.argv = ["frostline", *_flags_first(arguments)]
    _check_flags(sys.argv[1:])
    application = hydra.main(version_base="1.3", config_path=str(paths.conf_dir()), config_name="config")(task)
    return application()


_FLAGS_WITH_VALUE = frozenset(
    {"-c", "--cfg", "-p", "--package", "-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir",
     "-sc", "--shell-completion", "--experimental-rerun"}
)  # fmt: skip
_INFO_TOPICS = frozenset({"all", "config", "defaults", "defaults-tree", "plugins", "searchpath"})


def _flags_first(arguments: list[str]) -> list[str]:
    """Returns the arguments with flags before overrides: Hydra's parser stops at a flag after an override."""
    flags: list[str] = []
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            overrides.append(word)
            continue
        flags.append(word)
        takes_next = word in _FLAGS_WITH_VALUE or (word in {"-i", "--info"} and rest[:1] and rest[0] in _INFO_TOPICS)
        if takes_next and rest:
            flags.append(rest.pop(0))
    # `--info` takes an optional word, and would take an override for it.
    return [*flags, "--", *overrides] if flags and flags[-1] in {"-i", "--info"} else [*flags, *overrides]


def _check_flags(arguments: list[str]) -> None:
    """Parses Hydra's flags once ahead, for an error in one line.

    Raises:
        UserError: An unknown flag or a bad value.
    """
    from hydra._internal.utils import get_args_parser

    def error(message: str) -> NoReturn:
        raise UserError(f"{message} (see frostline run --hydra-help)")

    parser = get_args_parser()
    parser.error = error  # type: ignore[method-assign]
    parser.parse_args(arguments)


class _Visible(logging.Formatter):
    """Writes control characters out: a message may quote a label, or a stranger's record."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def configure_logging() -> None:
    """Sends frostline's own messages to stderr, as plain lines."""
    logger = logging.getLogger("frostline")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_Visible("%(message)s"))
        # Tracebacks are in the run's log; the terminal gets the reason, in one line.
        handler.addFilter(lambda record: record.exc_info is None or os.environ.get("FROSTLINE_DEBUG") == "1")
        logger.addHandler(handler)
        logger.propagate = False
