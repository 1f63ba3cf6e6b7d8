"""A recorded run's config with some keys changed: `frostline run --from RUN key=value`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from frostline.api.find_run import run_record
from frostline.api.recorded_spec import located
from frostline.config import Job, compose_with_folder, value_from_text
from frostline.config.recorded import read_spec
from frostline.errors import SpecError, nearest
from frostline.spec import Progress, RunSpec
from frostline.sweeps.params import with_params

_GROUPS = ("model", "dataset", "freeze", "optimizer", "training", "runtime")
_BESIDE = ("tracking", "plugins", "resume", "hydra")


def job_from(run: str, overrides: Sequence[str] = (), config_dir: str | None = None) -> tuple[Job, Path]:
    """Returns a recorded run's config with changes, and the folder of the new run.

    A group (`freeze=lora`) is taken as a whole from `conf/`, with its defaults; a key (`optimizer.lr=1e-4`) is changed
    in what was recorded. The run is recorded where the config says, not where the first one was.

    Args:
        run: A run's folder, a sweep (its recommended run), or a run id in MLflow.
        overrides: Groups and keys.
        config_dir: A folder of the user's own config groups.

    Raises:
        UserError: There is no such run, or a change can't be made.
    """
    beside = [word for word in overrides if _key(word).partition(".")[0].partition("/")[0] in _BESIDE]
    chosen_groups = {_key(word) for word in overrides if _key(word) in _GROUPS}
    # A group that is chosen anew comes with its keys: `dataset=csv dataset.location=...`.
    groups = [word for word in overrides if _key(word).partition(".")[0] in chosen_groups]
    base, folder = compose_with_folder([*groups, *beside], config_dir)
    with ExitStack() as stack:
        source, run_id = run_record(run, base.tracking.uri, stack)
        recorded = read_spec(source)
    if run_id is None:
        recorded = located(recorded, source)
    chosen = {group: getattr(base.run, group) for group in chosen_groups}
    runtime = dataclasses.replace(recorded.runtime, progress=Progress.AUTO)
    spec = dataclasses.replace(recorded, **{"runtime": runtime, **chosen})
    changes = changes_of(spec, [word for word in overrides if word not in groups and word not in beside])
    return dataclasses.replace(base, run=with_params(spec, changes) if changes else spec), folder


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def changes_of(spec: RunSpec, words: Sequence[str]) -> dict[str, Any]:
    """Returns the values of overrides by their key.

    Raises:
        SpecError: It is no key of a run.
    """
    known = spec.flat()
    changes: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.lstrip("+").partition("=")
        key = "runtime.cache.mode" if key == "runtime.cache" else key
        if not equals or key not in known:
            raise SpecError(f"{word}: give KEY=VALUE with a key of the run{nearest(key, known)}")
        changes[key] = value_from_text(value)
    return changes
