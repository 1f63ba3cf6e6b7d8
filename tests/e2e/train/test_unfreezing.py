"""Gradual unfreezing and LP-FT: what moves when, at which rate, from the cache and without, stopped and resumed."""

from __future__ import annotations

import json
import re
import sys

import pytest
import torch
from transformers import TrainerCallback

from frostline.errors import SpecError
from frostline.records.recorder import NullRecorder, Recorders
from frostline.records.result import Status
from frostline.records.run_context import RunContext
from frostline.records.run_folder import RunFolder
from frostline.train import run
from frostline.train import trainer as trainer_module
from tests.e2e.train.test_resume import StopAt

PARTS = ["embeddings", "layer.0.", "layer.1.", "layer.2.", "layer.3.", "classifier"]


class Watch(TrainerCallback):
    """Notes which parts moved in each epoch, and which layers were in training mode during it."""

    def __init__(self, model):
        self.model = model
        self.moved, self.training, self.rates = [], [], []
        self._before = self._copy()

    def _copy(self):
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def on_step_begin(self, args, state, control, **kwargs):
        self.rates.append({group["name"]: group["lr"] for group in kwargs["optimizer"].optimizer.param_groups})

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.mode = {
            part for part in PARTS for name, m in self.model.named_modules() if part in f"{name}." and m.training
        }

    def on_epoch_end(self, args, state, control, **kwargs):
        now = self._copy()
        self.moved.append({part for part in PARTS for name in now if part in name and self._differs(now, name)})
        self.training.append(self.mode)
        self._before = now

    def _differs(self, now, name):
        return not torch.equal(now[name], self._before[name])


@pytest.fixture
def train(tmp_path, make_spec, monkeypatch):
    count = iter(range(100))
    real = trainer_module.assemble

    def trained(*overrides, resume_from=None, stop=None):
        watch = []

        def assemble(spec, setup, *rest):
            assembly = real(spec, setup, *rest)
            watch.append(Watch(setup.loaded.model))
            assembly.trainer.add_callback(watch[0])
            return assembly

        monkeypatch.setattr(sys.modules["frostline.train.run"], "assemble", assemble)
        spec = make_spec(*overrides)
        folder = tmp_path / f"run{next(count)}"
        with RunFolder(folder, spec, ()) as recorder:
            recorders = Recorders([recorder, StopAt(stop)] if stop else [recorder])
            result = run(spec, RunContext(recorders, folder, resume_from=resume_from))
        return result, watch[0], folder

    return trained


