"""Runs that end when they no longer improve, evaluations between epochs, activations computed twice."""

from __future__ import annotations

import json

import pytest

from frostline.errors import SpecError
from frostline.records.recorder import NullRecorder
from frostline.records.result import Status
from frostline.records.run_context import RunContext
from frostline.train import run
from tests.support.sweep_tools import call


def train(spec, folder, **context):
    folder.mkdir(exist_ok=True)
    return run(spec, RunContext(NullRecorder(), folder, **context))


@pytest.fixture
def stalling(make_spec):
    """A run that is at its best at once: its rate is 0, so that no evaluation improves on the first."""
    return make_spec("training.epochs=6", "optimizer.lr=1e-12", "training.patience=2", "training.objective=loss",
                     "training.direction=minimize", "freeze=none")  # fmt: skip


@pytest.mark.slow
def test_a_run_that_does_not_improve_ends(stalling, tmp_path, make_spec):
    result = train(stalling, tmp_path / "run")
    assert result.status is Status.FINISHED
    assert result.cost.num_evals < 6
    assert result.cost.epochs < 6
    assert "evaluations in a row did not improve on step" in result.reason
    assert result.objective.value == result.metrics["eval/loss"]
    patient = train(make_spec("training.epochs=3", "training.patience=3", "freeze=none"), tmp_path / "patient")
    assert patient.cost.epochs == 3
    assert patient.reason is None


@pytest.mark.slow
def test_a_killed_run_counts_on_when_it_is_resumed(stalling, tmp_path):
    whole = train(stalling, tmp_path / "whole")
    steps = whole.cost.steps // int(whole.cost.epochs)
    train(stalling, tmp_path / "part", until_step=steps + 1)
    later = train(stalling, tmp_path / "part", resume_from=tmp_path / "part")
    assert later.weights_sha256 == whole.weights_sha256
    assert (later.cost.epochs, later.cost.num_evals) == (whole.cost.epochs, whole.cost.num_evals)


@pytest.mark.slow
def test_evaluation_between_epochs_does_not_change_training(make_spec, tmp_path):
    common = ("training.epochs=2", "training.keep=last", "freeze.depth=1")
    plain = train(make_spec(*common), tmp_path / "plain")
    often = train(make_spec(*common, "training.eval_steps=2"), tmp_path / "often")
    assert often.weights_sha256 == plain.weights_sha256
    assert often.cost.num_evals > plain.cost.num_evals
    assert often.cost.num_evals in {often.cost.steps // 2, often.cost.steps // 2 + 1}


@pytest.mark.slow
def test_a_run_that_ends_before_its_first_evaluation_says_so(make_spec, tmp_path, caplog):
    result = train(make_spec("training.max_steps=3", "training.epochs=null", "training.eval_steps=50",
                             "training.patience=2", "freeze.depth=1"), tmp_path / "run")  # fmt: skip
    assert result.cost.num_evals == 1
    assert "training.eval_steps=50: a run has 3 steps, so it is evaluated once" in caplog.text
    assert "training.patience counts nothing" in caplog.text


@pytest.mark.slow
def test_the_best_of_all_steps_is_kept_and_a_stopped_run_resumes(make_spec, tmp_path):
    spec = make_spec("training.epochs=3", "training.eval_steps=2", "freeze.depth=1", "optimizer.lr=3e-2")
    whole = train(spec, tmp_path / "whole")
    train(spec, tmp_path / "part", until_step=whole.cost.steps // 2 + 1)
    later = train(spec, tmp_path / "part", resume_from=tmp_path / "part")
    assert later.weights_sha256 == whole.weights_sha256
    assert later.step == whole.step


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [("freeze=none",), ("freeze.depth=2",)])
def test_checkpointed_gradients_are_the_same_numbers(make_spec, tmp_path, freeze):
    plain, twice = (
        train(make_spec(*freeze, f"training.gradient_checkpointing={value}"), tmp_path / value)
        for value in ("false", "true")
    )
    assert twice.weights_sha256 == plain.weights_sha256
    config = json.loads((tmp_path / "true" / "model" / "config.json").read_text())
    assert config.get("use_cache", True) is True


def test_bad_input_is_one_line(make_spec):
    for given, message in (
        (["training.patience=0"], r"training\.patience=0: must be 1 or more, or null"),
        (["training.eval_steps=0"], r"training\.eval_steps=0: must be 1 or more, or null"),
        (["training.patience=2", "training.evaluate=never"], r"training\.patience: counts evaluations"),
        (["training.label_smoothing=1"], r"label_smoothing=1\.0: must be 0 or more and below 1"),
        (["training.mixup=-1"], r"training\.mixup=-1\.0: must be 0 or more"),
        (["training.label_smoothing=0.1", "dataset.task=multi_label", "dataset.threshold=null"], "has no one class"),
    ):
        with pytest.raises(SpecError, match=message):
            make_spec(*given)


@pytest.mark.slow
def test_a_sweep_of_runs_that_end_themselves_has_one_rung(tiny_overrides, tmp_path):
    done = call(
        "sweep", "lr_x_depth", *tiny_overrides, "tracking=off", "sweep.n_trials=2", "training.epochs=3",
        "training.patience=1", "sweep.promote_fraction=0.5", "sweep.settle=0", "sweep.baseline=false", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "one rung only: runs of training.patience=1 can't pause" in done.stderr
