"""Turns exceptions of Hydra, OmegaConf and YAML into one line for the user."""

from __future__ import annotations

import glob
import re
import shlex
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import yaml
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from frostline import paths
from frostline.config.own_files import forgotten
from frostline.errors import SpecError, UserError, nearest
from frostline.spec import RunSpec, SweepSpec, TrackingSpec
from frostline.spec.freeze import FreezeMethod, freeze_keys

if TYPE_CHECKING:
    from collections.abc import Iterator


def explain(error: BaseException) -> SpecError | None:
    """Returns one line that says what to mend, or None if the error is not about the user's input.

    Args:
        error: Raised while composing or resolving a config.
    """
    chain = _chain(error)
    for link in chain:
        if isinstance(link, SpecError):
            return link
        if isinstance(link, yaml.YAMLError):
            return SpecError(_yaml_line(link))
    if any(isinstance(link, RecursionError) or "Recursive interpolation" in str(link) for link in chain):
        return SpecError("config: an interpolation refers to itself: break the circle of ${...}")
    for link in chain:
        if isinstance(link, MissingMandatoryValue):
            key = _first(r"full_key: (\S+)", str(link)) or _first(r"value: (\S+)", str(link)) or "a mandatory key"
            return SpecError(f"{key} is missing: give it, for example {key}=...")
    if isinstance(error, (HydraException, OmegaConfBaseException, ValueError)):
        return SpecError(_hydra_line(error, chain))
    return None


_OF_SWEEPS = (
    "runtime.slots", "runtime.gpus_per_trial", "runtime.engine",
    *(f"runtime.ray.{key}" for key in ("address", "cpus_per_trial", "memory_per_trial", "shared")),
)  # fmt: skip


def known_keys() -> list[str]:
    """Returns every dotted key of a run's config, for example `optimizer.lr`."""
    tracking = [f"tracking.{key}" for key in get_type_hints(TrackingSpec)]
    sweep = [f"sweep.{key}" for key in [*_dotted(SweepSpec, ""), "space", "enqueue"]]
    return [*_dotted(RunSpec, ""), *tracking, *sweep, "resume", "plugins", *_OF_SWEEPS]


def _dotted(cls: type[Any], prefix: str) -> list[str]:
    hints = get_type_hints(cls)
    keys: list[str] = []
    for field in fields(cls):
        hint = hints[field.name]
        name = f"{prefix}{field.name}"
        if hint is FreezeMethod:
            keys += [f"{name}.{key}" for key in freeze_keys()]
            continue
        keys += _dotted(hint, f"{name}.") if is_dataclass(hint) and isinstance(hint, type) else [name]
    return keys


def _hydra_line(error: BaseException, chain: list[BaseException]) -> str:
    text = str(error)
    key = _first(r"Could not (?:override|append to config|delete from config).*?'([^']+)'", text)
    if key and any("not in struct" in str(link) for link in chain):
        return f"{key}: unknown key{_suggest_key(key)}; frostline run --cfg job shows them all"
    if "Could not find '" in text:
        return _choice_line(text)
    variable = _first(r"Environment variable '([^']+)' not found", " ".join(str(link) for link in chain))
    if variable:
        return f"config: the environment variable {variable} is not set{_key_of(text)}"
    if text.startswith("Ambiguous value for argument"):
        override = _first(r"argument '(.*)'", text)
        return f"{override}: several values: frostline run -m makes a run of each; a list is written key=[a,b]"
    if isinstance(error, OverrideParseException):
        return _unread(str(error.override))
    lines = [line.strip() for line in text.splitlines() if line.strip()][:2]
    message = ": ".join(lines[:1] + [line for line in lines[1:] if not line.startswith(("full_key", "See "))])
    return f"{key or 'config'}: {message or 'no message'}{_key_of(text)}"


def _unread(override: str) -> str:
    """Returns what is wrong with an override that Hydra's grammar does not know, and how it is typed."""
    key, equals, value = override.partition("=")
    if not equals:
        group = next((path.parent.name for path in paths.conf_dir().glob(f"*/{glob.escape(override)}.yaml")), None)
        return f"{override}: is no KEY=VALUE" + (f" (did you mean {group}={override}?)" if group else "")
    sweep = re.fullmatch(r"choice\((.*)\)", value)
    if sweep and "null" in re.split(r"\s*,\s*", sweep[1]):
        return f"{override}: choice() takes no null; list the values, for example {key}={sweep[1]}"
    if value[:1] in {"'", '"'} or value.startswith(("[", "{")):
        return f"{override}: can't be read as KEY=VALUE: see that quotes and brackets are closed"
    quoted = shlex.quote(f'{key}="{value}"')
    return f"{override}: has characters that Hydra reads as its own; quote the value: {quoted}"


def _suggest_key(key: str) -> str:
    group = key.rpartition(".")[0]
    keys = known_keys()
    if not group and (choice := nearest(key, {known.partition(".")[0] for known in keys if "." in known})):
        return choice
    return nearest(key, [known for known in keys if known.rpartition(".")[0] == group]) or nearest(key, keys)


def _choice_line(text: str) -> str:
    option = _first(r"Could not find '([^']+)'", text) or "?"
    group, _, choice = option.rpartition("/")
    if "Available options in" not in text:
        return f"{option}: there is no such config"
    listed = re.findall(r"^\s+(\S+)\s*$", text.split("Available options in", 1)[1], re.M)
    choices = [name for name in listed if not name.startswith("_") and not name.endswith(":")]
    hint = forgotten(group, choice)
    return f"{group}={choice}: no such choice{nearest(choice, choices)}; one of {', '.join(sorted(choices))}{hint}"


def _yaml_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or _first_line(str(error))
    if mark is None:
        return f"bad YAML: {problem}"
    name = Path(mark.name).name if mark.name and not mark.name.startswith("<") else "the config"
    return f"bad YAML in {name}, line {mark.line + 1}: {problem}"


def _key_of(text: str) -> str:
    key = _first(r"full_key: (\S+)", text)
    return f" (at {key})" if key else ""


def _first(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match.group(1) if match else None


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no message")


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns what Hydra, OmegaConf and YAML raise into a `SpecError` of one line, where the user can mend it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        spec_error = explain(error)
        if spec_error is None:
            raise
        raise spec_error from error
