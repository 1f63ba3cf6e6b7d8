"""Fallbacks of a run that ran out of memory: hidden states leave the GPU, then half the batch."""

from __future__ import annotations

import gc
from dataclasses import replace

from frostline.config import spec_from_json
from frostline.errors import UserError
from frostline.records.run_folder import SPEC_FILE
from frostline.spec import RunSpec, spec_diff
from frostline.sweeps.trial_job import Retry, SeedRun


def adopt_retry(seed_run: SeedRun) -> tuple[RunSpec, Retry | None]:
    """Returns the spec, with the smaller batch if an earlier attempt ran out of memory with the given one."""
    spec = seed_run.job.run
    try:
        recorded = spec_from_json((seed_run.folder / SPEC_FILE).read_text(encoding="utf-8"))
    except (OSError, UserError):
        return spec, None
    smaller = half_batch(spec)
    if smaller is not None and spec_diff(recorded, spec) and not spec_diff(recorded, smaller):
        return smaller, Retry.HALF_BATCH
    return spec, None


def half_batch(spec: RunSpec) -> RunSpec | None:
    """Returns the spec with half the batch and twice the accumulation; None if the batch can't be halved."""
    training = spec.training
    if training.batch_size % (2 * spec.runtime.num_processes):
        return None
    return replace(
        spec,
        training=replace(
            training, batch_size=training.batch_size // 2, accumulation_steps=training.accumulation_steps * 2
        ),
    )


def gave_back_hidden_states() -> bool:
    """Frees hidden states on the device, and leaves them on disk from now on; returns whether there were any."""
    from frostline.prefix_cache import gpu_memory

    return gpu_memory.give_up()


def free_memory() -> None:
    """Gives memory that nothing uses back to the device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
