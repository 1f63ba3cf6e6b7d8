"""Assembles Hugging Face's `Trainer` for a run, by composition."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import RandomSampler, Sampler
from transformers import (
    EvalPrediction,
    ProgressCallback,
    Trainer,
    TrainerCallback,
)

from frostline.data.fillers import is_row
from frostline.data.mixup import Mixup
from frostline.data.row_table import RowTable
from frostline.errors import ModelError
from frostline.prefix_cache.collate import Collator, replace_packing
from frostline.prefix_cache.request import CachedPrefix
from frostline.records.monitor import Monitor
from frostline.records.recorder import Recorder
from frostline.signals import SignalGuard
from frostline.spec import Balance, LossOptions, Precision, RunSpec, Sampling, Task, TrainingSpec
from frostline.train import callbacks, stops
from frostline.train.arguments import training_arguments
from frostline.train.checkpoint import CheckpointStore
from frostline.train.distributed import World
from frostline.train.loss import BatchLoss, class_weights
from frostline.train.loss_window import LossWindow
from frostline.train.metric_names import EXACT_LOSS
from frostline.train.output_head import OutputHead
from frostline.train.progress import ProgressCallback as FrostlineProgress
from frostline.train.progress import wants_bar
from frostline.train.sampling import EpochSampler, IndexDataset, LengthGroupedSampler, PaddedSampler
from frostline.train.setup import Setup, padding_of
from frostline.train.train_log import TrainLog
from frostline.train.unfreezing import UnfreezeCallback, UnfreezeSchedule, make_scheduler

_PACKED_ROWS = 4
"""Short rows that are tried beside the longest: they lie in one sequence."""


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """Trainer and what its callbacks share.

    Attributes:
        trainer: Ready for `train()`.
        train_log: What the callbacks find out.
        window: What `train/loss` is a mean over.
        evaluation: To be called before evaluations that Trainer doesn't start by itself.
        progress: To be closed when training ends badly.
        collator: What makes its batches.
    """

    trainer: Trainer
    train_log: TrainLog
    window: LossWindow
    evaluation: callbacks.EvaluationCallback
    progress: FrostlineProgress
    collator: Collator


def assemble(
    spec: RunSpec,
    setup: Setup,
    store: CheckpointStore,
    recorder: Recorder,
    guard: SignalGuard,
    monitor: Monitor,
    world: World,
) -> Assembly:
    """Builds the Trainer of a run with its callbacks.

    Args:
        spec: What to train.
        setup: Model, rows, optimizer, metrics.
        store: Where checkpoints go.
        recorder: Where numbers go.
        guard: Who knows of signals.
        monitor: Who may stop the run after an evaluation.
        world: The processes of the run.
    """
    train_log, window, head = TrainLog(), LossWindow(), _output_head(spec, setup)
    loss, collator = _loss(spec, setup, world, head), _collator(spec, setup)
    order = by_length(spec.training, setup.tables.evaluation)
    evaluation = callbacks.EvaluationCallback(spec.training, train_log, recorder, setup.loaded.model)
    progress = FrostlineProgress(spec.name(), wants_bar(spec.runtime.progress) and world.is_main)
    check_every = 1 if setup.machine.device == "cpu" else spec.training.log_every
    ours: list[TrainerCallback] = [
        callbacks.LossCallback(loss, check_every),
        stops.StopCallback(guard, spec.training, world),
        evaluation,
        stops.PatienceCallback(spec.training.patience, train_log),
        stops.MonitorCallback(monitor, train_log, spec.training.objective),
        callbacks.RecordCallback(recorder),
        callbacks.CheckpointCallback(store, train_log, window, spec.digest(), setup.provenance, world),
        callbacks.RankSeedCallback(spec.seed, world),
        window,
        progress,
    ]
    trainer = Trainer(
        model=setup.loaded.model if setup.cached is None else setup.cached.part,
        args=training_arguments(spec, setup.machine, store.writing, world),
        data_collator=collator,
        train_dataset=IndexDataset(len(setup.tables.train)),
        eval_dataset=[-1 - row for row in order],
        processing_class=setup.loaded.processor,
        compute_loss_func=loss,
        compute_metrics=_compute_metrics(setup, spec.dataset.task, world, train_log, order),
        preprocess_logits_for_metrics=_reduce(spec.dataset.task, head),
        callbacks=ours,
        optimizers=(setup.optimizer, None),
    )
    _save_own_names(setup.loaded.model)
    _adapt_sampling(trainer, spec, setup, world)
    _adapt_batches(trainer, spec, setup, collator, loss)
    window.attach(trainer)
    _remove_printers(trainer)
    trainer.model_accepts_loss_kwargs = False  # the loss function normalizes by the rows of the whole step
    return Assembly(
        trainer=trainer, train_log=train_log, window=window, evaluation=evaluation, progress=progress, collator=collator
    )


def _adapt_batches(trainer: Trainer, spec: RunSpec, setup: Setup, collator: Collator, loss: BatchLoss) -> None:
    """Lets batches change with the phase of gradual unfreezing, and checks that packed ones mean the same."""
    if setup.phases is not None:
        _add_phases(trainer, spec, setup.phases, collator)
    if spec.training.packing:
        _check_packing(trainer, setup, collator, loss)


def _save_own_names(model: Any) -> None:
    """Lets checkpoints have the names of the model's own parameters.

    `save_pretrained` writes some architectures (ViT, Swin) under the names of older files, and Trainer loads a
    checkpoint by the names of parameters, passing over all others. `model_files.save_model` writes those of the files.
    """
    model.save_pretrained = partial(type(model).save_pretrained, model, save_original_format=False)


def _remove_printers(trainer: Trainer) -> None:
    """Removes Trainer's own bar and prints: frostline has a progress bar."""
    trainer.remove_callback(ProgressCallback)
    for callback in [each for each in trainer.callback_handler.callbacks if type(each).__name__ == "PrinterCallback"]:
        trainer.remove_callback(callback)


