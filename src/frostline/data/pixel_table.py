"""Converts images to the pixels that a model takes, cached on disk.

What costs time - decoding, resizing, cropping - is done once and kept as bytes; scaling is done for each batch, in the
image processor's own arithmetic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
from PIL import Image

from frostline.data.table_cache import map_cached
from frostline.data.token_table import IntArray, Padding, labels_of
from frostline.errors import DataError, as_user_error, in_one_line

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from transformers import BaseImageProcessor

_PIXELS_VERSION = 2  # part of cache fingerprints: raise it when the same images would give other pixels
_ROWS_AT_ONCE = 64

MODES = {1: "L", 3: "RGB"}
"""What Pillow calls images of so many channels."""


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """How a model takes images.

    Attributes:
        processor: The model's image processor, of Pillow: the numbers of another library differ.
        sha256: Identity of its file, part of the cache's key.
        channels: Of its images.
    """

    processor: BaseImageProcessor
    sha256: str
    channels: int

    @property
    def mode(self) -> str:
        """What Pillow calls such images.

        Raises:
            DataError: It knows none with so many channels.
        """
        if self.channels not in MODES:
            raise DataError(f"the model takes images of {self.channels} channels; frostline knows grey (1) and RGB (3)")
        return MODES[self.channels]


_DEEP = ("I", "F")
"""First letters of Pillow's modes with more than 8 bits a channel."""


def in_mode(image: Picture, mode: str, where: str) -> Picture:
    """Returns an image in the channels that a model takes, on white where it is transparent.

    What lies below transparent pixels is whatever the program left there that saved them; it is not visible.

    Args:
        image: Any.
        mode: `L` or `RGB`.
        where: For the message.

    Raises:
        DataError: It has more than 8 bits a channel: Pillow would clip them, without a word, to white.
    """
    if image.mode.startswith(_DEEP):
        raise DataError(f"{where}: has more than 8 bits a channel (Pillow's mode {image.mode}): save it with 8")
    if image.has_transparency_data:
        # What has its transparency multiplied into its colours is made RGBA in two steps.
        shown = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, "RGBA")).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)
    if image.mode == "LAB":
        image = image.convert("RGB")
    try:
        return image.convert(mode)
    except ValueError as error:
        raise DataError(f"{where}: Pillow makes no {mode} of its colours ({image.mode}): save it as RGB") from error


