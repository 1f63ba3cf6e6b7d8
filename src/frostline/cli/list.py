"""`frostline list`: the names that a config may choose from."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

from frostline import paths
from frostline.cli.common import OneLineParser
from frostline.config.own_files import own_folder
from frostline.errors import UserError
from frostline.registry import import_plugins
from frostline.spec import PrunerName, SamplerName

_SAMPLERS = {
    SamplerName.FROST: "the ridge of good rates from cheap depths first, then expected improvement for its cost",
    SamplerName.TPE: "tree-structured Parzen estimators: the default after a coarse grid",
    SamplerName.RANDOM: "draws independently",
    SamplerName.GRID: "every combination of the values that are listed",
    SamplerName.QMC: "a quasi-random sequence, more even than random",
    SamplerName.GP: "a Gaussian process; for few, dear trials",
    SamplerName.CMAES: "CMA-ES; for continuous keys",
    SamplerName.NSGAII: "NSGA-II; for two objectives",
}
_PRUNERS = {
    PrunerName.NONE: "every trial trains as far as its rung says",
    PrunerName.MEDIAN: "ends a trial that is worse than the median at its epoch",
    PrunerName.PERCENTILE: "ends a trial outside of the best sweep.pruner.percentile percent at its epoch",
    PrunerName.HALVING: "asynchronous successive halving",
    PrunerName.HYPERBAND: "several brackets of successive halving",
    PrunerName.PATIENT: "waits sweep.pruner.patience evaluations without a better value",
    PrunerName.WILCOXON: "ends a trial that is worse than the best over the same seeds (a signed-rank test)",
}

Entries = Iterator[tuple[str, str]]


def main(arguments: list[str]) -> int:
    """Prints names and what they are."""
    parser = OneLineParser(
        prog="frostline list",
        description="The names that a config may choose from.",
        epilog="examples:\n"
        "  frostline list models        for model=NAME\n"
        "  frostline list freezes       for freeze=NAME\n"
        "  frostline list metrics       for training.metrics=[NAME,...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=list(_KINDS), help="what to list")
    parser.add_argument("--json", action="store_true", help="as JSON: names and descriptions")
    parser.add_argument("--config-dir", type=Path, help="a folder of your own config groups, listed too")
    parser.add_argument("--plugin", action="append", default=[], help="a module that registers names of its own")
    options = parser.parse_args(arguments)
    options.config_dir = options.config_dir or own_folder()
    if options.config_dir is not None and not options.config_dir.is_dir():
        raise UserError(f"--config-dir={options.config_dir}: no such folder")
    import_plugins(options.plugin)
    names = dict(_KINDS[options.what](options.config_dir))
    if options.json:
        print(json.dumps([{"name": name, "about": about} for name, about in names.items()], ensure_ascii=False))
        return 0
    width = max(map(len, names))
    room = max(40, shutil.get_terminal_size((120, 24)).columns - width - 2)
    for name, about in names.items():
        first, *more = textwrap.wrap(about, room) or [""]
        print(f"{name:<{width}}  {first}".rstrip())
        for line in more:
            print(" " * (width + 2) + line)
    return 0


def _group(name: str) -> Callable[[Path | None], Entries]:
    def entries(own: Path | None) -> Entries:
        folders = [paths.conf_dir() / name, *([own / name] if own is not None else [])]
        return _files(folders)

    return entries


def _sweeps(own: Path | None) -> Entries:
    return _files([paths.sweeps_dir() / "sweep", *([own / "sweep"] if own is not None else [])])


def _files(folders: list[Path]) -> Entries:
    files = {path.stem: path for folder in folders for path in folder.glob("*.yaml")}
    for name in sorted(files):
        try:
            yield name, first_sentence(files[name].read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            yield name, f"(can't be read: {type(error).__name__})"


def first_sentence(text: str) -> str:
    """Returns the first sentence of a file's comment; indented lines in it are commands."""
    lines = []
    for line in text.splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#") or line.startswith("#  "):
            break
        lines.append(line.lstrip("# "))
    match = re.match(r".*?(?<!\bal)[.?!](?=\s|$)", " ".join(lines))  # "et al." ends none
    return match[0] if match else " ".join(lines)


def _metrics(own: Path | None) -> Entries:
    del own
    from frostline.metrics import METRICS

    for name in sorted(METRICS):
        info = METRICS.get(name)
        needs = ", two classes only" if info.binary_only else ""
        tasks = " and ".join((info.task, *info.also))
        yield name, f"{tasks}, {info.direction.value}{needs}"


def _optimizers(own: Path | None) -> Entries:
    from frostline.models.optimizer import OPTIMIZERS

    files = dict(_group("optimizer")(own))
    for name in sorted({*files, *OPTIMIZERS}):
        yield name, files.get(name, "registered by a plugin: optimizer.name")


def _samplers(own: Path | None) -> Entries:
    del own
    return ((name.value, about) for name, about in _SAMPLERS.items())


def _pruners(own: Path | None) -> Entries:
    del own
    return ((name.value, about) for name, about in _PRUNERS.items())


_KINDS: dict[str, Callable[[Path | None], Entries]] = {
    "models": _group("model"),
    "datasets": _group("dataset"),
    "freezes": _group("freeze"),
    "optimizers": _optimizers,
    "sweeps": _sweeps,
    "metrics": _metrics,
    "samplers": _samplers,
    "pruners": _pruners,
}
KINDS = tuple(_KINDS)
"""What can be listed."""
