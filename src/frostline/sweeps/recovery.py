"""The trials of a sweep, from whichever record of them is whole: each trial's file, the study, the runs' results.

A trial stands in three places: `trial.json` in its folder, the study's journal, and the results of its runs. A kill,
a full disk or a bad sector can take one of them; the others must not lead to another answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from frostline.config import value_from_text
from frostline.errors import RunFailedError, UserError
from frostline.records.result import RESULT_FILE, Cause, RunResult, Status
from frostline.records.run_folder import OVERRIDES_FILE, check_files
from frostline.records.trial import BASELINE_NUMBER, TrialOutcome, TrialRecord, TrialState
from frostline.spec import Params
from frostline.sweeps.folder import BASELINE_FOLDER, JOURNAL_FILE, TRIAL_FILE, SweepFolder
from frostline.sweeps.trial_outcome import outcome_of


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What is known of a sweep's trials.

    Attributes:
        trials: By number, the baseline first.
        notes: What was damaged and is known from another record, a line each.
        unreadable: Folders of trials that were trained, and of which no whole record is left.
    """

    trials: Sequence[TrialRecord]
    notes: Sequence[str]
    unreadable: Sequence[Path]


def recover(sweep: SweepFolder, description: Mapping[str, Any]) -> Recovery:
    """Reads the trials of a sweep; nothing is written.

    Args:
        sweep: Its folder.
        description: Its `sweep.json`.
    """
    trials = {trial.number: trial for trial in sweep.read_trials()}
    trained = [(number, folder) for number, folder in _trained(sweep) if number not in trials]
    numbers = [number for number in trials if number != BASELINE_NUMBER]
    has_gaps = bool(numbers) and len(numbers) < max(numbers) - min(numbers) + 1
    study: dict[int, TrialRecord] = {}
    if trained or has_gaps:  # Optuna takes a second to import
        study = {trial.number: trial for trial in _trials_in_journal(sweep.folder, str(description["name"]))}
    notes: list[str] = []
    unreadable: list[Path] = []
    for number, folder in trained:
        is_there = (folder / TRIAL_FILE).exists()
        known, source = study.get(number), JOURNAL_FILE
        if known is None or known.outcome is None:
            known, source = _from_results(folder, number, description), "the results of its runs"
        if known is not None:
            trials[number] = known
            what = "is damaged" if is_there else "is missing"
            notes.append(f"{folder / TRIAL_FILE}: {what}; the trial is taken from {source}")
        elif is_there or _has_damaged_result(folder):
            unreadable.append(folder)
        # else it is under way: not all of its runs have ended
    for number, trial in study.items():  # its whole folder is missing
        if number not in trials and trial.outcome is not None and not sweep.trial_folder(number).exists():
            trials[number] = trial
            notes.append(f"{sweep.trial_folder(number)}: is missing; the trial is taken from {JOURNAL_FILE}")
    return Recovery(trials=sorted(trials.values(), key=lambda trial: trial.number), notes=notes, unreadable=unreadable)


def check_reportable(folder: Path, recovery: Recovery) -> None:
    """Checks that a report can be made of what is left of a sweep.

    Args:
        folder: The sweep's, for the message.
        recovery: From `recover`.

    Raises:
        RunFailedError: Some of its trials can't be read.
        UserError: None has started.
    """
    if recovery.unreadable:
        raise RunFailedError(
            f"{folder}: no report: {len(recovery.unreadable)} of its trials can't be read; the sweep's own "
            "command trains them again"
        )
    if not recovery.trials:
        raise UserError(f"{folder}: no trial of this sweep has started yet")


def behind(study: Sequence[TrialRecord], recorded: Sequence[TrialRecord]) -> list[int]:
    """Returns the numbers of the trials of which a study knows less than their own records.

    Args:
        study: Its trials.
        recorded: From `recover`.
    """
    known = {trial.number: trial for trial in study}
    return [trial.number for trial in recorded if _is_ahead(trial, known.get(trial.number))]


