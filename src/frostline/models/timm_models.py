"""What is particular to timm models: the order of their parts, their image processor.

timm (with torchvision) is an extra: `pip install timm`, or frostline with `[timm]`. transformers wraps its models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn
from transformers import BaseImageProcessor

from frostline.errors import ModelError, as_user_error, in_one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image as Picture
    from transformers import PreTrainedModel

NamedModule = tuple[str, nn.Module]

_CHANNELS = 3

MODEL_TYPE = "timm_wrapper"
"""What transformers calls them."""


def is_of_timm(config: Mapping[str, Any]) -> bool:
    """Returns whether the content of a config.json is that of a model of timm, as timm or transformers writes it."""
    return config.get("model_type") == MODEL_TYPE or ("architecture" in config and "pretrained_cfg" in config)


_NO_ARGUMENTS = (
    "pretrained",
    "checkpoint",
    "cache",
    "num_classes",
    "features_only",
    "kwargs_filter",
    "model_",
    "feature_",
)
"""First parts of arguments of timm's factories that read files or change what the model is."""


def check_config(config: Mapping[str, Any], where: object) -> None:
    """Refuses a config.json that would have timm read anything but its own code.

    Args:
        config: Its content.
        where: For the message.

    Raises:
        ModelError: An architecture that is a place, an argument that names a file, channels that are not three.
    """
    kind, about, arguments = config.get("architecture"), config.get("pretrained_cfg"), config.get("model_args") or {}
    if not isinstance(kind, str) or not re.fullmatch(r"[\w.-]+", kind):
        raise ModelError(f"{where}: architecture {kind!r} is no name of timm's own")
    if not isinstance(about, Mapping) or not isinstance(arguments, Mapping):
        raise ModelError(f"{where}: its pretrained_cfg and model_args are not groups of keys: no config of timm")
    for key, value in arguments.items():
        if str(key).startswith(_NO_ARGUMENTS) or not _is_plain(value):
            raise ModelError(f"{where}: model_args.{key} is refused: it may name a file, or change what is loaded")
    size = about.get("input_size")
    channels = size[0] if isinstance(size, (list, tuple)) and size else 3
    if channels != _CHANNELS or arguments.get("in_chans", _CHANNELS) != _CHANNELS:
        raise ModelError(f"{where}: a model of timm for images of {channels} channels: frostline takes those for RGB")


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, (int, float)) or bool(re.fullmatch(r"[\w.-]*", str(value)))


def check_installed(where: object) -> None:
    """Makes sure that timm can be used.

    Args:
        where: For the message.

    Raises:
        ModelError: It isn't installed, or can't be imported.
    """
    try:
        version("timm")
    except PackageNotFoundError:
        raise ModelError(f"{where}: a model of timm, which is not installed: pip install timm") from None
    with as_user_error(
        lambda error: ModelError(
            f"{where}: a model of timm, which can't be imported ({in_one_line(error, 100)}): it needs a torchvision "
            "that fits this torch"
        )
    ):
        import timm  # noqa: F401


