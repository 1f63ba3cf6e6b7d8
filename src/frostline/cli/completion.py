"""Tab completion: Hydra's own, for frostline's commands.

Hydra completes the line of an application without subcommands, so the subcommand is taken out of the line first.
"""

from __future__ import annotations

import os
import shlex
import sys

_TAKE_OVERRIDES = frozenset({"run", "fetch", "ui"})


def main(arguments: list[str], commands: tuple[str, ...]) -> int:
    """Answers `frostline -sc install=bash` and the shell's `-sc query=bash`."""
    action = arguments[1].partition("=")[0] if len(arguments) > 1 else ""
    if action == "query":
        line = os.environ.get("COMP_LINE", "")
        words = line.split()
        typing_command = len(words) < 2 or (len(words) == 2 and not line.endswith(" "))
        if typing_command:
            start = words[1] if len(words) == 2 else ""
            print(" ".join(command for command in commands if command.startswith(start)))
            return 0
        rest = words[2:]
        if words[1] == "sweep":
            if len(words) < 3 or (len(words) == 3 and not line.endswith(" ")):
                from frostline.sweeps.names import names

                print(" ".join(name for name in names() if name.startswith(words[2] if len(words) == 3 else "")))
                return 0
            rest = [f"+sweep={words[2]}", *words[3:]]
        elif words[1] == "list":
            if len(words) < 3 or (len(words) == 3 and not line.endswith(" ")):
                print(" ".join(_kinds(words[2] if len(words) == 3 else "")))
            return 0
        elif "--blocks" in rest:
            rest.remove("--blocks")
        elif words[1] not in _TAKE_OVERRIDES:
            return 0
        ending = " " if line.endswith(" ") else ""
        os.environ["COMP_LINE"] = shlex.join([words[0]]) + " " + " ".join(rest) + ending
    from frostline.cli.run import application
    from frostline.cli.task import RunTask

    sys.argv = ["frostline"]
    application(arguments, RunTask(command="frostline"))()
    return 0


def _kinds(start: str) -> list[str]:
    from frostline.cli.list import KINDS

    return [word for word in KINDS if word.startswith(start)]
