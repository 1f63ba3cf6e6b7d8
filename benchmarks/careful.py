"""What a careful user writes by hand: the baseline of the benchmarks.

Trainer with the embeddings and the lowest blocks frozen and pinned in eval mode, fused AdamW over the rest, dynamic
padding, an evaluation each epoch, the model saved at the end; rows are tokenized once, the model is loaded anew for
each run. No audit, no hashes of the run's own, no records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

from frostline.spec import CacheMode, LastBlock, Precision, RunSpec, Sampling
from frostline.train.device import seed_everything
from frostline.train.setup import prepare


def plain(spec: RunSpec) -> RunSpec:
    """Returns the run as it is done by hand: no prefix cache, rows at random, the last block for all positions."""
    cache = replace(spec.runtime.cache, mode=CacheMode.OFF)
    training = replace(spec.training, sampling=Sampling.RANDOM, last_block=LastBlock.WHOLE)
    return replace(spec, runtime=replace(spec.runtime, cache=cache), training=training)


def arguments(spec: RunSpec, folder: Path) -> TrainingArguments:
    """Returns Trainer's arguments."""
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=spec.training.epochs,
        per_device_train_batch_size=spec.training.batch_size,
        per_device_eval_batch_size=spec.training.eval_batch_size,
        eval_strategy="epoch",
        save_strategy="no",
        logging_steps=spec.training.log_every,
        bf16=spec.training.precision is Precision.BF16,
        seed=spec.seed,
        report_to="none",
        disable_tqdm=True,
        use_cpu=spec.runtime.device.value == "cpu",
    )


def accuracy(prediction: Any) -> dict[str, float]:
    """Returns the share of rows whose class is right."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


class Tell(TrainerCallback):
    """Hands each evaluation's accuracy on, and stops if that is answered with True."""

    def __init__(self, tell: Callable[[int, float], bool]) -> None:
        self._tell = tell

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See Trainer."""
        if self._tell(round(state.epoch), kwargs["metrics"]["eval_accuracy"]) and state.global_step < state.max_steps:
            control.should_training_stop = True


def careful(spec: RunSpec, folder: Path, tell: Callable[[int, float], bool] = lambda _epoch, _value: False) -> None:
    """Trains one model.

    Args:
        spec: What to train.
        folder: Where the model goes.
        tell: Called with each epoch's accuracy; True stops the run.
    """
    setup = prepare(plain(spec))  # loads, tokenizes, freezes, pins; the rows are tokenized once for all runs
    seed_everything(spec.seed)
    trainer = Trainer(
        model=setup.loaded.model,
        args=arguments(spec, folder),
        # What a GPU's matrix units want in half precision.
        data_collator=DataCollatorWithPadding(
            setup.loaded.processor, pad_to_multiple_of=8 if setup.machine.device == "cuda" else None
        ),
        train_dataset=setup.tables.train.rows,
        eval_dataset=setup.tables.evaluation.rows,
        optimizers=(setup.optimizer, None),
        compute_metrics=accuracy,
        callbacks=[Tell(tell)],
    )
    for callback in [c for c in trainer.callback_handler.callbacks if type(c).__name__ == "PrinterCallback"]:
        trainer.remove_callback(callback)
    trainer.train()
    setup.loaded.model.save_pretrained(folder / "model")
    setup.loaded.processor.save_pretrained(folder / "model")
