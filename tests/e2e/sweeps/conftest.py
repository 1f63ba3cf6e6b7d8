"""Fixtures of these tests."""

from __future__ import annotations

import pytest

from tests.support.sweep_tools import (
    TRIALS_ALONE,
)


@pytest.fixture
def tiny(tiny_overrides):
    """Without a fixed learning rate, which would not be swept; the trials alone, which `test_race.py` goes beyond."""
    return [*(o for o in tiny_overrides if not o.startswith("optimizer.lr=")), *TRIALS_ALONE]


@pytest.fixture
def quiet(tiny):
    """Without MLflow, for tests that look at files alone: it costs each command some four seconds."""
    return [*tiny, "tracking=off"]
