"""Runs on one process, or on several under `accelerate launch`."""

from collections.abc import Callable

from frostline.launch import distributed_run
from frostline.records.result import RunResult
from frostline.records.run_context import RunContext
from frostline.spec import RunSpec

__all__ = ["run", "runner_of"]


def runner_of(spec: RunSpec) -> Callable[[RunSpec, RunContext], RunResult]:
    """Returns what trains a run: this process alone, or several, as `runtime.num_processes` says."""
    if spec.runtime.num_processes > 1:
        return distributed_run.run
    from frostline.train import run as alone

    return alone


def run(spec: RunSpec, context: RunContext) -> RunResult:
    """Trains one model as `frostline.train.run` does, on as many processes as `runtime.num_processes` says."""
    return runner_of(spec)(spec, context)
