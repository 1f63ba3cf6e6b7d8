"""The `frostline` command: dispatches to its subcommands and maps errors to exit codes.

Exit codes: 0 done, 1 a run failed, 2 bad input (one line on stderr), 130 and 143 stopped by a signal. Help and config
errors import nothing heavy.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from frostline import __version__, paths, scratch, signals, variables
from frostline.cli.common import OneLineParser
from frostline.console import report_error
from frostline.errors import MACHINE_WAY_OUT, MachineError, RunFailedError, UserError, machine_trouble, nearest
from frostline.provenance import redact
from frostline.spec import expand_cache_shorthand

_COMMANDS = {
    "demo": "fetch a real model and real data, search, and print the answer: five minutes",
    "init": "write a folder of your own: data, a dataset, a sweep, an experiment and a metric that run",
    "run": "train one model, or with -m one for each combination of values",
    "sweep": "search over learning rate, frozen depth and other settings, or --plan it; the same command resumes it",
    "report": "what a sweep says: the best at each depth, a recommendation, pictures",
    "reproduce": "re-run a recorded run from its record, and say whether it came out the same",
    "show": "a recorded run: its numbers and whole config; --test: its score on test rows; --blocks: a model's parts",
    "list": "the runs of this folder; the models, datasets, sweeps, metrics ... that a config may name; what is cached",
    "prune": "remove models and checkpoints that nothing needs any more, or what is cached",
    "schema": "print a JSON Schema of the config, by which editors complete YAML",
    "fetch": "fetch the model and data that a later, offline run needs",
    "predict": "ask a trained run's model; --vectors: write what a model makes of each row of a data set",
    "push": "upload a trained model with its card to the Hugging Face hub",
    "ui": "open the MLflow UI on the store that runs went to; --sync: record there what it missed",
}

_COMPUTING = frozenset({"demo", "run", "sweep", "reproduce", "predict"})
"""Commands that train or run a model."""

_EXAMPLES = """\
examples:
  frostline run model=minilm dataset=movie_reviews freeze.depth=4 optimizer.lr=1e-4
  frostline run -m freeze.depth=0,3,6 seed=0,1      one run for each combination
  frostline sweep lr_x_depth                        which depth, at which learning rate?
  frostline run --help                              all config groups, keys and defaults
  frostline predict runs/single/... "a wonderful film"
  eval "$(frostline -sc install=bash)"              tab completion (bash, zsh, fish)

FROSTLINE_HOME is where fetched models and data are kept; FROSTLINE_DEBUG=1 shows tracebacks.
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits.

    Args:
        argv: Arguments without the program's name; those of the process by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.path[:] = paths.search_path(with_here=False)
    home = paths.take_home()
    if home is not None:
        print(f"note: this user has no home; caches lie in {home} (set HOME or FROSTLINE_HOME)", file=sys.stderr)
    signals.end_on_second()
    try:
        command, rest = _command(arguments)
        code = int(command(rest))
    except UserError as error:
        code = report_error(error)
    except RunFailedError as error:
        code = report_error(error, 1)
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        trouble = machine_trouble(error)
        if trouble is None:
            raise
        code = report_error(MachineError(f"{trouble}; {MACHINE_WAY_OUT}"))
    sys.exit(code)


def _command(arguments: list[str]) -> tuple[Callable[[list[str]], int], list[str]]:
    """Returns what runs a command line, and the arguments for it."""
    if arguments and arguments[0] in {"-sc", "--shell-completion", "--shell_completion"}:
        completion = importlib.import_module("frostline.cli.completion")
        return lambda words: int(completion.main(words, tuple(_COMMANDS))), arguments
    parser = _parser()
    if not arguments:
        parser.print_help()
        sys.exit(0)
    if arguments[0] == "help":
        parser.print_help()
        sys.exit(0)
    if arguments[0] not in _COMMANDS:
        if not arguments[0].startswith("-"):
            near = nearest(arguments[0], _COMMANDS)
            raise UserError(f"{arguments[0]}: no such command{near}; there are {', '.join(_COMMANDS)}")
        parser.parse_args(arguments)  # --help, --version, or an error
    ignored = variables.ignore(os.environ)
    if ignored and (arguments[0] in _COMPUTING or "--test" in arguments):
        listed = ", ".join(f"{name}={redact(value)}" for name, value in ignored.items())
        print(f"note: ignored, since the config decides: {listed}", file=sys.stderr)
    scratch.remove_left()
    command = importlib.import_module(f"frostline.cli.{arguments[0]}")
    return command.main, expand_cache_shorthand(arguments[1:])


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="frostline",
        description="How much of a pretrained model should be frozen for my task, and at what learning rate?",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"frostline {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)
    for name, text in _COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser
