"""A user's plugin for the GPU tests: a model that truly runs out of a GPU's memory with more than eight rows."""

from __future__ import annotations

import torch

from frostline.models.optimizer import OPTIMIZERS


@OPTIMIZERS.register("starving")
def starving(groups, spec):
    """Only runs with an odd weight decay (in thousandths) starve: the swept key says which trial it is."""
    if round(spec.weight_decay * 1000) % 2:

        def eat(module, inputs, output):
            if isinstance(module, torch.nn.Linear) and module.training and output.shape[0] > 8:
                torch.empty(1 << 50, dtype=torch.uint8, device=output.device)

        torch.nn.modules.module.register_module_forward_hook(eat)
    return OPTIMIZERS.get("adamw")(groups, spec)
