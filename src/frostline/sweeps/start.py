"""Prepares a sweep command: name, launcher, trials of an earlier sweep, log."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from frostline.errors import SpecError, UserError
from frostline.records.run_folder import LOG_FILE
from frostline.records.trial import TrialRecord, TrialState
from frostline.search import open_url, study_names
from frostline.spec import PrunerName
from frostline.sweeps.folder import SweepFolder, free_name, read_description
from frostline.sweeps.read_config import Sweep
from frostline.sweeps.recovery import notes_of, recover

log = logging.getLogger(__name__)


def renamed(sweep: Sweep) -> Sweep:
    """Returns the sweep under the first name that neither a folder nor a study of its storage has."""
    plan = sweep.plan
    taken = study_names(open_url(plan.storage)) if plan.storage is not None else []
    target = free_name(sweep.folder, taken)
    return replace(sweep, folder=target, plan=replace(plan, name=target.name))


def for_batches(sweep: Sweep, launcher: str) -> Sweep:
    """Returns the sweep as a launcher that trains in batches can do it: without pruner and rungs."""
    plan, notices = sweep.plan, list(sweep.notices)
    if plan.pruner.name is not PrunerName.NONE or plan.has_rungs:
        plan = replace(plan, pruner=replace(plan.pruner, name=PrunerName.NONE), rung_epochs=None, promote_fraction=1.0)
        notices.append(f"{launcher} trains in batches: every trial is trained to its end, without pruner and rungs")
    return replace(sweep, plan=plan, notices=tuple(notices))


def warm_start_trials_of(sweep: Sweep) -> list[TrialRecord]:
    """Returns the finished trials of an earlier sweep that lie in this one's space.

    Raises:
        UserError: There are none.
    """
    name = sweep.plan.warm_start
    if name is None:
        return []
    folder = Path(name) if Path(name).is_dir() else sweep.folder.parent / name
    trials: Sequence[TrialRecord] = []
    if folder.is_dir():
        recovery = recover(SweepFolder(folder), read_description(folder))
        trials = recovery.trials
        for note in notes_of(recovery):
            log.warning("%s", note)
    if trials:
        training, other = sweep.job.run.training, read_description(folder)
        theirs = (other["objective"], other["direction"])
        if theirs != (training.objective, training.direction.value):
            raise UserError(
                f"sweep.warm_start={name}: its objective is {theirs[0]} ({theirs[1]}), this sweep's is "
                f"{training.objective} ({training.direction.value}): its values don't compare"
            )
    usable = []
    for trial in trials:
        is_finished = trial.state is TrialState.COMPLETE and trial.outcome is not None
        if is_finished and trial.copy_of is None and not trial.is_baseline:
            with contextlib.suppress(SpecError):
                sweep.space.check(trial.params)
                usable.append(trial)
    if not usable:
        raise UserError(f"sweep.warm_start={name}: no finished trials of this space lie in {folder}")
    return usable


@contextmanager
def sweep_log(folder: Path) -> Iterator[None]:
    """Keeps what is logged during a sweep in a file of its folder."""
    handler = logging.FileHandler(folder / f"sweep-{LOG_FILE}", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger("frostline").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("frostline").removeHandler(handler)
        handler.close()
