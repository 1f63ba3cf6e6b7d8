"""Config files of the user's own: named by their path on a command line, or in the folder FROSTLINE_CONFIG_DIR."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from frostline import paths
from frostline.assets import home
from frostline.errors import SpecError
from frostline.files import write_atomically
from frostline.process_cache import PROCESS_CACHE

VARIABLE = "FROSTLINE_CONFIG_DIR"
"""A folder of the user's own config groups, searched by every command."""

_FOLDER = "configs"
_SUFFIXES = (".yaml", ".yml")
_BASES = {"dataset": "_base/rows@_here_", "model": "_base/model@_here_"}
"""What the files of a group begin with, by group: it has the keys that a file does not name."""

_A_KEY_OF_EACH_BASE = {"dataset": "eval_fraction", "model": "weights_sha256"}
_WHOLE = ("model", "dataset", "freeze", "optimizer", "training", "runtime", "tracking")
_SWEEP_LINES = "'# @package _global_', then defaults: [_base/plan, _self_]"


def own_folder() -> Path | None:
    """Returns the folder that FROSTLINE_CONFIG_DIR names; None: it names none.

    Raises:
        SpecError: It isn't there.
    """
    place = os.environ.get(VARIABLE)
    if not place:
        return None
    folder = Path(place).expanduser().absolute()
    if not folder.is_dir():
        raise SpecError(f"{VARIABLE}={place}: no such folder")
    return folder


def forgotten(group: str, name: str) -> str:
    """Returns a hint at a folder of the user's own that holds a choice, and that nobody named; empty: there is none.

    Args:
        group: For example `sweep`.
        name: Of the choice.
    """
    path = next(iter(Path().glob(f"*/{glob.escape(group)}/{glob.escape(name)}.yaml")), None)
    return "" if path is None else f"; for {path}: export {VARIABLE}={shlex.quote(str(path.parents[1]))}"


def is_file(name: str) -> bool:
    """Whether a name on a command line is that of a config file, for example `./mine.yaml`."""
    return name.endswith(_SUFFIXES)


def with_files(words: Sequence[str]) -> list[str]:
    """Returns overrides in which files are choices of their groups: `dataset=./mine.yaml` becomes `dataset=mine`.

    The files are copied below FROSTLINE_HOME, under the hash of their content, where Hydra finds them (`searched`).

    Args:
        words: Overrides; `+sweep=./mine.yaml` among them.

    Raises:
        SpecError: A file can't be read, has the name of a ready-made choice, or is no name.
    """
    changed: list[str] = []
    files: dict[str, str] = {}
    for word in words:
        group, _, value = word.partition("=")
        key, choices = group.lstrip("+"), value.split(",")  # a multirun's
        if re.fullmatch(r"[a-z]+", key) and any(map(is_file, choices)):
            for index, choice in enumerate(choices):
                if is_file(choice):
                    choices[index], text = _read(key, choice)
                    place = f"{key}/{choices[index]}.yaml"
                    if files.setdefault(place, text) != text:
                        raise SpecError(f"{word}: two files of one name: rename one of them")
            word = f"{group}={','.join(choices)}"
        changed.append(word)
    _folders.clear()
    if not files:
        return changed
    digest = hashlib.sha256("\0".join(part for item in sorted(files.items()) for part in item).encode()).hexdigest()
    folder = home() / _FOLDER / digest[:16]
    for place, text in files.items():
        target = folder / place
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, text)
    _folders.add(folder)
    return changed


def searched() -> list[Path]:
    """Returns the folders of the user's own config groups that Hydra is to search, for its search path plugin."""
    own = own_folder()
    return [*_folders, *([] if own is None else [own])]


_folders: set[Path] = PROCESS_CACHE.container(set())
"""Where the files lie that the last command named."""


def _read(group: str, value: str) -> tuple[str, str]:
    """Returns the choice that a file stands for, and its text."""
    path = Path(value).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise SpecError(f"{group}={value}: {why}") from error
    name = path.stem
    if not re.fullmatch(r"[A-Za-z_][\w-]*", name):
        raise SpecError(f"{group}={value}: name the file by a word of letters, digits and _")
    _check_kind(group, value, text)
    ready_made = (paths.sweeps_dir() if group == "sweep" else paths.conf_dir()) / group / f"{name}.yaml"
    if ready_made.is_file() and not path.samefile(ready_made):
        raise SpecError(f"{group}={value}: there is a ready-made {group} of this name: give the file another one")
    return name, text


def _check_kind(group: str, value: str, text: str) -> None:
    """Refuses a file of another kind: a dataset's as a sweep, a sweep's as a dataset.

    Raises:
        SpecError: It is one.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError:  # Hydra says what is wrong with it
        return
    keys = set(data) if isinstance(data, Mapping) else set()
    is_whole = bool(keys & {"sweep", *_WHOLE})
    if group == "sweep" and not is_whole and keys & {"location", "source", "format", "text_column"}:
        raise SpecError(f"sweep={value}: is a file of a dataset or a model: give dataset={value}, or model={value}")
    if group in _BASES and "sweep" in keys:
        raise SpecError(f"{group}={value}: is a file of a sweep: frostline sweep {value}")


def check_first_lines(config: Mapping[str, Any]) -> None:
    """Refuses a composed config in which a file of the user's own lacks the lines that bring all other keys.

    Raises:
        SpecError: One of them does; the message has the lines.
    """
    for group, base in _BASES.items():
        node = config.get(group)
        if isinstance(node, Mapping) and _A_KEY_OF_EACH_BASE[group] not in node:
            raise SpecError(
                f"{group}: its file lacks its first lines, which bring the keys that it does not name: defaults: "
                f"[{base}, _self_]"
            )
    sweep = config.get("sweep")
    if not isinstance(sweep, Mapping):
        return
    if isinstance(sweep.get("sweep"), Mapping):
        raise SpecError(f"sweep: its file lacks its first line, {_SWEEP_LINES}: its keys lie one level too deep")
    if "n_trials" not in sweep or "sampler" not in sweep:
        raise SpecError(f"sweep: its file lacks its first lines, {_SWEEP_LINES}: without them nothing is searched")
