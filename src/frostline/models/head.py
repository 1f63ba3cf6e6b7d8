"""Finds the head's tensors of a classifier and decides what to do with the one in a weights file.

A folder may hold a classifier that was fine-tuned before. Its head is one for other classes, or for the same in another
order; under new names it would be wrong for every row, and nothing would say so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from frostline.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Head:
    """The head of a classifier.

    Attributes:
        output: Names of the tensors with a row for each class.
        other: Names of the other tensors that a model without a head doesn't have.
    """

    output: frozenset[str]
    other: frozenset[str]


def head_of(of_two: PreTrainedModel, three: PreTrainedModel) -> Head:
    """Returns the head of a classifier, found by comparing it for two classes with it for three.

    Args:
        of_two: With two classes. Both may live on the meta device.
        three: The same with three.
    """
    shapes = {name: tensor.shape for name, tensor in of_two.state_dict().items()}
    output = frozenset(name for name, tensor in three.state_dict().items() if tensor.shape != shapes[name])
    base = next((name for name, module in of_two.named_modules() if module is of_two.base_model), "")
    beside = frozenset(name for name in shapes if base and not name.startswith(f"{base}."))  # else all of it is base
    return Head(output=output, other=beside - output)


def in_file(head: Head, folder: Path, prefix: str) -> dict[str, str]:
    """Returns the tensors of a head that a folder's weights hold: name in the file -> name in the model.

    None of them, if the weights have no output layer: what else they hold was pretrained (as the layers before the
    vocabulary of a masked language model).

    Args:
        head: Of the model.
        folder: Of the model.
        prefix: Of the base model in the classifier; files of a base model leave it out.

    Raises:
        ModelError: The weights can't be read.
    """
    names: list[str] = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                names.extend(file.keys())
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path}: the model can't be loaded: {error}") from error
    shapes = {}
    for name in names:
        for full in (name, f"{prefix}.{name}"):
            if full in head.output | head.other:
                shapes[name] = full
    return shapes if set(shapes.values()) & head.output else {}


def without(folder: Path, names: Collection[str]) -> dict[str, Any]:
    """Returns the tensors of a folder's weights but for some, by name."""
    changes: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            changes.update({name: file.get_tensor(name) for name in file.keys() if name not in names})  # noqa: SIM118
    return changes


def order_of(names_of_file: Mapping[int, str], label_names: Sequence[str], folder: Path) -> list[int]:
    """Returns for each class its row in the head that a folder brings.

    Args:
        names_of_file: Names of that head's classes by row.
        label_names: Of the data set.
        folder: For the message.

    Raises:
        ModelError: The names are others.
    """
    rows = {name: row for row, name in names_of_file.items()}
    if len(rows) != len(names_of_file) or set(rows) != set(label_names):
        theirs, ours = ", ".join(names_of_file[row] for row in sorted(names_of_file)), ", ".join(label_names)
        raise ModelError(
            f"model.head=keep: the classes of {folder} are {theirs}, the data set's are {ours}: name them alike "
            "(dataset.label_names), or take model.head=fresh"
        )
    return [rows[name] for name in label_names]


def reorder(model: PreTrainedModel, head: Head, order: Sequence[int]) -> None:
    """Puts the rows of the output layer into another order."""
    import torch

    state: dict[str, Any] = model.state_dict()
    with torch.no_grad():
        for name in head.output:
            state[name].copy_(state[name][list(order)].clone())
