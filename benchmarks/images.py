"""A frozen depth of an image model on real digits, from the prefix cache and without it, side by side.

A: `runtime.cache=off`: Trainer on a model whose lowest blocks are frozen (no gradient, no graph, eval mode), over the
   same pixels, decoded once: what a careful user's loop computes.
B: `runtime.cache=require`: the run begins at its frozen depth.
Each ratio is one of seconds of training and evaluation: of one run, its filling counted, and of as many runs at that
depth as a sweep has trials, which are filled once. Weights are random (the real ones are on the hub): times don't
depend on them.

    python benchmarks/images.py --model vit_base --rows 2000             on a GPU
    python benchmarks/images.py                                          on a CPU
    python benchmarks/images.py --model resnet_50 --depths 3,4           on a CPU
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from pathlib import Path

import torch
from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTModel
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from frostline import assets
from frostline.config import compose_run
from frostline.prefix_cache import gpu_memory
from frostline.records.recorder import NullRecorder
from frostline.records.run_context import RunContext
from frostline.train import run

SIZES = {
    "vit_base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "vit_small": {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768},
}
RESNET = "resnet_50"
"""Of the published size: 4 stages."""


def main() -> None:
    """Prints a ratio for each depth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*SIZES, RESNET], default="vit_small")
    parser.add_argument("--rows", type=int, default=100, help="training rows")
    parser.add_argument("--eval-rows", type=int, default=100)
    parser.add_argument("--depths", default=None, help="default: 6,9,12 of a ViT, 3,4 of a ResNet")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--trials", type=int, default=10, help="runs at a depth that share what is filled once")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    assets.data_file(compose_run(["dataset=mnist_5k"]).dataset)
    own = folder / "home"  # the user's own cache is left alone
    own.mkdir()
    (own / "assets").symlink_to(assets.home() / "assets")
    os.environ["FROSTLINE_HOME"] = str(own)
    save_model(options.model, folder / "model")
    common = ["model=path", f"model.location={folder / 'model'}", "dataset=mnist_5k", "runtime.progress=off"]
    common += [f"dataset.train_rows={options.rows}", f"dataset.eval_rows={options.eval_rows}"]
    common += [f"training.epochs={options.epochs}"]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{device}, {options.model} at 224 x 224, float32, {options.rows} rows, {options.epochs} epochs, "
          f"{options.repeats} repeats")  # fmt: skip
    depths = options.depths or ("3,4" if options.model == RESNET else "6,9,12")
    try:
        seconds(folder, [*common, "freeze.depth=1", "runtime.cache=off"])  # pixels are made, kernels are loaded
        for depth in map(int, depths.split(",")):
            compare(folder, [*common, f"freeze.depth={depth}"], depth, options.repeats, options.trials)
    finally:
        shutil.rmtree(folder)


def compare(folder: Path, common: list[str], depth: int, repeats: int, trials: int) -> None:
    """Prints the ratios at a depth."""
    single, of_trials, losses = [], [], set()
    for _ in range(repeats):
        off, _, first = seconds(folder, [*common, "runtime.cache=off"])
        on, fill, second = seconds(folder, [*common, "runtime.cache=require"])
        single.append(off / (on + fill))
        of_trials.append(trials * off / (trials * on + fill))
        losses |= {round(first, 3), round(second, 3)}
    parts = [
        f"{name} {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        for name, ratios in (("one run", single), (f"{trials} runs", of_trials))
    ]
    print(f"depth {depth:2}: A / B {', '.join(parts)}; A {off:.1f} s, B {on:.1f} s and {fill:.1f} s to fill; "
          f"loss {sorted(losses)}", flush=True)  # fmt: skip


def save_model(name: str, folder: Path) -> None:
    """Writes a model of a size with random weights, and its image processor."""
    torch.manual_seed(0)
    if name == RESNET:
        ResNetModel(ResNetConfig()).save_pretrained(folder)
        ConvNextImageProcessorPil(size={"shortest_edge": 224}, crop_pct=0.875).save_pretrained(folder)
        return
    ViTModel(ViTConfig(**SIZES[name]), add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 224, "width": 224}).save_pretrained(folder)


def seconds(folder: Path, overrides: list[str]) -> tuple[float, float, float]:
    """Returns the seconds of training and evaluation, of filling an empty cache, and the held-out loss."""
    gpu_memory.forget()
    shutil.rmtree(assets.home() / "prefix", ignore_errors=True)
    out = folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    result = run(compose_run(overrides), RunContext(NullRecorder(), out))
    assert result.status.value == "FINISHED", result.reason
    cost = result.cost
    return cost.train_s + cost.eval_s, cost.fill_s or 0.0, result.metrics["eval/loss"]


if __name__ == "__main__":
    main()
