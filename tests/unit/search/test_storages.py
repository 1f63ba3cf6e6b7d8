"""Journals and databases that a study lives in."""

from __future__ import annotations

import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage

from frostline.errors import UserError
from frostline.records.trial import TrialOutcome, TrialRecord, TrialState
from frostline.search import (
    CorruptStudyError,
    Journal,
    SearchLimits,
    open_locked,
    open_url,
    queue_of,
    search,
)
from tests.unit.search.fake_search import SPACE, FakeExecutor, Killed, Quiet, go, make_plan, open_study, table


def test_a_study_is_held_by_one_parent_at_a_time(tmp_path):
    for url in (f"journal:{tmp_path / 'a.log'}", f"sqlite:///{tmp_path / 'a.db'}"):
        lock = open_locked(url, "one")
        with open_locked(url, "one"), pytest.raises(UserError, match="another sweep writes to it"), lock:
            pass
        with open_locked(url, "one") as (_storage, check):  # given back
            check()
    journal = f"journal:{tmp_path / 'a.log'}"
    with open_locked(journal, "one"), open_locked(journal, "other"):
        pass


@pytest.mark.slow
def test_a_study_is_rebuilt_from_trials_when_its_journal_is_lost(tmp_path):
    plan = make_plan(n_trials=10)
    whole = go(tmp_path, plan)
    half = tmp_path / "half"
    half.mkdir()
    with pytest.raises(Killed):
        go(half, plan, FakeExecutor(plan, kill_after=9))
    trials = [p for p in open_study(half, plan).trials() if p.state is not TrialState.WAITING]
    (half / "journal.log").unlink()
    study = open_study(half, plan)
    study.rebuild([TrialRecord.from_json(p.to_json()) for p in trials])
    study.fill(queue_of(plan, SPACE, None))
    executor = FakeExecutor(plan)
    summary = search(plan, study, executor, Quiet(), SearchLimits(total=10))
    assert table(summary.trials) == table(whole.trials)
    done = {p.number for p in trials if p.outcome is not None}
    assert not done & {number for number, rung in executor.done if rung == 1}


@pytest.mark.slow
def test_a_rebuilt_study_invents_no_trials(tmp_path):
    """Numbers between the trials are those of an earlier study, of rung 2 and of retries."""
    old = go(tmp_path, make_plan(n_trials=6, promote_fraction=1.0, rung_epochs=None)).trials
    folder = tmp_path / "new"
    folder.mkdir()
    for total, broken in ((6, {7: "ValueError: x"}), (9, {})):
        plan = make_plan(n_trials=total, retry_failed=bool(broken) is False)
        study = open_study(folder, plan)
        study.fill(queue_of(plan, SPACE, None), old)
        if plan.retry_failed:
            assert study.retry_failed() == 1
        executor = FakeExecutor(plan, broken=broken)
        summary = search(plan, study, executor, Quiet(), SearchLimits(total=total + study.num_extra))
    before, extra = table(summary.trials), study.num_extra
    assert extra == 1
    (folder / "journal.log").unlink()
    study = open_study(folder, plan)
    study.rebuild([TrialRecord.from_json(p.to_json()) for p in summary.trials], old)
    study.fill(queue_of(plan, SPACE, None), old)
    assert table(study.trials()) == before
    assert (study.num_extra, study.num_warm()) == (1, 6)
    executor = FakeExecutor(plan)
    search(plan, study, executor, Quiet(), SearchLimits(total=9 + study.num_extra))
    assert executor.done == []


def test_a_study_that_nobody_trained_in_can_be_made_anew(tmp_path):
    study = open_study(tmp_path, make_plan(n_trials=4))
    study.describe({"base": {"dataset.name": "a"}})
    study.fill(queue_of(make_plan(n_trials=4), SPACE, None))
    study.begin(4)
    assert open_study(tmp_path, make_plan()).description == {"base": {"dataset.name": "a"}}
    assert study.is_untouched
    study.reset()
    assert study.is_empty
    assert study.description is None
    go(tmp_path, make_plan(n_trials=4))
    assert not open_study(tmp_path, make_plan()).is_untouched


