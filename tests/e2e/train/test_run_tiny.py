"""Whole runs of a tiny true BERT, in this process: what holds for every run."""

import json
import re
from dataclasses import replace

import pytest
import torch

from frostline.errors import UserError
from frostline.records.recorder import Recorders
from frostline.records.result import Cause, RunResult, Status
from frostline.records.run_context import RunContext
from frostline.records.run_folder import RunFolder
from frostline.train import run
from frostline.train.loss import BatchLoss
from tests.conftest import sentences, write_csv
from tests.e2e.train.tiny_run import Spy, same_bits, weights


def test_a_run_learns_and_records_everything(train):
    result, folder, spy = train("freeze.depth=1", "training.epochs=24")
    assert result.status is Status.FINISHED
    assert result.objective.value > 0.8
    assert {p.name for p in folder.iterdir()} - {"git.diff"} == {  # that is there if this checkout has changes
        "spec.json", "overrides.yaml", "environment.json", "metrics.jsonl", "result.json", "run.log", "model",
        "predictions.parquet",
        "worst_rows.jsonl",
    }  # fmt: skip
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["compute"] == spy.started.provenance["compute"]
    assert environment["versions"] == spy.started.provenance["versions"]
    recorded = RunResult.read(folder)
    assert replace(recorded, files={}).to_json() == result.to_json()
    kept = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(recorded.files) == kept - {"result.json", "run.log"}
    data = json.loads((folder / "result.json").read_text())
    assert data["status"] == "FINISHED"
    assert data["objective"] == {"metric": "accuracy", "value": result.objective.value, "direction": "maximize"}
    assert data["params"]["num_trainable"] + data["params"]["num_frozen"] == sum(
        row["num_params"] for row in data["drift"]
    )
    assert data["cost"]["train_s"] > 0
    assert data["cost"]["peak_bytes"] > 1e8
    assert data["audit"]["frozen_unchanged"] is True
    assert data["spec_digest"] == spy.started.spec.digest()
    for key in ("versions", "platform", "compute", "weights_sha256", "data_fingerprint", "git"):
        assert key in data["provenance"]
    assert data["data"]["labels"]["train"] == {"negative": 64, "positive": 64}
    assert re.fullmatch(r"[0-9a-f]{64}", data["weights_sha256"])


def test_the_hash_of_the_trained_weights_is_that_of_their_bits(train):
    same, _, _ = train("freeze.depth=2")
    again, _, _ = train("freeze.depth=2")
    other, _, _ = train("freeze.depth=2", "seed=1")
    assert same.weights_sha256 == again.weights_sha256 != other.weights_sha256


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 4, 5])  # the first, an epoch's last, one inside the second
def test_a_run_that_ends_at_a_step_computed_what_the_whole_run_does(train, make_spec, tmp_path, step):
    whole, _, everything = train("training.epochs=2", "dataset.train_rows=64")
    spec = make_spec("training.epochs=2", "dataset.train_rows=64")
    spy = Spy()
    with RunFolder(tmp_path / "part", spec) as folder:
        result = run(spec, RunContext(Recorders([folder, spy]), tmp_path / "part", until_step=step))
    assert (result.status, result.cost.steps) == (Status.PRUNED, step)
    assert (result.cause, result.reason.split()[0]) == (Cause.PAUSED, "paused")
    assert RunResult.read(tmp_path / "part").cause is Cause.PAUSED
    assert not (tmp_path / "part" / "model").exists()
    train_lines = [(at, values) for at, values in spy.lines if "train/loss" in values]
    assert train_lines == [(at, v) for at, v in everything.lines if "train/loss" in v and at <= step]
    assert whole.status is Status.FINISHED


