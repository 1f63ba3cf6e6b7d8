"""Where hidden states should live when the model trains on a GPU: what it takes to bring a batch's to it.

files:  gathered on the host from a mapped file, filled up, sent from pageable memory
pinned: the same, gathered into pinned memory and sent from there, as a DataLoader with pin_memory does
host:   the whole file in pinned memory, gathered there by torch, sent
gpu:    the whole file in the GPU's memory, gathered there: only numbers of vectors are sent

Batches of 32 rows of like length; 270,000 tokens of movie_reviews' lengths, made up. Median of all batches of an epoch,
each waited for; `ahead` is the time of a batch when an epoch's are asked for without waiting in between.

    python benchmarks/residence.py [--width 768] [--rows 10000] [--batch-size 32]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from frostline.prefix_cache.gpu_memory import RowOffsets, StatesOnGpu
from frostline.prefix_cache.hidden_states import FileShape, HiddenStates
from frostline.train.sampling import LengthGroupedSampler


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    rng, device = np.random.default_rng(0), torch.device(options.device)
    lengths = np.clip(rng.lognormal(3.15, 0.5, options.rows).astype(np.int64), 5, 128)
    shape = FileShape(lengths=lengths, width=options.width, dtype="float32")
    sampler = LengthGroupedSampler(lengths, options.batch_size, 0)
    order = np.fromiter(iter(sampler), dtype=np.int64)
    batches = [order[at : at + options.batch_size] for at in range(0, len(order), options.batch_size)]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "rows.bin"
        rng.standard_normal((int(lengths.sum()), options.width), dtype=np.float32).tofile(path)
        rows = HiddenStates(np.memmap(path, dtype="<f4", mode="r").reshape(-1, options.width), shape)
        empty = FileShape(lengths=lengths[:0], width=options.width, dtype="float32")
        began = time.perf_counter()
        zero = np.zeros((1, options.width), np.float32)  # what fills a batch up
        data = torch.from_numpy(np.concatenate([zero, np.fromfile(path, "<f4").reshape(-1, options.width)])).to(device)
        resident = StatesOnGpu(places=RowOffsets(shape, empty), data=data, pass_s=(0.0, 0.0))
        synchronize(device)
        print(f"{data.nbytes / 1e6:.0f} MB to {device}: {time.perf_counter() - began:.2f} s")
        pinned = resident.data.cpu().pin_memory() if device.type == "cuda" else resident.data
        widths = [int(lengths[batch].max()) for batch in batches]

        def files(batch: np.ndarray, width: int) -> torch.Tensor:
            return torch.from_numpy(rows.padded(batch, width)).to(device)

        def through_pinned(batch: np.ndarray, width: int) -> torch.Tensor:
            made = torch.from_numpy(rows.padded(batch, width))
            return (made.pin_memory() if device.type == "cuda" else made).to(device, non_blocking=True)

        def host(batch: np.ndarray, width: int) -> torch.Tensor:
            made = pinned[resident.places.at(batch, width, is_train=True)]
            return (made.pin_memory() if device.type == "cuda" else made).to(device, non_blocking=True)

        def gpu(batch: np.ndarray, width: int) -> torch.Tensor:
            return resident.take(resident.places.at(batch, width, is_train=True).to(device, non_blocking=True))

        ways: dict[str, Callable[[np.ndarray, int], torch.Tensor]] = {
            "files": files, "pinned": through_pinned, "host": host, "gpu": gpu,
        }  # fmt: skip
        first = files(batches[0], widths[0])
        for name, way in ways.items():
            assert torch.equal(way(batches[0], widths[0]), first), name
            waited = []
            for batch, width in zip(batches, widths, strict=True):
                began = time.perf_counter()
                way(batch, width)
                synchronize(device)
                waited.append(time.perf_counter() - began)
            began = time.perf_counter()
            for batch, width in zip(batches, widths, strict=True):
                way(batch, width)
            synchronize(device)
            ahead = (time.perf_counter() - began) / len(batches)
            print(f"{name:>7}: {statistics.median(waited) * 1e3:.3f} ms a batch; ahead {ahead * 1e3:.3f} ms")


def synchronize(device: torch.device) -> None:
    """Waits for the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
