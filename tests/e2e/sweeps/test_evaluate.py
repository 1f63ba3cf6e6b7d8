"""Test rows and other data sets: scored once, by the kept weights, counted again by hand; what a report says of it."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from frostline.data.load import load_rows
from frostline.errors import UserError
from frostline.records.recorder import NullRecorder
from frostline.records.result import Status
from frostline.records.run_context import RunContext
from frostline.records.run_folder import RunFolder
from frostline.train import run
from tests.conftest import sentences, write_csv
from tests.support.sweep_tools import call, trials_in


@pytest.fixture
def other_csv(tmp_path):
    return write_csv(tmp_path / "other.csv", sentences(90, seed=7))


@pytest.fixture
def train(tmp_path, make_spec, other_csv):
    count = iter(range(100))

    def trained(*overrides, others=True, resume_from=None, until_step=None):
        spec = make_spec("training.epochs=3", "dataset.test_fraction=0.2", *overrides)
        if others:
            other = replace(spec.dataset, name="other", location=str(other_csv), test_fraction=None, test_at_end=False)
            spec = replace(spec, dataset=replace(spec.dataset, also_evaluate=(other,)))
        folder = tmp_path / f"run{next(count)}"
        with RunFolder(folder, spec, ()) as recorder:
            result = run(spec, RunContext(recorder, folder, resume_from=resume_from, until_step=until_step))
        return spec, folder, result

    return trained


def by_hand(folder, texts, labels):
    """Accuracy and mean loss of a run's saved model, one text at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    right, losses = [], []
    for text, label in zip(texts, labels, strict=True):
        with torch.no_grad():
            logits = model(**tokenizer(text, truncation=True, max_length=32, return_tensors="pt")).logits[0]
        right.append(int(logits.argmax()) == label)
        losses.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(label))))
    return sum(right) / len(right), sum(losses) / len(losses)


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["off", "require"])
@pytest.mark.parametrize("depth", [2, 4])
def test_what_is_recorded_of_every_set_is_what_the_saved_model_says(train, tmp_path, cache, depth):
    spec, folder, result = train(
        "dataset.test_at_end=true", f"freeze.depth={depth}", f"runtime.cache={cache}", "optimizer.lr=3e-3"
    )
    assert result.status is Status.FINISHED
    rows = load_rows(spec.dataset, lambda _: Path(spec.dataset.location), tmp_path / "rows")
    other = load_rows(
        spec.dataset.also_evaluate[0], lambda _: Path(spec.dataset.also_evaluate[0].location), tmp_path / "rows"
    )
    table = pd.read_parquet(folder / "predictions.parquet")
    assert list(table["set"].unique()) == ["eval", "test", "other"]
    for name, there in (("eval", rows.evaluation), ("test", rows.test), ("other", other.evaluation)):
        part = table[table["set"] == name]
        assert part["row"].tolist() == list(range(len(there)))
        assert part["label"].tolist() == there["labels"]
        accuracy, loss = by_hand(folder, there["text"], there["labels"])
        assert result.metrics[f"{name}/accuracy"] == pytest.approx(accuracy)
        assert result.metrics[f"{name}/loss"] == pytest.approx(loss, rel=1e-4)
        assert (part["label"] == part["predicted"]).mean() == pytest.approx(accuracy)
        assert part["loss"].mean() == pytest.approx(loss, rel=1e-4)
    assert not set(rows.test["text"]) & {*rows.train["text"], *rows.evaluation["text"]}
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert {key.partition("/")[0] for key in last} == {"step", "test", "other"}
    assert last["test/accuracy"] == result.metrics["test/accuracy"]


@pytest.mark.slow
def test_test_rows_are_not_scored_unless_asked_and_change_nothing_else(train):
    _, folder, plain = train(others=False)
    assert not any(key.startswith("test/") for key in plain.metrics)
    assert set(pd.read_parquet(folder / "predictions.parquet")["set"]) == {"eval"}
    _, _, scored = train("dataset.test_at_end=true")
    assert scored.weights_sha256 == plain.weights_sha256
    assert scored.metrics.items() >= plain.metrics.items()


@pytest.mark.slow
def test_the_kept_weights_are_scored_whether_or_not_the_run_was_resumed(train, tmp_path):
    overrides = ("dataset.test_at_end=true", "optimizer.lr=1e-2", "training.epochs=4")
    _, whole_folder, whole = train(*overrides)
    spec, folder, paused = train(*overrides, until_step=12)
    assert paused.status is Status.PRUNED
    assert not (folder / "predictions.parquet").exists()
    with RunFolder(folder, spec, (), resume_step=12) as recorder:
        resumed = run(spec, RunContext(recorder, folder, resume_from=folder))
    assert resumed.metrics == whole.metrics
    tables = [pd.read_parquet(each / "predictions.parquet") for each in (folder, whole_folder)]
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=False, atol=1e-6)


