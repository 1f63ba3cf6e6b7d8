"""How a language model is asked to write, from Python."""

import pytest

from frostline.errors import UserError
from frostline.inference.generate import Generation


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens 0: must be 1 or more"),
        ({"temperature": -1.0}, "temperature -1.0: must be 0, or 0.01 or more"),
        ({"temperature": float("nan")}, "temperature nan: must be 0, or 0.01 or more"),
        ({"seed": -1}, "seed -1: must be 0 or more"),
    ],
)
def test_what_cant_be_written_with_is_refused(settings, said):
    with pytest.raises(UserError, match=said):
        Generation(**settings)