def parts_of(
    model: PreTrainedModel,
) -> tuple[tuple[NamedModule, ...], tuple[NamedModule, ...], tuple[NamedModule, ...]]:
    """Takes a model apart, in timm's own order of its layers (`group_matcher`).

    What timm counts as the stem lies below. A block is a module that timm puts into a layer: a stage, or where there is
    nothing larger a convolution. What it adds to the last layer (a norm, a last convolution) and what belongs to none
    lies above.

    Returns:
        Below, blocks, above.

    Raises:
        ModelError: timm names no order, or parameters lie beside all modules.
    """
    from timm.models import group_parameters

    inner: Any = model.timm_model
    kind = type(inner).__name__
    if not hasattr(inner, "group_matcher"):
        raise ModelError(f"timm's {kind} names no order of its layers: unsupported architecture")
    names = dict(inner.named_parameters())
    layers = [list(group) for _, group in sorted(group_parameters(inner, inner.group_matcher(coarse=True)).items())]
    classifier = {id(parameter) for parameter in inner.get_classifier().parameters()}
    if len(layers) < 3 or not any(id(names[name]) in classifier for name in layers[-1]):
        raise ModelError(f"timm's {kind}: no stem, layers and head could be identified: unsupported architecture")
    owner = {name: number for number, layer in enumerate(layers) for name in layer}
    parts: list[list[NamedModule]] = [[] for _ in layers]
    _sort_into(inner, "", owner, parts)
    loose = [name for name in names if "." not in name]
    if loose:
        raise ModelError(f"timm's {kind}: {loose[0]} belongs to no module, so no part can hold it: unsupported "
                         "architecture; transformers has vision transformers of its own")  # fmt: skip
    prefixed = [[(f"timm_model.{name}", module) for name, module in part] for part in parts]
    first, *middle, last = prefixed
    blocks = [item for layer in middle[:-1] for item in layer] + middle[-1][:1]
    return tuple(first), tuple(blocks), (*middle[-1][1:], *last)


def _sort_into(module: nn.Module, name: str, owner: Mapping[str, int], parts: Sequence[list[NamedModule]]) -> None:
    """Puts the largest modules that lie in one layer alone into that layer, in the order of registration."""
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}".lstrip(".")
        layers = {owner[f"{path}.{key}"] for key, _ in child.named_parameters() if f"{path}.{key}" in owner}
        if len(layers) == 1:
            parts[layers.pop()].append((path, child))
        elif layers:
            _sort_into(child, path, owner, parts)


class TimmProcessor(BaseImageProcessor):
    """timm's evaluation transforms, called as an image processor of transformers is.

    Args:
        config: The model's.

    Attributes:
        do_rescale: As of transformers' processors, likewise `rescale_factor`, `do_normalize`, `image_mean` and
            `image_std`.

    Raises:
        ModelError: timm makes no transforms of the config.
    """

    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True

    def __init__(self, config: Any) -> None:
        from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

        super().__init__()
        with as_user_error(
            lambda error: ModelError(
                f"its pretrained_cfg is none that timm takes: {type(error).__name__}: {in_one_line(error, 100)}"
            )
        ):
            self.timm_processor: Any = TimmWrapperImageProcessor(
                pretrained_cfg=config.pretrained_cfg, architecture=config.architecture
            )
            self.image_mean = self.timm_processor.data_config["mean"]
            self.image_std = self.timm_processor.data_config["std"]

    def __call__(  # type: ignore[override] # it has no settings
        self, images: Sequence[Picture], do_rescale: bool = True, do_normalize: bool = True
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Returns `pixel_values`, `[B, C, H, W]`: float32, or bytes that are neither rescaled nor normalized."""
        if do_rescale and do_normalize:
            return {"pixel_values": self.timm_processor(list(images))["pixel_values"].numpy()}
        from torchvision import transforms  # type: ignore[import-not-found, import-untyped, unused-ignore]

        of_pictures = []
        for transform in self.timm_processor.val_transforms.transforms:
            if isinstance(transform, transforms.Normalize) or "ToTensor" in type(transform).__name__:
                break
            of_pictures.append(transform)
        arrays = []
        for image in images:
            for transform in of_pictures:
                image = transform(image)
            arrays.append(np.moveaxis(np.asarray(image, dtype=np.uint8).reshape(*image.size[::-1], -1), -1, 0))
        return {"pixel_values": np.stack(arrays)}

    def to_dict(self) -> dict[str, Any]:
        """Returns all that its pixels depend on."""
        return {**self.timm_processor.data_config, "timm": version("timm"), "torchvision": version("torchvision")}

    def save_pretrained(self, folder: Any) -> None:  # type: ignore[override]
        """Does nothing: what it is lies in the model's config.json."""
