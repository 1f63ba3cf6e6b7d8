"""Freeze methods as a run's config names them: `freeze.name` chooses one, the other keys of `freeze` are its settings.

The methods themselves are in `frostline.freezing.methods`, one module each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from frostline.errors import SpecError, listing, nearest
from frostline.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from frostline.freezing.choice import Choice
    from frostline.models.blocks import Anatomy

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, kw_only=True, slots=True)
class FreezePhase:
    """A part of a run in which the same tensors are frozen.

    Attributes:
        first_epoch: Counted from 0.
        depth: Frozen blocks, and the embeddings; None: nothing.
        lr: Peak learning rate of a phase with a schedule of its own; the next phase begins the run's schedule anew.
    """

    first_epoch: int
    depth: int | None
    lr: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FreezeMethod:
    """How much of the model is frozen. `conf/freeze/`.

    A subclass is one method. Its fields are the method's keys, made with `key`.

    Attributes:
        name: Of the method.
    """

    needs_blocks: ClassVar[bool] = True
    """Whether the model must have a list of blocks."""

    name: str

    def choose(self, anatomy: Anatomy) -> Choice:
        """Returns what the method freezes in a model.

        Args:
            anatomy: The model; what the method counts was checked against it by `check`.

        Raises:
            SpecError: The model has nothing of the kind that the method freezes or trains.
        """
        raise NotImplementedError

    def label(self) -> str:
        """Returns the short form used in run names, for example `d4`."""
        return self.name

    def check(self, num_blocks: int, model_name: str) -> None:
        """Checks what the method counts against a model.

        Raises:
            SpecError: The model has fewer blocks.
        """

    def check_installed(self) -> None:
        """Checks that the packages that the method needs are installed.

        Raises:
            UserError: One is missing.
        """

    def prepare(self, anatomy: Anatomy, seed: int) -> bool:
        """Changes the model before anything is frozen.

        Args:
            anatomy: The model.
            seed: Of the run, for new weights; the global generators must be left as they are.

        Returns:
            Whether the model was changed.
        """
        del anatomy, seed
        return False

    def finalize(self, model: nn.Module) -> None:
        """Changes the trained model before it is saved, back to the form of its own class."""

    def depth_of(self, num_blocks: int) -> int | None:
        """Returns the frozen depth, if the method counts blocks from below; else None."""
        del num_blocks
        return None

    def frozen_share(self, num_blocks: int | None) -> float:
        """Returns the share of the blocks that is frozen from below; 0 if that is not known."""
        del num_blocks
        return 0.0

    def phases(self, num_blocks: int) -> tuple[FreezePhase, ...]:
        """Returns what is frozen when, if that changes during a run; else nothing."""
        del num_blocks
        return ()

    @property
    def first_phase(self) -> tuple[str, int] | None:
        """The key that says how many epochs the first phase takes, and its value; None without phases."""
        return None

    @property
    def may_freeze_a_prefix(self) -> bool:
        """Whether the lowest blocks may be frozen whole together with the embeddings, from the beginning to the end."""
        return True

    @classmethod
    def decode_as(cls, value: Mapping[str, Any], where: str) -> tuple[type[FreezeMethod], dict[str, Any]]:
        """Finds the method that a group of keys names, and the keys that are its own.

        Args:
            value: The group's keys; those of other methods must be null.
            where: The group's name, for messages.

        Raises:
            SpecError: There is no such method, or a key of another method is set.
        """
        name = value.get("name")
        if name is None:
            raise SpecError(f"{where}.name is missing: give it, for example {where}.name=...")
        if not isinstance(name, str) or name not in FREEZE_METHODS:
            names = listing(FREEZE_METHODS)
            raise SpecError(f"{where}.name={name}: no such choice{nearest(str(name), FREEZE_METHODS)}; one of {names}")
        method = FREEZE_METHODS.get(name)
        own = {each.name: each for each in fields(method)}
        settings = {key: item for key, item in value.items() if key in own}
        for key, item in value.items():
            owner = None if key in own else _owner_of(key)
            if owner is None and key not in own:
                settings[key] = item  # unknown to all methods: refused with the nearest key
            elif owner is not None and item is not None:
                raise SpecError(
                    f"{where}.{key}={format_value(item)} contradicts {where}={name}: drop one of them "
                    f"({where}.{key} belongs to {where}={owner})"
                )
        for each in own.values():
            if "hint" in each.metadata and settings.get(each.name) is None:
                settings.pop(each.name, None)
                if each.default is MISSING:
                    raise SpecError(f"{where}.{each.name} is missing: {each.metadata['hint']}")
        return method, settings


FREEZE_METHODS: Registry[type[FreezeMethod]] = Registry("freeze method", "frostline.freezing.methods")
"""Freeze methods by the name that a config gives them."""


def key(hint: str, *, nullable: bool = False) -> Any:
    """Returns a dataclass field for a key of a freeze method.

    Args:
        hint: What to give if the key is missing, for the message: `give ..., as freeze.rank=8`.
        nullable: Whether null means something.
    """
    return field(default=None, metadata={"hint": hint}) if nullable else field(metadata={"hint": hint})


def freeze_keys() -> dict[str, Field[Any]]:
    """Returns the keys of all methods, by name."""
    return {each.name: each for name in FREEZE_METHODS for each in fields(FREEZE_METHODS.get(name))}


def _owner_of(name: str) -> str | None:
    owners = [each for each in FREEZE_METHODS if any(own.name == name for own in fields(FREEZE_METHODS.get(each)))]
    return name if name in owners else next(iter(owners), None)


def check_count(name: str, value: int | None, num_blocks: int, model_name: str) -> None:
    """Checks a number of blocks against a model.

    Args:
        name: The key.
        value: Its value; None is not checked.
        num_blocks: Of the model.
        model_name: For the message.

    Raises:
        SpecError: The model has fewer blocks.
    """
    if value is not None and value > num_blocks:
        raise SpecError(f"freeze.{name}={value}: {model_name} has {num_blocks} blocks, so give 0 to {num_blocks}")


def format_value(value: object) -> str:
    """Returns a value as it is typed on a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(str, value))}]" if isinstance(value, (tuple, list)) else str(value)
