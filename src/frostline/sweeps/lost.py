"""Records runs whose worker died."""

from __future__ import annotations

import logging

from frostline.files import write_atomically
from frostline.records.result import RESULT_FILE, Cause, RunResult, Status
from frostline.sweeps.retries import adopt_retry
from frostline.sweeps.trial import close_run, finished_result
from frostline.sweeps.trial_job import TrialJob

log = logging.getLogger(__name__)


def record_worker_death(trial: TrialJob, reason: str, cause: Cause) -> None:
    """Records in a trial's folder and its MLflow run how it ended, in place of its dead worker.

    A trial's runs are trained in the order of their seeds. The first one without an end is the one that was lost; those
    before it have recorded their end, or died while doing so, and those after it had not started.

    Args:
        trial: What the worker was given.
        reason: Why the worker did not record it.
        cause: The same for decisions.
    """
    for seed_run in trial.runs:
        spec, _ = adopt_retry(seed_run)
        result = finished_result(seed_run, spec)
        has_no_result = result is None
        if result is None:
            result = RunResult(
                name=spec.name(), status=Status.FAILED, reason=reason, cause=cause, spec_digest=spec.digest()
            )
            try:
                seed_run.folder.mkdir(parents=True, exist_ok=True)
                write_atomically(seed_run.folder / RESULT_FILE, result.to_json())
            except OSError as error:
                log.warning("%s: its end can't be written there (%s)", seed_run.folder, error.strerror)
        close_run(trial, seed_run, spec, result)
        if has_no_result:
            return
