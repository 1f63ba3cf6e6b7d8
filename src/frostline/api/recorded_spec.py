"""Recorded specs on this machine: their local files, and metrics that are a stranger's scripts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from frostline.errors import UserError
from frostline.spec import DatasetSpec, RunSpec, Source

log = logging.getLogger(__name__)


def located(spec: RunSpec, folder: Path) -> RunSpec:
    """Returns a recorded spec whose local files and folders are found from anywhere, and after a move.

    A relative path is resolved against the run's folder and its parents, before the current folder. An absolute path
    that no longer exists is searched there by its last components. A path that is not found is returned unchanged.

    Args:
        spec: As recorded.
        folder: The run's.
    """

    def find(key: str, place: str) -> str:
        path = Path(place).expanduser()
        if path.is_absolute() and path.exists():
            return place
        parts = path.parts[1:] if path.is_absolute() else path.parts
        tails = [Path(*parts[first:]) for first in range(len(parts) if path.is_absolute() else 1)]
        for tail in tails:
            for above in folder.absolute().parents:
                if (above / tail).exists():
                    if path.is_absolute():
                        log.warning("%s=%s is missing: taken from %s", key, place, above / tail)
                    return str(above / tail)
        return place

    def data(dataset: DatasetSpec) -> DatasetSpec:
        if dataset.source is Source.HUB:
            return dataset
        return replace(
            dataset,
            location=find("dataset.location", dataset.location) if dataset.source is Source.PATH else dataset.location,
            eval_from=None if dataset.eval_from is None else find("dataset.eval_from", dataset.eval_from),
            test_from=None if dataset.test_from is None else find("dataset.test_from", dataset.test_from),
            also_evaluate=tuple(map(data, dataset.also_evaluate)),
        )

    model = spec.model
    if model.source is Source.PATH:
        model = replace(model, location=find("model.location", model.location))
    return replace(spec, model=model, dataset=data(spec.dataset))


def refuse_scripts(source: str, metrics: Sequence[str], trusted: Sequence[str], plugins: Sequence[str] = ()) -> None:
    """Refuses the metrics of a record that are not frostline's own: `evaluate` runs them as scripts.

    Args:
        source: What the user called the record.
        metrics: The record's.
        trusted: Named by the user with --metric.
        plugins: Modules that register metrics, named by the user.

    Raises:
        UserError: A metric may be a script that the user did not name.
    """
    from frostline.metrics import METRICS
    from frostline.registry import import_plugins

    import_plugins(plugins)
    for name in metrics:
        if name not in METRICS and name not in trusted:
            raise UserError(
                f"{source}: its record asks for the metric {name!r}, which may be a script; if you trust it, give "
                f"--metric {name}"
            )
