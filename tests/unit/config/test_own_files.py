"""Config files of the user's own: by path, in FROSTLINE_CONFIG_DIR, and without their first lines."""

import pytest

from frostline.config import compose_job, compose_run, composed_sweep, with_files
from frostline.errors import SpecError
from frostline.preflight import preflight
from frostline.sweeps.names import check_name
from frostline.sweeps.read_config import read

DATASET = "defaults: [_base/rows@_here_, _self_]\nlocation: mine.csv\ntext_column: review\n"
SWEEP = """# @package _global_
defaults:
  - _base/plan
  - _self_
sweep:
  name: mine
  n_trials: 3
  space:
    freeze:
      depth: {low: 4, high: 6}
training:
  epochs: 7
"""


@pytest.fixture
def files(in_tmp):
    (in_tmp / "mine.yaml").write_text(DATASET)
    (in_tmp / "deep.yaml").write_text(SWEEP)
    return in_tmp


def read_sweep(*words):
    with composed_sweep(words, None, lambda cfg: None) as composed:
        return read(composed.cfg, composed.arguments, composed.compose, lambda job: None)


def test_a_group_is_a_file(files):
    assert compose_run(["dataset=./mine.yaml"]).dataset.text_column == "review"
    assert compose_run([f"dataset={files}/mine.yaml", "dataset.text_column=a"]).dataset.text_column == "a"


def test_a_file_that_was_edited_is_read_anew(files):
    assert compose_run(["dataset=./mine.yaml"]).dataset.location == "mine.csv"
    (files / "mine.yaml").write_text(DATASET.replace("mine.csv", "yours.csv"))
    assert compose_run(["dataset=./mine.yaml"]).dataset.location == "yours.csv"


def test_a_sweep_is_a_file(files):
    sweep = read_sweep("+sweep=./deep.yaml", "dataset=./mine.yaml")
    assert (sweep.plan.name, sweep.plan.n_trials, sweep.job.run.training.epochs) == ("mine", 3, 7)
    assert sweep.job.run.dataset.text_column == "review"


def test_a_folder_named_by_a_variable(files, monkeypatch):
    (files / "own" / "dataset").mkdir(parents=True)
    (files / "own" / "dataset" / "moods.yaml").write_text(DATASET)
    monkeypatch.setenv("FROSTLINE_CONFIG_DIR", "own")
    assert compose_run(["dataset=moods"]).dataset.text_column == "review"
    monkeypatch.setenv("FROSTLINE_CONFIG_DIR", "none")
    with pytest.raises(SpecError, match="FROSTLINE_CONFIG_DIR=none: no such folder"):
        compose_run([])


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("dataset=./none.yaml", "dataset=./none.yaml: No such file"),
        ("dataset=./2 moods.yaml", "name the file by a word"),
        ("dataset=./csv.yaml", "there is a ready-made dataset of this name"),
        ("dataset=./latin.yaml", "is not UTF-8"),
        ("dataset=./bare.yaml", "dataset: its file lacks its first lines"),
        ("model=./bare.yaml", "model: its file lacks its first lines"),
        ("dataset=./deep.yaml", "dataset=./deep.yaml: is a file of a sweep: frostline sweep ./deep.yaml"),
        ("+sweep=./mine.yaml", "sweep=./mine.yaml: is a file of a dataset or a model: give dataset=./mine.yaml"),
    ],
)
def test_what_is_wrong_with_a_file_gets_one_line(files, word, words):
    for name in ("2 moods", "csv"):
        (files / f"{name}.yaml").write_text(DATASET)
    (files / "latin.yaml").write_bytes("# caf\u00e9\n".encode("latin-1"))
    (files / "bare.yaml").write_text("location: mine.csv\n")
    with pytest.raises(SpecError) as caught:
        compose_job([word])
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "text", [SWEEP.replace("# @package _global_\n", ""), SWEEP.replace("  - _base/plan\n", "")], ids=["package", "plan"]
)
def test_a_sweep_without_its_first_lines_is_never_a_run_of_all_defaults(files, text):
    (files / "bad.yaml").write_text(text)
    with pytest.raises(SpecError, match=r"sweep: its file lacks its first line"):
        read_sweep("+sweep=./bad.yaml")
    with pytest.raises(SpecError, match=r"sweep: its file lacks its first line"):
        preflight(compose_job(["+sweep=./bad.yaml"]))


def test_words_that_name_no_file_stay_as_they_are():
    words = ["dataset.location=a.yaml", "freeze.depth=1", "hydra.run.dir=b.yaml", "model=path"]
    assert with_files(words) == words


def test_each_choice_of_a_multirun_may_be_a_file(files):
    (files / "other.yaml").write_text(DATASET.replace("mine.csv", "other.csv"))
    assert with_files(["dataset=./mine.yaml,movie_reviews,other.yaml"]) == ["dataset=mine,movie_reviews,other"]


def test_two_files_of_one_name_are_refused(files):
    (files / "a").mkdir()
    (files / "a" / "mine.yaml").write_text(DATASET.replace("mine.csv", "other.csv"))
    with pytest.raises(SpecError, match=r"two files of one name: rename one"):
        with_files(["dataset=mine.yaml,a/mine.yaml"])


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("sweep.log_best_model=false", "set sweep.log_best_model=true"),
        ("sweep.keep_models=none", "set sweep.keep_models=recommended"),
    ],
)
def test_a_sweep_without_a_model_registers_none(word, words):
    with pytest.raises(SpecError) as caught:
        read_sweep("+sweep=lr_x_depth", "tracking.register=moods", word)
    assert words in str(caught.value)


def test_a_folder_that_nobody_named_is_hinted_at(files):
    (files / "conf" / "sweep").mkdir(parents=True)
    (files / "conf" / "dataset").mkdir()
    (files / "conf" / "sweep" / "deep.yaml").write_text(SWEEP)
    (files / "conf" / "dataset" / "moods.yaml").write_text(DATASET)
    with pytest.raises(
        SpecError, match=r"dataset=moods: no such choice.*moods\.yaml: export FROSTLINE_CONFIG_DIR=conf$"
    ):
        compose_run(["dataset=moods"])
    with pytest.raises(SpecError, match=r"no such sweep.*for conf/sweep/deep\.yaml: export FROSTLINE_CONFIG_DIR=conf$"):
        check_name("deep", has_own=False)
