"""What the tests of cases share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.sweep_tools import end_what_was_started


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    """Commands that a test left running end with it."""
    yield
    end_what_was_started()
