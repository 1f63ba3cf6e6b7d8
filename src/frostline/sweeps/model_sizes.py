"""How large the models of a sweep are, where models are its axis of cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from frostline import assets
from frostline.errors import SpecError

if TYPE_CHECKING:
    from frostline.sweeps.read_config import Sweep


def sizes_of(sweep: Sweep) -> dict[str, dict[str, int]]:
    """Returns `sizes`, the parameters of each model by its name; nothing where models are not the axis of cost.

    Raises:
        SpecError: That isn't known before a model is fetched.
    """
    group = next((each for each in sweep.space.groups if each.key == sweep.plan.axis), None)
    if group is None:
        return {}
    sizes = {}
    for (name,), spec in zip(sweep.space.variants, sweep.variants, strict=True):
        size = assets.num_weights(spec.model)
        if size is None:
            raise SpecError(
                f"sweep.axis=model: the size of {name} is not known before it is fetched: frostline fetch model={name}"
            )
        sizes[str(name)] = size
    return {"sizes": sizes}
