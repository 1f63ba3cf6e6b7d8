"""Augmented views of training images, as a table of pixels.

Row `view * N + row` is view `view` of image `row`. Each view is drawn from a seed, the image's number and the view's:
it is the same whichever batch, process or run asks for it. kornia (the extra `images`) does the augmentation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch

from frostline.data.pixel_table import PixelTable
from frostline.data.token_table import IntArray, Padding
from frostline.errors import DataError, SpecError
from frostline.spec import Augment, DatasetSpec

_AUGMENT_VERSION = 1  # part of a table's hash: raise it when the same seed would give other views
_RGB = 3


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to each image.

    Attributes:
        kind: What is drawn.
        crop_scale: `flip_crop`: least share of the area that a crop keeps.
        flip_probability: `flip_crop`: how often an image is mirrored.
        ops: `randaugment`: how many operations.
        magnitude: `randaugment`: their strength.
        seed: Of all draws.
    """

    kind: Augment
    crop_scale: float
    flip_probability: float
    ops: int
    magnitude: int
    seed: int

    @classmethod
    def of(cls, spec: DatasetSpec, seed: int) -> Augmentation | None:
        """Returns what a data set's config asks for; None: nothing.

        Args:
            spec: The data set.
            seed: Of a run: views that change with each epoch are drawn from it, fixed ones from the data set's own.

        Raises:
            SpecError: kornia is not installed.
        """
        if spec.augment is Augment.NONE:
            return None
        try:
            version("kornia")
        except PackageNotFoundError:
            raise SpecError(
                f"dataset.augment={spec.augment.value}: needs kornia: pip install 'frostline[images]'"
            ) from None
        return cls(
            kind=spec.augment, crop_scale=spec.crop_scale, flip_probability=spec.flip_probability,
            ops=spec.randaugment_ops, magnitude=spec.randaugment_magnitude,
            seed=seed if spec.views is None else spec.seed,
        )  # fmt: skip

    def describe(self) -> str:
        """Returns all that a view depends on besides the image and its number."""
        own = {
            Augment.FLIP_CROP: (self.crop_scale, self.flip_probability),
            Augment.RANDAUGMENT: (self.ops, self.magnitude),
        }.get(self.kind, ())
        return f"{_AUGMENT_VERSION}:{self.kind.value}:{own}:{self.seed}:kornia {version('kornia')}"

    def build(self, height: int, width: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """Returns what augments images `[1, 3, H, W]` of 0 to 1; it draws from torch's global generator.

        Args:
            height: Of the images, in pixels.
            width: Of the images, in pixels.

        Raises:
            DataError: The smallest crop of such an image is less than a pixel.
        """
        from kornia import augmentation
        from kornia.augmentation import auto

        if self.kind is Augment.TRIVIAL:
            return auto.TrivialAugment()
        if self.kind is Augment.RANDAUGMENT:
            return auto.RandAugment(n=self.ops, m=self.magnitude)
        if self.crop_scale * height * width < 1:
            raise DataError(
                f"dataset.crop_scale={self.crop_scale:g}: images of {height} x {width} pixels are smaller than such a "
                "crop, which has less than a pixel"
            )
        return torch.nn.Sequential(
            augmentation.RandomResizedCrop((height, width), scale=(self.crop_scale, 1.0)),
            augmentation.RandomHorizontalFlip(p=self.flip_probability),
        )


class AugmentedTable(PixelTable):
    """Training images with views of each; `len` counts images, `inputs` takes the numbers of views.

    Args:
        table: The images.
        augmentation: What is done to them.
        views: How many views each image has; None: one for each epoch.

    Raises:
        DataError: The images are too small, or their pixels are no bytes.
    """

    def __init__(self, table: PixelTable, augmentation: Augmentation, views: int | None) -> None:
        if table.scale is None:
            raise DataError(
                f"dataset.augment={augmentation.kind.value}: the model's image processor does more than to rescale and "
                "normalize pixels, so that they can't be augmented after it; give dataset.augment=none"
            )
        about = f"{table.sha256} {augmentation.describe()} {views}"
        super().__init__(table.rows, table.scale, table.shape, hashlib.sha256(about.encode()).hexdigest(), table.path)
        self.views = views
        self._images = table
        self.labels, self.lengths = table.labels, table.lengths
        self._augmentation = augmentation
        self._augment = augmentation.build(*self.shape[1:])

    def view_of(self, epoch: IntArray) -> IntArray:
        """Returns which view an epoch takes."""
        return epoch if self.views is None else epoch % self.views

    def inputs(self, numbers: Sequence[int] | IntArray, padding: Padding | None = None) -> dict[str, torch.Tensor]:
        """Returns a batch of some views: `pixel_values`, `[B, C, H, W]`."""
        del padding
        assert self.scale is not None
        views, rows = np.divmod(np.asarray(numbers, dtype=np.int64), len(self))
        images = torch.from_numpy(self._images.raw(rows)).float() / 255
        drawn = [self._draw(image, row, view) for image, row, view in zip(images, rows, views, strict=True)]
        # As bytes, so that an image on which nothing was done is the image itself.
        levels = (torch.stack(drawn).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        return {"pixel_values": torch.from_numpy(self.scale(levels))}

    @torch.no_grad()
    def _draw(self, image: torch.Tensor, row: int, view: int) -> torch.Tensor:
        """Returns a view of an image, `[C, H, W]`."""
        channels = image.shape[0]
        seeds = np.random.SeedSequence([self._augmentation.seed, int(row), int(view)]).generate_state(1, np.uint64)
        before = torch.get_rng_state()  # kornia draws from the CPU's global generator, which is the run's
        try:
            torch.default_generator.manual_seed(int(seeds[0] >> 1))  # `torch.manual_seed` would seed GPUs, too
            # Operations on colours want three channels.
            changed: torch.Tensor = self._augment(image.expand(_RGB, -1, -1)[None])[0]
        finally:
            torch.set_rng_state(before)
        return changed[:channels]
