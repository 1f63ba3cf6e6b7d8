"""`freeze=pattern`: parameters are frozen by name, with regular expressions."""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from frostline.errors import SpecError
from frostline.freezing.choice import Choice, by_name
from frostline.spec.freeze import FREEZE_METHODS, FreezeMethod, key

if TYPE_CHECKING:
    from torch import nn

    from frostline.models.blocks import Anatomy

log = logging.getLogger(__name__)

_HINT = "give regular expressions of parameter names, for example freeze.pattern=[embeddings,LayerNorm]"

_MAX_LABEL = 40
"""Characters of a pattern in a run's name."""


@FREEZE_METHODS.register("pattern")
@dataclass(frozen=True, kw_only=True, slots=True)
class FreezePattern(FreezeMethod):
    """Freezes the parameters whose names match.

    Attributes:
        pattern: Regular expressions; a parameter is frozen if one of them is found in its name.
    """

    needs_blocks: ClassVar[bool] = False

    name: str = "pattern"
    pattern: tuple[str, ...] = key(_HINT)

    def __post_init__(self) -> None:
        for index, pattern in enumerate(self.pattern):
            _check_pattern(pattern, index)
        if not self.pattern:
            raise SpecError(f"freeze.pattern is empty: {_HINT}; or use freeze=none")

    def choose(self, anatomy: Anatomy) -> Choice:
        """See `FreezeMethod`."""
        return by_name(anatomy, _matches(anatomy.model, self.pattern), f"names with {' or '.join(self.pattern)}")

    def label(self) -> str:
        """See `FreezeMethod`."""
        text = f"p{'+'.join(self.pattern)}"
        if len(text) <= _MAX_LABEL:
            return text
        return f"{text[:_MAX_LABEL]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _check_pattern(pattern: str, index: int) -> None:
    if not pattern.strip():
        raise SpecError(f"freeze.pattern[{index}] is empty: it would freeze everything")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # a set within a set: it will mean something else
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError, FutureWarning) as error:
        raise SpecError(f"freeze.pattern[{index}]={pattern}: no regular expression ({error})") from error


def _matches(model: nn.Module, patterns: tuple[str, ...]) -> set[str]:
    """Returns the names of the parameters that match one of the patterns.

    Raises:
        SpecError: A pattern matches none.
    """
    names = [name for name, _ in model.named_parameters()]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    matched: set[str] = set()
    for index, pattern in enumerate(patterns):
        hits = {name for name in names if re.search(pattern, name)}
        if not hits:
            raise SpecError(
                f"freeze.pattern[{index}]={pattern}: found in no parameter's name; they are like "
                f"{names[len(names) // 2]} (frostline show --blocks --params lists them)"
            )
        if not hits & trained - matched:
            log.warning(
                "freeze.pattern[%d]=%s adds nothing: what it matches is not trained, or matched before", index, pattern
            )
        matched |= hits
    return matched
