"""Everything a run needs before its first step: inputs, model, frozen part, prefix cache, optimizer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
from transformers import BaseImageProcessor

from frostline import assets
from frostline.data.pixel_table import PixelTable
from frostline.data.token_table import NO_PADDING, Padding
from frostline.data.tokenize import Tokenized
from frostline.errors import ModelError
from frostline.freezing.drift import Drift
from frostline.freezing.freeze import FrozenPart, freeze
from frostline.freezing.methods.depth import FreezeDepth
from frostline.freezing.methods.none import FreezeNone
from frostline.machine import Machine
from frostline.metrics import ComputeMetrics
from frostline.metrics import check as check_metrics
from frostline.models import config_file, loading, optimizer
from frostline.models.blocks import Anatomy, find_blocks, num_blocks_of, whole_as_head
from frostline.models.loading import LoadedModel
from frostline.models.quantized import is_packed
from frostline.prefix_cache.attach import cache_use, open_cache
from frostline.prefix_cache.compare import autocast
from frostline.prefix_cache.probe_model import ModelProbe, probe_model
from frostline.prefix_cache.request import CachedPrefix, CacheRequest
from frostline.provenance import capture
from frostline.records.result import CacheUse
from frostline.records.run_context import Sharing
from frostline.records.run_folder import FOR_TERMINAL
from frostline.registry import plugins_sha256
from frostline.spec import (
    CacheMode,
    FreezePhase,
    Init,
    LastBlock,
    RunSpec,
)
from frostline.train.device import seed_everything, set_up
from frostline.train.distributed import World
from frostline.train.inputs import Inputs, load_inputs
from frostline.train.output_head import OutputHead, output_head
from frostline.train.progress import wants_bar
from frostline.train.quantized_prefix import open_offloaded, quantize_prefix
from frostline.train.unfreezing import UnfreezeSchedule, open_phases, phases_reached

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A run, ready to train.

    Attributes:
        machine: Device, precision, threads.
        loaded: Model and tokenizer; the frozen part is frozen.
        anatomy: The model taken apart.
        frozen: The frozen part and its hashes.
        drift: The trained part as it was.
        tables: Tokenized rows.
        held_out: The rows that are evaluated, as they were read.
        optimizer: Over the trained part.
        metrics: Logits and labels -> numbers.
        output_head: Output embeddings of a language model, not attached; None: another model, or its logits are not
            what they return.
        cached: If the frozen prefix comes from the cache, throughout the run.
        phases: If what is frozen changes.
        data: The data report, truncation counted.
        provenance: Versions, platform, hashes.
    """

    machine: Machine
    loaded: LoadedModel
    anatomy: Anatomy
    frozen: FrozenPart
    drift: Drift
    tables: Tokenized
    held_out: datasets.Dataset
    optimizer: Any
    metrics: ComputeMetrics
    output_head: OutputHead | None
    cached: CachedPrefix | None
    phases: UnfreezeSchedule | None
    data: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def is_quantized(self) -> bool:
        """Whether the frozen blocks are quantized."""
        return "quantize" in self.provenance


