"""Small models of images of their true classes, and small images, as tests make them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import ConvNextConfig, ConvNextModel, ResNetConfig, ResNetModel, ViTConfig, ViTModel
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from tests.conftest import TINY

SIZE = 32


def save_model(kind: str, folder: Path, num_blocks: int = 4) -> Path:
    """A folder as save_pretrained writes it: no head, as a pretrained model has none."""
    torch.manual_seed(0)
    processor = ViTImageProcessorPil(size={"height": SIZE, "width": SIZE})
    if kind == "vit":
        model = ViTModel(
            ViTConfig(
                hidden_size=32, num_hidden_layers=num_blocks, num_attention_heads=2, intermediate_size=64,
                image_size=SIZE, patch_size=8, initializer_range=0.1,
            ),
            add_pooling_layer=False,
        )  # fmt: skip
    elif kind == "resnet":
        model = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[16, 16, 32, 32], depths=[1, 1, 2, 1]))
    else:
        model = ConvNextModel(ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 2, 1], patch_size=2))
        processor = ConvNextImageProcessorPil(size={"shortest_edge": SIZE}, crop_pct=0.875)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_images(folder: Path, each: int = 20, classes: tuple[str, ...] = ("dark", "light"), seed: int = 0) -> Path:
    """Images of two classes, in the sizes and modes that a user's folder holds: their brightness is their class."""
    rng = np.random.default_rng(seed)
    for index, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            height, width = rng.integers(24, 60, 2)
            values = rng.integers(0, 120, (height, width, 3)) + 120 * index
            image = Image.fromarray(values.astype(np.uint8))
            mode = ("RGB", "L", "RGBA", "P")[number % 4]
            image.convert(mode).save(folder / name / f"{number:03d}.png")
    return folder


def image_overrides(model: Path, folder: Path, *more: str) -> list[str]:
    """Overrides of a run on a folder of images that takes a second."""
    return [
        "model=path", f"model.location={model}", "dataset=image_folder", f"dataset.location={folder}", *TINY,
        "tracking=off", *more,
    ]  # fmt: skip
