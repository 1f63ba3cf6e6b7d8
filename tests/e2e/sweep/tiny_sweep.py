"""Sweeps of a tiny model."""

from __future__ import annotations

from tests.support import PLUGINS
from tests.support.sweep_tools import (
    RUNG,
    mlflow_runs,
)

PLUGIN = {"PYTHONPATH": PLUGINS}


def small(n, *more):
    return [f"sweep.n_trials={n}", "training.epochs=2", "dataset.train_rows=64", *RUNG, *more]


def pairs(folder, name):
    runs = mlflow_runs(folder)
    parent = next(run for run in runs if run.data.tags.get("frostline.kind") == "sweep" and run.info.run_name == name)
    return parent, [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
