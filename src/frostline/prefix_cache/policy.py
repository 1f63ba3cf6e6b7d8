"""Whether caching a frozen prefix pays: a rule by counts, so that the same spec in the same sweep decides the same."""

from __future__ import annotations

from frostline.records.run_context import Sharing
from frostline.spec import Every, RunSpec

_MIN_PASSES = 1.5
"""Forward passes that the cache must save; filling it costs one, and writes besides (assumed: a margin for that)."""


def num_passes(spec: RunSpec, sharing: Sharing, num_rows: int, num_tokens: tuple[int, int], views: int = 1) -> float:
    """Returns how often all rows go through the frozen blocks without the cache, in passes that filling it takes.

    Args:
        spec: The run.
        sharing: The runs that will read the same hidden states.
        num_rows: Training rows.
        num_tokens: Tokens of the training rows and of the held-out rows.
        views: Of each training row: an epoch takes one, filling takes all.
    """
    train, evaluation = num_tokens
    training = spec.training
    steps_per_epoch = max(1, -(-num_rows // (training.batch_size * training.accumulation_steps)))
    epochs = training.epochs if training.epochs is not None else (training.max_steps or 0) / steps_per_epoch
    evaluations = max(1.0, epochs) if training.evaluate is Every.EPOCH else 1.0
    if training.eval_steps is not None:
        evaluations = max(1.0, epochs * steps_per_epoch / training.eval_steps)
    return sharing.num_runs * (epochs * train + evaluations * evaluation) / max(1, train * views + evaluation)


def reason_to_skip(passes: float) -> str | None:
    """Returns why caching does not pay, for people; None if it does."""
    if passes >= _MIN_PASSES:
        return None
    return f"caching would save only {passes:.1f} forward passes and costs one"
