"""Fixtures of these tests."""

from __future__ import annotations

import pytest

from frostline.prefix_cache import compute, open_or_compute
from frostline.records.monitor import NullMonitor
from frostline.records.recorder import NullRecorder, Recorders
from frostline.records.run_context import RunContext
from frostline.records.run_folder import RunFolder
from frostline.train import run


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FROSTLINE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def fills(monkeypatch):
    """The depths of each pass over the rows."""
    real, found = compute.compute_hidden_states, []

    def counted(anatomy, table, depths, take, **more):
        found.append((len(table.lengths), tuple(depths)))
        return real(anatomy, table, depths, take, **more)

    monkeypatch.setattr(open_or_compute, "compute_hidden_states", counted)  # estimates use their own
    return found


@pytest.fixture
def train(tmp_path, make_spec, home):
    count = iter(range(100))

    def trained(*overrides, resume_from=None, monitor=None, sharing=None):
        spec = make_spec("training.epochs=2", *overrides)
        folder = tmp_path / f"run{next(count)}"
        with RunFolder(folder, spec, overrides) as recorder:
            recorders = Recorders([recorder, NullRecorder()])
            return run(
                spec,
                RunContext(
                    recorders, folder, resume_from=resume_from, monitor=monitor or NullMonitor(), sharing=sharing
                ),
            ), folder

    return trained