def losses(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {(row["step"], key): value for row in rows for key, value in row.items() if key.endswith("loss")}


def test_gradual_trains_one_more_block_every_epoch_from_above(train):
    result, watch, folder = train("freeze=gradual", "training.epochs=6", "optimizer.lr=1e-3")
    assert result.status is Status.FINISHED, result.reason
    wanted = [set(PARTS[first:]) for first in (5, 4, 3, 2, 1, 0)]
    assert watch.moved == wanted
    assert watch.training == wanted  # what is frozen has no dropout
    assert result.freeze.words == "all but the head at first, nothing in the end"
    assert result.params.num_frozen == 0
    assert [row["sum_abs"] > 0 for row in result.drift] == [True] * 6
    log = (folder / "run.log").read_text()
    assert re.findall(r"from epoch (\d) on: (.+) is trained", log) == [
        ("0", "the head alone"), ("1", "what lies above block 3"), ("2", "what lies above block 2"),
        ("3", "what lies above block 1"), ("4", "what lies above block 0"), ("5", "everything"),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_run_too_short_for_all_phases_leaves_frozen_what_it_does_not_come_to(train):
    result, watch, _ = train("freeze=gradual", "freeze.every=2", "training.epochs=4")
    assert watch.moved == [{"classifier"}, {"classifier"}, {"classifier", "layer.3."}, {"classifier", "layer.3."}]
    assert result.audit.frozen_unchanged
    assert result.audit.num_tensors > 0
    assert result.freeze.words == "all but the head at first, the embeddings and 3 of 4 blocks in the end"
    assert [row["sum_abs"] > 0 for row in result.drift] == [False] * 4 + [True] * 2


def test_lp_ft_trains_the_head_at_its_own_rate_and_begins_the_schedule_anew(train):
    result, watch, _ = train(
        "freeze=lp_ft", "freeze.depth=2", "freeze.probe_epochs=2", "freeze.probe_lr=5e-2", "optimizer.lr=1e-3",
        "training.epochs=3", "optimizer.layer_decay=0.5",
    )  # fmt: skip
    assert result.status is Status.FINISHED, result.reason
    assert watch.moved == [{"classifier"}, {"classifier"}, {"classifier", "layer.2.", "layer.3."}]
    steps = len(watch.rates) // 3
    head = [rates["head"] for rates in watch.rates]
    first, rest = head[: 2 * steps], head[2 * steps :]
    assert first == pytest.approx([5e-2 * (1 - step / (2 * steps)) for step in range(2 * steps)])
    assert rest == pytest.approx([1e-3 * (1 - step / steps) for step in range(steps)])
    lower = [rates["block 2"] for rates in watch.rates][2 * steps :]
    assert lower == pytest.approx([0.5 * rate for rate in rest])


@pytest.mark.parametrize("way", ["gradual", "lp_ft"])
@pytest.mark.slow
def test_the_phases_come_from_the_cache_with_the_same_numbers(train, way):
    overrides = (f"freeze={way}", "training.epochs=5", "optimizer.lr=3e-3", "training.last_block=whole")
    if way == "lp_ft":
        overrides += ("freeze.probe_epochs=3",)  # one would not pay for filling
    plain, _, plain_folder = train(*overrides)
    cached, watch, folder = train(*overrides, "runtime.cache=auto")
    assert plain.status is cached.status is Status.FINISHED
    facts = cached.prefix_cache
    if way == "gradual":
        assert facts == "depth 4, first position | depth 3 | depth 2 | depth 1 | off"
        log = (folder / "run.log").read_text()
        assert len(re.findall(r"prefix cache: blocks 1, 2, 3, 4 of \d+ training rows", log)) == 1  # one pass for all
        assert watch.moved == [set(PARTS[first:]) for first in (5, 4, 3, 2, 1)]
    else:
        assert facts == "depth 4, first position | off"
    one, two = losses(plain_folder), losses(folder)
    assert one.keys() == two.keys()
    assert max(abs(one[key] - two[key]) for key in one) < 1e-5
    assert cached.cost.saved_s > 0
    assert cached.cost.flops == plain.cost.flops


@pytest.mark.parametrize("cache", ["off", "require"])
@pytest.mark.parametrize("stop", [8, 16, 20])  # within the head's epoch, at its end, within the next
@pytest.mark.slow
def test_a_run_that_was_stopped_resumes_in_its_phase_bit_by_bit(train, stop, cache):
    overrides = (
        "freeze=lp_ft", "freeze.depth=2", "training.epochs=3", "training.batch_size=8", f"runtime.cache={cache}",
        "optimizer.lr=3e-3",
    )  # fmt: skip
    whole, _, whole_folder = train(*overrides)
    steps = whole.cost.steps
    assert steps == 48
    stopped, _, cut = train(*overrides, stop=stop)
    assert stopped.status is Status.KILLED
    again, _, folder = train(*overrides, resume_from=cut)
    assert again.status is Status.FINISHED
    assert again.weights_sha256 == whole.weights_sha256
    assert losses(folder) == losses(whole_folder)


@pytest.mark.slow
def test_the_best_of_the_probe_is_kept_whole(train):
    """The weights of an evaluation in the first stage: what moved only later goes back, too."""
    result, watch, folder = train(
        "freeze=lp_ft", "training.epochs=3", "optimizer.lr=0.1", "training.objective=loss",
        "training.direction=minimize",
    )  # fmt: skip
    assert result.status is Status.FINISHED, result.reason
    assert watch.moved[1] == set(PARTS)
    values = [value for (_, key), value in sorted(losses(folder).items()) if key == "eval/loss"]
    assert result.metrics["eval/loss"] == min(values) == values[0]
    assert [row["sum_abs"] > 0 for row in result.drift] == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["freeze=lp_ft", "training.epochs=1"], r"training.epochs=1: with freeze=lp_ft the head alone takes"),
        (["freeze=gradual", "freeze.every=0", "training.epochs=3"], r"freeze.every=0: must be 1 or more"),
        (["freeze=lp_ft", "freeze.probe_lr=0", "training.epochs=3"], r"freeze.probe_lr=0.0: must be above 0"),
        (["freeze=lp_ft", "freeze.depth=5", "training.epochs=3"], r"freeze.depth=5: .* has 4 blocks"),
        (["freeze=gradual", "training.epochs=3", "runtime.num_processes=2"], r"several processes can't follow"),
        (["freeze=gradual", "training.epochs=3", "training.frozen_dropout=true"], r"frozen_dropout=true it is not"),
        (["freeze=depth", "freeze.every=1"], r"freeze.every=1 contradicts freeze=depth: .* belongs to freeze=gradual"),
        (["freeze=lp_ft", "training.epochs=null", "training.max_steps=8"], r"max_steps=8: are 1 epochs of 128 rows"),
        (
            ["freeze=lp_ft", "training.epochs=3", "optimizer.schedule=reduce_lr_on_plateau"],
            r"optimizer.schedule=reduce_lr_on_plateau",
        ),
    ],
)  # fmt: skip
def test_what_can_not_be_right_is_one_line(make_spec, tmp_path, overrides, message):
    with pytest.raises(SpecError, match=message):
        run(make_spec(*overrides), RunContext(NullRecorder(), tmp_path / "run"))


@pytest.mark.slow
def test_other_rows_are_not_kept_for_phases_that_do_not_read_them(train):
    import os
    from pathlib import Path

    aside = ["dataset.test_fraction=0.2", "dataset.test_at_end=true"]
    result, _, _ = train("freeze=gradual", "training.epochs=5", "runtime.cache=require", *aside)
    assert "test/accuracy" in result.metrics
    entries = [path for path in (Path(os.environ["FROSTLINE_HOME"]) / "prefix").iterdir() if path.is_dir()]
    assert len(entries) == 2  # training and held-out rows


@pytest.mark.slow
def test_a_sweep_of_them_can_be_planned(make_spec):
    from frostline.records.run_context import Sharing
    from frostline.train.probe import probe

    found = probe([make_spec("freeze=lp_ft", "freeze.depth=2", "training.epochs=3")], Sharing(num_runs=4))
    assert found.num_blocks == 4
    assert found.epoch_s[0] > 0
