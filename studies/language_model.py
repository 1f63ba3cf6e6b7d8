"""How deep to freeze a small language model that moves to another kind of text: loss by depth.

A small Llama with a tokenizer of its own is trained from scratch on the sentences of movie reviews, then swept over
frozen depth and learning rate on tweets. With `--kind t5` it is a small T5, which writes a sentence of which it reads
two words in three. All parts come from the package index; with the hub at hand, model=gpt2, model=smollm2_135m or
model=t5_small take the place of the small model.

    python studies/language_model.py FOLDER        # 20 minutes on 2 shared cores; FOLDER/pretrained/model is the model
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from frostline import assets
from frostline.config import compose_run
from frostline.data.load import load_rows

END = "<|endoftext|>"
VOCABULARY, WIDTH, BLOCKS = 2000, 128, 6


def main() -> int:
    """Trains the small model and sweeps it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=["llama", "t5"], default="llama")
    parser.add_argument("--trials", type=int, default=14)
    parser.add_argument("--objective", choices=["loss", "perplexity"], default="loss")
    parser.add_argument("--margin", type=float, default=0.02, help="in the unit of the objective")
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    reviews, pretrained = sentences("movie_reviews", folder), folder / "pretrained"
    task = ["training.max_tokens=64", "tracking=off"]
    if options.kind == "llama":
        save_llama(folder / "fresh", reviews)
        task += ["dataset.task=causal_lm", "training=causal_lm"]
        first, second = ["dataset=movie_reviews"], ["dataset=tweets"]
    else:
        save_t5(folder / "fresh", reviews)
        task += ["dataset.task=seq2seq", "training=seq2seq", "dataset.target_column=target"]
        texts = {"reviews": reviews, "tweets": sentences("tweets", folder)}
        first, second = (incomplete(folder / f"{name}.jsonl", own) for name, own in texts.items())
    frostline(
        "run", "model=path", f"model.location={folder / 'fresh'}", *first, *task, "freeze=none", "optimizer.lr=2e-3",
        "training.epochs=4", "training.batch_size=32", f"hydra.run.dir={pretrained}",
    )  # fmt: skip
    frostline(
        "sweep", "lr_x_depth", "model=path", f"model.location={pretrained / 'model'}", *second, *task,
        "dataset.train_rows=1000", "dataset.eval_rows=1000", f"sweep.n_trials={options.trials}",
        f"training.objective={options.objective}", f"sweep.margin={options.margin}",
        f"hydra.sweep.dir={folder / 'sweep'}",
    )  # fmt: skip
    return 0


def frostline(*arguments: str) -> None:
    """Runs a command."""
    subprocess.run([sys.executable, "-m", "frostline", *arguments], check=True)


def incomplete(path: Path, texts: Iterable[str]) -> list[str]:
    """Writes pairs of a text without a third of its words, and the text; returns the overrides that name them."""
    draw = random.Random(0)
    with path.open("w") as file:
        for text in texts:
            kept = " ".join(word for word in text.split() if draw.random() > 1 / 3)
            file.write(json.dumps({"text": kept, "target": text}) + "\n")
    return ["dataset=jsonl", f"dataset.location={path}"]


def sentences(name: str, folder: Path) -> list[str]:
    """Returns the training texts of a data set."""
    dataset = compose_run([f"dataset={name}"]).dataset
    texts: list[str] = load_rows(dataset, lambda _: assets.data_file(dataset, progress=False), folder).train["text"]
    return list(texts)


def tokenizer_of(texts: Iterable[str], *specials: str) -> Tokenizer:
    """Returns a byte-level BPE tokenizer of some texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(specials), initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_t5(folder: Path, texts: Iterable[str]) -> None:
    """Writes a T5 with random weights and a tokenizer."""
    tokenizer = tokenizer_of(texts, "<pad>", "</s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCABULARY, d_model=WIDTH, num_layers=BLOCKS // 2, num_decoder_layers=BLOCKS // 2, num_heads=4,
        d_kv=WIDTH // 4, d_ff=3 * WIDTH, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)


def save_llama(folder: Path, texts: Iterable[str]) -> None:
    """Writes a Llama with random weights and a tokenizer."""
    tokenizer = tokenizer_of(texts, END)
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
