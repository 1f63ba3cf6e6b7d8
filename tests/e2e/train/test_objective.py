"""Losses, objectives, and runs that fail by them."""

import json
from dataclasses import replace

import pytest

from frostline.errors import UserError
from frostline.records.result import Cause, Status
from tests.conftest import sentences, write_csv
from tests.e2e.train.tiny_run import same_bits, weights


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
