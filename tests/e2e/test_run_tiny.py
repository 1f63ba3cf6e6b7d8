"""Whole runs of a tiny true BERT, in this process: what holds for every run."""

import json
import math
import re
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from frostline.errors import UserError
from frostline.records.recorder import NullRecorder, Recorders
from frostline.records.result import Cause, RunResult, Status
from frostline.records.run_context import RunContext
from frostline.records.run_folder import RunFolder
from frostline.train import run
from frostline.train.loss import BatchLoss
from tests.conftest import sentences, write_csv


class Spy(NullRecorder):
    """Keeps what it is given."""

    def __init__(self):
        self.started, self.lines, self.result = None, [], None

    def start(self, run):
        self.started = run

    def log(self, metrics, step):
        self.lines.append((step, dict(metrics)))

    def finish(self, result):
        self.result = result

    def series(self, name):
        return [values[name] for _, values in self.lines if name in values]


@pytest.fixture
def train(tmp_path, make_spec):
    count = iter(range(100))

    def call(*overrides, spec=None, resume_from=None):
        spec = spec or make_spec(*overrides)
        folder = tmp_path / f"run{next(count)}"
        spy = Spy()
        with RunFolder(folder, spec, overrides) as recorder:
            result = run(
                spec, RunContext(Recorders([recorder, spy]), folder, overrides=overrides, resume_from=resume_from)
            )
        return result, folder, spy

    return call


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def same_bits(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_learns_and_records_everything(train):
    result, folder, spy = train("freeze.depth=1", "training.epochs=24")
    assert result.status is Status.FINISHED
    assert result.objective.value > 0.8
    assert {p.name for p in folder.iterdir()} - {"git.diff"} == {  # that is there if this checkout has changes
        "spec.json", "overrides.yaml", "environment.json", "metrics.jsonl", "result.json", "run.log", "model",
        "predictions.parquet",
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


@pytest.mark.parametrize(
    ("choice", "frozen"),
    [
        (["freeze=last", "freeze.last=1"], r"embeddings|layer\.[0-2]\."),
        (["freeze=fraction", "freeze.fraction=0.5"], r"embeddings|layer\.[01]\."),
        (["freeze=blocks", "freeze.blocks=[0,2-3]"], r"embeddings|layer\.[023]\."),
        (["freeze=blocks", "freeze.blocks=[1]", "freeze.embeddings=false"], r"layer\.1\."),
        (["freeze=pattern", "freeze.pattern=[attention]"], r"attention"),
        (["freeze=bias_only"], r"bert\.(?!pooler).*(?<!\.bias)$"),
        (["freeze=norm_only"], r"bert\.(?!pooler)(?!.*LayerNorm)"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_every_way_of_freezing_leaves_its_part_bit_equal_and_trains_the_rest(train, tiny_model, choice, frozen):
    result, folder, _ = train(*choice, "training.epochs=2")
    assert result.status is Status.FINISHED, result.reason
    before, after = load_file(tiny_model / "model.safetensors"), weights(folder)
    for name, tensor in before.items():
        full = f"bert.{name}"
        if "key.bias" in name or name == "pooler.dense.bias":
            continue  # the gradient of the former is nothing but rounding
        assert torch.equal(tensor, after[full]) is bool(re.search(frozen, full)), full
    audit = result.audit
    assert (audit.frozen_unchanged, audit.absent_from_optimizer, audit.pinned_in_eval) == (True, True, True)
    assert audit.num_tensors == sum(bool(re.search(frozen, f"bert.{name}")) for name in before) + (
        2 * ("embeddings" in frozen)  # two buffers
    )
    moved = {row["part"]: row["num_trainable"] for row in result.drift}
    assert sum(moved.values()) == result.params.num_trainable


def test_a_head_that_is_frozen_is_each_seeds_own(train):
    """It is not in the weights file: what another seed drew in this process says nothing of it."""
    for seed in (0, 1):
        result, _, _ = train("freeze=pattern", "freeze.pattern=[classifier]", f"seed={seed}")
        assert result.status is Status.FINISHED, result.reason
        assert result.audit.num_tensors == 2


def test_floating_trial_operations_follow_the_gradients(train):
    """Forward 2 per parameter; backward 2 for each that is trained, 2 for each that a gradient goes through."""
    found = {}
    for choice in ("none", "head", "bias_only", "norm_only"):
        result, _, _ = train(f"freeze={choice}", "training.max_steps=1", "training.epochs=null")
        found[choice] = result.cost.flops / result.cost.steps
    assert found["none"] > found["bias_only"] > found["norm_only"] > found["head"]
    assert found["bias_only"] / found["none"] == pytest.approx(4 / 6, rel=0.05)  # no gradients of its matrices
    assert found["head"] / found["none"] == pytest.approx(2 / 6, rel=0.1)


def test_the_frozen_part_is_bit_equal_and_the_rest_moved(train, tiny_model):
    result, folder, _ = train("freeze.depth=2")
    before, after = load_file(tiny_model / "model.safetensors"), weights(folder)
    stay = {"pooler.dense.bias", "encoder.layer.3.attention.self.key.bias"}  # the gradient of the latter is 0
    for name, tensor in before.items():
        frozen = name.startswith(("embeddings.", "encoder.layer.0.", "encoder.layer.1."))
        assert torch.equal(tensor, after[f"bert.{name}"]) is frozen or name in stay, name
    drift = {row["part"]: row["sum_abs"] for row in result.drift}
    assert drift["embeddings"] == drift["block 0"] == drift["block 1"] == 0.0
    assert min(drift["block 2"], drift["block 3"], drift["head"]) > 0


@pytest.mark.parametrize(("freeze", "depth"), [("none", None), ("head", 4)])
def test_freeze_none_and_head(train, freeze, depth):
    result, _, _ = train(f"freeze={freeze}")
    assert result.freeze.depth == depth
    drift = {row["part"]: row["sum_abs"] for row in result.drift}
    assert (drift["embeddings"] > 0) is (freeze == "none")
    assert (drift["block 3"] > 0) is (freeze == "none")
    assert drift["head"] > 0


def test_the_same_command_twice_gives_the_same_bits_another_seed_does_not(train):
    (one, folder1, _), (two, folder2, _), (three, folder3, _) = train(), train(), train("seed=1")
    assert same_bits(weights(folder1), weights(folder2))
    assert (folder1 / "metrics.jsonl").read_bytes() == (folder2 / "metrics.jsonl").read_bytes()
    assert one.spec_digest == two.spec_digest
    assert not same_bits(weights(folder1), weights(folder3))
    assert one.data["labels"] == three.data["labels"]  # the split has a seed of its own
    assert one.provenance["data_fingerprint"] == three.provenance["data_fingerprint"]


def test_evaluating_does_not_disturb_training(train):
    with_eval = train("training.epochs=3", "training.keep=last")
    without = train("training.epochs=3", "training.keep=last", "training.evaluate=never")
    assert len(with_eval[2].series("eval/loss")) == 3
    assert len(without[2].series("eval/loss")) == 1
    assert same_bits(weights(with_eval[1]), weights(without[1]))
    assert with_eval[2].series("train/loss") == without[2].series("train/loss")


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture
def calm_model(own_model):
    """The tiny model without dropout: batches of another shape draw other masks."""
    config = json.loads((own_model / "config.json").read_text())
    (own_model / "config.json").write_text(json.dumps(config | NO_DROPOUT))
    return own_model


@pytest.mark.parametrize(
    "rows", [pytest.param(128, marks=pytest.mark.slow), 124, pytest.param(100, marks=pytest.mark.slow)]
)
def test_the_loss_does_not_depend_on_how_a_batch_is_cut(train, make_spec, calm_model, rows):
    """16 rows as 1 x 16, 8 x 2 and 4 x 4; with a last step of 12 or 4 rows, whose passes are uneven."""
    base = make_spec(f"model.location={calm_model}", f"dataset.train_rows={rows}", "training.epochs=2")
    curves = []
    for batch_size, steps in ((16, 1), (8, 2), (4, 4)):
        spec = replace(base, training=replace(base.training, batch_size=batch_size, accumulation_steps=steps))
        _, _, spy = train(spec=spec)
        curves.append((spy.series("train/loss"), spy.series("train/grad_norm"), spy.series("eval/loss")))
    for other in curves[1:]:
        for one, two in zip(curves[0], other, strict=True):
            assert one == pytest.approx(two, rel=2e-4)
    assert 0.4 < curves[0][0][0] < 1.0  # cross entropy of two classes, not a multiple of it


def test_the_evaluation_loss_does_not_depend_on_its_batches(train):
    one, other = train("training.eval_batch_size=64")[0], train("training.eval_batch_size=7")[0]
    assert one.metrics["eval/loss"] == pytest.approx(other.metrics["eval/loss"], rel=1e-5)
    assert one.metrics["eval/accuracy"] == other.metrics["eval/accuracy"]


@pytest.mark.parametrize("lr", ["1e30", "1e25"])
def test_divergence_is_a_failure_at_its_step(train, lr):
    result, folder, spy = train(f"optimizer.lr={lr}", "training.epochs=2")
    assert (result.status, result.cause) == (Status.FAILED, Cause.DIVERGED)
    assert result.reason.startswith("diverged at step ")
    assert int(result.reason.split()[3].rstrip(":")) in (2, 3)
    assert result.objective is None
    assert not (folder / "model").exists()
    assert spy.result.status is Status.FAILED
    assert 0.0 not in spy.series("train/loss")
    assert "diverged" in (folder / "run.log").read_text()


def test_a_crash_in_a_step_is_failed_with_its_reason(train, monkeypatch):
    from transformers import Trainer

    calls = []
    real = Trainer.training_step

    def explode(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("the roof\nis on fire")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", explode)
    result, folder, spy = train()
    assert result.status is Status.FAILED
    assert result.reason == "RuntimeError: the roof is on fire"
    assert result.cost.steps == 2
    assert "Traceback" in (folder / "run.log").read_text()
    assert spy.result == result


def test_a_frozen_tensor_that_moves_fails_the_run(train, monkeypatch):
    from frostline.train import callbacks

    def meddle(self, args, state, control, **kwargs):
        with torch.no_grad():
            kwargs["model"].bert.encoder.layer[0].output.dense.bias += 1e-3

    monkeypatch.setattr(callbacks.StopCallback, "on_train_end", meddle, raising=False)
    result, folder, _ = train("freeze.depth=1")
    assert result.status is Status.FAILED
    assert "the frozen part was not frozen" in result.reason
    assert result.audit.changed == ("bert.encoder.layer.0.output.dense.bias",)
    assert not (folder / "model").exists()
    assert math.isnan(next(row["sum_abs"] for row in result.drift if row["part"] == "block 0"))


@pytest.mark.slow
def test_the_best_evaluations_weights_are_kept_and_are_what_is_reported(train, monkeypatch):
    from frostline.train.callbacks import EvaluationCallback

    scores = iter([0.6, 0.9, 0.7, 0.9])
    real = EvaluationCallback.on_evaluate

    def scripted(self, args, state, control, **kwargs):
        kwargs["metrics"]["eval_accuracy"] = next(scores)
        real(self, args, state, control, **kwargs)

    monkeypatch.setattr(EvaluationCallback, "on_evaluate", scripted)
    best, best_folder, _ = train("training.epochs=4", "training.keep=best")
    assert (best.step, best.objective.value) == (16, 0.9)  # a tie goes to the earlier
    scores = iter([0.6, 0.9, 0.7, 0.9])
    last, last_folder, _ = train("training.epochs=4", "training.keep=last")
    assert (last.step, last.objective.value) == (32, 0.9)
    monkeypatch.undo()
    half = train("training.epochs=4", "training.keep=best")[2]
    assert not same_bits(weights(best_folder), weights(last_folder))
    assert half.series("train/loss")


@pytest.mark.slow
def test_a_minimized_objective_keeps_the_smallest(train):
    result, _, spy = train("training.epochs=4", "training.objective=loss", "training.direction=minimize")
    assert result.objective.value == min(spy.series("eval/loss"))


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


def test_a_metric_that_does_not_give_the_objective(train, tmp_path):
    script = tmp_path / "odd.py"
    script.write_text(
        "import datasets\nimport evaluate\n"
        "class Odd(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        i = datasets.Value('int64')\n"
        "        f = datasets.Features({'predictions': i, 'references': i})\n"
        "        return evaluate.MetricInfo(description='', citation='', features=f)\n"
        "    def _compute(self, predictions, references):\n"
        "        return {'one': 1.0, 'two': 2.0}\n"
    )
    with pytest.raises(
        UserError, match="training.objective=three: is not computed; training.metrics gives loss, one, two"
    ):
        train(f"training.metrics=['{script}']", "training.objective=three")
    assert train(f"training.metrics=['{script}']", "training.objective=two")[0].objective.value == 2.0


def test_an_undefined_objective_fails_the_run(train, tmp_path):
    rows = [(text, "1.5") for text, _ in sentences(40)]
    path = write_csv(tmp_path / "constant.csv", rows)
    result, _, _ = train(
        f"dataset.location={path}", "dataset.task=regression", "training=regression", "training.batch_size=16",
        "training.max_tokens=32",
    )  # fmt: skip
    assert result.status is Status.FAILED
    assert result.reason == "ValueError: the objective spearman is nan"


def test_an_architecture_without_blocks_trains_whole_and_refuses_a_depth(train, tmp_path, tiny_model):
    from transformers import AlbertConfig, AlbertModel

    folder = tmp_path / "albert"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    config = AlbertConfig(
        vocab_size=64,
        embedding_size=16,
        hidden_size=32,
        num_attention_heads=2,
        intermediate_size=64,
        num_hidden_layers=2,
    )
    AlbertModel(config).save_pretrained(folder)
    with pytest.raises(UserError, match="shares its weights across blocks"):
        train(f"model.location={folder}", "freeze.depth=1")
    result, _, _ = train(f"model.location={folder}", "freeze=none")
    assert result.status is Status.FINISHED
    assert result.params.num_frozen == 0


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


def test_what_is_frozen_drops_out_only_if_asked(train, monkeypatch):
    from transformers.models.bert.modeling_bert import BertLayer

    modes, real = [], BertLayer.forward

    def seen(self, *args, **kwargs):
        if torch.is_grad_enabled():
            modes.append((self.attention.self.layer_idx, self.training))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(BertLayer, "forward", seen)
    curves = {}
    for word in ("false", "true"):
        modes.clear()
        result, folder, _ = train("freeze.depth=2", f"training.frozen_dropout={word}")
        frozen = {mode for index, mode in modes if index < 2}
        assert frozen == {word == "true"}
        assert result.audit.frozen_unchanged
        curves[word] = (folder / "metrics.jsonl").read_text()
    assert curves["false"] != curves["true"]


@pytest.mark.parametrize(("flags", "precision"), [((), "fp32"), (("_is_amx_tile_supported",), "bf16")])
def test_precision_auto_is_bf16_where_the_processor_has_it(train, monkeypatch, flags, precision):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in flags)
    result, _, _ = train("freeze.depth=2", "training.precision=auto", "runtime.cache=require")
    assert result.status is Status.FINISHED
    assert result.provenance["compute"]["precision"] == precision
