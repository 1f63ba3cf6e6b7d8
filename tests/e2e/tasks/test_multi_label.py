"""Rows with several classes, or none: read, split, trained, counted, saved and asked; transformers says the same."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics as sk
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from frostline.config import compose_run
from frostline.data.load import load_rows
from frostline.errors import DataError
from frostline.records.recorder import NullRecorder
from frostline.records.result import Status
from frostline.records.run_context import RunContext
from frostline.train import run
from tests.conftest import FILLER, NEGATIVE, POSITIVE, TINY, write_csv

NAMES = ["long", "negative", "positive"]


def rows(count, separator=";"):
    rng = np.random.default_rng(0)
    found = []
    for index in range(count):
        words = list(rng.choice(FILLER, size=rng.integers(2, 7)))
        labels = []
        for name, mood in (("positive", POSITIVE), ("negative", NEGATIVE)):
            if rng.random() < 0.4:
                words.insert(int(rng.integers(len(words) + 1)), str(rng.choice(mood)))
                labels.append(name)
        labels += ["long"] if len(words) > 5 else []
        found.append((" ".join(words) + f" {index}", separator.join(labels)))
    return found


@pytest.fixture
def several(tmp_path, tiny_model):
    path = write_csv(tmp_path / "moods.csv", rows(240), header=("text", "moods"))
    return [
        "model=path", f"model.location={tiny_model}", "dataset=csv", f"dataset.location={path}", *TINY,
        "dataset.label_column=moods", "dataset.task=multi_label", "training=multi_label",
        "dataset.missing_labels=no_class",
        "training.batch_size=16", "training.max_tokens=32", "freeze=none", "optimizer.lr=3e-3", "training.epochs=20",
    ]  # fmt: skip


def bits(labels):
    return np.asarray(labels)[:, None] >> np.arange(3) & 1


@pytest.mark.slow
def test_it_learns_and_its_numbers_are_those_of_transformers_and_scikit_learn(several, tmp_path):
    spec = compose_run([*several, "dataset.test_fraction=0.2", "dataset.test_at_end=true"])
    result = run(spec, RunContext(NullRecorder(), tmp_path / "run"))
    assert result.status is Status.FINISHED, result.reason
    assert result.metrics["eval/f1_micro"] > 0.8  # the mood words decide
    data = load_rows(spec.dataset, lambda _: tmp_path / "moods.csv", tmp_path / "rows")
    assert list(data.label_names) == NAMES
    table = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model").eval()
    assert model.config.problem_type == "multi_label_classification"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    for name, part in (("eval", data.evaluation), ("test", data.test)):
        own = table[table["set"] == name]
        truth = bits(part["labels"])
        assert own["label"].tolist() == part["labels"]
        inputs = tokenizer(list(part["text"]), padding=True, return_tensors="pt")
        with torch.no_grad():
            output = model(**inputs, labels=torch.tensor(truth).float())  # transformers' own loss
        assert result.metrics[f"{name}/loss"] == pytest.approx(output.loss.item(), rel=1e-4)
        assert own["loss"].mean() == pytest.approx(output.loss.item(), rel=1e-4)
        said = (output.logits > 0).long().numpy()
        assert bits(own["predicted"]).tolist() == said.tolist()
        for key, average in (("f1_micro", "micro"), ("f1_macro", "macro")):
            wanted = sk.f1_score(truth, said, average=average, zero_division=0)
            assert result.metrics[f"{name}/{key}"] == pytest.approx(wanted)
        assert result.metrics[f"{name}/accuracy"] == (truth == said).all(1).mean()
        assert result.metrics[f"{name}/hamming_loss"] == pytest.approx((truth != said).mean())
    counts = {name: int(n) for name, n in zip(NAMES, bits(data.train["labels"]).sum(0), strict=True)}
    assert result.data["labels"]["train"] == counts


@pytest.mark.slow
def test_a_pipeline_and_predict_say_all_classes_of_a_text(several, tmp_path, frostline, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert frostline("run", *several, "tracking=off", "hydra.run.dir=r")[0] == 0
    text = "a good dreadful story"
    pipe = pipeline("text-classification", model="r/model", top_k=None, device="cpu")
    scores = {each["label"]: each["score"] for each in pipe([text])[0]}
    code, out, _ = frostline("predict", "r", text, "--json")
    assert code == 0
    reported = json.loads(out)
    assert reported["scores"] == pytest.approx(scores, abs=1e-4)
    assert reported["label"] == "negative,positive"
    assert reported["score"] == pytest.approx(min(scores["negative"], scores["positive"]), abs=1e-4)
    code, out, _ = frostline("predict", "r", "the plot of the actors")
    assert out.startswith("-\t")
    assert frostline("predict", "--vectors", "r", "--set", "eval")[0] == 0
    labels = pd.read_parquet("embeddings.parquet")["label"]
    assert {part for label in labels for part in label.split(";") if part} == set(NAMES)


def test_the_cache_changes_nothing(several, tmp_path):
    frozen = ["freeze=depth", "freeze.depth=3", "training.epochs=2"]
    plain = run(compose_run([*several, *frozen]), RunContext(NullRecorder(), tmp_path / "plain"))
    cached = run(
        compose_run([*several, *frozen, "runtime.cache=require"]), RunContext(NullRecorder(), tmp_path / "cached")
    )
    assert cached.status is Status.FINISHED
    assert cached.metrics["eval/loss"] == pytest.approx(plain.metrics["eval/loss"], abs=1e-5)


def test_lists_with_and_without_names_are_read_alike(tmp_path, several):
    made = rows(40)
    with (tmp_path / "moods.jsonl").open("w") as file:
        for text, labels in made:
            file.write(json.dumps({"text": text, "moods": [each for each in labels.split(";") if each]}) + "\n")
    with (tmp_path / "ids.jsonl").open("w") as file:
        for text, labels in made:
            file.write(json.dumps({"text": text, "moods": [NAMES.index(e) for e in labels.split(";") if e]}) + "\n")
    write_csv(tmp_path / "few.csv", made, header=("text", "moods"))
    found = []
    for name, more in (("few.csv", {}), ("moods.jsonl", {}), ("ids.jsonl", {"names": True})):
        overrides = [*several, f"dataset.location={tmp_path / name}", "dataset.format=auto"]
        if more:
            overrides.append("dataset.label_names=[long,negative,positive]")
        spec = compose_run(overrides)
        found.append(load_rows(spec.dataset, lambda _, name=name: tmp_path / name, tmp_path / "rows"))
    first = found[0]
    for other in found[1:]:
        assert other.label_names == first.label_names
        assert other.train["labels"] == first.train["labels"]
        assert other.train["text"] == first.train["text"]
    assert 0 in first.train["labels"]  # a row without a class is a row


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        ("a,x;nope", ["dataset.label_names=[x,y]"], r"label 'nope' is none of x, y"),
        ("a,x\nb,x", [], r"1 different classes; dataset.task=multi_label takes 2 to 1000 \(dataset.l.*=';'"),
        ("a,\nb,", [], r"no row has a class"),
        ("\n".join(f"t{i},c{i}" for i in range(60)), [], r"60 different values in 60 rows are no"),
        ('a,"x,y;z"', ["dataset.label_separator=','", "dataset.label_names=[x,y]"], r"label 'y;z' .*is none of x, y"),
        ("\n".join(f"t{i},x;y" for i in range(20)), [], r"all have the same classes: there is nothing to learn"),
    ],
)  # fmt: skip
def test_what_can_not_be_used_is_one_line(tmp_path, several, text, more, message):
    path = tmp_path / "bad.csv"
    path.write_text("text,moods\n" + text + "\n")
    spec = compose_run([*several, f"dataset.location={path}", *more])
    with pytest.raises(DataError, match=message):
        load_rows(spec.dataset, lambda _: path, tmp_path / "rows")


def many_rows(count, num_classes):
    """Rows of one of the first two classes, by their mood, and of some of the others, which no word tells."""
    rng = np.random.default_rng(1)
    for index in range(count):
        good = bool(rng.random() < 0.5)
        others = {int(each) for each in rng.integers(2, num_classes, rng.integers(0, 3))} | {
            2 + index % (num_classes - 2)
        }
        mood = str(rng.choice(POSITIVE if good else NEGATIVE))
        yield f"{mood} film {index}", [0 if good else 1, *sorted(others)]


@pytest.mark.slow
def test_a_row_may_have_some_of_very_many_classes(several, tmp_path, frostline, monkeypatch):
    """130 classes are three numbers a row, from the file to the decision of a sweep."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "many.jsonl"
    names = [f"c{index:03d}" for index in range(130)]
    lines = [json.dumps({"text": text, "moods": [names[i] for i in own]}) for text, own in many_rows(300, 130)]
    path.write_text("\n".join(lines) + "\n")
    given = [each for each in several if not each.startswith(("dataset=", "dataset.location", "training.epochs"))]
    given += ["dataset=jsonl", f"dataset.location={path}", "tracking=off", "optimizer.lr=1e-2"]
    steps = {}
    for size, accumulated in ((16, 1), (4, 4)):
        cut = [f"training.batch_size={size}", f"training.accumulation_steps={accumulated}", "training.epochs=1"]
        spec = compose_run([*given, *cut, "training.sampling=random", "model.init=random"])
        steps[size] = run(spec, RunContext(NullRecorder(), tmp_path / f"cut-{size}")).metrics["eval/loss"]
    assert steps[16] == pytest.approx(steps[4], rel=1e-2)  # dropout draws other numbers
    more = ("training.epochs=12", "dataset.test_fraction=0.1", "sweep.settle=0", "sweep.margin=0.2")
    sweep = [each for each in given if each not in {"freeze=none", "optimizer.lr=1e-2"}]
    code, out, err = frostline("sweep", "depth_only", *sweep, "optimizer.lr=1e-2", *more, "sweep.name=s")
    assert code == 0, err
    assert "f1_micro: posterior mean" in out
    [folder] = [each.parent for each in (tmp_path / "runs" / "s").glob("000/result.json")]
    scores = pd.read_parquet(folder / "predictions.parquet")
    assert scores["label"].map(len).eq(3).all()
    code, out, err = frostline("show", "--test", str(folder))
    assert code == 0, err
    assert "f1_micro" in out
    code, out, err = frostline("report", "s")
    assert (code, "rows are not shown" in err) == (0, False), err
    code, _, err = frostline("run", *given, f"dataset.location={too_many(tmp_path)}")
    assert (code, "1001 different classes; dataset.task=multi_label takes 2 to 1000" in err) == (2, True), err


def too_many(folder):
    path = folder / "too_many.jsonl"
    lines = [json.dumps({"text": f"film {index}", "moods": [f"c{index}"]}) for index in range(1001)]
    path.write_text("\n".join(lines) + "\n")
    return path