def test_other_rows_that_are_trained_on_are_counted_and_reported(train, make_spec, tmp_path, caplog):
    spec = make_spec("dataset.eval_fraction=0.1", "dataset.seed=3")
    twin = replace(spec.dataset, name="twin", eval_fraction=0.2, seed=0)
    spec = replace(spec, dataset=replace(spec.dataset, also_evaluate=(twin,)))
    result = run(spec, RunContext(NullRecorder(), tmp_path / "run"))
    reported = result.data["also"]["twin"]
    assert reported["eval_rows"] == 32
    assert 20 < reported["overlap"] <= 32
    assert f"twin: evaluation rows whose text is trained on: {reported['overlap']} of 32" in caplog.text


def test_other_classes_are_refused_in_one_line(make_spec, tmp_path):
    spec = make_spec()
    moods = write_csv(tmp_path / "moods.csv", [(text, label[:3]) for text, label in sentences(40)])
    other = replace(spec.dataset, name="moods", location=str(moods))
    spec = replace(spec, dataset=replace(spec.dataset, also_evaluate=(other,)))
    with pytest.raises(UserError, match=r"moods has the classes neg, pos, moods has negative, positive: give them"):
        run(spec, RunContext(NullRecorder(), tmp_path / "run"))


@pytest.mark.slow
def test_from_scratch_takes_nothing_of_the_weights_file(train):
    spec, folder, result = train("freeze=none", "model.init=random", "dataset.test_at_end=true", others=False)
    assert result.status is Status.FINISHED
    assert result.provenance["weights_sha256"] == "random"
    _, _, again = train("freeze=none", "model.init=random", "dataset.test_at_end=true", others=False)
    assert again.weights_sha256 == result.weights_sha256
    _, _, pretrained = train("freeze=none", "dataset.test_at_end=true", others=False)
    assert pretrained.weights_sha256 != result.weights_sha256
    assert all(row["num_trainable"] == row["num_params"] for row in result.drift)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_sweep_says_what_its_depths_are_worth_elsewhere_and_against_another_sweep(
    tmp_path, tiny_overrides, other_csv
):
    group = tmp_path / "own" / "dataset"
    group.mkdir(parents=True)
    (group / "other.yaml").write_text(
        f"defaults: [_base/rows@_here_, _self_]\nname: other\nlocation: {other_csv}\nformat: csv\n"
    )
    tiny = [each for each in tiny_overrides if "optimizer.lr" not in each]  # it is swept
    common = [
        "--config-dir", str(tmp_path / "own"), *tiny, "dataset.test_fraction=0.3", "dataset.test_at_end=true",
        "dataset.also_evaluate=[other]", "dataset.train_rows=null", "dataset.test_rows=null", "training.max_steps=20",
        "sweep.promote_fraction=1", "sweep.space.optimizer.lr=[3e-3]", "tracking=off",
    ]  # fmt: skip
    done = call(
        "sweep", "study", *common, "sweep.name=ours", "sweep.space.freeze.depth=[0,2,4]", "sweep.seeds=[0,1,2]",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {trial.depth: trial for trial in trials_in(tmp_path / "runs" / "ours")}
    assert {name: sorted(values) for name, values in found[2].outcome.scores.items()} == {
        "test": [0, 1, 2], "other": [0, 1, 2],
    }  # fmt: skip
    result = json.loads((tmp_path / "runs" / "ours" / "000" / "s1" / "result.json").read_text())
    assert trials_in(tmp_path / "runs" / "ours")[0].outcome.scores["other"][1] == result["metrics"]["other/accuracy"]
    assert re.search(r"freeze\.depth +eval +test +other", done.stdout)
    assert "negative transfer" in done.stdout
    assert "the head-only probe on any set" in done.stdout or "worse than the head-only probe" in done.stdout
    scratch = call(
        "sweep", "study", *common, "sweep.name=scratch", "freeze=none", "sweep.space.freeze.depth=null",
        "model.init=random", "sweep.seeds=[0]", cwd=tmp_path,
    )  # fmt: skip
    assert scratch.returncode == 0, scratch.stderr
    again = call("report", "ours", "--against", "scratch", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "worse than scratch (lr3e-03)" in again.stdout
    scores = trials_in(tmp_path / "runs" / "ours")[0].outcome.scores["other"]
    with (tmp_path / "runs" / "ours" / "report" / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["other"]) == pytest.approx(sum(scores.values()) / 3)
    elsewhere = call(
        "sweep", "study", *common, "sweep.name=elsewhere", "sweep.space.freeze.depth=[4]", "sweep.seeds=[0]",
        "dataset.seed=7", cwd=tmp_path,
    )  # fmt: skip
    assert elsewhere.returncode == 0, elsewhere.stderr
    refused = call("report", "ours", "--against", "elsewhere", cwd=tmp_path)
    assert refused.returncode == 2
    assert "--against elsewhere: was judged on other rows: dataset.seed: 0 -> 7" in refused.stderr
    missing = call("report", "ours", "--against", "nothing", cwd=tmp_path)
    assert missing.returncode == 2
    assert "no sweep of this name" in missing.stderr
