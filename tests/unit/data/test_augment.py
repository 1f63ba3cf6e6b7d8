"""Views of training images: drawn by number, the same in every batch, of training rows alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from frostline.config import compose_run
from frostline.data import augment
from frostline.data.augment import Augmentation, AugmentedTable
from frostline.data.pixel_table import PixelTable, Scale, crop_trouble
from frostline.errors import DataError, SpecError
from frostline.models.processors import load_image_processor
from frostline.spec import Augment
from tests.support.pictures import SIZE, save_model

ROWS = 5
KINDS = [Augment.FLIP_CROP, Augment.TRIVIAL, Augment.RANDAUGMENT]


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return load_image_processor(save_model("vit", tmp_path_factory.mktemp("model") / "vit"))


@pytest.fixture
def images(processor, tmp_path) -> PixelTable:
    noise = np.random.default_rng(0).integers(0, 256, (ROWS, 3, SIZE, SIZE)).astype(np.uint8)
    rows = Dataset.from_dict({"pixels": [image.tobytes() for image in noise], "labels": list(range(ROWS))})
    scale = Scale(processor, Image.new("RGB", (SIZE, SIZE)), "RGB")
    return PixelTable(rows, scale, (3, SIZE, SIZE), "of the images", tmp_path / "pixels.arrow")


def augmentation(kind: Augment = Augment.FLIP_CROP, **changes) -> Augmentation:
    settings = {"crop_scale": 0.3, "flip_probability": 0.5, "ops": 2, "magnitude": 9, "seed": 0}
    return Augmentation(kind=kind, **{**settings, **changes})


def views(table: AugmentedTable, *numbers: int) -> torch.Tensor:
    return table.inputs(np.array(numbers))["pixel_values"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_is_the_same_bits_in_every_batch_and_process(images, kind):
    table, again = (AugmentedTable(images, augmentation(kind), 4) for _ in range(2))
    together = views(table, 0, 7, 13, 3)
    before = torch.get_rng_state()
    assert torch.equal(together[1], views(again, 7)[0])
    assert torch.equal(together[[3, 0]], views(again, 3, 0))
    assert torch.equal(torch.get_rng_state(), before)  # the run's own draws are what they were
    assert together.shape == (4, 3, SIZE, SIZE)
    assert len(table) == ROWS
    assert table.sha256 == again.sha256


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_seeds_no_gpu(images, kind, monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("it is the run's generator"))
    views(AugmentedTable(images, augmentation(kind), 4), *range(4 * ROWS))


@pytest.mark.parametrize("kind", KINDS)
def test_views_differ_from_each_other_and_from_the_image(images, kind):
    table = AugmentedTable(images, augmentation(kind), 8)
    of_first = views(table, *(view * ROWS for view in range(8)))
    plain = images.inputs([0])["pixel_values"][0]
    assert len({view.numpy().tobytes() for view in of_first}) > 3
    assert sum(torch.equal(view, plain) for view in of_first) < 5
    other = AugmentedTable(images, augmentation(kind, seed=1), 8)
    assert not torch.equal(of_first, views(other, *(view * ROWS for view in range(8))))
    assert table.sha256 != other.sha256


def test_an_epoch_takes_one_view_of_each_image(images):
    epochs = np.array([0, 1, 5, 9])
    assert AugmentedTable(images, augmentation(), 4).view_of(epochs).tolist() == [0, 1, 1, 1]
    assert AugmentedTable(images, augmentation(), None).view_of(epochs).tolist() == [0, 1, 5, 9]
    assert images.view_of(epochs).tolist() == [0, 0, 0, 0]


def test_mirroring_alone_gives_the_image_or_its_mirror(images, monkeypatch):
    """What is drawn goes back to bytes: nothing is lost where pixels only change places."""
    import kornia

    monkeypatch.setattr(kornia.augmentation, "RandomResizedCrop", lambda *args, **kwargs: torch.nn.Identity())
    table = AugmentedTable(images, augmentation(flip_probability=0.5), 12)
    plain = images.inputs([2])["pixel_values"][0]
    kinds = [
        "image" if torch.equal(view, plain) else "mirror" if torch.equal(view, plain.flip(-1)) else "other"
        for view in views(table, *(2 + view * ROWS for view in range(12)))
    ]
    assert set(kinds) == {"image", "mirror"}


def test_grey_images(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2, 1, SIZE, SIZE)).astype(np.uint8)
    rows = Dataset.from_dict({"pixels": [image.tobytes() for image in noise], "labels": [0, 1]})
    grey = ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}, image_mean=[0.5], image_std=[0.5])
    scale = Scale(grey, Image.new("L", (SIZE, SIZE)), "L")
    table = PixelTable(rows, scale, (1, SIZE, SIZE), "grey", tmp_path / "grey.arrow")
    for kind in KINDS:
        assert views(AugmentedTable(table, augmentation(kind), 2), 0, 3).shape == (2, 1, SIZE, SIZE)


def test_which_seed_draws():
    """Fixed views are the data set's, so that runs of several seeds share them; views of an epoch are the run's."""
    common = ["dataset=mnist_5k", "dataset.augment=trivial", "dataset.seed=7"]
    assert Augmentation.of(compose_run(common).dataset, 3).seed == 7
    assert Augmentation.of(compose_run([*common, "dataset.views=null"]).dataset, 3).seed == 3
    assert Augmentation.of(compose_run(["dataset=mnist_5k"]).dataset, 3) is None


def test_bad_input_is_one_line(images, monkeypatch):
    with pytest.raises(SpecError, match=r"dataset\.augment=trivial: is for images; the rows are texts"):
        compose_run(["dataset.augment=trivial"])
    for given, message in (
        ("dataset.views=0", r"dataset\.views=0: must be 1 or more, or null"),
        ("dataset.crop_scale=0", r"dataset\.crop_scale=0\.0: must be above 0 and at most 1"),
        ("dataset.flip_probability=2", r"dataset\.flip_probability=2\.0: must be 0 to 1"),
        ("dataset.randaugment_magnitude=30", r"randaugment_magnitude=30: must be above 0 and below 30"),
        ("dataset.augment=flip", r"dataset\.augment=flip: no such choice"),
    ):
        with pytest.raises(SpecError, match=message):
            compose_run(["dataset=mnist_5k", given])
    with pytest.raises(DataError, match=r"crop_scale=0\.0001: images of 32 x 32 pixels are smaller than such a crop"):
        AugmentedTable(images, augmentation(crop_scale=0.0001), 2)
    images.scale = None
    with pytest.raises(DataError, match=r"dataset\.augment=flip_crop: the model's image processor does more"):
        AugmentedTable(images, augmentation(), 2)

    def missing(_name: str) -> str:
        raise augment.PackageNotFoundError

    monkeypatch.setattr(augment, "version", missing)
    with pytest.raises(SpecError, match=r"needs kornia: pip install 'frostline\[images\]'"):
        Augmentation.of(compose_run(["dataset=mnist_5k", "dataset.augment=trivial"]).dataset, 0)


@pytest.mark.parametrize(
    ("settings", "size", "trouble"),
    [
        ({"do_resize": False}, (40, 30), "is 40 x 30 pixels, smaller than the crop of 32 x 32"),
        ({"do_resize": False}, (40, 32), None),
        ({"do_resize": True, "size": {"shortest_edge": 40}}, (20, 10), None),
        ({"do_resize": True, "size": {"shortest_edge": 24}}, (90, 60), "is 36 x 24 pixels when it is resized"),
        ({"do_resize": True, "size": {"height": 32, "width": 16}}, (90, 60), "is 16 x 32 pixels when it is resized"),
    ],
)
def test_an_image_that_is_smaller_than_the_crop(settings, size, trouble):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(crop_size={"height": 32, "width": 32}, **settings)
    given = crop_trouble(processor, Image.new("RGB", size))
    assert (given is None) if trouble is None else (given or "").startswith(trouble)
