"""`frostline run`: Hydra's application around one training run."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from frostline import paths
from frostline.config.errors import explain
from frostline.config.hydra_options import MAIN
from frostline.config.own_files import own_folder, with_files
from frostline.console import configure_logging, report_error
from frostline.errors import RunFailedError, UserError

if TYPE_CHECKING:
    from frostline.cli.task import RunTask


def main(arguments: list[str], task: RunTask | None = None) -> int:
    """Runs Hydra's application.

    Args:
        arguments: Hydra's flags and overrides.
        task: The task function; None: that of `frostline run`.

    Returns:
        The exit code.
    """
    from hydra.core.hydra_config import HydraConfig

    from frostline.cli.comparison import multirun_folder, print_comparison
    from frostline.cli.task import RunTask

    configure_logging()
    if any(word == "--from" or word.startswith("--from=") for word in arguments):
        from frostline.cli.run_from import main as run_from

        return run_from(arguments)
    task = task or RunTask(command=shlex.join(["frostline", "run", *arguments]))
    HydraConfig.instance().cfg = None  # of an earlier command of this process
    try:
        application(arguments, task)()
    except (UserError, RunFailedError) as error:
        print_comparison(task.folders)
        # In a multirun each job reported its own error when it happened.
        return 1 if multirun_folder() else report_error(error, 2 if isinstance(error, UserError) else 1)
    except Exception as error:
        known = explain(error)
        if known is None:
            raise
        return report_error(known)
    if task.exit_code is not None:
        return task.exit_code
    print_comparison(task.folders)
    return 0


def application(arguments: list[str], task: RunTask) -> Callable[[], Any]:
    """Returns Hydra's application for a command line; its exceptions come back unprinted."""
    import hydra

    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints tracebacks and exits by itself
    own_folder()  # refuses one that is not there, in a line of its own; Hydra's search path asks for it later
    sys.argv = ["frostline", *_flags_first(with_files(arguments))]
    _check_flags(sys.argv[1:])
    decorated: Callable[[], Any] = hydra.main(config_path=str(paths.conf_dir()), config_name="config", **MAIN)(task)
    return decorated


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
