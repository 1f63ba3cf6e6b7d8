"""Facts of Optuna that the search relies on, or works around: an upgrade that changes one is noticed here."""

from __future__ import annotations

import contextlib
import json
import math
import warnings

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState

optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture
def study():
    return optuna.create_study(direction="maximize")


def test_minus_infinity_is_accepted_as_a_value(study):
    """So `checked` refuses it before: it would be the best of a study that minimizes."""
    study.tell(study.ask(), -math.inf)
    assert study.trials[0].state is TrialState.COMPLETE


def test_a_text_that_looks_like_a_number_leaves_the_trial_running(study):
    trial = study.ask()
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        study.tell(trial, "1.5")
    assert study.trials[0].state is TrialState.RUNNING


def test_several_objectives_have_no_reports():
    trial = optuna.create_study(directions=["maximize", "minimize"]).ask()
    with pytest.raises(NotImplementedError):
        trial.report(1.0, 1)
    with pytest.raises(NotImplementedError):
        trial.should_prune()


def test_a_running_trial_can_be_taken_up_again_with_its_parameters(study):
    first = study.ask()
    value = first.suggest_float("x", 0, 1)
    again = Trial(study, first._trial_id)
    assert again.suggest_float("x", 0, 1) == value


def test_appending_to_a_torn_journal_line_makes_it_unreadable(tmp_path):
    """So `Journal.open` cuts a torn last line off."""
    path = tmp_path / "journal.log"
    study = optuna.create_study(storage=JournalStorage(JournalFileBackend(str(path))))
    study.ask()
    with path.open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    again = optuna.load_study(study_name=study.study_name, storage=JournalStorage(JournalFileBackend(str(path))))
    assert len(again.trials) == 1  # a torn line is passed over
    with pytest.raises((json.JSONDecodeError, AttributeError)):
        again.ask()
    JournalFileBackend(str(path)).append_logs([{"op_code": 0}])
    with pytest.raises(json.JSONDecodeError):
        JournalStorage(JournalFileBackend(str(path)))


def test_a_pruned_trial_takes_its_last_report_as_its_value(study):
    trial = study.ask()
    trial.report(0.3, 1)
    study.tell(trial, state=TrialState.PRUNED)
    assert study.trials[0].value == 0.3


def test_the_gp_sampler_learns_from_complete_trials_only():
    """Why sweep.sampler=gp refuses rungs."""
    import inspect

    from optuna.samplers._gp import sampler

    source = inspect.getsource(sampler)
    assert "states = (TrialState.COMPLETE, TrialState.RUNNING)" in source
    assert "TrialState.PRUNED" not in source
