"""Runs whose frozen blocks are quantized: their hidden states are computed once, then the blocks leave memory."""

from __future__ import annotations

import ctypes
import gc
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from frostline import scratch
from frostline.errors import ModelError, UserError
from frostline.models.quantized import OffloadedBlocks, copy_from_file, dequantize, quantize
from frostline.prefix_cache.attach import open_prefix, reason_for_none
from frostline.prefix_cache.compute import OverflowInPrefixError
from frostline.prefix_cache.entry import CacheError
from frostline.records.run_folder import FOR_TERMINAL
from frostline.spec import CacheMode, RunSpec

if TYPE_CHECKING:
    from frostline.prefix_cache.probe_model import ModelProbe
    from frostline.prefix_cache.request import CachedPrefix, CacheRequest
    from frostline.records.result import Audit
    from frostline.train.setup import Setup

log = logging.getLogger(__name__)


def quantize_prefix(spec: RunSpec, probe: ModelProbe) -> ModelProbe:
    """Quantizes the blocks that a run freezes, if its config says so.

    Args:
        spec: The run.
        probe: Its model, not frozen yet.

    Returns:
        The same model. A last block that is frozen, too, is computed whole.

    Raises:
        ModelError: The model has two stacks, or no linear layers in its frozen blocks.
    """
    kind, anatomy = spec.model.quantize, probe.anatomy
    if kind is None:
        return probe
    depth, name = spec.freeze.choose(anatomy).prefix_depth, type(anatomy.model).__name__
    if not depth:
        log.info("model.quantize=%s: no block is frozen, so nothing is quantized", kind.value)
        return probe
    if anatomy.num_encoder_blocks is not None:
        raise ModelError(f"model.quantize={kind.value}: is for models of one stack; {name} has two")
    count = quantize(anatomy.blocks[:depth], kind)
    if count == 0:
        raise ModelError(f"model.quantize={kind.value}: the blocks of {name} have no linear layers that it could take")
    copy_from_file(anatomy.model)
    log.info("%d linear layers of %d frozen blocks are in %s", count, depth, kind.value, extra={FOR_TERMINAL: True})
    return replace(probe, reading=None) if depth == anatomy.num_blocks else probe


def open_offloaded(request: CacheRequest) -> CachedPrefix:
    """Returns the hidden states of quantized blocks, computed if need be, and takes the blocks out of memory.

    Args:
        request: Of a run with `model.quantize`.

    Raises:
        UserError: They can't be cached.
    """
    depth, kind = request.depth, request.spec.model.quantize
    assert depth, "some blocks are frozen"
    assert kind is not None, "they are quantized"
    cache = replace(request.spec.runtime.cache, mode=CacheMode.REQUIRE)
    required = replace(request, spec=replace(request.spec, runtime=replace(request.spec.runtime, cache=cache)))
    why_not = reason_for_none(required)
    if why_not is None:
        try:
            cached = open_prefix(required, depth)
        except (CacheError, OverflowInPrefixError) as error:
            why_not = str(error)
    if why_not is not None:
        raise UserError(f"model.quantize={kind.value}: the hidden states of frozen blocks can't be cached: {why_not}")
    blocks = OffloadedBlocks(request.probe.anatomy.blocks[:depth], scratch.make("blocks"))

    def attach() -> None:
        cached.attach()
        blocks.offload()

    def detach() -> None:
        blocks.restore()
        cached.detach()

    blocks.offload()
    _return_memory()
    return replace(cached, attach=attach, detach=detach)


def _return_memory() -> None:
    """Gives freed memory back to the system: glibc keeps it for later, and would for the rest of the run."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim is not None:
        trim(0)


def audit_of(setup: Setup) -> Audit:
    """Returns the audit of a run's frozen part; quantized blocks are read into memory for it, and hashed as packed."""
    if not setup.is_quantized or setup.cached is None:
        return setup.frozen.audit(setup.optimizer)
    setup.cached.detach()
    audit = setup.frozen.audit(setup.optimizer)
    setup.cached.attach()
    return audit


def make_plain(setup: Setup) -> None:
    """Brings quantized blocks back as the float32 numbers that they stand for: the model is saved as any other."""
    if setup.is_quantized and setup.cached is not None and setup.frozen.prefix_depth is not None:
        setup.cached.detach()
        dequantize(setup.anatomy.blocks[: setup.frozen.prefix_depth])