def _output_head(spec: RunSpec, setup: Setup) -> OutputHead | None:
    """Returns the output embeddings of a language model, attached for good: its outputs are their input."""
    if not spec.dataset.task.generates or setup.output_head is None:
        return None
    setup.output_head.attach()
    return setup.output_head


def _reduce(task: Task, head: OutputHead | None) -> Any:
    """Returns what Trainer does to the outputs of a batch before it keeps them for metrics; None: nothing."""
    if not task.generates:
        return None
    reduce = task.reduce if head is None else head.reduce

    def of_outputs(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        return reduce(outputs[0] if isinstance(outputs, tuple) else outputs, labels)

    return of_outputs


def _loss(spec: RunSpec, setup: Setup, world: World, head: OutputHead | None) -> BatchLoss:
    options = LossOptions(class_weights=_class_weights(spec, setup), label_smoothing=spec.training.label_smoothing)
    return BatchLoss(spec.dataset.task, world, options, mixes=spec.training.mixup > 0, head=head)


def _class_weights(spec: RunSpec, setup: Setup) -> torch.Tensor | None:
    if spec.dataset.balance is not Balance.WEIGHTS:
        return None
    assert setup.tables.train.labels is not None
    return class_weights(setup.tables.train.labels, len(setup.data["label_names"]))


def _collator(spec: RunSpec, setup: Setup) -> Collator:
    machine, tables, cached = setup.machine, setup.tables, setup.cached
    # Tensor cores want lengths that are multiples of 8.
    multiple_of = 8 if machine.device == "cuda" and machine.precision is not Precision.FP32 else 1
    padding = padding_of(setup.loaded, multiple_of)
    hidden = cached.hidden if cached is not None else None
    mixup = Mixup(alpha=spec.training.mixup, seed=spec.seed) if spec.training.mixup else None
    return Collator(tables.train, tables.evaluation, padding, hidden, mixup, packs=spec.training.packing)


@torch.no_grad()
def _check_packing(trainer: Trainer, setup: Setup, collator: Collator, loss: BatchLoss) -> None:
    """Compares the loss of a few rows, packed, with that of the same rows padded.

    Raises:
        ModelError: They differ: tokens of this model attend to other rows of their sequence.
    """
    model: Any = trainer.model
    lengths = setup.tables.train.lengths
    rows = [int(lengths.argmax()), *np.argsort(lengths, kind="stable")[:_PACKED_ROWS].tolist()]
    was_training = model.training
    model.eval()
    losses = []
    try:
        for packs in (True, False):
            batch = trainer._prepare_inputs(replace_packing(collator, packs=packs)(rows))
            labels = batch.pop("labels")
            with trainer.compute_loss_context_manager():
                losses.append(float(loss(model(**batch), labels)))
    finally:
        model.train(was_training)
    tolerance = 1e-4 if setup.machine.precision is Precision.FP32 else 1e-2
    if abs(losses[0] - losses[1]) > tolerance * abs(losses[1]):
        raise ModelError(
            f"training.packing=true: {type(setup.loaded.model).__name__} lets tokens see other rows of their sequence "
            f"(loss {losses[0]:.4f} instead of {losses[1]:.4f}); give false"
        )


def _adapt_sampling(trainer: Trainer, spec: RunSpec, setup: Setup, world: World) -> None:
    """Lets Trainer draw rows as the spec says and count them as what they are."""
    train = setup.tables.train
    if spec.training.sampling is Sampling.GROUP_BY_LENGTH:
        rows_per_step = spec.training.batch_size * spec.training.accumulation_steps
        sampler = LengthGroupedSampler(train.lengths, rows_per_step, spec.seed)
        # Its own `group_by_length` draws from the global generator: the order would depend on the dropout before it.
        _take_sampler(trainer, sampler)
    if world.is_distributed:
        _share_batches(trainer, spec, len(train))
    mixes = spec.training.mixup > 0
    if mixes or train.views != 1:
        _number_epochs(trainer, len(train))
    task = spec.dataset.task
    if world.is_distributed or mixes or not task.trainer_counts:
        _count_rows(trainer, by_token=task.labels_tokens and not mixes)


def _add_phases(trainer: Trainer, spec: RunSpec, phases: UnfreezeSchedule, collator: Collator) -> None:
    """Lets what is frozen change between epochs."""
    num_rows = len(trainer.train_dataset)  # type: ignore[arg-type]

    def use_hidden(cached: CachedPrefix | None) -> None:
        collator.hidden = cached.hidden if cached is not None else None

    # First of all: whatever else happens at the beginning of an epoch finds the model as it is in it.
    trainer.callback_handler.callbacks.insert(0, UnfreezeCallback(phases, use_hidden))
    if phases.phases[0].lr is not None:

        def create_scheduler(num_training_steps: int, optimizer: Any = None) -> Any:
            assert trainer.optimizer is not None
            scheduler = make_scheduler(
                spec, optimizer or trainer.optimizer, num_training_steps, num_rows, phases.phases
            )
            trainer.lr_scheduler = scheduler
            return scheduler

        trainer.create_scheduler = create_scheduler  # type: ignore[method-assign]


def _take_sampler(trainer: Trainer, sampler: Sampler[int]) -> None:
    trainer._get_train_sampler = lambda train_dataset=None: sampler  # type: ignore[method-assign] # noqa: ARG005


def _share_batches(trainer: Trainer, spec: RunSpec, total: int) -> None:
    """Lets several processes train on the very batches that one would.

    Accelerate deals a sampler's batches out in turn, so that the rows of a step are those that one process would take,
    if every process gets as many: fillers see to that, and are not counted.

    Args:
        trainer: Of this process.
        spec: What is trained.
        total: Training rows.
    """
    filled = PaddedSampler(_seedable_sampler(trainer), spec.training.batch_size, total)
    _take_sampler(trainer, filled)
    trainer.add_callback(callbacks.SamplerEpochCallback(filled))


def _number_epochs(trainer: Trainer, num_rows: int) -> None:
    """Lets a batch's maker know the epoch of its rows."""
    numbered = EpochSampler(_seedable_sampler(trainer), num_rows)
    _take_sampler(trainer, numbered)
    trainer.add_callback(callbacks.SamplerEpochCallback(numbered))


def _seedable_sampler(trainer: Trainer) -> Any:
    """Returns the sampler of the training rows, with an order for each epoch."""
    sampler: Any = trainer._get_train_sampler()
    if not isinstance(sampler, RandomSampler):
        return sampler
    # What Accelerate makes of it, when it finds it bare.
    return SeedableRandomSampler(
        data_source=sampler.data_source, generator=sampler.generator, data_seed=trainer.args.data_seed
    )


def _count_rows(trainer: Trainer, *, by_token: bool) -> None:
    """Counts the rows of a step as what they are: Trainer leaves out labels of -100, which may be a target's value."""

    def count(batches: list[Any], device: torch.device) -> torch.Tensor:
        # Of mixed rows, and of sets of many classes, the first column says whether there is a row.
        labels = [batch["labels"] for batch in batches]
        own = torch.stack([is_row(each if by_token or each.dim() == 1 else each[:, 0]).sum() for each in labels]).sum()
        counted: torch.Tensor = trainer.accelerator.gather(own.to(device)).sum()
        return counted

    trainer._get_num_items_in_batch = count  # type: ignore[method-assign, assignment]


def by_length(spec: TrainingSpec, table: RowTable) -> list[int]:
    """Returns the numbers of rows to evaluate on, the longest first if the training rows go by length."""
    if spec.sampling is Sampling.GROUP_BY_LENGTH:
        order: list[int] = np.argsort(-table.lengths, kind="stable").tolist()
        return order
    return list(range(len(table)))


def _compute_metrics(setup: Setup, task: Task, world: World, train_log: TrainLog, order: list[int]) -> Any:
    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
        train_log.last_logits = None
        if len(logits) == len(order):
            train_log.last_logits = np.empty_like(logits)
            train_log.last_logits[order] = logits
        if not world.is_distributed and not task.labels_tokens:
            return setup.metrics(logits, prediction.label_ids)
        values: dict[str, float] | None = None
        if world.is_main:
            # Trainer's own mean counts rows that fill up the last batch, and each batch of words by its rows.
            loss = task.mean_loss(logits, np.asarray(prediction.label_ids))
            values = {**setup.metrics(logits, prediction.label_ids), EXACT_LOSS: loss}
        return world.broadcast(values)

    return compute
