"""What the tests of cases share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.cases.damaged import FEW, sweep_words
from tests.support.sweep_tools import call, end_what_was_started


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    """Commands that a test left running end with it."""
    yield
    end_what_was_started()


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_overrides):
    """A folder with a run in `run/` and a sweep of four trials in `runs/s/`, to be copied."""
    home = tmp_path_factory.mktemp("trained")
    test_rows = ("dataset.test_fraction=0.2",)
    done = call("run", *tiny_overrides, *FEW, *test_rows, "hydra.run.dir=run", cwd=home, timeout=120)
    assert done.returncode == 0, done.stderr
    done = call("sweep", "lr_x_depth", *sweep_words(tiny_overrides), cwd=home, timeout=200)
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture
def home(trained, tmp_path):
    """A copy of `trained` to damage."""
    copy = tmp_path / "home"
    shutil.copytree(trained, copy, symlinks=True)
    return copy