def prepare(
    spec: RunSpec,
    sharing: Sharing | None = None,
    resumed: Sequence[CacheUse] | None = None,
    heartbeat: Callable[[], None] = lambda: None,
    world: World | None = None,
) -> Setup:
    """Fetches, loads, tokenizes and freezes, cheap checks first.

    Args:
        spec: What to train.
        sharing: Which other runs will read the same hidden states; None: as many as `runtime.num_runs` says.
        resumed: How each phase of the interrupted run used the prefix cache; None: a new run.
        heartbeat: Called now and then.
        world: The processes of the run; None: this one alone.

    Raises:
        UserError: Something the user can mend.
    """
    optimizer.check(spec.optimizer)
    check_metrics(spec.training, spec.dataset.task)
    machine = set_up(spec, world)
    bar = wants_bar(spec.runtime.progress)
    (datasets.enable_progress_bars if bar else datasets.disable_progress_bars)()
    folder = assets.model_folder(spec.model, progress=bar)
    spec.check_depth(spec.model.num_blocks or num_blocks_of(config_file.load_config(folder)))
    inputs = load_inputs(spec, folder, bar)
    probe = _load_model(spec, folder, inputs, resumed)
    loaded, anatomy, reading = probe.loaded, probe.anatomy, probe.reading
    phases = phases_reached(spec, anatomy.num_blocks, len(inputs.rows.train))
    frozen = _freeze(spec, phases, probe)
    _checkpoint_gradients(spec, loaded)
    provenance, head = _provenance(spec, inputs, loaded), _output_head(spec, loaded, machine)
    reads_one = spec.training.last_block is LastBlock.READ_POSITION and reading is not None
    if reading is not None and reads_one:
        reading.attach()
    request = CacheRequest(
        spec=spec, machine=machine, depth=frozen.prefix_depth, probe=probe, tables=inputs.tables,
        padding=padding_of(loaded), facts=_prefix_facts(provenance),
        sharing=sharing or Sharing(num_runs=spec.runtime.num_runs),
        resumed=resumed[0] if resumed is not None else None, heartbeat=heartbeat,
    )  # fmt: skip
    cached, unfreezing = None, None
    if phases:
        unfreezing, uses = open_phases(request, phases, resumed)
    else:
        cached = open_offloaded(request) if "quantize" in provenance else open_cache(request)
        uses = (cache_use(cached, request.resumed),)
    compute = {
        **machine.describe(),
        "prefix_cache": [asdict(use) for use in uses],
        "last_block": f"{probe.position} position" if reads_one else "whole",
    }
    return Setup(
        machine=machine, loaded=loaded, anatomy=anatomy, frozen=frozen, drift=Drift(anatomy), tables=inputs.tables,
        held_out=inputs.rows.evaluation, optimizer=_optimizer(spec, anatomy),
        metrics=inputs.metrics, output_head=head, cached=cached, phases=unfreezing,
        data=inputs.report(spec.dataset_name),
        provenance={**provenance, "compute": compute},
    )  # fmt: skip


def _load_model(spec: RunSpec, folder: Path, inputs: Inputs, resumed: Sequence[CacheUse] | None) -> ModelProbe:
    """Loads the model, takes it apart, and looks at where its head reads if anything depends on that."""

    def load() -> tuple[LoadedModel, Anatomy]:
        seed_everything(spec.seed)  # here, so that the head's weights don't depend on what came before
        loaded = loading.load_model(
            spec.model, folder, task=spec.dataset.task, label_names=inputs.rows.label_names, processor=inputs.processor
        )
        anatomy = _anatomy(loaded, spec)
        if isinstance(inputs.tables.train, PixelTable):
            anatomy = replace(anatomy, image=inputs.tables.train.shape)
        if spec.model.init is Init.PRETRAINED:
            loading.check_fresh(loaded.fresh, [n for n, _ in anatomy.prefix(anatomy.num_blocks)], folder)
        return loaded, anatomy

    probe = probe_model(load, inputs.tables, wanted=_wants_look(spec, resumed))
    if spec.freeze.prepare(probe.anatomy, spec.seed):
        probe = replace(probe, reading=None)  # it reads the layers' own weights, not what is beside them
    return quantize_prefix(spec, probe)


def _optimizer(spec: RunSpec, anatomy: Anatomy) -> Any:
    """Returns an optimizer over what takes gradients."""
    levels = [(name, [module for _, module in modules]) for name, modules in anatomy.groups()]
    return optimizer.build(spec.optimizer, optimizer.param_groups(levels, spec.optimizer))


def _checkpoint_gradients(spec: RunSpec, loaded: LoadedModel) -> None:
    """Lets trained blocks compute their activations again in the backward pass. Frozen ones, in eval mode, keep none.

    Raises:
        ModelError: The model can't.
    """
    model: Any = loaded.model
    if not spec.training.gradient_checkpointing:
        return
    if not model.supports_gradient_checkpointing:
        raise ModelError(
            f"training.gradient_checkpointing=true: {type(model).__name__} does not support it; give false"
        )
    model.config.use_cache = False  # of a decoder's keys and values, which only generation reads
    # Transformers 5.23 has another name for it.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _output_head(spec: RunSpec, loaded: LoadedModel, machine: Machine) -> OutputHead | None:
    """Returns the output embeddings of a language model, before anything is attached to it."""
    if not spec.dataset.task.generates:
        return None
    model: Any = loaded.model
    outputs, tokens = model.get_output_embeddings(), model.get_input_embeddings()
    if outputs is not None and outputs.weight is tokens.weight and not outputs.weight.requires_grad:
        log.info("the output embeddings are tied to the token embeddings: frozen with them", extra={FOR_TERMINAL: True})
    return output_head(model, spec.dataset.task, partial(autocast, machine))


