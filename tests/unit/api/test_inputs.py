"""Rows and models that a program holds, as overrides."""

from pathlib import Path

import datasets
import pytest
from transformers import AutoModel, AutoTokenizer

from frostline.api.inputs import Rows, list_of, model_overrides
from frostline.api.tables import store
from frostline.config import compose_run
from frostline.errors import DataError, ModelError, SpecError
from frostline.spec import Format, Source

ROWS = [{"review": "a good film", "mood": "good"}, {"review": "a bad film", "mood": "bad"}]


def test_rows_in_memory_name_their_file_and_columns():
    spec = compose_run(Rows(train=ROWS, evaluate=ROWS[:1], text="review", label="mood").overrides()).dataset
    assert spec.location == str(store(ROWS, "train").path)
    assert spec.eval_from == str(store(ROWS[:1], "evaluate").path)
    assert (spec.text_column, spec.label_column, spec.format) == ("review", "mood", Format.PARQUET)


def test_class_names_of_a_dataset_keep_their_order():
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]})
    rows = rows.cast_column("label", datasets.ClassLabel(names=["z, last", "it's"]))
    assert compose_run(Rows(train=rows).overrides()).dataset.label_names == ("z, last", "it's")


@pytest.mark.parametrize(
    ("name", "group"),
    [("a.csv", "csv"), ("a.tsv", "tsv"), ("a.jsonl", "jsonl"), ("b b.parquet", "parquet"), ("c,d.csv.gz", "csv")],
)
def test_a_file_is_read_by_its_ending(name, group):
    words = Rows(train=Path(name), text="t").overrides()
    assert words[0] == f"dataset={group}"
    assert compose_run(words).dataset.location == name


def test_a_ready_made_data_set_by_its_name():
    assert Rows(train="movie_reviews").overrides() == ["dataset=movie_reviews"]


def test_configs_of_ones_own(in_tmp, monkeypatch):
    (in_tmp / "own/dataset").mkdir(parents=True)
    (in_tmp / "own/model").mkdir()
    (in_tmp / "own/dataset/moods.yaml").write_text("defaults: [_base/rows@_here_, _self_]\nlocation: mine.csv\n")
    (in_tmp / "own/model/small.yaml").write_text("defaults: [_base/model@_here_, _self_]\nlocation: small\n")
    by_path = [*Rows(train="own/dataset/moods.yaml").overrides(), *model_overrides("own/model/small.yaml")]
    assert (compose_run(by_path).dataset.location, compose_run(by_path).model.location) == ("mine.csv", "small")
    monkeypatch.setenv("FROSTLINE_CONFIG_DIR", "own")
    by_name = [*Rows(train="moods").overrides(), *model_overrides("small")]
    assert compose_run(by_name) == compose_run(by_path)


def test_a_folder_holds_images(tmp_path):
    spec = compose_run(Rows(train=tmp_path).overrides()).dataset
    assert (spec.location, spec.image_column) == (str(tmp_path), "image")


def test_a_task_brings_its_training():
    spec = compose_run(Rows(train=ROWS, text="review", label="mood", task="multi_label").overrides())
    assert spec.dataset.task.name == "multi_label"
    assert spec.training.objective == "f1_micro"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (Rows(train=ROWS, text="revew"), "text=revew: train has no such column (did you mean 'review'?)"),
        (Rows(train=ROWS, text="review", label="moods"), "label=moods"),
        (Rows(train="movie_revews"), "did you mean 'movie_reviews'?"),
        (Rows(evaluate=ROWS), "evaluate: give train, too"),
        (Rows(text="review"), "text: names a column of train, which is not given"),
        (Rows(train=ROWS, text="review"), "label: name the column of the label; train has mood, review"),
        (Rows(train=ROWS, label="mood", evaluate="tweets"), "evaluate=tweets: no such file"),
        (Rows(train=ROWS, evaluate=[{"other": 1}], text="review", label="mood"), "evaluate has no such column"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_wrong_with_rows_gets_one_line(rows, words):
    with pytest.raises(DataError) as caught:
        rows.overrides()
    assert words in str(caught.value)


def test_models_by_name_folder_and_repository(tmp_path):
    assert model_overrides(None) == []
    assert model_overrides("minilm") == ["model=minilm"]
    assert compose_run(model_overrides(tmp_path)).model.location == str(tmp_path)
    hub = compose_run(model_overrides("google/bert_uncased_L-2_H-128_A-2")).model
    assert (hub.source, hub.location) == (Source.HUB, "google/bert_uncased_L-2_H-128_A-2")


def test_a_model_in_memory_is_kept_under_its_content(tiny_model):
    model, tokenizer = AutoModel.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    place = compose_run(model_overrides(model, tokenizer)).model.location
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in Path(place).iterdir()}
    assert model_overrides(model) == model_overrides(model, tokenizer)  # it knows where it is from
    next(model.parameters()).data += 1
    assert compose_run(model_overrides(model, tokenizer)).model.location != place
    assert not list(Path(place).parent.glob(".writing-*"))


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        ("minlm", SpecError, "did you mean 'minilm'?"),
        (3, ModelError, "a int is no model of transformers"),
    ],
)
def test_what_is_no_model_gets_one_line(model, error, words):
    with pytest.raises(error) as caught:
        model_overrides(model)
    assert words in str(caught.value)


@pytest.mark.parametrize("overrides", ["sweep.n_trials=5", {"sweep.n_trials": 5}, [5]])
def test_overrides_are_a_list(overrides):
    with pytest.raises(SpecError, match="overrides: give a list of texts"):
        list_of(overrides)


def test_a_tokenizer_is_for_a_model_in_memory():
    with pytest.raises(SpecError, match="minilm brings its own"):
        model_overrides("minilm", tokenizer=object())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: Rows(train=ROWS, text=["review", "mood"], label="mood").overrides(),
            "text: give one name, not ['review'",
        ),
        (lambda: Rows(train=ROWS, text="review", label="mood", task=3).overrides(), "task: give one name, not 3"),
        (lambda: model_overrides("./nomodel"), "model=./nomodel: no such folder, and no ready-made model"),
        (lambda: model_overrides("~/nomodel"), "model=~/nomodel: no such folder"),
    ],
)
def test_what_names_nothing_gets_one_line(call, words):
    with pytest.raises((DataError, SpecError)) as caught:
        call()
    assert words in str(caught.value)