def merged(study: Sequence[TrialRecord], recorded: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Returns all trials, each from the record that knows more of it."""
    trials = {trial.number: trial for trial in study if trial.outcome is not None}
    for trial in recorded:
        known = trials.get(trial.number)
        if known is None or _is_ahead(trial, known):
            further = {**(known.replicates if known is not None else {}), **trial.replicates}
            trials[trial.number] = replace(trial, replicates=further)
    return sorted(trials.values(), key=lambda trial: trial.number)


def _is_ahead(recorded: TrialRecord, known: TrialRecord | None) -> bool:
    if recorded.outcome is None:
        return False
    if known is None or _progress(recorded) > _progress(known):
        return True
    is_same = _progress(recorded) == _progress(known)
    return (is_same and recorded.params != known.params) or bool(recorded.replicates.keys() - known.replicates.keys())


def _progress(trial: TrialRecord) -> int:
    if trial.outcome is None:
        return 0
    return 1 if trial.is_paused else 2 if trial.rung == 1 else 3


def _trained(sweep: SweepFolder) -> list[tuple[int, Path]]:
    """Returns number and folder of each trial with a file of its own, or with a run that has ended."""
    trials = []
    for folder in sorted(sweep.folder.iterdir()):
        number = int(folder.name) if re.fullmatch(r"\d{3,}", folder.name) else None
        number = BASELINE_NUMBER if folder.name == BASELINE_FOLDER else number
        if number is None or folder.is_symlink() or not folder.is_dir():
            continue
        runs = [folder / RESULT_FILE, *folder.glob(f"s*/{RESULT_FILE}")]
        if (folder / TRIAL_FILE).exists() or any(run.exists() for run in runs):
            trials.append((number, folder))
    return trials


def _has_damaged_result(folder: Path) -> bool:
    for path in (folder / RESULT_FILE, *folder.glob(f"s*/{RESULT_FILE}")):
        if path.is_file():
            try:
                RunResult.read(path.parent)
            except UserError:
                return True
    return False


def _trials_in_journal(folder: Path, name: str) -> list[TrialRecord]:
    path = folder / JOURNAL_FILE
    if not path.is_file():
        return []
    from frostline.search import read_trials

    return read_trials(path, name)


def _from_results(folder: Path, number: int, description: Mapping[str, Any]) -> TrialRecord | None:
    """Returns a trial as its runs' results have it; None if they hold no outcome."""
    if number == BASELINE_NUMBER:
        return None
    plan = description["plan"]
    seeds: Sequence[int] = plan["seeds"] or ()
    several = len(seeds) > 1
    own = [folder / f"s{seed}" for seed in seeds] if several else [folder]
    try:
        params = _params_of(own[0], description)
        results = [_result(run) for run in own if (run / RESULT_FILE).is_file()]
        outcome = _outcome(results, len(own))
        further = {
            seed: _outcome([_result(run)], 1)
            for run in folder.glob("s[0-9]*")
            if (seed := int(run.name.removeprefix("s"))) not in seeds and (run / RESULT_FILE).is_file()
        }
    except (OSError, ValueError, KeyError, TypeError, UserError, yaml.YAMLError):
        return None
    if outcome is None:
        return None
    is_over = outcome.state is TrialState.COMPLETE and not outcome.paused
    return TrialRecord(
        number=number, params=params, state=TrialState.PRUNED if outcome.paused else outcome.state, outcome=outcome,
        rung=2 if is_over and float(plan.get("promote_fraction") or 1.0) < 1.0 else 1,
        replicates={seed: each for seed, each in further.items() if each is not None},
    )  # fmt: skip


def _result(run: Path) -> tuple[int, RunResult]:
    from frostline.config.recorded import read_spec

    return read_spec(run).seed, RunResult.read(run)


def _outcome(results: Sequence[tuple[int, RunResult]], num_runs: int) -> TrialOutcome | None:
    statuses = {result.status for _, result in results}
    if not results or Status.KILLED in statuses:
        return None
    if Status.FAILED in statuses:
        return outcome_of(results, TrialState.FAILED, paused=False)
    paused = any(result.cause is Cause.PAUSED for _, result in results)
    if Status.PRUNED in statuses and not paused:
        return outcome_of(results, TrialState.PRUNED, paused=False)
    return outcome_of(results, TrialState.COMPLETE, paused=paused) if len(results) == num_runs else None


def _params_of(run: Path, description: Mapping[str, Any]) -> Params:
    """Returns the swept keys as the run was started with them.

    Raises:
        KeyError: One is missing.
        UserError: The record of them is damaged.
    """
    result = RunResult.read(run)
    if OVERRIDES_FILE in result.files:
        check_files(run, result, OVERRIDES_FILE)
    words = yaml.safe_load((run / OVERRIDES_FILE).read_text(encoding="utf-8"))
    overrides = dict(word.partition("=")[::2] for word in map(str, words))
    overrides = {key.lstrip("+"): value for key, value in overrides.items()}
    space = description["space"]
    params: Params = {key: value_from_text(overrides[key]) for key in space["groups"]}
    chosen = ",".join(str(params[key]) for key in space["groups"])
    params |= {key: value_from_text(overrides[key]) for key in space["variants"][chosen]}
    return params


def notes_of(recovery: Recovery) -> list[str]:
    """Returns what a user should know of damaged records, a line each."""
    return [*recovery.notes, *(f"{folder}: the records of this trial can't be read" for folder in recovery.unreadable)]
