"""What fixed views of training images cost and give: accuracy and bytes by `dataset.views`, over several seeds.

A small ResNet is trained on the digits 0 to 4 of mnist_5k, then fine-tuned on few images of 5 to 9 with its lowest
blocks frozen. Each seed draws other training images (`dataset.seed`) and another head (`seed`).

    python studies/augmentation.py                 # 4 minutes on 2 cores
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import ResNetConfig, ResNetModel
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from frostline import assets
from frostline.config import compose_run
from frostline.data.load import load_rows
from frostline.records.recorder import NullRecorder
from frostline.records.run_context import RunContext
from frostline.train import run

CHOICES = {
    "none": ["dataset.augment=none"],
    **{f"views={count}": [f"dataset.views={count}"] for count in (1, 2, 4, 8, 16)},
    "views=null": ["dataset.views=null"],
}


def main() -> None:
    """Prints a line for each number of views."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100, help="training images")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=32)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--augment", default="flip_crop")
    parser.add_argument("--crop-scale", type=float, default=0.8)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    split_digits(folder)
    own = folder / "home"  # the user's own cache is left alone
    os.environ["FROSTLINE_HOME"] = str(own)
    pretrained = pretrain(folder)
    common = [
        "model=path", f"model.location={pretrained}", *digits(folder / "high.csv"), "runtime.progress=off",
        "dataset.flip_probability=0", f"dataset.crop_scale={options.crop_scale}", f"dataset.train_rows={options.rows}",
        f"freeze.depth={options.depth}",
        f"training.epochs={options.epochs}", "training.batch_size=16", "optimizer.lr=3e-3", "training.keep=last",
        "training.evaluate=never",
    ]  # fmt: skip
    plain: list[float] = []
    for name, choice in CHOICES.items():
        augment = [] if name == "none" else [f"dataset.augment={options.augment}"]
        results = []
        for seed in range(options.seeds):
            cache = "off" if name == "views=null" else "require"
            given = [*common, f"runtime.cache.mode={cache}", *augment, *choice, f"seed={seed}", f"dataset.seed={seed}"]
            results.append(train(given, folder / f"{name}-{seed}"))
        accuracies = [100 * result.metrics["eval/accuracy"] for result in results]
        plain = plain or accuracies
        gains = [accuracy - before for accuracy, before in zip(accuracies, plain, strict=True)]
        seconds = [result.cost.train_s + (result.cost.fill_s or 0.0) for result in results]
        print(f"{name:10}  accuracy {statistics.mean(accuracies):.1f} %, gain {statistics.mean(gains):+.1f} points "
              f"({min(gains):+.1f} to {max(gains):+.1f}), "
              f"cache {cached_bytes(own) / options.seeds / 1e6:.1f} MB a run, "
              f"{statistics.median(seconds):.1f} s of training and filling", flush=True)  # fmt: skip


def split_digits(folder: Path) -> None:
    """Writes the digits 0 to 4 and 5 to 9 into a file each, as lines of pixels and a class from 0 on."""
    dataset = compose_run(["dataset=mnist_5k"]).dataset
    rows = load_rows(dataset, lambda _: assets.data_file(dataset, progress=False), folder)
    files = {"low": (folder / "low.csv").open("w"), "high": (folder / "high.csv").open("w")}
    import numpy as np

    for part in (rows.train, rows.evaluation):
        for row in part.with_format(None):
            digit = int(rows.label_names[row["labels"]])
            pixels = np.asarray(decoded(row["image"])).ravel()
            files["low" if digit < 5 else "high"].write(",".join(map(str, pixels)) + f",{digit % 5}\n")
    for file in files.values():
        file.close()


def decoded(image: Any) -> Any:
    """Returns a picture, whether it is one or bytes."""
    import io

    from PIL import Image

    return Image.open(io.BytesIO(image["bytes"])) if isinstance(image, dict) else image


def digits(path: Path) -> list[str]:
    """Returns the data set of a file."""
    return [
        "dataset=mnist_5k", "dataset.source=path", f"dataset.location={path}", "dataset.sha256=null",
        "dataset.member=null", "dataset.eval_fraction=0.5",
    ]  # fmt: skip


def pretrain(folder: Path) -> Path:
    """Trains a small ResNet on the digits 0 to 4 and returns its folder, the head left out."""
    torch.manual_seed(0)
    model = ResNetModel(ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1], layer_type="basic", hidden_act="relu",
        downsample_in_first_stage=False,
    ))  # fmt: skip
    model.save_pretrained(folder / "fresh")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder / "fresh")
    given = ["model=path", f"model.location={folder / 'fresh'}", *digits(folder / "low.csv"), "freeze=none",
             "training.epochs=4", "optimizer.lr=2e-3", "runtime.progress=off"]  # fmt: skip
    result = train(given, folder / "pretrained")
    print(f"pretrained on 0 to 4: accuracy {100 * result.metrics['eval/accuracy']:.1f} %", flush=True)
    return folder / "pretrained" / "model"


def train(given: list[str], folder: Path) -> Any:
    """Trains one run and returns its result."""
    folder.mkdir()
    result = run(compose_run(given), RunContext(NullRecorder(), folder))
    assert result.status.value == "FINISHED", result.reason
    return result


def cached_bytes(home: Path) -> int:
    """Returns the bytes of all cached training rows, and forgets them."""
    import shutil

    total = sum(path.stat().st_size for path in (home / "prefix").rglob("*.bin"))
    shutil.rmtree(home / "prefix", ignore_errors=True)
    return total


if __name__ == "__main__":
    main()
