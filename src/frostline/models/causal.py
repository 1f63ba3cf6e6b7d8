"""Whether a language model sees only the tokens before the one that it predicts."""

from __future__ import annotations

from typing import Any

import torch

from frostline.errors import ModelError


def check_causal(model: Any, where: object) -> None:
    """Refuses a model whose tokens see those behind them: it would be trained to copy what it should predict.

    Args:
        model: A language model.
        where: For the message.

    Raises:
        ModelError: They do.
    """
    ids = torch.arange(4)[None]
    other = ids.clone()
    other[0, -1] = 0
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            mask = torch.ones_like(ids)
            first, second = (model(input_ids=each, attention_mask=mask).logits[0, :-1] for each in (ids, other))
    finally:
        model.train(was_training)
    if not torch.allclose(first, second, atol=1e-5 * float(first.abs().max())):
        raise ModelError(
            f"{where}: {type(model).__name__} sees the tokens that it should predict: dataset.task=causal_lm needs a "
            "decoder, for example model=gpt2"
        )
