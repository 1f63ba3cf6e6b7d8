"""`frostline sweep NAME`: starts or resumes a named sweep."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from frostline.config.own_files import own_folder
from frostline.errors import SpecError
from frostline.sweeps.names import check_name, names, spaced

if TYPE_CHECKING:
    from frostline.cli.task import RunTask

_USAGE = """\
usage: frostline sweep NAME [flags] [sweep.KEY=VALUE] [KEY=VALUE] ...

Searches a space, here frozen depth and learning rate, and answers how deep to freeze, at which rate, and how sure that
is. The same command resumes a sweep that was interrupted, up to its total.

sweeps:
{sweeps}

  sweep.n_trials=40                       trials in total
  sweep.margin=0.02                       a depth this much below the best counts as good (in the objective's unit)
  sweep.settle=3                          up to 3 times the search's cost for further seeds; also on a finished sweep
  sweep.folds=4                           few rows: each further seed holds out another fold
  sweep.space.optimizer.lr.high=1e-3      a bound of the space; both bounds are included
  'optimizer.weight_decay=choice(0,0.1)'  one more key, in Hydra's own syntax
  freeze.depth=3                          a key of the space that should not be swept
  sweep.seeds=[0,1,2]                     each trial is trained once with each seed
  sweep.sampler=tpe                       frost | tpe | random | grid | qmc | gp | cmaes | nsgaii
  sweep.pruner.name=median                none | median | percentile | halving | hyperband | patient | wilcoxon
  sweep.new=true                          begin afresh under a new name
  runtime.slots=2                         trials side by side
  hydra/launcher=basic                    any other launcher of Hydra, in batches

  --plan              forecast it instead: trials, hours, bytes, wall time, and what limits it (a probe of a few rows is
                      trained); with --nodes M machines like this one, and --json

All keys: frostline sweep NAME --cfg job. Sweeps of your own: frostline sweep ./mine.yaml, or a folder with
sweep/NAME.yaml that FROSTLINE_CONFIG_DIR or --config-dir names.
"""


_LOOKING = frozenset({"-c", "--cfg", "-i", "--info", "--hydra-help"})


def main(arguments: list[str], task: RunTask | None = None) -> int:
    """Runs Hydra's application with the sweep's config.

    Args:
        arguments: The sweep's name, flags and overrides.
        task: The task function; None: that of `frostline sweep`.

    Returns:
        The exit code.
    """
    from frostline.cli import run
    from frostline.cli.task import RunTask

    if not arguments or {"-h", "--help"} & set(arguments):
        print(_USAGE.format(sweeps="\n".join(f"  {name:<16}{text}" for name, text in names().items())), end="")
        return 0
    if task is None and "--plan" in arguments:
        from frostline.cli.sweep_plan import main as plan

        return plan(arguments)
    name, *rest = arguments
    if name.startswith("-") or "=" in name:
        raise SpecError(
            f"frostline sweep {name}: the sweep's name comes first, for example frostline sweep lr_x_depth {name}"
        )
    flags = ("--config-dir", "-cd", "--config-dir=")
    has_own = own_folder() is not None or any(word in flags or word.startswith(flags[2]) for word in rest)
    check_name(name, has_own=has_own)
    only_look = any(word.split("=")[0] in _LOOKING for word in rest)  # Hydra takes one of these or -m
    rest = spaced(rest)
    task = task or RunTask(command=shlex.join(["frostline", "sweep", *arguments]))
    return run.main([*([] if only_look else ["-m"]), f"+sweep={name}", *rest], task)
