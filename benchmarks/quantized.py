"""Resident memory while a decoder's last block is trained as a classifier, its frozen blocks quantized or not.

A run begins above its frozen blocks (prefix cache on) in each case: A keeps them in float32, B and C quantize them
(`model.quantize`) and take them out of memory. Each run is a process of its own; they take turns. Printed is its
resident memory, in the median over its steps, beyond that of a process that has imported the same modules.

    python benchmarks/quantized.py            # needs torchao: pip install 'frostline[quantize]'
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

KINDS = {"A: float32": "null", "B: int8": "int8", "C: nf4": "nf4"}
WIDTH, BLOCKS = 768, 12


def main() -> None:
    """Prints the memory of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run", help="one run with this model.quantize, in this process")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if importlib.util.find_spec("torchao") is None:
        print("torchao is not installed: pip install 'frostline[quantize]'")
        return
    if options.run is not None:
        print(resident_mb(options.run, options.folder))
        return
    results: dict[str, list[float]] = {name: [] for name in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        for _ in range(options.repeats):
            for name, kind in KINDS.items():
                command = [sys.executable, __file__, "--run", kind, "--folder", folder]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                results[name].append(float(done.stdout.split()[-1]))
    print(f"a Llama of {BLOCKS} blocks, width {WIDTH}, {BLOCKS - 1} frozen; fp32, CPU")
    for name, values in results.items():
        print(f"{name}: {statistics.median(values):.0f} MB ({min(values):.0f} to {max(values):.0f})")


def save(folder: Path) -> None:
    """Writes a model with random weights, its tokenizer and rows."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "</s>", *(f"w{index}" for index in range(98))]
    tokenizer = Tokenizer(models.WordLevel(dict(zip(words, range(100), strict=True)), unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=100, hidden_size=WIDTH, num_hidden_layers=BLOCKS, num_attention_heads=12, num_key_value_heads=12,
        intermediate_size=4 * WIDTH, max_position_embeddings=64, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    lines = [f"w{index % 90} w{index % 7} w{index % 13},{'yes' if index % 7 < 3 else 'no'}" for index in range(400)]
    (folder / "rows.csv").write_text("\n".join(["text,label", *lines]) + "\n")


def resident_mb(kind: str, folder: Path) -> float:
    """Returns the resident memory of a run's steps beyond that of a process without a model, in MB."""
    if kind != "null":
        import torchao.quantization  # noqa: F401 - its modules are no part of what is compared

    from frostline.config import compose_job
    from frostline.records.monitor import NullMonitor
    from frostline.records.recorder import NullRecorder
    from frostline.records.run_context import RunContext
    from frostline.train.run import run

    process, seen = psutil.Process(), list[int]()

    class Watch(NullMonitor):
        def heartbeat(self) -> None:
            seen.append(process.memory_info().rss)

    before = process.memory_info().rss
    spec = compose_job([
        "model=path", f"model.location={folder}", f"model.quantize={kind}", "dataset=csv",
        f"dataset.location={folder / 'rows.csv'}", f"freeze.depth={BLOCKS - 1}", "optimizer.lr=1e-4",
        "training.epochs=4", "training.batch_size=16", "training.max_tokens=16", "training.checkpoint=never",
        "training.keep=last", "runtime.cache=require", "runtime.device=cpu", "runtime.progress=off", "tracking=off",
    ]).run  # fmt: skip
    with tempfile.TemporaryDirectory() as own:
        run(spec, RunContext(NullRecorder(), Path(own), monitor=Watch()))
    return (statistics.median(seen[-40:]) - before) / 1e6


if __name__ == "__main__":
    main()
