"""Which models of a sweep's trials stay on the disk while it is under way."""

import yaml

from frostline import paths
from frostline.records.trial import TrialOutcome, TrialRecord, TrialState
from frostline.spec import KeepModels, SweepSpec
from frostline.spec.decode import decode
from frostline.sweeps.folder import SweepFolder
from frostline.sweeps.trial_files import TrialFiles


def a_plan(keep):
    values = yaml.safe_load((paths.sweeps_dir() / "sweep" / "_base" / "plan.yaml").read_text(encoding="utf-8"))["sweep"]
    values = {key: value for key, value in values.items() if key not in {"space", "enqueue"}}
    return decode(SweepSpec, {**values, "name": "s", "keep_models": keep.value}, "sweep")


def trained(folder, number):
    (folder / f"{number:03d}" / "model").mkdir(parents=True)
    outcome = TrialOutcome(state=TrialState.COMPLETE, by_seed={0: 0.5 + 0.001 * number})
    return TrialRecord(number=number, params={"freeze.depth": number % 7}, state=TrialState.COMPLETE, outcome=outcome)


def models_after(tmp_path, keep, count, judged):
    (tmp_path / "s").mkdir()
    with SweepFolder(tmp_path / "s") as folder:
        files = TrialFiles(folder, a_plan(keep), True, count, judged)
        trials = []
        for number in range(count):
            trials.append(trained(folder.folder, number))
            files.ended(trials[-1], trials)
    return sorted(int(path.parent.name) for path in (tmp_path / "s").glob("*/model"))


def test_those_that_a_level_may_be_judged_by_stay_and_of_many_trials_they_are_seldom_asked_for(tmp_path):
    asked = []

    def judged(trials):
        asked.append(len(trials))
        return trials[-2:]

    left = models_after(tmp_path, KeepModels.RECOMMENDED, 300, judged)
    assert asked[:50] == list(range(1, 51))
    assert len(asked) < 75
    assert asked[-1] >= 300 / 1.1
    assert set(left) == {asked[-1] - 2, asked[-1] - 1, *range(max(280, asked[-1]), 300)}  # and the best 20 since


def test_only_the_best_one_stays(tmp_path):
    assert models_after(tmp_path, KeepModels.BEST, 120, lambda trials: trials) == [119]