def _freeze(spec: RunSpec, phases: tuple[FreezePhase, ...], probe: ModelProbe) -> FrozenPart:
    """Freezes what the spec says; in a run with phases what stays frozen to the end."""
    loaded = probe.loaded
    origin = f"{loaded.weights_sha256} {probe.kind} {spec.model.quantize}"
    if not phases:
        dropout = spec.training.frozen_dropout
        return freeze(probe.anatomy, spec.freeze, origin, fresh=loaded.changed, dropout=dropout)
    depth = phases[-1].depth
    method = FreezeNone() if depth is None else FreezeDepth(depth=depth)
    frozen = freeze(probe.anatomy, method, origin, fresh=loaded.changed)
    words = f"all but the head at first, {frozen.frozen.words} in the end"
    return replace(frozen, frozen=replace(frozen.frozen, name=spec.freeze.name, words=words))


def _provenance(spec: RunSpec, inputs: Inputs, loaded: LoadedModel) -> dict[str, Any]:
    """Returns versions, platform and hashes of what the run is made of."""
    is_image = spec.dataset.is_image
    record = {
        **capture(),
        "weights_sha256": loaded.weights_sha256,
        ("image_processor_sha256" if is_image else "tokenizer_sha256"): inputs.processor_sha256,
        "data_fingerprint": inputs.rows.fingerprint,
        "fresh_tensors": list(loaded.fresh),
    }
    if (plugins := plugins_sha256()) is not None:
        record["plugins_sha256"] = plugins
    if spec.model.quantize is not None and any(map(is_packed, loaded.model.parameters())):
        record["quantize"] = spec.model.quantize.value
        record["versions"]["torchao"] = version("torchao")
    if is_image:
        record["versions"]["pillow"] = version("pillow")
    return record


def _wants_look(spec: RunSpec, resumed: Sequence[CacheUse] | None) -> bool:
    """Returns whether anything depends on where the model's head reads."""
    has_cache = spec.runtime.cache.mode is not CacheMode.OFF or resumed is not None
    has_prefix = spec.freeze.may_freeze_a_prefix or spec.freeze.first_phase is not None
    reads = spec.training.last_block is LastBlock.READ_POSITION and not spec.dataset.is_image
    return reads or (has_prefix and has_cache)


def _prefix_facts(provenance: dict[str, Any]) -> dict[str, Any]:
    """Returns what a frozen prefix depends on besides depth, rows and machine."""
    versions = {name: provenance["versions"].get(name) for name in ("torch", "transformers", "tokenizers", "numpy")}
    is_quantized = "quantize" in provenance
    quantized = {"quantize": [provenance["quantize"], provenance["versions"]["torchao"]]} if is_quantized else {}
    return {
        "weights_sha256": provenance["weights_sha256"],
        "tokenizer_sha256": provenance.get("tokenizer_sha256"),
        **versions,
        **quantized,
    }


def _anatomy(loaded: LoadedModel, spec: RunSpec) -> Anatomy:
    try:
        anatomy = find_blocks(loaded.model)
    except ModelError as error:
        if spec.freeze.needs_blocks:
            raise
        if spec.optimizer.layer_decay != 1:
            raise ModelError(f"optimizer.layer_decay needs blocks: {error}") from error
        return whole_as_head(loaded.model)
    spec.check_depth(anatomy.num_blocks)
    if spec.model.num_blocks not in {None, anatomy.num_blocks}:
        raise ModelError(f"model.num_blocks={spec.model.num_blocks}: {spec.model_name} has {anatomy.num_blocks} blocks")
    return anatomy


def padding_of(loaded: LoadedModel, multiple_of: int = 1) -> Padding:
    """Returns how batches for a model are filled up.

    Args:
        loaded: The model.
        multiple_of: Lengths are rounded up to it.
    """
    if isinstance(loaded.processor, BaseImageProcessor):
        return NO_PADDING
    return Padding.of(loaded.processor, loaded.model, multiple_of)
