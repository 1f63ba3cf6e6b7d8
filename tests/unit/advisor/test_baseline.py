"""Full fine-tuning beside the trials."""

from __future__ import annotations

import pytest

from frostline.decision import Standing
from frostline.records.trial import TrialState
from frostline.search import Journal, Study
from frostline.spec import Space
from tests.unit.advisor.fake_sweep import DEPTH, RATE, Executor, Watch, quality, sweep, table
from tests.unit.search.fake_search import Killed, make_plan


def test_full_fine_tuning_is_a_row_of_its_own_and_no_trial(tmp_path):
    better = lambda params, seed=0: quality(params, seed) + 0.06 * (params["freeze.depth"] is None)  # noqa: E731
    watch = Watch()
    summary, advisor = sweep(tmp_path / "a", Executor(better), listener=watch, full=True)
    *trials, baseline = summary.trials
    assert len(trials) == 9
    assert baseline.is_baseline
    assert baseline.params["freeze.depth"] is None
    assert 10**-4.3 < baseline.params["optimizer.lr"] < 10**-3.7  # the best rate of depth 0
    started = [line[1] for line in watch.lines if line[0] == "started"]
    assert started.index(-1) == 9  # when the search is over, before any further seed
    decision, _ = advisor.decide(summary.trials)
    assert (decision.standing, decision.recommended.level) == (Standing.SETTLED, -1.0)
    assert [level.level for level in decision.levels] == [-1, 0, 1, 2, 3, 4]
    assert len(baseline.replicates) >= 2
    # the same command trains nothing more, and a kill changes nothing
    again = Executor(better)
    assert table(sweep(tmp_path / "a", again, full=True)[0].trials) == table(summary.trials)
    assert again.done == []
    with pytest.raises(Killed):
        sweep(tmp_path / "b", Executor(better, kill_after=11), full=True)
    assert table(sweep(tmp_path / "b", Executor(better), full=True)[0].trials) == table(summary.trials)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["broken", "refused"])
def test_full_fine_tuning_that_fails_leaves_the_answer_as_it_is(tmp_path, way):
    plain, advisor = sweep(tmp_path / "plain", Executor())
    broken, _ = sweep(tmp_path / "broken", Executor(**{way: {(-1, None)}}), full=True)
    assert (broken.trials[-1].is_baseline, broken.trials[-1].state) == (True, TrialState.FAILED)
    assert broken.complete
    assert table(broken.trials[:-1]) == table(plain.trials)
    first, second = (advisor.decide(each.trials)[0] for each in (plain, broken))
    assert first.levels == second.levels


def test_a_lost_study_gets_its_full_fine_tuning_back(tmp_path):
    summary, _ = sweep(tmp_path / "a", Executor(), full=True)
    plan = make_plan(n_trials=9, sampler="frost", promote_fraction=1.0)
    space = Space(groups=(), variants={(): (DEPTH, RATE)})
    study = Study(Journal(tmp_path / "journal.log").open(), "test", plan, space, maximize=True)
    study.rebuild(summary.trials)
    assert table(study.with_baseline()) == table(summary.trials)
