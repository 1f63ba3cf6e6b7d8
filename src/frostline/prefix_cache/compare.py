"""Compares a model that starts above its frozen blocks with the whole model, on real rows."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from frostline.data.token_table import TokenTable
from frostline.machine import Machine
from frostline.prefix_cache.collate import Collator, HiddenRows
from frostline.prefix_cache.entry import CacheError
from frostline.prefix_cache.request import CacheRequest
from frostline.prefix_cache.suffix import Suffix
from frostline.spec import Precision

_LOGIT_TOLERANCE = 1e-4
_LOGIT_TOLERANCE_HALF = 5e-2
"""How far logits may be apart, of their size: seen are 1e-7 in fp32 where padding is masked, 1e-1 where it is not."""


_BY_TOKEN = 3
"""Dimensions of logits where each token has its own."""


@torch.no_grad()
def compare_with_whole(request: CacheRequest, suffix: Suffix, hidden: HiddenRows) -> None:
    """Compares the suffix with the whole model on the shortest and the longest row, padded to one length.

    Raises:
        CacheError: They differ by more than other padding explains: rows of this model depend on their padding.
    """
    model: Any = request.probe.anatomy.model
    machine, train = request.machine, request.tables.train
    rows = [int(train.lengths.argmin()), int(train.lengths.argmax())]
    plain = train.inputs(rows, request.padding)
    short = Collator(train, request.tables.evaluation, request.padding, hidden)(rows)
    short.pop("labels", None)
    was_training = model.training
    model.eval()
    try:
        with autocast(machine):
            expected = model(**{key: value.to(machine.device) for key, value in plain.items()}).logits.float()
            suffix.attach()
            part = model(**{key: value.to(machine.device) for key, value in short.items()}).logits.float()
    finally:
        suffix.detach()
        model.train(was_training)
    if expected.dim() == _BY_TOKEN and isinstance(train, TokenTable):  # the outputs at padding are not used
        lengths = torch.from_numpy(train.label_lengths[rows])[:, None]
        is_token = (torch.arange(expected.shape[1]) < lengths).to(expected.device)
        expected, part = expected[is_token], part[is_token]
    apart, scale = float((expected - part).abs().max()), float(expected.abs().max())
    is_full = machine.precision is Precision.FP32 and request.dtype == "float32"
    allowed = _LOGIT_TOLERANCE if is_full else _LOGIT_TOLERANCE_HALF
    if not apart <= allowed * scale + 1e-7:
        raise CacheError(
            f"rows of this model depend on their padding, or its blocks on more than the one below (logits {apart:.1e} "
            f"apart, of {scale:.1e})"
        )


def autocast(machine: Machine) -> AbstractContextManager[Any]:
    """Returns the context in which a run computes on its machine."""
    dtypes = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
    if machine.precision not in dtypes:
        return nullcontext()
    return torch.autocast(machine.device, dtype=dtypes[machine.precision])
