"""Prepares a process that trains one run after another: forking, garbage collection, seeds.

A run of a few seconds must not pay for reading the same files again. What is kept is named by all that it depends on,
files by path, size and times; numbers don't depend on whether it was kept.
"""

from __future__ import annotations

import gc
import os

import numpy as np
import torch

from frostline.process_cache import PROCESS_CACHE


@PROCESS_CACHE.function
def freeze_gc() -> None:
    """Takes what was imported out of the garbage collector's sight, once: Trainer collects at the start of each run."""
    gc.collect()
    gc.freeze()


def reseed_fork() -> None:
    """Makes a fork as it would be had it imported for itself: the threads of its environment, random states its own.

    A run seeds itself; what a plugin draws before that must not be the same in all slots.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal():
        torch.set_num_threads(max(1, int(threads)))
    np.random.seed()
    torch.seed()


def can_be_forked() -> bool:
    """Whether forks of this process could use its GPUs: a CUDA context doesn't outlive a fork, so none may be open."""
    child = os.fork()
    if child == 0:
        os._exit(int(torch.cuda._is_in_bad_fork()))
    _, status = os.waitpid(child, 0)
    return status == 0
