"""A JSON Schema of the config, made from the dataclasses that read it: editors complete YAML by it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from frostline.spec import TASKS, RaySpec, RunSpec, SweepSpec, TrackingSpec
from frostline.spec.freeze import FREEZE_METHODS, FreezeMethod
from frostline.spec.task import Task

_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean"}
_INTERPOLATION = {"type": "string", "pattern": r"^\$\{.*\}$", "description": "an interpolation of OmegaConf"}
_GROUPS = ("model", "dataset", "freeze", "optimizer", "training", "runtime", "tracking")
_DEFAULTS = {
    "type": "array",
    "description": "Hydra's list of what this file is made of; _self_ is where its own keys come.",
    "items": {"type": ["string", "object"]},
}


def json_schema() -> dict[str, Any]:
    """Returns the schema (draft 2020-12) of a whole config, of an experiment and of a sweep's file.

    A file of one group, for example `dataset/mine.yaml`, has the schema `#/$defs/dataset`. Every key may be left out,
    since the defaults bring it.
    """
    hints = get_type_hints(RunSpec)
    definitions: dict[str, Any] = {name: _object(hints[name]) for name in _GROUPS if name != "tracking"}
    definitions["freeze"] = _freeze()
    definitions["tracking"] = _object(TrackingSpec)
    definitions["sweep"] = _object(SweepSpec)
    space = {
        "type": "object",
        "description": "What is swept: keys with low and high, or with choices, nested as in a run.",
    }
    queue = {"description": "Trials to try first: coarse (a grid), none, or a list of keys and values."}
    definitions["sweep"]["properties"] |= {"space": space, "enqueue": queue}
    definitions["runtime"]["properties"] |= {
        "slots": _any([{"const": "auto"}, {"type": "integer", "minimum": 1}], "Trials of a sweep side by side."),
        "gpus_per_trial": _any([{"type": "number"}, {"type": "null"}], "GPUs of each trial."),
        "engine": {"enum": ["local", "ray"], "description": "Who runs a sweep's trials."},
        "ray": _object(RaySpec),
    }
    for definition in definitions.values():
        definition["properties"]["defaults"] = _DEFAULTS
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "frostline",
        "description": "A config of frostline: all keys of a run, and of a sweep.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "defaults": _DEFAULTS,
            **{name: {"$ref": f"#/$defs/{name}"} for name in definitions},
            "seed": {"type": "integer", "minimum": 0, "description": "Of the head, dropout and the order of batches."},
            "resume": {"type": ["string", "null"], "description": "A run to resume."},
            "plugins": {"type": "array", "items": {"type": "string"}, "description": "Modules to import first."},
            "hydra": {"type": "object", "description": "Settings of Hydra itself."},
        },
        "$defs": definitions,
    }


def _object(cls: type[Any]) -> dict[str, Any]:
    """Returns the schema of a dataclass: a property for each field, with its line of the docstring."""
    hints, manual = get_type_hints(cls), _attributes(cls)
    properties = {}
    for each in fields(cls):
        schema = _type(hints[each.name])
        if each.name in manual:
            schema = {"description": manual[each.name], **schema}
        if each.default is not MISSING and isinstance(each.default, (str, int, float, bool, NoneType)):
            default = each.default.value if isinstance(each.default, Enum) else each.default
            schema = {**schema, "default": default}
        properties[each.name] = schema
    about = (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")
    return {"type": "object", "description": about, "additionalProperties": False, "properties": properties}


def _freeze() -> dict[str, Any]:
    """Returns the schema of the group whose keys depend on the method that its name chooses."""
    schema = _object(FreezeMethod)
    schema["properties"]["name"] = {"enum": list(FREEZE_METHODS), "description": "The freeze method."}
    for name in FREEZE_METHODS:
        for key, value in _object(FREEZE_METHODS.get(name))["properties"].items():
            if key != "name":
                schema["properties"].setdefault(key, _any([value, {"type": "null"}], value.get("description", "")))
    return schema


def _type(hint: Any) -> dict[str, Any]:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return _any([{"type": "null"} if arg is NoneType else _type(arg) for arg in get_args(hint)])
    if origin is tuple:
        return {"type": "array", "items": _type(get_args(hint)[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(get_args(hint)[1])}
    if hint is Task:
        return {"enum": list(TASKS)}
    if isinstance(hint, type) and issubclass(hint, Enum):
        values = [member.value for member in hint]
        return {"enum": values + [word for name, word in (("on", True), ("off", False)) if name in values]}
    if is_dataclass(hint) and isinstance(hint, type):
        # A data set within a data set: named, or written out.
        inner = {"type": "object"} if hint.__name__ == "DatasetSpec" else _object(hint)
        is_word = hint.__name__ == "DatasetSpec" or hasattr(hint, "from_word")
        return _any([inner, {"type": ["string", "boolean"]}]) if is_word else inner
    if hint in _SCALARS:
        return _any([{"type": _SCALARS[hint]}, _INTERPOLATION]) if hint is not str else {"type": "string"}
    return {}


def _any(choices: Iterable[dict[str, Any]], description: str = "") -> dict[str, Any]:
    flat: list[dict[str, Any]] = []
    for each in choices:
        flat += each["anyOf"] if set(each) == {"anyOf"} else [each]
    unique = [each for index, each in enumerate(flat) if each not in flat[:index]]
    return {**({"description": description} if description else {}), "anyOf": unique}


def _attributes(cls: type[Any]) -> dict[str, str]:
    """Returns the lines of a docstring's section "Attributes", by name."""
    section = re.search(r"^Attributes:\n((?:[ \t]+.*\n?|\n)*)", inspect.getdoc(cls) or "", re.M)
    if section is None:
        return {}
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section[1], re.M)
    return {name: " ".join(text.split()) for name, text in entries}
