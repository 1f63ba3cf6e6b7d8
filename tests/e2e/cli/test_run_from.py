"""`frostline run --from RUN`: a recorded config once more, with keys or groups changed."""

import pytest

from frostline.config.recorded import read_spec
from frostline.records.result import RunResult


@pytest.fixture
def first(frostline, tiny_overrides, in_tmp):
    code, _, err = frostline("run", *tiny_overrides, "freeze.depth=2", "tracking=off", "hydra.run.dir=first")
    assert code == 0, err
    return in_tmp / "first"


def test_it_is_the_same_run_again(frostline, first, in_tmp):
    code, out, err = frostline("run", "--from", "first", "tracking=off", "hydra.run.dir=again")
    assert code == 0, err
    assert "run_dir: again" in out
    one, two = RunResult.read(first), RunResult.read(in_tmp / "again")
    assert (one.spec_digest, one.weights_sha256, one.metrics) == (two.spec_digest, two.weights_sha256, two.metrics)


def test_keys_and_groups_are_changed(frostline, first, in_tmp):
    words = ["seed=3", "freeze=head", "training.epochs=2", "tracking=off", "hydra.run.dir=other"]
    code, _, err = frostline("run", "--from=first", *words)
    assert code == 0, err
    before, after = read_spec(first).flat(), read_spec(in_tmp / "other").flat()
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    changed -= {"runtime.progress"}
    assert changed == {"seed", "freeze.name", "freeze.depth", "training.epochs"}


def test_a_group_that_is_chosen_anew_comes_with_its_keys(frostline, first, in_tmp, tiny_csv):
    (in_tmp / "new.csv").write_text(tiny_csv.read_text().replace("text,label", "review,mood"))
    data = ["dataset=csv", "dataset.location=new.csv", "dataset.text_column=review", "dataset.label_column=mood"]
    code, _, err = frostline("run", "--from", "first", *data, "tracking=off", "hydra.run.dir=other")
    assert code == 0, err
    assert read_spec(in_tmp / "other").dataset.text_column == "review"
    assert RunResult.read(first).weights_sha256 == RunResult.read(in_tmp / "other").weights_sha256  # the same rows


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.lrr=1"], "did you mean 'optimizer.lr'?"),
        (["freeze.depth=9"], "so give 0 to 4"),
        (["freeze=heads"], "did you mean 'head'?"),
        (["-m", "seed=1,2"], "trains one run"),
    ],
)
def test_a_change_that_can_not_be_made_gets_one_line(frostline, first, in_tmp, words, message):
    code, _, err = frostline("run", "--from", "first", *words)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (in_tmp / "runs").exists()


def test_a_run_that_is_not_there(frostline, in_tmp):
    code, _, err = frostline("run", "--from", "nothing")
    assert code == 2
    assert "nothing: no run's folder" in err
