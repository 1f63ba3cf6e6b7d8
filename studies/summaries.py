"""How deep to freeze a small encoder-decoder that moves to another kind of sentence: loss by depth, and ROUGE.

A small T5 with a tokenizer of its own learns from scratch to summarize made-up sentences ("the film number 12 was good
and also long, said everyone" -> "the film: good"), then is swept over frozen depth and learning rate on sentences of
another order and other words. The recommended run writes its summaries once more, scored by ROUGE. It shows what the
commands do; with the hub at hand, model=t5_small and a data set of your own take the place of both.

    python studies/summaries.py FOLDER        # 10 minutes on 2 shared cores
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

VOCABULARY, WIDTH, BLOCKS = 400, 64, (4, 2)
THINGS = ("film", "story", "actor", "book", "plot", "song", "scene", "end")
MOODS = ("good", "bad", "wonderful", "long", "dull", "bright", "odd", "warm")
OTHERS = ("critic", "child", "neighbour", "reader")


def main() -> int:
    """Trains the small model, sweeps it, and lets the recommended run write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=16)
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    plain, moved = list(sentences(2000, seed=0)), list(other_sentences(600, seed=1))
    save_model(folder / "fresh", [text for pair in (*plain, *moved) for text in pair])
    write(folder / "plain.jsonl", plain)
    write(folder / "moved.jsonl", moved)
    task = [
        "dataset=jsonl", "dataset.target_column=summary", "dataset.task=seq2seq", "training=seq2seq",
        "training.max_tokens=32", "training.max_target_tokens=12", "training.batch_size=16", "tracking=off",
    ]  # fmt: skip
    pretrained, sweep = folder / "pretrained", folder / "sweep"
    frostline(
        "run", "model=path", f"model.location={folder / 'fresh'}", f"dataset.location={folder / 'plain.jsonl'}", *task,
        "freeze=none", "optimizer.lr=3e-3", "training.epochs=12", f"hydra.run.dir={pretrained}",
    )  # fmt: skip
    moved_task = ["model=path", f"model.location={pretrained / 'model'}", f"dataset.location={folder / 'moved.jsonl'}"]
    moved_task += [*task, "training.epochs=4", "training.objective=loss"]
    frostline(
        "sweep", "lr_x_depth", *moved_task, f"sweep.n_trials={options.trials}", "sweep.margin=0.05",
        f"hydra.sweep.dir={sweep}",
    )  # fmt: skip
    chosen = json.loads((sweep / "report" / "recommended.json").read_text())["params"]
    depth, lr = chosen["freeze.depth"], chosen["optimizer.lr"]
    frozen = "freeze=none" if depth is None else f"freeze.depth={depth}"
    frostline(
        "run", *moved_task, frozen, f"optimizer.lr={lr}", "training.generate_rows=60",
        f"hydra.run.dir={folder / 'written'}",
    )  # fmt: skip
    return 0


def frostline(*arguments: str) -> None:
    """Runs a command."""
    subprocess.run([sys.executable, "-m", "frostline", *arguments], check=True)


def sentences(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yields sentences and their summaries."""
    draw = random.Random(seed)
    for number in range(count):
        thing, mood, other = draw.choice(THINGS), draw.choice(MOODS), draw.choice(MOODS)
        yield f"the {thing} number {number} was {mood} and also {other} , said everyone", f"the {thing} : {mood}"


def other_sentences(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yields the same in another order, with who says it."""
    draw = random.Random(seed)
    for number in range(count):
        thing, mood, other, who = draw.choice(THINGS), draw.choice(MOODS), draw.choice(MOODS), draw.choice(OTHERS)
        yield (
            f"the {who} of day {number} , who found it {other} at first , said that it was {mood} , this {thing}",
            f"{who} : a {mood} {thing}",
        )


def write(path: Path, pairs: Iterable[tuple[str, str]]) -> None:
    """Writes pairs as lines of JSON."""
    path.write_text("".join(json.dumps({"text": text, "summary": summary}) + "\n" for text, summary in pairs))


def save_model(folder: Path, texts: Iterable[str]) -> None:
    """Writes a T5 with random weights and a tokenizer of words."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>", max_input_chars_per_word=20))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=["<pad>", "</s>", "<unk>"])
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    encoder, decoder = BLOCKS
    config = T5Config(
        vocab_size=len(fast), d_model=WIDTH, num_layers=encoder, num_decoder_layers=decoder, num_heads=4,
        d_kv=WIDTH // 4, d_ff=3 * WIDTH, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
