"""The config group `training`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from frostline.errors import SpecError
from frostline.spec.checks import finite, require


class Direction(StrEnum):
    """Whether more or less of the objective is better."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


class Precision(StrEnum):
    """The dtype of the forward pass; weights and optimizer state stay in fp32."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    AUTO = "auto"


class Keep(StrEnum):
    """Whose weights become `model/`: the best evaluation's or the last step's."""

    BEST = "best"
    LAST = "last"


class Sampling(StrEnum):
    """In which order an epoch takes the training rows."""

    GROUP_BY_LENGTH = "group_by_length"
    RANDOM = "random"


class LastBlock(StrEnum):
    """For which positions the last block is computed: the one that the head reads, or all."""

    READ_POSITION = "read_position"
    WHOLE = "whole"


class Every(StrEnum):
    """When something happens during training."""

    EPOCH = "epoch"
    NEVER = "never"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSpec:
    """How long and on what batches a run trains, and what it is judged by. `conf/training/`.

    Attributes:
        epochs: Passes over the training rows, may be a fraction; None with `max_steps`.
        max_steps: Optimizer steps; None with `epochs`.
        batch_size: Rows per forward pass and process.
        eval_batch_size: The same for evaluation, where no gradients are kept.
        accumulation_steps: Forward passes per optimizer step.
        sampling: Which rows meet in a step: at random, or rows of like length, so that little is padding.
        last_block: For which positions the last block is computed. For the one that the head reads the function is
            the same, but dropout draws other numbers. Models that allow no other are computed whole.
        frozen_dropout: Whether the frozen part keeps its dropout, as it does in plain Trainer; else it is in eval mode.
        max_tokens: Longer texts are cut to this many tokens (the cut ones are counted).
        max_target_tokens: `seq2seq`: the same of the texts to be written. None: `max_tokens`.
        generate_rows: Of how many evaluation rows the kept weights write the target when a run has ended, for ROUGE;
            needs `dataset.target_column`. None: of none.
        precision: dtype of the forward pass.
        metrics: Names of metrics computed at each evaluation.
        objective: The metric a run is judged by: one of `metrics`, or `loss`.
        direction: Whether more or less of the objective is better.
        evaluate: When to evaluate besides at the end.
        eval_steps: Optimizer steps between two evaluations, in the place of `evaluate`. None: as that says.
        patience: A run ends when so many evaluations in a row have not improved the objective. None: at its last step.
        keep: Whose weights are kept.
        checkpoint: When to write a checkpoint that an interrupted run can resume from.
        gradient_checkpointing: Compute activations of trained blocks again in the backward pass instead of keeping
            them (Chen et al. 2016): less memory, some 30 % more time, the same numbers.
        label_smoothing: Share of the target that is spread evenly over the classes, in the training loss (Szegedy et
            al. 2016); evaluation is as without. 0: none.
        mixup: alpha of the Beta distribution from which each training image's share of a mixture with another is
            drawn, of pixels and loss alike (Zhang et al., ICLR 2018). 0: none.
        packing: `causal_lm`: training rows of a forward pass are put one behind the other, as many as fit into the
            longest one's length, instead of being padded. A row's tokens attend to its own alone.
        log_every: Steps between two records of the training loss.
    """

    epochs: float | None
    max_steps: int | None
    batch_size: int
    eval_batch_size: int
    accumulation_steps: int
    sampling: Sampling
    last_block: LastBlock
    frozen_dropout: bool
    max_tokens: int
    precision: Precision
    metrics: tuple[str, ...]
    objective: str
    direction: Direction
    evaluate: Every
    keep: Keep
    checkpoint: Every
    log_every: int
    label_smoothing: float = 0.0
    mixup: float = 0.0
    packing: bool = False
    eval_steps: int | None = None
    patience: int | None = None
    gradient_checkpointing: bool = False
    max_target_tokens: int | None = None
    generate_rows: int | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.max_steps is None):
            raise SpecError("training: give either training.epochs or training.max_steps, and null for the other")
        if self.epochs is not None:
            require(finite(self.epochs) and self.epochs > 0, "training.epochs", self.epochs, "above 0")
        if self.max_steps is not None:
            require(self.max_steps >= 1, "training.max_steps", self.max_steps, "1 or more")
        for key, value in (
            ("batch_size", self.batch_size),
            ("eval_batch_size", self.eval_batch_size),
            ("accumulation_steps", self.accumulation_steps),
            ("log_every", self.log_every),
        ):
            require(value >= 1, f"training.{key}", value, "1 or more")
        require(self.max_tokens >= 3, "training.max_tokens", self.max_tokens, "3 or more (special tokens count)")
        target = self.max_target_tokens
        require(target is None or target >= 2, "training.max_target_tokens", target, "2 or more, or null")
        for key, count in (
            ("eval_steps", self.eval_steps), ("patience", self.patience), ("generate_rows", self.generate_rows),
        ):  # fmt: skip
            require(count is None or count >= 1, f"training.{key}", count, "1 or more, or null")
        if self.patience is not None and self.evaluate is Every.NEVER and self.eval_steps is None:
            raise SpecError(
                "training.patience: counts evaluations, and training.evaluate=never has one at the end; give "
                "training.evaluate=epoch or training.eval_steps"
            )
        smoothing, mixup = self.label_smoothing, self.mixup
        require(
            finite(smoothing) and 0 <= smoothing < 1, "training.label_smoothing", smoothing, "0 or more and below 1"
        )
        require(finite(mixup) and mixup >= 0, "training.mixup", mixup, "0 or more")
        if len(set(self.metrics)) != len(self.metrics):
            raise SpecError(f"training.metrics: a name stands there more than once in [{', '.join(self.metrics)}]")
