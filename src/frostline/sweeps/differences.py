"""What differs between a sweep's record and the config of the command that would resume it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from frostline.spec import is_as_before


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns what differs between two descriptions of a sweep: `key: before -> now`."""
    changes = []
    prefixes = {"plan": "sweep.", "space": "sweep.space.", "base": "", "groups": ""}
    compared = recorded.get("content", {}).keys() & now.get("content", {}).keys()  # by content, wherever it lies
    for part, prefix in prefixes.items():
        before, after = _flat(recorded.get(part, {})), _flat(now[part])
        for key in sorted((before.keys() | after.keys()) - compared):
            if key not in before and _is_as_before(part, key, after):
                continue  # recorded before there was such a key
            if before.get(key) != after.get(key):
                changes.append(f"{prefix}{key}: {before.get(key)} -> {after.get(key)}")
    return [*changes, *_other_content(recorded, now)]


def _is_as_before(part: str, key: str, values: Mapping[str, Any]) -> bool:
    """Returns whether a key that a record lacks has the value by which runs are what they were without it."""
    if part == "base":
        return is_as_before(key, values)
    if part != "groups":
        return False
    choice, _, name = key.partition(".")  # for example `minilm.model.quantize`
    own = {other.removeprefix(f"{choice}."): value for other, value in values.items() if other.startswith(f"{choice}.")}
    return is_as_before(name, own)


def _other_content(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    before, after = recorded.get("content", {}), now.get("content", {})
    return [
        f"{key}: another content, {before[key][:12]} -> {after[key][:12]}"
        for key in sorted(before.keys() & after.keys())
        if before[key] != after[key]
    ]


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, Mapping):
        return {prefix: data}
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat.update(_flat(value, f"{prefix}.{key}" if prefix and key else prefix or str(key)))
    return flat
