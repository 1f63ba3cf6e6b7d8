"""Fixtures of these tests."""

import pytest

from frostline.records.recorder import Recorders
from frostline.records.run_context import RunContext
from frostline.records.run_folder import RunFolder
from frostline.train import run
from tests.e2e.train.tiny_run import Spy


@pytest.fixture
def train(tmp_path, make_spec):
    count = iter(range(100))

    def call(*overrides, spec=None, resume_from=None):
        spec = spec or make_spec(*overrides)
        folder = tmp_path / f"run{next(count)}"
        spy = Spy()
        with RunFolder(folder, spec, overrides) as recorder:
            result = run(
                spec, RunContext(Recorders([recorder, spy]), folder, overrides=overrides, resume_from=resume_from)
            )
        return result, folder, spy

    return call
