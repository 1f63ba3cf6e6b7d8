"""What the tests of whole commands share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.forked import WarmPython
from tests.support.sweep_tools import end_what_was_started


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    """Commands that a test left running end with it."""
    yield
    end_what_was_started()


@pytest.fixture
def warm_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of a run that a test starts in its own process begin as forks."""
    monkeypatch.setattr("frostline.launch.processes.Popen", WarmPython)
