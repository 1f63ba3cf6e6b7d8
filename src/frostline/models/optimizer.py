"""Builds a torch optimizer from an `OptimizerSpec` and a model's parameters.

Importing this module imports no torch, so that a wrong name is found at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from frostline.errors import SpecError, listing, nearest
from frostline.registry import Registry

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from frostline.spec import OptimizerSpec

ParamGroups = list[dict[str, Any]]
Build = Callable[[ParamGroups, "OptimizerSpec"], "Optimizer"]

OPTIMIZERS: Registry[Build] = Registry("optimizer")
"""Names for `optimizer.name`. Register your own in a plugin: `@OPTIMIZERS.register("lion")`."""

SCHEDULES = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
)
"""The schedules of `transformers.SchedulerType` that need no arguments of their own."""


def check(spec: OptimizerSpec) -> None:
    """Checks the names in a spec, without importing torch.

    Raises:
        UserError: The optimizer or the schedule is not known.
    """
    OPTIMIZERS.get(spec.name)
    if spec.schedule not in SCHEDULES:
        raise SpecError(
            f"optimizer.schedule={spec.schedule}: not known{nearest(spec.schedule, SCHEDULES)}; "
            f"one of {listing(SCHEDULES)}"
        )


@OPTIMIZERS.register("adamw")
def _adamw(groups: ParamGroups, spec: OptimizerSpec) -> Optimizer:
    import torch

    return torch.optim.AdamW(groups, lr=spec.lr, betas=(spec.beta1, spec.beta2), eps=spec.eps, fused=True)


@OPTIMIZERS.register("sgd")
def _sgd(groups: ParamGroups, spec: OptimizerSpec) -> Optimizer:
    import torch

    return torch.optim.SGD(groups, lr=spec.lr, momentum=spec.beta1)


@OPTIMIZERS.register("adafactor")
def _adafactor(groups: ParamGroups, spec: OptimizerSpec) -> Optimizer:
    import torch

    return torch.optim.Adafactor(groups, lr=spec.lr)


def param_groups(levels: Sequence[tuple[str, Iterable[nn.Module]]], spec: OptimizerSpec) -> ParamGroups:
    """Sorts trainable parameters into groups of one learning rate and one weight decay.

    Layer-wise decay (discriminative fine-tuning, arXiv 1801.06146): the head and the top block train at `lr`, each
    level below at `layer_decay` times the rate of the one above.

    Args:
        levels: Embeddings, blocks and head as `(name, modules)`, in the order of the forward pass.
        spec: Rates.

    Returns:
        Groups of `params`, `lr`, `weight_decay` and `name`; parameters without gradient are in none.
    """
    groups: ParamGroups = []
    seen: set[int] = set()
    top = len(levels) - 2  # the top block; the head, above it, has the same rate
    for index, (name, modules) in enumerate(levels):
        lr = spec.lr * spec.layer_decay ** max(0, top - index)
        # Output embeddings that are tied to the token embeddings go with these.
        decayed, plain = ([p for p in part if id(p) not in seen] for part in _by_decay(modules))
        seen |= {id(p) for p in (*decayed, *plain)}
        for suffix, params, weight_decay in (("", decayed, spec.weight_decay), (" (no decay)", plain, 0.0)):
            if params:
                groups.append({"params": params, "lr": lr, "weight_decay": weight_decay, "name": name + suffix})
    return groups


def _by_decay(modules: Iterable[nn.Module]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Splits trainable parameters into those that weight decay applies to and biases and norms."""
    decayed: dict[int, nn.Parameter] = {}
    plain: dict[int, nn.Parameter] = {}
    for top in modules:
        for module in top.modules():
            norm = "norm" in type(module).__name__.lower()
            for key, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad:
                    (plain if norm or key == "bias" else decayed)[id(parameter)] = parameter
    return list(decayed.values()), list(plain.values())


def build(spec: OptimizerSpec, groups: ParamGroups) -> Optimizer:
    """Builds the optimizer.

    Args:
        spec: Which, and its settings.
        groups: From `param_groups`.

    Raises:
        UserError: The name is not known, or there is nothing to train.
    """
    if not groups:
        raise SpecError(
            "nothing is left to train: the frozen part is the whole model; freeze less (in a sweep: "
            "lower sweep.space.freeze.depth.high)"
        )
    return OPTIMIZERS.get(spec.name)(groups, spec)
