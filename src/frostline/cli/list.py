"""`frostline list`: the names that a config may choose from, the runs of this folder, and what is cached."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from frostline import paths
from frostline.cli.common import OneLineParser
from frostline.config.own_files import own_folder
from frostline.errors import UserError, visible
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
        description="The names that a config may choose from; the runs and sweeps of this folder; what is cached.",
        epilog="examples:\n"
        "  frostline list models        for model=NAME\n"
        "  frostline list freezes       for freeze=NAME\n"
        "  frostline list metrics       for training.metrics=[NAME,...]\n"
        "  frostline list runs          what lies in runs/, with sizes\n"
        "  frostline list cache         what is kept of data and frozen blocks for later runs",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=KINDS, help="what to list")
    parser.add_argument("--json", action="store_true", help="as JSON: names and descriptions")
    parser.add_argument("--config-dir", type=Path, help="a folder of your own config groups, listed too")
    parser.add_argument("--plugin", action="append", default=[], help="a module that registers names of its own")
    options = parser.parse_args(arguments)
    options.config_dir = options.config_dir or own_folder()
    if options.config_dir is not None and not options.config_dir.is_dir():
        raise UserError(f"--config-dir={options.config_dir}: no such folder")
    import_plugins(options.plugin)
    if options.what in _ON_DISK:
        _ON_DISK[options.what](options.json)
        return 0
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
    "experiments": _group("experiment"),
    "sweeps": _sweeps,
    "metrics": _metrics,
    "samplers": _samplers,
    "pruners": _pruners,
}


def _print_runs(as_json: bool) -> None:
    from frostline.api.find_run import RUNS
    from frostline.api.runs_here import entries_in

    entries = list(entries_in(RUNS)) if RUNS.is_dir() else []
    if as_json:
        keys = ("folder", "about", "size", "is_sweep")
        print(json.dumps([{key: getattr(each, key) for key in keys} for each in entries], default=str))
        return
    for each in entries:
        print(visible(f"{each.size / 1e6:9.1f} MB  {each.folder}: {each.about}"))
    print(f"{sum(each.size for each in entries) / 1e6:9.1f} MB in {len(entries)} of {RUNS}/ (frostline prune)")


def _print_cache(as_json: bool) -> None:
    from frostline.assets import home, pixels_bytes, pixels_folder, table_folders
    from frostline.prefix_cache.store import PREFIX_FOLDER, PrefixStore

    store = PrefixStore(home() / PREFIX_FOLDER, 0)
    entries = store.listing()
    if as_json:
        print(json.dumps([
            {"folder": str(folder), "key": key, "bytes": sizes, "used": used} for folder, key, sizes, used in entries
        ]))  # fmt: skip
        return
    for folder, key, sizes, used in entries:
        about = key.get("about") or {}
        what = ", ".join(str(about[name]) for name in ("model", "dataset", "rows") if name in about) or folder.name
        when = f"{datetime.fromtimestamp(used):%Y-%m-%d %H:%M}"
        print(f"{sum(sizes.values()) / 1e6:9.1f} MB  {when}  {what}: {', '.join(sorted(sizes)) or 'nothing'}")
    total = sum(sum(sizes.values()) for _, _, sizes, _ in entries)
    print(f"{total / 1e6:9.1f} MB in {len(entries)} entries of {store.root}")
    if size := pixels_bytes():
        print(f"{size / 1e6:9.1f} MB of images, decoded and resized, in {pixels_folder()}")
    if tables := table_folders():
        print(f"{sum(tables.values()) / 1e6:9.1f} MB of data files, unpacked or as tables, in {home() / 'datasets'}")


_ON_DISK: dict[str, Callable[[bool], None]] = {"runs": _print_runs, "cache": _print_cache}

KINDS = (*_KINDS, *_ON_DISK)
"""What can be listed."""
