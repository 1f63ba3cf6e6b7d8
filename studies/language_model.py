"""How deep to freeze a small language model that moves to another kind of text: loss by depth.

A small Llama with a tokenizer of its own is trained from scratch on the sentences of movie reviews, then swept over
frozen depth and learning rate on tweets. All parts come from the package index; with the hub at hand, model=gpt2 or
model=smollm2_135m take the place of the small model.

    python studies/language_model.py FOLDER        # 20 minutes on 2 shared cores; FOLDER/pretrained/model is the model
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from frostline import assets
from frostline.config import compose_run
from frostline.data.load import load_rows

END = "<|endoftext|>"
VOCABULARY, WIDTH, BLOCKS = 2000, 128, 6


def main() -> int:
    """Trains the small model and sweeps it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=14)
    parser.add_argument("--objective", choices=["loss", "perplexity"], default="loss")
    parser.add_argument("--margin", type=float, default=0.02, help="in the unit of the objective")
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder / "fresh", sentences(folder))
    task = ["dataset.task=causal_lm", "training=causal_lm", "training.max_tokens=64", "tracking=off"]
    pretrained = folder / "pretrained"
    frostline(
        "run", "model=path", f"model.location={folder / 'fresh'}", *task, "freeze=none", "optimizer.lr=2e-3",
        "training.epochs=4", "training.batch_size=32", f"hydra.run.dir={pretrained}",
    )  # fmt: skip
    frostline(
        "sweep", "lr_x_depth", "model=path", f"model.location={pretrained / 'model'}", "dataset=tweets", *task,
        "dataset.train_rows=1000", "dataset.eval_rows=1000", f"sweep.n_trials={options.trials}",
        f"training.objective={options.objective}", f"sweep.margin={options.margin}",
        f"hydra.sweep.dir={folder / 'sweep'}",
    )  # fmt: skip
    return 0


def frostline(*arguments: str) -> None:
    """Runs a command."""
    subprocess.run([sys.executable, "-m", "frostline", *arguments], check=True)


def sentences(folder: Path) -> Iterable[str]:
    """Returns the review sentences that the small model is trained on."""
    dataset = compose_run(["dataset=movie_reviews"]).dataset
    texts: list[str] = load_rows(dataset, lambda _: assets.data_file(dataset, progress=False), folder).train["text"]
    return texts


def save_model(folder: Path, texts: Iterable[str]) -> None:
    """Writes a model with random weights and a byte-level BPE tokenizer of its texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=BLOCKS, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=3 * WIDTH, max_position_embeddings=256, bos_token_id=0, eos_token_id=0,
        tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
