"""Memory and time of a training step of a language model with a vocabulary of 50,257, side by side.

A: logits of the whole batch, as Trainer's own loss holds them: [rows, tokens, vocabulary] in float32.
B: target tokens some at a time (`frostline.train.output_head`), as a run of dataset.task=causal_lm computes them.
Each step runs in a process of its own, which tells its peak memory beyond what it had before the step; A and B take
turns. The model is small, so that what is compared are the logits.

    python benchmarks/vocabulary.py
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from frostline.spec import PLAIN_LOSS, TASKS
from frostline.train.output_head import output_head

VOCABULARY = 50_257


def main() -> None:
    """Prints memory and time of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--step", choices=["A", "B"], help="one step, in this process")
    options = parser.parse_args()
    if options.step is not None:
        print(*step(options.rows, options.tokens, is_chunked=options.step == "B"))
        return
    results: dict[str, list[tuple[float, float]]] = {"A": [], "B": []}
    for _ in range(options.repeats):
        for name, values in results.items():
            command = [sys.executable, __file__, "--step", name, f"--rows={options.rows}", f"--tokens={options.tokens}"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            megabytes, seconds = done.stdout.split()
            values.append((float(megabytes), float(seconds)))
    print(f"{options.rows} rows of {options.tokens} tokens, vocabulary {VOCABULARY}, float32, CPU")
    for name, values in results.items():
        megabytes, seconds = zip(*values, strict=True)
        print(f"{name}: {statistics.median(megabytes):.0f} MB ({min(megabytes):.0f} to {max(megabytes):.0f}), "
              f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")  # fmt: skip


def step(rows: int, tokens: int, *, is_chunked: bool) -> tuple[float, float]:
    """Returns the peak memory of a step beyond what there was before, in MB, and its seconds."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=128, n_layer=2, n_head=2))
    task, ids = TASKS.get("causal_lm"), torch.randint(0, VOCABULARY, (rows, tokens))
    labels = torch.cat([ids[:, 1:], torch.full((rows, 1), -100)], dim=1)
    head = output_head(model, task, nullcontext)
    assert head is not None
    summed = task.summed_loss
    if is_chunked:
        head.attach()
        summed = head.summed_loss
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    loss = summed(model(input_ids=ids).logits, labels, PLAIN_LOSS) / task.num_terms(labels)
    loss.backward()
    seconds = time.perf_counter() - began
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, seconds


if __name__ == "__main__":
    main()
