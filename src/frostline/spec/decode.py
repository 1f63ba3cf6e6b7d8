"""Decodes plain data to typed dataclasses, strictly.

The one place where a key is unknown or a type is wrong, for a composed config and for a recorded JSON alike.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from frostline.errors import SpecError, listing, nearest
from frostline.process_cache import PROCESS_CACHE

T = TypeVar("T")

_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def decode(cls: type[T], data: Mapping[str, Any], prefix: str = "") -> T:
    """Builds a dataclass from nested mappings, checking every key and every type.

    Args:
        cls: The dataclass; nested dataclasses, enums, optionals and tuples of one type are followed. A key with a
            default may be missing.
        data: What was composed or recorded.
        prefix: Dotted name of `data` in error messages.

    Raises:
        SpecError: A key is unknown or missing, a type is wrong, or the dataclass refused a value.
    """
    if not isinstance(data, Mapping):
        raise SpecError(f"{prefix or 'config'}: expected a group of keys, got {_shown(data)}")
    hints = _hints(cast("Hashable", cls))
    for key in data:
        if key not in hints:
            where, known = _dotted(prefix, key), [_dotted(prefix, name) for name in hints]
            raise SpecError(f"{where}: unknown key{nearest(where, known)}; known: {listing(hints)}")
    defaults = {field.name: field.default for field in fields(cast("Any", cls)) if field.default is not MISSING}
    values: dict[str, Any] = {}
    for key, hint in hints.items():
        where = _dotted(prefix, key)
        if key not in data and key in defaults:
            values[key] = defaults[key]
            continue
        if key not in data:
            raise SpecError(f"{where} is missing: give it, for example {where}=...")
        values[key] = _decode_value(hint, data[key], where)
    return cls(**values)


def _dotted(prefix: str, key: object) -> str:
    return f"{prefix}.{key}" if prefix else str(key)


@PROCESS_CACHE.function
def _hints(cls: Hashable) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cast("Any", cls))}


def _decode_value(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        inner = [arg for arg in get_args(hint) if arg is not NoneType]
        if len(inner) > 1 and type(value) in inner:
            return value
        if len(inner) > 1 and value is not None:
            kinds = " or ".join(_NAMES[each] for each in inner)
            raise SpecError(f"{where}={value}: expected {kinds}, got {_shown(value)}")
        return None if value is None else _decode_value(inner[0], value, where)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise SpecError(f"{where}: expected a list, for example [a,b], got {_shown(value)}")
        item = get_args(hint)[0]
        return tuple(_decode_value(item, each, f"{where}[{i}]") for i, each in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise SpecError(f"{where}: expected keys and values, for example {{a: b}}, got {_shown(value)}")
        item = get_args(hint)[1]
        return {str(key): _decode_value(item, each, f"{where}.{key}") for key, each in value.items()}
    if hasattr(hint, "decode_name"):
        return hint.decode_name(value, where)
    if is_dataclass(hint):
        if isinstance(value, cast("type[Any]", hint)):
            return value  # decoded already
        if hasattr(hint, "decode_as"):  # one of several classes, as the keys say
            if not isinstance(value, Mapping):
                raise SpecError(f"{where}: expected a group of keys, got {_shown(value)}")
            chosen, value = hint.decode_as(value, where)
            return decode(chosen, value, where)
        if isinstance(value, (str, bool)) and hasattr(hint, "from_word"):
            value = hint.from_word(("on" if value else "off") if isinstance(value, bool) else value)
        return decode(cast("type[Any]", hint), value, where)
    if value is None:
        raise SpecError(f"{where} is null: give a value, for example {where}=...")
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _decode_enum(hint, value, where)
    return _decode_scalar(hint, value, where)


def _decode_enum(hint: type[Enum], value: Any, where: str) -> Enum:
    if isinstance(value, bool):  # YAML reads a bare on/off as true/false
        value = "on" if value else "off"
    choices = [str(member.value) for member in hint]
    try:
        return hint(value)
    except ValueError:
        raise SpecError(
            f"{where}={value}: no such choice{nearest(str(value), choices)}; one of {listing(choices)}"
        ) from None


def _decode_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is hint:
        return value
    raise SpecError(f"{where}={value}: expected {_NAMES[hint]}, got {_shown(value)}")


def _shown(value: Any) -> str:
    kinds = {str: "the text", bool: "the switch", int: "the whole number", float: "the number", NoneType: ""}
    if type(value) in kinds:
        return f"{kinds[type(value)]} {value!r}".strip()
    return "a list" if isinstance(value, Sequence) else "a group of keys"
