"""Sweeps of a tiny model."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support import PLUGINS
from tests.support.shared import built_once
from tests.support.sweep_tools import RUNG, call, mlflow_runs, trials_in

PLUGIN = {"PYTHONPATH": PLUGINS}


def small(n, *more):
    return [f"sweep.n_trials={n}", "training.epochs=2", "dataset.train_rows=64", *RUNG, *more]


def pairs(folder, name):
    runs = mlflow_runs(folder)
    parent = next(run for run in runs if run.data.tags.get("frostline.kind") == "sweep" and run.info.run_name == name)
    return parent, [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]


@dataclass(frozen=True)
class Finished:
    """A sweep lr_x_depth that ended: its working folder, its command, and what that printed."""

    home: Path
    arguments: list[str]
    out: str
    err: str

    @property
    def folder(self):
        return self.home / "runs" / "lr_x_depth"

    @property
    def trials(self):
        return trials_in(self.folder)

    def copied_to(self, home: Path):
        """The same sweep in a folder of a test's own."""
        shutil.copytree(self.home, home)
        return replace(self, home=home)


def finished_once(factory, name: str, arguments: list[str], kind=Finished):
    """Returns a sweep that the first test process to ask has run."""

    def build(home):
        done = call("sweep", "lr_x_depth", *arguments, cwd=home, FROSTLINE_HOME=str(home / "cache"))
        assert done.returncode == 0, done.stderr
        (home / "said.json").write_text(json.dumps({"arguments": arguments, "out": done.stdout, "err": done.stderr}))

    home = built_once(factory, name, build)
    return kind(home, **json.loads((home / "said.json").read_text()))
