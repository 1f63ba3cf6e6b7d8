"""The config group `optimizer`."""

from __future__ import annotations

from dataclasses import dataclass

from frostline.spec.checks import finite, require


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerSpec:
    """The optimizer and its learning-rate schedule. `conf/optimizer/`.

    Attributes:
        name: A registered optimizer: adamw, sgd, adafactor.
        lr: Peak learning rate of the head and the top block.
        weight_decay: Decoupled for adamw and adafactor; not applied to biases and norms.
        beta1: adamw's decay of the first moment; sgd's momentum.
        beta2: adamw's decay of the second moment.
        eps: Added to adamw's denominator.
        layer_decay: Each lower block trains at this multiple of the learning rate of the block above it
            (ULMFiT, arXiv 1801.06146, uses 1/2.6); 1 turns it off.
        schedule: Shape of the learning rate after warmup, a name of `transformers.SchedulerType`.
        warmup_ratio: Share of the steps in which the rate rises linearly from 0.
        max_grad_norm: Gradients are scaled down to this L2 norm; 0 turns clipping off.
    """

    name: str
    lr: float
    weight_decay: float
    beta1: float
    beta2: float
    eps: float
    layer_decay: float
    schedule: str
    warmup_ratio: float
    max_grad_norm: float

    def __post_init__(self) -> None:
        require(finite(self.lr) and self.lr > 0, "optimizer.lr", self.lr, "a finite number above 0, for example 1e-4")
        for key, value in (
            ("weight_decay", self.weight_decay),
            ("max_grad_norm", self.max_grad_norm),
        ):
            require(finite(value) and value >= 0, f"optimizer.{key}", value, "a finite number, 0 or more")
        for key, value in (("beta1", self.beta1), ("beta2", self.beta2), ("warmup_ratio", self.warmup_ratio)):
            require(0 <= value < 1, f"optimizer.{key}", value, "at least 0 and below 1")
        require(0 < self.eps < 1, "optimizer.eps", self.eps, "between 0 and 1")
        if self.schedule == "polynomial":  # it ends at a rate of 1e-7
            require(self.lr > 1e-7, "optimizer.lr", self.lr, "above 1e-7 with optimizer.schedule=polynomial")
        require(0 < self.layer_decay <= 1, "optimizer.layer_decay", self.layer_decay, "above 0 and at most 1")
