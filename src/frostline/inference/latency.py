"""What a trained model takes for a row, measured on held-out rows."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch

from frostline.data.row_table import RowTable
from frostline.data.token_table import Padding
from frostline.inference.predict import Predictor

BATCHES = {1: 20, 32: 5}
"""Batch sizes, and how many batches of each are measured."""


@dataclass(frozen=True, kw_only=True)
class BatchLatency:
    """Milliseconds that a row takes in batches of one size: the median over some batches, and their range."""

    batch_size: int
    num_batches: int
    median_ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds that a row takes, from its tokens or pixels to its logits.

    Attributes:
        batches: For each batch size.
        device: Where: `cpu`, or the GPU's name.
        threads: CPU threads of torch.
    """

    batches: tuple[BatchLatency, ...]
    device: str
    threads: int

    def __str__(self) -> str:
        parts = [
            f"{each.median_ms:.2f} ms a row at batch {each.batch_size} ({each.low_ms:.2f} to {each.high_ms:.2f})"
            for each in self.batches
        ]
        return f"{', '.join(parts)}, on held-out rows, {self.device}, {self.threads} threads"


def measure_latency(predictor: Predictor, table: RowTable, padding: Padding) -> Latency:
    """Measures a model.

    Args:
        predictor: The model.
        table: The rows that it is given.
        padding: How a batch of them is filled up.
    """
    batches = []
    for size, count in BATCHES.items():
        times = []
        for index in range(count + 1):
            inputs = table.inputs((np.arange(size) + index * size) % len(table), padding)
            began = time.perf_counter()
            predictor.of_inputs(inputs)
            times.append((time.perf_counter() - began) / size * 1000)
        measured = times[1:]  # the first one warms up
        median = statistics.median(measured)
        latency = BatchLatency(
            batch_size=size, num_batches=count, median_ms=median, low_ms=min(measured), high_ms=max(measured)
        )
        batches.append(latency)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return Latency(batches=tuple(batches), device=device, threads=torch.get_num_threads())