def test_a_study_that_only_warm_trials_are_in_is_untouched(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    plan = make_plan(n_trials=4, promote_fraction=1.0, rung_epochs=None)
    old = go(tmp_path / "old", plan)
    study = open_study(tmp_path / "new", plan)
    study.fill([], warm=old.trials)
    assert study.is_untouched
    study.tell(study.begin(8)[0], TrialOutcome(state=TrialState.COMPLETE, by_seed={0: 0.5}))
    assert not study.is_untouched


@pytest.mark.parametrize("bad", ["/nowhere/at/all.log", "garbage.log"])
def test_a_journal_that_cant_be_opened_is_one_line(tmp_path, bad):
    (tmp_path / "garbage.log").write_text("this is\nno journal\n")
    with pytest.raises(UserError, match=r"sweep\.storage=journal:.*can't be opened"):
        open_url(f"journal:{tmp_path / bad}")


def test_a_damaged_journal_is_noticed(tmp_path):
    plan = make_plan(n_trials=6)
    go(tmp_path, plan)
    lines = (tmp_path / "journal.log").read_bytes().splitlines(keepends=True)
    lines[5] = b"\x00garbage\n"
    (tmp_path / "journal.log").write_bytes(b"".join(lines))
    with pytest.raises(CorruptStudyError, match=r"journal\.log"):
        Journal(tmp_path / "journal.log").open()


def test_a_storage_out_of_reach_is_one_line_without_its_password():
    with pytest.raises(UserError) as error:
        open_url("postgresql://me:secret@127.0.0.1:1/none")
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_study_with_another_direction_is_refused(tmp_path):
    open_study(tmp_path, make_plan())
    with pytest.raises(UserError, match="another"):
        open_study(tmp_path, make_plan(), maximize=False)


@pytest.mark.slow
def test_ten_thousand_trials_in_bounded_memory(tmp_path):
    import resource

    plan = make_plan(n_trials=10_000, sampler="random", promote_fraction=1.0, rung_epochs=None)
    study = open_study(tmp_path, plan)
    study.fill([])
    trials = [
        TrialRecord(number=n, params={"freeze.depth": n % 5, "optimizer.lr": 1e-5 * (1 + n % 900)},
                    state=TrialState.COMPLETE, outcome=TrialOutcome(state=TrialState.COMPLETE, by_seed={0: n / 1e4}))
        for n in range(9_990)
    ]  # fmt: skip
    study.rebuild(trials)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    summary = search(plan, study, FakeExecutor(plan, slots=2), Quiet(), SearchLimits(total=10_000))
    assert len(summary.trials) == 10_000
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mb < 300


def test_a_database_whose_tables_another_host_is_just_making_is_waited_for(monkeypatch, tmp_path):
    from frostline.search import storages

    real, failed = storages.RDBStorage, []

    def busy(url, engine_kwargs):
        if len(failed) < 2:
            failed.append(url)
            raise RuntimeError('duplicate key value violates unique constraint "pg_type_typname_nsp_index"')
        return real(url, engine_kwargs=engine_kwargs)

    monkeypatch.setattr(storages, "MAKING_S", (0.01, 0.01))
    monkeypatch.setattr(storages, "RDBStorage", busy)
    assert open_url(f"sqlite:///{tmp_path / 'a.db'}") is not None
    assert len(failed) == 2
    monkeypatch.setattr(storages, "MAKING_S", ())
    failed.clear()
    with pytest.raises(UserError, match=r"sweep\.storage=sqlite:.*duplicate key"):
        open_url(f"sqlite:///{tmp_path / 'b.db'}")


def test_what_a_restarting_database_cut_off_is_asked_once_more(tmp_path, monkeypatch, caplog):
    study = open_study(tmp_path, make_plan(n_trials=4, promote_fraction=1.0, rung_epochs=None))
    study.fill([])
    number, _ = study.begin(4)
    real, cut = JournalStorage.set_trial_state_values, []

    def break_off(*arguments, **options):
        done = real(*arguments, **options)
        if not cut:  # it was done, and the answer was lost
            cut.append(arguments)
            raise StorageInternalError("server closed the connection unexpectedly")
        return done

    monkeypatch.setattr(JournalStorage, "set_trial_state_values", break_off)
    study.tell(number, TrialOutcome(state=TrialState.COMPLETE, by_seed={0: 0.5}))
    (trial,) = study.trials()
    assert (trial.state, trial.quality) == (TrialState.COMPLETE, 0.5)
    assert "server closed the connection unexpectedly; trying again" in caplog.text

    def broken(*arguments, **options):
        raise StorageInternalError("connection lost")

    monkeypatch.setattr(JournalStorage, "get_all_trials", broken)
    with pytest.raises(StorageInternalError, match="connection lost"):
        study.trials()