class Scale:
    """Bytes -> what a model takes: the image processor's rescaling and normalization.

    Args:
        processor: The model's.
        sample: An image: the processor's own result for it must be the same.
        mode: Of images, as Pillow names it.

    Attributes:
        shape: Channels, height and width of every image.
        is_exact: Whether bytes are enough: else the processor's own numbers are kept.
    """

    def __init__(self, processor: BaseImageProcessor, sample: Picture, mode: str) -> None:
        typed_processor: Any = processor
        noise = np.random.default_rng(0).integers(0, 256, (*sample.size[::-1], 3)).astype(np.uint8)
        images = [in_mode(sample, mode, "the first image"), Image.fromarray(noise).convert(mode)]
        with as_user_error(
            lambda error: DataError(f"the model's image processor can't take the images: {in_one_line(error, 150)}")
        ):
            processed = np.stack([typed_processor(images=[image])["pixel_values"][0] for image in images])
            plain = np.stack(
                [
                    typed_processor(images=[image], do_rescale=False, do_normalize=False)["pixel_values"][0]
                    for image in images
                ]
            )
        self.shape = processed.shape[1:]
        # A byte has 256 values: what becomes of each is computed once for all.
        levels = np.tile(np.arange(256.0), (self.shape[0], 1))
        if getattr(typed_processor, "do_rescale", False):
            levels = levels * float(typed_processor.rescale_factor)
        levels = levels.astype(np.float32)
        if getattr(typed_processor, "do_normalize", False):
            mean, std = (
                np.asarray(each, dtype=np.float32) for each in (typed_processor.image_mean, typed_processor.image_std)
            )
            levels = (levels - mean[:, None]) / std[:, None]
        self._values = levels
        self.is_exact = plain.dtype == np.uint8 and np.array_equal(self(plain), processed.astype(np.float32))

    def __call__(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Returns float32 pixels `[B, C, H, W]` of bytes of the same shape."""
        scaled = np.empty(images.shape, dtype=np.float32)
        for channel, values in enumerate(self._values):
            scaled[:, channel] = values[images[:, channel]]
        return scaled


class PixelTable:
    """Images, ready for a model: the same to the rest of a run as `TokenTable`.

    Args:
        rows: `pixels`, one image's bytes a row, and `labels`.
        scale: Makes floats of them; None: they are floats.
        shape: Channels, height and width.
        sha256: Of what they were made of.
        path: The file that holds them.
    """

    views: int | None = 1
    """How many views there are of each image, see `AugmentedTable`."""

    def __init__(
        self, rows: datasets.Dataset, scale: Scale | None, shape: tuple[int, ...], sha256: str, path: Path
    ) -> None:
        self.path = path
        self.rows = rows
        self.sha256 = sha256
        self.shape = shape
        self.scale = scale
        plain = rows.with_format("arrow")
        has_labels = "labels" in rows.column_names
        self.labels = torch.from_numpy(labels_of(plain["labels"])) if has_labels else None
        """`[N]`: class ids (int64) or numbers (float32)."""
        self.lengths: IntArray = np.ones(len(rows), dtype=np.int64)
        """Of each row, `[N]`: images are of one size."""
        self._places: IntArray | None = None

    def select(self, places: IntArray) -> PixelTable:
        """Returns some of the images, of which nothing is copied."""
        where = places if self._places is None else self._places[places]
        digest = hashlib.sha256(f"{self.sha256} {np.ascontiguousarray(places, dtype='<i8').tobytes().hex()}".encode())
        part = PixelTable(self.rows, self.scale, self.shape, digest.hexdigest(), self.path)
        part.labels = None if self.labels is None else self.labels[torch.from_numpy(places)]
        part.lengths = self.lengths[places]
        part._places = where
        return part

    def __len__(self) -> int:
        return len(self.lengths)

    def stand_in(self, count: int) -> dict[str, torch.Tensor]:
        """Returns a batch of zeros for a model that begins above its embeddings and does not read it."""
        return {"pixel_values": torch.zeros(count, 1, 1, 1)}

    @property
    def num_labels(self) -> int:
        """How many images are labelled."""
        return len(self) if self.labels is not None else 0

    def all_labels(self) -> np.ndarray[Any, Any]:
        """Returns all labels, `[N]`."""
        assert self.labels is not None, "the rows have no labels"
        return self.labels.numpy()

    def labels_at(self, numbers: IntArray, width: int) -> torch.Tensor | None:
        """Returns the labels of some rows, `[B]`; None if they have none."""
        del width
        return None if self.labels is None else self.labels[torch.from_numpy(numbers)]

    @property
    def num_tokens(self) -> int:
        """How many images."""
        return len(self)

    @cached_property
    def _chunks(self) -> tuple[list[np.ndarray[Any, Any]], IntArray]:
        """Views of the memory-mapped pixels, `[rows, C, H, W]` each, and the row with which each begins."""
        dtype = np.uint8 if self.scale is not None else np.float32
        column: Any = self.rows.with_format("arrow")["pixels"]
        column = column[:] if not hasattr(column, "chunks") else column
        chunks = []
        for chunk in column.chunks:
            _, offsets, data = chunk.buffers()
            first = np.frombuffer(offsets, dtype=np.int64 if "large" in str(chunk.type) else np.int32)[chunk.offset]
            size = int(np.prod(self.shape)) * np.dtype(dtype).itemsize
            flat = np.frombuffer(data, dtype=np.uint8)[first : first + len(chunk) * size]
            chunks.append(flat.view(dtype).reshape(len(chunk), *self.shape))
        return chunks, np.cumsum([0, *(len(chunk) for chunk in chunks)])

    def view_of(self, epoch: IntArray) -> IntArray:
        """Returns which view of each image an epoch takes."""
        return np.zeros_like(epoch)

    def inputs(self, numbers: Sequence[int] | IntArray, padding: Padding | None = None) -> dict[str, torch.Tensor]:
        """Returns a batch of some rows: `pixel_values`, `[B, C, H, W]`."""
        del padding
        images = self.raw(numbers)
        return {"pixel_values": torch.from_numpy(images if self.scale is None else self.scale(images))}

    def raw(self, numbers: Sequence[int] | IntArray) -> np.ndarray[Any, Any]:
        """Returns the pixels of some rows as they are kept, `[B, C, H, W]`: bytes, or the processor's own numbers."""
        chunks, starts = self._chunks
        numbers = np.asarray(numbers, dtype=np.int64)
        numbers = numbers if self._places is None else self._places[numbers]
        which = np.searchsorted(starts, numbers, side="right") - 1
        return np.stack([chunks[c][n - starts[c]] for c, n in zip(which, numbers, strict=True)])


def pixel_tables(
    parts: Mapping[str, tuple[datasets.Dataset, str]], images: ImageInput, folder: Path
) -> dict[str, PixelTable]:
    """Makes pixels of images, once for the same images and processor.

    Args:
        parts: Columns `image` and `labels`, by name, each with what identifies it.
        images: How the model takes them.
        folder: Where pixels are kept, memory-mapped.

    Raises:
        DataError: An image can't be read, or the processor gives images of different sizes.
    """
    return {name: _table(rows, images, identity, folder, name) for name, (rows, identity) in parts.items()}


def _table(rows: datasets.Dataset, image_input: ImageInput, identity: str, folder: Path, name: str) -> PixelTable:
    processor: Any = image_input.processor
    mode = image_input.mode
    images = rows.cast_column("image", datasets.Image())
    scale = Scale(processor, _decoded(images, 0, name, mode), mode)
    settings = {} if not scale.is_exact else {"do_rescale": False, "do_normalize": False}
    dtype = np.uint8 if scale.is_exact else np.float32

    def convert(_batch: Any, indices: list[int]) -> dict[str, Any]:
        arrays = []
        for index in indices:
            picture = _decoded(images, index, name, mode)
            if (trouble := crop_trouble(processor, picture)) is not None:
                raise DataError(f"{_where(images, index, name)}: {trouble}")
            array = processor(images=[picture], **settings)["pixel_values"][0]
            pixels = np.ascontiguousarray(array, dtype=dtype)
            if pixels.shape != scale.shape:
                raise DataError(
                    f"{name} image {index + 1}: the model's image processor gives {pixels.shape}, of others "
                    f"{scale.shape}: it has to resize or crop to one size"
                )
            arrays.append(pixels.tobytes())
        return {"pixels": arrays}

    versions = ":".join(version(package) for package in ("pillow", "transformers", "numpy"))
    about = f"{_PIXELS_VERSION}:{identity}:{image_input.sha256}:{mode}:{versions}:{dtype.__name__}"
    sha256 = hashlib.sha256(about.encode()).hexdigest()
    path = folder / f"{sha256[:32]}.arrow"
    features = datasets.Features({"labels": rows.features["labels"], "pixels": datasets.Value("binary")})
    done = map_cached(
        rows.select_columns(["image", "labels"]), convert, sha256[:32], path=path, batched=True,
        batch_size=_ROWS_AT_ONCE, with_indices=True, remove_columns=["image"], features=features,
        writer_batch_size=_ROWS_AT_ONCE * 4, desc=f"pixels ({name})",
    )  # fmt: skip
    path.touch()  # used just now
    return PixelTable(done, scale if scale.is_exact else None, scale.shape, sha256, path)


def crop_trouble(processor: Any, picture: Picture) -> str | None:
    """Returns why an image is too small for the crop that an image processor takes; None if it isn't.

    The processor would give it a black border, without a word.

    Args:
        processor: The model's.
        picture: Before it is resized.
    """
    crop = getattr(processor, "crop_size", None)
    if not getattr(processor, "do_center_crop", False) or not crop:
        return None
    width, height = picture.size
    size = (getattr(processor, "size", None) or {}) if getattr(processor, "do_resize", False) else {}
    if shortest := size.get("shortest_edge"):
        scale = shortest / min(width, height)
        width, height = round(width * scale), round(height * scale)
    width, height = size.get("width") or width, size.get("height") or height
    if width >= crop["width"] and height >= crop["height"]:
        return None
    resized = " when it is resized" if size else ""
    return (
        f"is {width} x {height} pixels{resized}, smaller than the crop of {crop['width']} x {crop['height']} that the "
        "model's image processor takes: give larger images, or do_resize in its preprocessor_config.json"
    )


def _decoded(images: datasets.Dataset, index: int, name: str, mode: str) -> Picture:
    with as_user_error(
        lambda error: DataError(
            f"{_where(images, index, name)}: is no image that can be read: {in_one_line(error, 150)}"
        )
    ):
        picture: Picture = images[index]["image"]
        picture.load()
    where = _where(images, index, name) if picture.mode.startswith(_DEEP) else name
    return in_mode(picture, mode, where)


def _where(images: datasets.Dataset, index: int, name: str) -> str:
    raw = images.cast_column("image", datasets.Image(decode=False))[index]["image"]
    return raw["path"] or f"{name} image {index + 1}"
