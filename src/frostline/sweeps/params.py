"""Parameters of a trial as overrides and in a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from frostline.spec import (
    DEPTH_KEY,
    RunSpec,
    Value,
)


def encode(params: Mapping[str, Value]) -> list[str]:
    """Returns a trial as Hydra overrides, encoded by type: a None is `null`, and no comma in a text makes a sweep.

    A frozen depth of None is that of the baseline: nothing is frozen.
    """
    return ["freeze=none" if is_full(key, value) else f"{key}={_encode_value(value)}" for key, value in params.items()]


def is_full(key: str, value: Value) -> bool:
    """Returns whether a key says that everything is trained."""
    return key == DEPTH_KEY and value is None


def _encode_value(value: Value) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if value.replace("_", "").replace("-", "").isalnum() and not value[0].isdigit() and value.isascii():
        return value if value.lower() not in {"null", "none", "true", "false", "inf", "nan"} else f"'{value}'"
    escaped = value.replace("\\", "\\\\").replace("'", "\\'") if value.endswith("\\") else value.replace("'", "\\'")
    return f"'{escaped}'"


def with_params(spec: RunSpec, params: Mapping[str, Value]) -> RunSpec:
    """Returns a spec with dotted keys replaced.

    Raises:
        SpecError: An unknown key, or a value out of range.
    """
    data = spec.to_dict()
    for key, value in params.items():
        *path, last = key.split(".")
        node: Any = data
        for part in path:
            node = node[part]
        node[last] = value
    return RunSpec.from_dict(data)
