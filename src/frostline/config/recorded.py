"""Recorded specs, JSON or YAML, read as data: nothing in them can name code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from frostline.config.errors import one_line_errors
from frostline.errors import SpecError, UserError
from frostline.records.run_folder import SPEC_FILE
from frostline.spec import SCHEMA_VERSION, RunSpec, check_schema


def spec_from_text(text: str) -> RunSpec:
    """Reads a recorded spec, JSON or YAML. It is data: interpolations and tags in it are not followed.

    Raises:
        SpecError: It isn't JSON or YAML, is of another schema version, or isn't a valid spec.
    """
    with one_line_errors():
        try:
            data = json.loads(text)
        except json.JSONDecodeError:
            data = yaml.load(text, Loader=_PlainLoader)
        if not isinstance(data, dict):
            raise SpecError("the recorded spec is not a group of keys")
        refuse_code(data, "")
        check_schema(data.pop("schema", None))
        return RunSpec.from_dict(data)


def spec_from_json(text: str) -> RunSpec:
    """Reads a `spec.json` that may come from anybody: JSON alone, since YAML's aliases can be made to blow up.

    Raises:
        SpecError: It isn't JSON, is of another schema version, or isn't a valid spec.
    """
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"the recorded spec is no JSON ({type(error).__name__})") from error
    return spec_from_text(text)


def value_from_text(text: str) -> Any:
    """Reads a single value as it stands after `key=` on a command line: a number, a switch, null, a list or a text."""
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, ValueError):  # no date, no number: a text
        return text


def spec_to_yaml(spec: RunSpec) -> str:
    """Returns the spec as YAML that `spec_from_text` reads back."""
    data = {"schema": SCHEMA_VERSION, **spec.to_dict()}
    text: str = yaml.dump(data, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)
    return text


class _PlainLoader(yaml.SafeLoader):
    """A safe loader that reads `1e-4` as the number it is (YAML 1.1 asks for a dot)."""


class _PlainDumper(yaml.SafeDumper):
    """The dumper that belongs to it: quotes a text such as `0E0`, which the loader would take for a number."""


def refuse_code(data: Any, where: str) -> None:
    """Refuses keys that would make Hydra run code.

    Args:
        data: A config, nested.
        where: Dotted name of it, for the message.

    Raises:
        SpecError: There is one.
    """
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        name = f"{where}.{key}" if where else str(key)
        if key in _CODE_KEYS:
            raise SpecError(f"{name} is refused: a config is data and can't name code; register a name in a plugin")
        refuse_code(value, name)


# What `hydra.utils.instantiate` would act on. A recorded config is data and must never be able to run code.
_CODE_KEYS = frozenset({"_target_", "_args_", "_recursive_", "_partial_", "_convert_"})


for _class in (_PlainLoader, _PlainDumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def read_spec(folder: Path) -> RunSpec:
    """Returns what the run in a folder was.

    Raises:
        UserError: The folder is none of a run, or its record is damaged.
    """
    try:
        return spec_from_json((folder / SPEC_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{folder}: is no run's folder ({SPEC_FILE}: {error.strerror})") from error
    except (UserError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / SPEC_FILE}: is damaged: {error}") from error
