"""Flags and overrides that several commands share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, NoReturn

from frostline.errors import UserError

if TYPE_CHECKING:
    from frostline.config import Job


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, as all of frostline's."""

    def error(self, message: str) -> NoReturn:
        """Raises what was wrong, without the usage.

        Raises:
            UserError: Always.
        """
        raise UserError(f"{message} (see {self.prog} --help)")


class _OverrideParser(OneLineParser):
    """Options may stand between overrides: `model=minilm --params freeze.depth=1`."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        return self.parse_intermixed_args(args, namespace)


def override_parser(command: str, description: str, epilog: str = "") -> OneLineParser:
    """Returns a parser for a command that takes config overrides, for example `model=minilm`."""
    parser = _OverrideParser(
        prog=f"frostline {command}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as of `frostline run`: model=minilm ...")
    parser.add_argument("--config-dir", help="a folder of your own config groups")
    return parser


def compose(arguments: argparse.Namespace) -> Job:
    """Composes the job that a command's overrides describe.

    Raises:
        SpecError: It doesn't compose or isn't valid.
    """
    from frostline.config import compose_job  # Hydra: not for --help

    return compose_job(arguments.overrides, arguments.config_dir)
