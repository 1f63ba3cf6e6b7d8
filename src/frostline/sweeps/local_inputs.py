"""Files of this machine that a trial needs on another one."""

from __future__ import annotations

from pathlib import Path

from frostline import assets
from frostline.cluster import LocalInput
from frostline.errors import UserError
from frostline.process_cache import PROCESS_CACHE
from frostline.spec import DatasetSpec, Format, Source
from frostline.sweeps.trial_job import TrialJob


def local_inputs(trial: TrialJob) -> dict[str, LocalInput]:
    """Returns the local files that a trial reads, by the path in the config; of plugins by `plugin:NAME`.

    Raises:
        UserError: It reads some that can't be sent to another machine.
    """
    inputs: dict[str, LocalInput] = {}
    for spec in (run.job.run for run in trial.runs):
        if spec.runtime.accelerate_config is not None:
            name = spec.runtime.accelerate_config
            inputs[name] = LocalInput(path=assets.local_file(name, "runtime.accelerate_config"))
        if spec.model.source is Source.PATH:
            inputs[spec.model.location] = LocalInput(path=assets.model_folder(spec.model))
        for data in (spec.dataset, *spec.dataset.also_evaluate):
            if data.source is Source.HUB and (copied := assets.local_path(data.location)).exists():
                inputs[data.location] = LocalInput(path=copied.absolute())
            if data.source is not Source.PATH:
                continue
            inputs[data.location] = _with_images(data, assets.data_file(data))
            for key, other in data.other_files().items():
                inputs[other] = _with_images(data, assets.local_file(other, key, folder=data.is_image))
    for name in trial.runs[0].job.plugins:
        inputs |= _plugin(name)
    return inputs


def _with_images(data: DatasetSpec, path: Path) -> LocalInput:
    """Returns a file or folder of data; with a table the images that it names."""
    if not data.is_image or path.is_dir() or data.format is Format.PIXELS:
        return LocalInput(path=path)
    names = _images_of(path, data)
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(
                f"{path.name}: names the image {name}, which can't be sent to a node that shares no file system with "
                "this machine: name images below the table's own folder"
            )
    return LocalInput(path=path, beside=tuple(name for name in names if (path.parent / name).is_file()))


@PROCESS_CACHE.function
def _images_of(path: Path, data: DatasetSpec) -> tuple[str, ...]:
    from frostline.data.readers import image_names

    return tuple(image_names(path, data, assets.home() / "datasets"))


def _plugin(name: str) -> dict[str, LocalInput]:
    """Returns the file or package of a plugin that lies in the current folder; others are installed on all nodes."""
    first = name.partition(".")[0]
    for path in (Path.cwd() / f"{first}.py", Path.cwd() / first):
        if path.exists():
            return {f"plugin:{first}": LocalInput(path=path)}
    return {}
