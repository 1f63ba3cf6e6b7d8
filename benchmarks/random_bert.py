"""A BERT with random weights, for measuring speed where no pretrained one of that size is at hand.

Its tokenizer is that of the configured model (MiniLM's: the vocabulary of bert-base-uncased).

    python benchmarks/random_bert.py FOLDER [--blocks 12] [--width 768]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from frostline import assets
from frostline.config import compose_run


def make(folder: Path, *, blocks: int, width: int, tokenizer_from: Path) -> None:
    """Writes the model as save_pretrained does, with heads of 64 as BERT's."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_from)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Writes one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--tokenizer", type=Path, help="folder with one; default: that of the configured model")
    options = parser.parse_args()
    source = options.tokenizer or assets.model_folder(compose_run([]).model)
    make(options.folder, blocks=options.blocks, width=options.width, tokenizer_from=source)


if __name__ == "__main__":
    main()