def test_floating_point_operations_follow_the_gradients(train):
    """Forward 2 per parameter; backward 2 for each that is trained, 2 for each that a gradient goes through."""
    found = {}
    for choice in ("none", "head", "bias_only", "norm_only"):
        result, _, _ = train(f"freeze={choice}", "training.max_steps=1", "training.epochs=null")
        found[choice] = result.cost.flops / result.cost.steps
    assert found["none"] > found["bias_only"] > found["norm_only"] > found["head"]
    assert found["bias_only"] / found["none"] == pytest.approx(4 / 6, rel=0.05)  # no gradients of its matrices
    assert found["head"] / found["none"] == pytest.approx(2 / 6, rel=0.1)


def test_the_same_command_twice_gives_the_same_bits_another_seed_does_not(train):
    (one, folder1, _), (two, folder2, _), (three, folder3, _) = train(), train(), train("seed=1")
    assert same_bits(weights(folder1), weights(folder2))
    assert (folder1 / "metrics.jsonl").read_bytes() == (folder2 / "metrics.jsonl").read_bytes()
    assert one.spec_digest == two.spec_digest
    assert not same_bits(weights(folder1), weights(folder3))
    assert one.data["labels"] == three.data["labels"]  # the split has a seed of its own
    assert one.provenance["data_fingerprint"] == three.provenance["data_fingerprint"]


@pytest.mark.slow
def test_the_saved_model_is_the_whole_model_with_label_names(train):
    from transformers import pipeline

    _, folder, _ = train("freeze=none", "training.epochs=24")
    classify = pipeline("text-classification", model=str(folder / "model"), device="cpu")
    assert classify("the film was lovely")[0]["label"] == "positive"
    assert classify("the film was dreadful")[0]["label"] == "negative"
    assert (folder / "model" / "model.safetensors").stat().st_mode & 0o044


@pytest.mark.slow
def test_regression(train, tmp_path):
    rows = [(text, str((2 if label == "positive" else -2) + len(text) / 100)) for text, label in sentences(160)]
    path = write_csv(tmp_path / "ratings.csv", rows)
    result, folder, _ = train(
        f"dataset.location={path}", "dataset.task=regression", "training=regression", "training.batch_size=16",
        "training.epochs=24", "training.max_tokens=32", "freeze=none",
    )  # fmt: skip
    assert result.status is Status.FINISHED, result.reason
    assert result.objective.metric == "spearman"
    assert result.objective.value > 0.5
    assert set(result.metrics) == {"eval/loss", "eval/mse", "eval/mae", "eval/pearson", "eval/spearman"}
    assert result.metrics["eval/loss"] == pytest.approx(result.metrics["eval/mse"], rel=1e-3)


def test_a_target_of_minus_100_is_a_target(train, tmp_path, monkeypatch):
    """Trainer takes it for a token that is masked, and would divide by too few rows."""
    seen = []
    real = BatchLoss.__call__

    def watch(self, outputs, labels, num_items_in_batch=None):
        seen.append((len(labels), int(num_items_in_batch), bool((labels == -100).any())))
        return real(self, outputs, labels, num_items_in_batch)

    monkeypatch.setattr(BatchLoss, "__call__", watch)
    rows = [(text, str(-100 if index % 2 else index)) for index, (text, _) in enumerate(sentences(64))]
    result, _, _ = train(
        f"dataset.location={write_csv(tmp_path / 'ratings.csv', rows)}", "dataset.task=regression",
        "training=regression", "training.batch_size=16", "training.max_tokens=32", "training.max_steps=2",
        "training.epochs=null", "training.evaluate=never", "training.keep=last",
    )  # fmt: skip
    assert result.status is Status.FINISHED, result.reason
    assert any(with_it for _, _, with_it in seen)
    assert all(rows == counted for rows, counted, _ in seen)


def test_pairs(train, tmp_path):
    rows = [
        (text, text if i % 4 < 2 else "other words", str(int(i % 4 < 2))) for i, (text, _) in enumerate(sentences(80))
    ]
    path = write_csv(tmp_path / "pairs.csv", rows, ("text", "second", "label"))
    result, _, _ = train(f"dataset.location={path}", "dataset.pair_column=second")
    assert result.status is Status.FINISHED


