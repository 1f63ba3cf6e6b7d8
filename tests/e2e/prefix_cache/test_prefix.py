"""Runs and sweeps that begin at their frozen depth: the same numbers, computed once, and never a wrong byte."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from frostline.prefix_cache import gpu_memory
from frostline.process_cache import PROCESS_CACHE
from frostline.records.monitor import NullMonitor
from frostline.records.result import RunResult, Status
from frostline.records.run_context import Sharing
from frostline.records.trial import TrialState
from tests.e2e.prefix_cache.cached_runs import weights
from tests.support.sweep_tools import RUNG, call, trials_in

BOUND = 1e-5
"""Stated in docs/reproducibility.md: losses of some 0.7, after 16 steps in fp32."""


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_close(one: Path, other: Path, bound: float = BOUND):
    left, right = rows(one), rows(other)
    assert [row["step"] for row in left] == [row["step"] for row in right]
    for a, b in zip(left, right, strict=True):
        assert all(abs(a[key] - b[key]) <= bound for key in a if key != "train/grad_norm"), (a, b)
    before, after = weights(one), weights(other)
    assert before.keys() == after.keys()  # the saved model is the whole model
    apart = {name: float((before[name] - after[name]).abs().max()) for name in before}
    # A bias of all keys adds the same to all scores, which softmax takes out: its gradient is nothing but rounding, and
    # Adam scales that up to the learning rate. It is no part of the function.
    assert not {name: far for name, far in apart.items() if far > bound and not name.endswith("key.bias")}
    assert max(apart.values()) < 1e-3 * 16  # the rate times the steps


@pytest.fixture
def on_device(monkeypatch):
    """Lets hidden states live on the device, as on a GPU."""
    monkeypatch.setattr(gpu_memory, "free_bytes", lambda prefix: 1 << 30)
    PROCESS_CACHE.clear()
    gpu_memory.forget()
    yield
    gpu_memory.forget()


@pytest.mark.slow
@pytest.mark.parametrize("freeze", ["freeze.depth=1", "freeze.depth=3", "freeze=head"])
def test_hidden_states_on_the_device_give_the_bits_of_those_in_files(train, home, on_device, freeze):
    held, one = train(freeze, "runtime.cache=auto")
    assert len(gpu_memory.resident()) == 1
    assert not (home / "prefix").exists()
    assert held.cost.fill_s > 0
    assert held.cost.saved_s > 0
    again, two = train(freeze, "runtime.cache=require")
    assert again.cost.fill_s == 0
    gpu_memory.give_up()
    filed, three = train(freeze, "runtime.cache=require")
    assert (home / "prefix").exists()
    assert held.prefix_cache == filed.prefix_cache
    assert (one / "metrics.jsonl").read_text() == (two / "metrics.jsonl").read_text()
    assert (one / "metrics.jsonl").read_text() == (three / "metrics.jsonl").read_text()
    assert held.weights_sha256 == again.weights_sha256 == filed.weights_sha256


@pytest.mark.slow
@pytest.mark.parametrize(
    "freeze",
    [
        ["freeze.depth=1"], ["freeze.depth=3"], ["freeze=head"], ["freeze=blocks", "freeze.blocks=[0-1,3]"],
        ["freeze=pattern", "freeze.pattern=[embeddings,layer.0,layer.3.attention.output]"],
    ],
)  # fmt: skip
def test_a_cached_run_is_the_uncached_one(train, fills, freeze):
    plain, one = train(*freeze, "runtime.cache=off")
    assert fills == []
    cached, other = train(*freeze, "runtime.cache=require")
    assert len(fills) == 2  # training and held-out rows
    assert plain.prefix_cache == "off"
    assert cached.prefix_cache.startswith("depth ")
    assert plain.spec_digest == cached.spec_digest
    assert cached.audit.frozen_unchanged
    assert_close(one, other)
    again, third = train(*freeze, "runtime.cache=require")
    assert len(fills) == 2  # nothing is computed twice
    assert (third / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()
    assert again.weights_sha256 == cached.weights_sha256


@pytest.mark.parametrize("ends_in_padding", [False, True])
def test_a_decoders_head_reads_the_last_token_that_is_not_padding(ends_in_padding):
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, GPT2Config

    from frostline.data.token_table import TokenTable
    from frostline.data.tokenize import Tokenized
    from frostline.models.blocks import find_blocks
    from frostline.prefix_cache.probe_model import if_of_every_row
    from frostline.prefix_cache.suffix import read_position

    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=40, pad_token_id=7, bos_token_id=7, eos_token_id=7)
    anatomy = find_blocks(AutoModelForSequenceClassification.from_config(config))
    plain = TokenTable(Dataset.from_dict({"input_ids": [[1, 2, 3], [7, 4]]}))
    other = TokenTable(Dataset.from_dict({"input_ids": [[1, 2], [4, 7]]})) if ends_in_padding else plain
    tables = Tokenized(train=plain, evaluation=other, others={}, truncated={})
    assert if_of_every_row(read_position(anatomy), anatomy, tables) == (None if ends_in_padding else "last")


def test_frozen_blocks_are_not_run_in_training(train, monkeypatch):
    from transformers.models.bert.modeling_bert import BertLayer

    calls, real = [], BertLayer.forward

    def counted(self, hidden_states, *args, **kwargs):
        calls.append(torch.is_grad_enabled())
        return real(self, hidden_states, *args, **kwargs)

    train("freeze.depth=3", "runtime.cache=require")  # fills
    monkeypatch.setattr(BertLayer, "forward", counted)
    train("freeze.depth=3", "runtime.cache=require")
    num_batches = 2 * (8 + 1)  # steps and evaluations of two epochs; one block each, and a few probes
    assert num_batches <= len(calls) <= num_batches + 20


class StopAfter(NullMonitor):
    def __init__(self, step, filling):
        self._left = step + filling

    def heartbeat(self):
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_a_run_is_resumed_as_it_began(train, home, caplog):
    cached = ["freeze.depth=2", "runtime.cache=require"]
    _, whole = train(*cached)
    stopped, cut = train(*cached, monitor=StopAfter(11, 0))
    assert stopped.status is Status.KILLED
    # whatever the config says now, and though the cache is missing
    shutil.rmtree(home / "prefix")
    resumed, folder = train("freeze.depth=2", "runtime.cache=off", resume_from=cut, sharing=Sharing(threads=2))
    assert resumed.prefix_cache == "depth 2"  # on its own thread, as it began
    first = RunResult.read(cut).cost
    assert resumed.cost.fill_s > first.fill_s == 0  # the first run found it filled
    assert min(resumed.cost.saved_s, first.saved_s) > 0  # how much: each filling has its own time
    assert (folder / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert resumed.weights_sha256 == RunResult.read(whole).weights_sha256
    _, plain = train("freeze.depth=2")
    _, cut = train("freeze.depth=2", monitor=StopAfter(11, 0))
    resumed, folder = train(*cached, resume_from=cut)
    assert resumed.prefix_cache == "off"
    assert (folder / "metrics.jsonl").read_text() == (plain / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_reproduce_makes_it_as_it_was_made(frostline, in_tmp, home, tiny_overrides):
    arguments = [*tiny_overrides, "runtime.cache=require", "tracking=off", "freeze.depth=3", "hydra.run.dir=one"]
    code, _, err = frostline("run", *arguments)
    assert code == 0, err
    assert frostline("prune", "--cache")[1].startswith("removed 0.")
    code, out, err = frostline("reproduce", "one", "tracking=off", "--explain")
    assert code == 0, err
    assert "prefix_cache" not in out
    assert not list(home.rglob("*.bin"))
    code, out, err = frostline("reproduce", "one", "tracking=off")
    assert code == 0, err
    assert "verdict: identical: every number is bit-equal, the trained weights too" in out
    code, out, err = frostline("reproduce", "one", "tracking=off", "runtime.cache.mode=off")
    assert code == 0, err
    assert "differs here: prefix_cache: depth 3 -> off (may change bits)" in err


def test_the_cache_is_listed_and_cleared(frostline, in_tmp, home, tiny_overrides):
    assert frostline("list", "cache")[1].startswith("      0.0 MB in 0 entries of ")
    arguments = [*tiny_overrides, "runtime.cache=require", "tracking=off", "freeze.depth=3"]
    assert frostline("run", *arguments)[0] == 0
    code, out, _ = frostline("list", "cache")
    assert code == 0
    assert "tiny, moods, 128 training: depth-003" in out
    assert "in 2 entries of " in out
    entries = json.loads(frostline("list", "cache", "--json")[1])
    assert {entry["key"]["architecture"] for entry in entries} == {"BertForSequenceClassification"}
    assert frostline("prune", "--cache")[0] == 0
    assert not list(home.rglob("*.bin"))
    assert frostline("cache")[0] == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_fills_once_for_all_its_trial(tmp_path, tiny_overrides):
    own = [o for o in tiny_overrides if not o.startswith(("optimizer.lr=", "runtime.cache"))]
    arguments = [
        "sweep",
        "lr_x_depth",
        *own,
        "tracking=off",
        "sweep.n_trials=8",
        "training.epochs=2",
        "runtime.slots=2",
        *RUNG,
    ]
    arguments += ["dataset.train_rows=64"]
    env = {"FROSTLINE_HOME": str(tmp_path / "home")}
    plain, cached = tmp_path / "plain", tmp_path / "cached"
    for folder, mode in ((plain, "off"), (cached, "auto")):
        folder.mkdir()
        done = call(*arguments, f"runtime.cache={mode}", cwd=folder, **env)
        assert done.returncode == 0, done.stderr
    files = sorted(path.name for path in (tmp_path / "home").rglob("*.bin"))
    assert files == sorted(["depth-001.bin", "depth-002.bin", "depth-003.bin", "read-first-004.bin"] * 2)
    assert "prefix cache: on: blocks 1 to " in done.stderr  # said once, before it starts
    assert done.stderr.count("prefix cache: blocks 1, 2, 3, 4 of ") == 2  # training and held-out rows
    assert "trials used the prefix cache: " in done.stdout
    assert "of forward passes saved" in done.stdout
    logs = [path.read_text() for path in sorted((cached / "runs" / "lr_x_depth").glob("0*/run.log"))]
    filled = [line for text in logs for line in text.splitlines() if "rows in" in line]
    assert len(filled) == 2, filled
    there = trials_in(cached / "runs" / "lr_x_depth")
    for one, other in zip(trials_in(plain / "runs" / "lr_x_depth"), there, strict=True):
        assert one.params == other.params
        assert one.quality == pytest.approx(other.quality, abs=1 / 32)
    for trial in there:
        result = RunResult.read(cached / "runs" / "lr_x_depth" / f"{trial.number:03d}")
        wanted = "off" if trial.depth == 0 else f"depth {trial.depth}"
        assert result.prefix_cache.startswith(wanted)
        assert trial.state in {TrialState.COMPLETE, TrialState.PRUNED}


@pytest.mark.slow
def test_one_filling_serves_all_folds_and_the_numbers_are_those_without(train, fills):
    held_out, losses = [], []
    for fold in range(3):
        own = ("freeze.depth=2", "dataset.folds=3", f"dataset.fold={fold}", "dataset.eval_rows=null")
        cached, folder = train(*own, "runtime.cache.mode=require")
        plain, _ = train(*own, "runtime.cache.mode=off")
        assert cached.metrics["eval/loss"] == pytest.approx(plain.metrics["eval/loss"], abs=BOUND)
        losses.append(cached.metrics["eval/loss"])
        table = pq.read_table(folder / "predictions.parquet")
        held_out.append(len(table))
        assert cached.data["eval_rows"] == len(table)
    assert len(set(losses)) == 3
    assert len(fills) == 1
    assert fills[0] == (sum(held_out), (2,))
    assert max(held_out) - min(held_out) <= 2
