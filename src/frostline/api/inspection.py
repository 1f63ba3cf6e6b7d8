"""A model's blocks, parameters, newly initialized tensors, and what each frozen depth leaves to train."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from frostline import assets
from frostline.console import import_progress_bars
from frostline.errors import ModelError
from frostline.report import as_text, newly_initialized
from frostline.spec import RunSpec

if TYPE_CHECKING:
    import pandas as pd

    from frostline.models.blocks import Anatomy


@dataclass(frozen=True)
class Inspection:
    """A model's structure; prints as `frostline show --blocks` does.

    Attributes:
        facts: All that is known: `num_params`, `num_blocks`, `parts`, `params`, `fresh_tensors` ...
    """

    facts: Mapping[str, Any]

    @property
    def depths(self) -> pd.DataFrame:
        """What each frozen depth leaves to train, a row each."""
        import pandas as pd

        return pd.DataFrame(self.facts["depths"])

    def __str__(self) -> str:
        return as_text(lambda console: print_facts(self.facts, console))

    __repr__ = __str__


def inspect(
    model: Any = None, *, tokenizer: Any = None, overrides: Sequence[str] = (), config_dir: str | None = None
) -> Inspection:
    """Returns a model's structure; nothing is trained.

    Args:
        model: See `frostline.run`.
        tokenizer: See `frostline.run`.
        overrides: As of `frostline run`: `["freeze=head"]`.
        config_dir: A folder of your own config groups.

    Raises:
        UserError: The model can't be found or isn't supported.
    """
    from frostline.api.inputs import list_of, model_overrides
    from frostline.config import compose_job

    import_progress_bars()
    words = [*model_overrides(model, tokenizer), *list_of(overrides)]
    return Inspection(examine(compose_job(words, config_dir).run))


def examine(spec: RunSpec) -> dict[str, Any]:
    """Returns what there is to know of a model's structure.

    Args:
        spec: Its model; the dataset's label names size the head.

    Raises:
        UserError: The model can't be found or isn't supported.
    """
    from frostline.models.blocks import count, count_at, find_blocks, whole_as_head
    from frostline.models.loading import fresh_tensors, skeleton

    names = spec.dataset.label_names or ("LABEL_0", "LABEL_1")
    folder = assets.model_folder(spec.model)
    model = skeleton(folder, task=spec.dataset.task, label_names=names)
    try:
        fresh, missing = fresh_tensors(spec.model, folder, task=spec.dataset.task, label_names=names), None
    except ModelError as error:  # its parts can be counted all the same
        fresh, missing = (), str(error)
    try:
        anatomy, trouble = find_blocks(model), None
    except ModelError as error:
        anatomy, trouble = whole_as_head(model), str(error)
    spec.check_depth(anatomy.num_blocks if trouble is None else None)
    base, named = model.base_model, dict(model.named_parameters())
    facts: dict[str, Any] = {
        "model": spec.model_name,
        "class": type(model).__name__,
        "num_labels": spec.dataset.task.num_outputs(names),
        "num_params": count_at(anatomy, None).num_total,
        "num_named_params": len(named),
        "base": {
            "class": type(base).__name__,
            "num_params": count((("", base),)),
            "num_named_params": len(list(base.named_parameters())),
        },
        "num_blocks": anatomy.num_blocks,
        "fresh_tensors": fresh,
        "not_loaded": missing,
        "unsupported": trouble,
        "parts": [
            {
                "part": part,
                "modules": [{"name": name, "num_params": count(((name, module),))} for name, module in modules],
                "num_params": count(modules),
            }
            for part, modules in anatomy.groups()
        ],
        "depths": _depths(anatomy, (None, *range(anatomy.num_blocks + 1)) if trouble is None else (None,)),
        "params": [
            {"name": name, "shape": list(parameter.shape), "num_params": parameter.numel()}
            for name, parameter in model.named_parameters()
        ],
    }
    if trouble is None or not spec.freeze.needs_blocks:
        facts["chosen"] = _chosen(spec, anatomy)
        named = dict(model.named_parameters())  # of an adapter too
        for row in facts["params"]:
            row["trained"] = row["name"] in named and named[row["name"]].requires_grad  # beside an adapter: renamed
    return facts


def _depths(anatomy: Anatomy, depths: Iterable[int | None]) -> list[dict[str, Any]]:
    """Returns what is trained and frozen at each depth."""
    from frostline.models.blocks import count_at

    counts = [(depth, count_at(anatomy, depth)) for depth in depths]
    return [
        {
            "freeze": "none" if depth is None else f"depth={depth}",
            "head_only": depth is not None and depth == anatomy.num_blocks,
            "num_trainable": count.num_trainable,
            "num_frozen": count.num_frozen,
        }
        for depth, count in counts
    ]


def _chosen(spec: RunSpec, anatomy: Anatomy) -> dict[str, Any]:
    """Freezes what the config says, and returns what that is."""
    from frostline.freezing.freeze import freeze

    spec.freeze.prepare(anatomy, spec.seed)
    frozen = freeze(anatomy, spec.freeze, hashed=False)
    return {
        "freeze": spec.freeze.label(),
        "frozen": frozen.frozen.words,
        "num_trainable": frozen.params.num_trainable,
        "num_frozen": frozen.params.num_frozen,
        "begins_above": frozen.prefix_depth,
    }


def print_facts(facts: Mapping[str, Any], console: Console, *, params: bool = False) -> None:
    """Prints what `examine` returns.

    Args:
        facts: See there.
        console: Where.
        params: Whether every parameter tensor is listed, too.
    """
    base = facts["base"]
    console.print(
        f"{facts['model']}: {facts['class']}, {facts['num_params']:,} parameters in {facts['num_named_params']} "
        f"tensors, {facts['num_blocks']} blocks\n"
        f"base model {base['class']}: {base['num_params']:,} parameters in {base['num_named_params']} tensors",
        highlight=False,
        soft_wrap=True,
    )
    parts = Table("part", "module", box=box.SIMPLE_HEAD, pad_edge=False)
    parts.add_column("parameters", justify="right")
    for part in facts["parts"]:
        for index, module in enumerate(part["modules"]):
            parts.add_row("" if index else part["part"], module["name"], f"{module['num_params']:,}")
    console.print(parts)
    depths = Table("freeze", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("frozen", "trained", "trained %"):
        depths.add_column(name, justify="right")
    for row in facts["depths"]:
        share = 100 * row["num_trainable"] / facts["num_params"]
        label = f"{row['freeze']} (head)" if row["head_only"] else row["freeze"]
        depths.add_row(label, f"{row['num_frozen']:,}", f"{row['num_trainable']:,}", f"{share:.1f}")
    console.print(depths)
    if chosen := facts.get("chosen"):
        share = 100 * chosen["num_trainable"] / facts["num_params"]
        console.print(
            f"chosen ({chosen['freeze']}): frozen {chosen['frozen']}; {chosen['num_frozen']:,} frozen, "
            f"{chosen['num_trainable']:,} trained ({share:.1f} %)",
            highlight=False,
            soft_wrap=True,
        )
    if facts["fresh_tensors"]:
        console.print(
            f"newly initialized: {newly_initialized(facts['fresh_tensors'])}", highlight=False, soft_wrap=True
        )
    if facts["not_loaded"]:
        console.print(f"its weights can't be used: {facts['not_loaded']}", highlight=False, soft_wrap=True)
    if facts["unsupported"]:
        console.print(f"freezing by depth is not possible: {facts['unsupported']}", highlight=False)
    if params:
        tensors = Table("parameter", "shape", box=box.SIMPLE_HEAD, pad_edge=False)
        tensors.add_column("count", justify="right")
        tensors.add_column("")
        for row in facts["params"]:
            shape = " x ".join(map(str, row["shape"])) or "scalar"
            tensors.add_row(row["name"], shape, f"{row['num_params']:,}", "" if row.get("trained", True) else "frozen")
        console.print(tensors)
