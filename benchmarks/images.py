"""A frozen depth of ViT on real digits, from the prefix cache and without it: seconds of whole runs, side by side.

A: `runtime.cache=off`: Trainer on a model whose lowest blocks are frozen, over the same pixels, decoded once.
B: `runtime.cache=require`: the run begins at its frozen depth; computing the hidden states counts.
Weights are random (the real ones are on the hub): times don't depend on them.

    python benchmarks/images.py --size base --rows 2000        on a GPU
    python benchmarks/images.py                                on a CPU
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from pathlib import Path

import torch
from transformers import ViTConfig, ViTModel
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from frostline import assets
from frostline.config import compose_run
from frostline.prefix_cache import gpu_memory
from frostline.records.recorder import NullRecorder
from frostline.records.run_context import RunContext
from frostline.train import run

SIZES = {
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "small": {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768},
}


def main() -> None:
    """Prints a ratio for each depth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--rows", type=int, default=100, help="training rows")
    parser.add_argument("--depths", default="6,9,12")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    assets.data_file(compose_run(["dataset=mnist_5k"]).dataset)
    own = folder / "home"  # the user's own cache is left alone
    own.mkdir()
    (own / "assets").symlink_to(assets.home() / "assets")
    os.environ["FROSTLINE_HOME"] = str(own)
    torch.manual_seed(0)
    ViTModel(ViTConfig(**SIZES[options.size]), add_pooling_layer=False).save_pretrained(folder / "vit")
    ViTImageProcessorPil(size={"height": 224, "width": 224}).save_pretrained(folder / "vit")
    common = ["model=path", f"model.location={folder / 'vit'}", "dataset=mnist_5k", "runtime.progress=off"]
    common += [f"dataset.train_rows={options.rows}", "dataset.eval_rows=200", f"training.epochs={options.epochs}"]
    print(f"{torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'}, ViT-{options.size} at 224 x 224, "
          f"{options.rows} rows, {options.epochs} epochs, {options.repeats} repeats")  # fmt: skip
    try:
        seconds(folder, [*common, "freeze.depth=1", "runtime.cache=off"])  # pixels are made, kernels are loaded
        for depth in map(int, options.depths.split(",")):
            ratios, losses = [], set()
            for _ in range(options.repeats):
                (off, first), (on, second) = (
                    seconds(folder, [*common, f"freeze.depth={depth}", f"runtime.cache={mode}"])
                    for mode in ("off", "require")
                )
                ratios.append(off / on)
                losses |= {round(first, 3), round(second, 3)}
            print(f"depth {depth:2}: A / B {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
                  f"A {off:.1f} s; loss {sorted(losses)}")  # fmt: skip
    finally:
        shutil.rmtree(folder)


def seconds(folder: Path, overrides: list[str]) -> tuple[float, float]:
    """Returns the seconds of training, evaluation and filling, and the held-out loss; nothing is kept from before."""
    gpu_memory.forget()
    shutil.rmtree(assets.home() / "prefix", ignore_errors=True)
    out = folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    result = run(compose_run(overrides), RunContext(NullRecorder(), out))
    assert result.status.value == "FINISHED", result.reason
    cost = result.cost
    return cost.train_s + cost.eval_s + (cost.fill_s or 0.0), result.metrics["eval/loss"]


if __name__ == "__main__":
    main()
