"""A run's settings as Trainer's arguments."""

from __future__ import annotations

from pathlib import Path

from transformers import TrainingArguments

from frostline.machine import Machine
from frostline.spec import Every, Precision, RunSpec
from frostline.train.distributed import World


def training_arguments(
    spec: RunSpec, machine: Machine, output_dir: Path, world: World | None = None
) -> TrainingArguments:
    """Returns Trainer's arguments: the one place where a spec is translated to them.

    Args:
        spec: What to train.
        machine: Device and precision, decided.
        output_dir: Where Trainer writes checkpoints.
        world: The processes of the run, which share its batches.
    """
    size = world.size if world is not None else 1
    training, runtime = spec.training, spec.runtime
    eval_strategy = "epoch" if training.evaluate is Every.EPOCH else "no"
    if training.eval_steps is not None:
        eval_strategy = "steps"
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=training.epochs or 1.0,
        max_steps=training.max_steps or -1,
        per_device_train_batch_size=training.batch_size // size,
        per_device_eval_batch_size=max(1, training.eval_batch_size // size),
        gradient_accumulation_steps=training.accumulation_steps,
        max_grad_norm=spec.optimizer.max_grad_norm,
        lr_scheduler_type=spec.optimizer.schedule,
        warmup_steps=spec.optimizer.warmup_ratio,  # below 1 it is a share of the steps
        bf16=machine.precision is Precision.BF16,
        fp16=machine.precision is Precision.FP16,
        use_cpu=machine.device == "cpu",
        seed=spec.seed,
        data_seed=spec.seed,
        eval_strategy=eval_strategy,
        eval_steps=training.eval_steps,
        save_strategy="epoch" if training.checkpoint is Every.EPOCH else "no",
        logging_strategy="steps",
        logging_steps=training.log_every,
        logging_nan_inf_filter=False,  # it shows NaN as a loss of 0
        dataloader_num_workers=runtime.loader_workers,
        dataloader_pin_memory=machine.device == "cuda",
        label_names=["labels"],
        remove_unused_columns=False,  # the collator makes what the model wants, and no more
        report_to="none",
        disable_tqdm=True,
    )
    if machine.device == "cuda":
        _ = arguments.device  # decides n_gpu
        arguments._n_gpu = 1  # several GPUs in one process would mean nn.DataParallel: another computation
    return arguments