def test_fewer_rows_than_a_batch_and_one_evaluation_row(train, tmp_path):
    path = write_csv(tmp_path / "few.csv", sentences(6))
    result, _, _ = train(f"dataset.location={path}", "dataset.eval_rows=1", "training.batch_size=32")
    assert result.status is Status.FINISHED
    assert result.data["eval_rows"] == 1
    assert result.cost.steps == 1


def test_long_texts_are_cut_and_counted(train, tmp_path):
    rows = [(text + " very" * (100 if i < 10 else 0), label) for i, (text, label) in enumerate(sentences(60))]
    result, folder, _ = train(f"dataset.location={write_csv(tmp_path / 'long.csv', rows)}")
    assert sum(result.data["truncated"].values()) == 10
    assert "texts longer than training.max_tokens=32, which were cut: 10" in (folder / "run.log").read_text()


def test_max_steps_and_fractions_of_an_epoch(train):
    assert train("training.epochs=null", "training.max_steps=5")[0].cost.steps == 5
    half, _, spy = train("training.epochs=0.5")
    assert half.cost.steps == 4
    assert half.step == 4
    assert len(spy.series("eval/loss")) == 1


def test_the_learning_rate_warms_up_and_falls(train):
    _, _, spy = train("training.epochs=2", "optimizer.warmup_ratio=0.25", "optimizer.lr=1e-3")
    rates = spy.series("train/lr")
    assert len(rates) == 16
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) in (3, 4)
    assert rates[-1] < 1.5e-4


@pytest.mark.slow
def test_gradients_are_clipped(train):
    free = train("optimizer.max_grad_norm=0", "optimizer=sgd", "optimizer.lr=1e-2")
    tight = train("optimizer.max_grad_norm=1e-6", "optimizer=sgd", "optimizer.lr=1e-2")
    moved = [sum(row["sum_abs"] for row in result.drift) for result, _, _ in (free, tight)]
    assert moved[1] < moved[0] / 100


@pytest.mark.parametrize("optimizer", ["sgd", "adafactor"])
@pytest.mark.slow
def test_other_optimizers_run(train, optimizer):
    assert train(f"optimizer={optimizer}")[0].status is Status.FINISHED


@pytest.mark.slow
def test_runs_of_other_precision_in_one_process_do_not_inherit_it(train):
    plain, _, one = train()
    half, _, two = train("training.precision=bf16")
    again, _, three = train()
    assert (plain.provenance["compute"]["precision"], half.provenance["compute"]["precision"]) == ("fp32", "bf16")
    assert one.series("train/loss") == three.series("train/loss")
    assert one.series("train/loss") != two.series("train/loss")
    assert one.series("train/loss") == pytest.approx(two.series("train/loss"), rel=0.05)


def test_fp16_needs_a_gpu(train):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="training.precision=fp16 needs a GPU"):
        train("training.precision=fp16")


@pytest.mark.slow
def test_loader_workers_change_no_bit(train):
    assert same_bits(weights(train()[1]), weights(train("runtime.loader_workers=2")[1]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["freeze.depth=5"], r"freeze.depth=5: tiny has 4 blocks, so give 0 to 4"),
        (["training.max_tokens=65"], r"training.max_tokens=65: the model has 64 positions"),
        (["model.num_blocks=3"], r"model.num_blocks=3: tiny has 4 blocks"),
        (["dataset.text_column=words"], r"dataset.text_column=words: .*it has label, text"),
        (["runtime.device=mps"], r"runtime.device=mps: there is none"),
    ],
)
def test_what_is_found_only_with_the_model_or_the_data(train, overrides, message):
    with pytest.raises(UserError, match=message):
        train(*overrides)


@pytest.mark.parametrize(("flags", "precision"), [((), "fp32"), (("_is_amx_tile_supported",), "bf16")])
def test_precision_auto_is_bf16_where_the_processor_has_it(train, monkeypatch, flags, precision):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in flags)
    result, _, _ = train("freeze.depth=2", "training.precision=auto", "runtime.cache=require")
    assert result.status is Status.FINISHED
    assert result.provenance["compute"]["precision"] == precision
