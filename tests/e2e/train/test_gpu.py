"""What only a CUDA device can show. Skipped without one."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from frostline.prefix_cache import gpu_memory
from frostline.records.recorder import NullRecorder, Recorders
from frostline.records.result import Status
from frostline.records.run_context import RunContext
from frostline.records.run_folder import RunFolder
from frostline.records.trial import TrialState
from frostline.train import run
from tests.conftest import TINY
from tests.e2e.tasks.test_tokens import save_sentences
from tests.support import PLUGINS
from tests.support.language_models import save_language_model
from tests.support.pictures import save_images, save_model
from tests.support.sweep_tools import call, trials_in

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


JOBS = """
import os, time
import torch

def job(payload, channel):
    time.sleep(1.0)  # no slot takes two
    total = float(torch.ones(3, device="cuda").sum())
    return os.getppid(), os.getpid(), total, torch.cuda.is_available(), os.environ["CUDA_VISIBLE_DEVICES"]
"""

SLOTS = """
import json, os, sys
from frostline.sweeps.pool_executor import TEMPLATE, WARM
from frostline.sweeps.slots import slot_env, visible_gpus
from frostline.workers.pool import Pool

gpus, events = visible_gpus(), []
env, template = slot_env(2, 1, gpus), sys.argv[1] if sys.argv[1:] else TEMPLATE
with Pool(2, "jobs:job", warm=WARM, env=env, path=[os.getcwd()], template=template) as pool:
    for key in range(2):
        pool.submit(key, None)
    while len(events) < 2:
        events += pool.poll(1.0)
print(json.dumps([os.getpid(), gpus[0], [event.value for event in events]]))
"""

OPENED = """
import torch
torch.cuda.is_available()  # opens the GPU
import frostline.sweeps.worker_template
"""


class StopAt(NullRecorder):
    """Ctrl-C at a step."""

    def __init__(self, step):
        self._step = step

    def log(self, values, step):
        if step == self._step and "train/loss" in values:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def train(make_spec, tmp_path):
    count = iter(range(100))

    def trained(*overrides, stop_at=None, **more):
        spec, folder = make_spec("runtime.device=cuda", *overrides), tmp_path / str(next(count))
        with RunFolder(folder, spec) as recorder:
            return run(spec, RunContext(Recorders([recorder, StopAt(stop_at)]), folder, **more)), folder

    return trained


@pytest.fixture(autouse=True)
def _nothing_resident():
    gpu_memory.forget()
    yield
    gpu_memory.forget()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def apart(one: Path, two: Path) -> float:
    """How far the weights of two runs are apart, biases of keys left out: their gradient is nothing but rounding."""
    left, right = weights(one), weights(two)
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left if "key.bias" not in name)


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


CACHED = ("freeze.depth=2", "training.epochs=2", "runtime.cache=require", "runtime.deterministic=true")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "auto"])
def test_every_precision_trains_and_keeps_the_frozen_part(train, precision):
    result, _ = train("freeze.depth=2", f"training.precision={precision}", "training.epochs=2")
    assert result.status is Status.FINISHED, result.reason
    assert result.audit.frozen_unchanged
    assert result.cost.peak_of == "cuda"
    assert result.cost.peak_bytes > 0
    assert result.provenance["compute"]["device_name"]


def test_deterministic_runs_are_bit_equal(train):
    (_, one), (_, two) = train("runtime.deterministic=true"), train("runtime.deterministic=true")
    left, right = weights(one), weights(two)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_divergence_is_found_at_its_step_although_the_loss_stays_on_the_device(train):
    result, _ = train("optimizer.lr=1e30", "training.log_every=4", "training.epochs=2")
    assert result.status is Status.FAILED
    assert result.reason.startswith(("diverged at step 2", "diverged at step 3"))


@pytest.mark.parametrize("depth", [2, 4])
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("bf16", 2e-2)])
def test_a_run_from_the_cache_trains_like_one_without(train, depth, precision, bound):
    shape = ("training.epochs=2", f"freeze.depth={depth}", f"training.precision={precision}")
    plain, without = train(*shape)
    cached, with_it = train(*shape, "runtime.cache=require")
    assert plain.status is cached.status is Status.FINISHED, (plain.reason, cached.reason)
    assert cached.prefix_cache.startswith(f"depth {depth}")
    assert cached.audit.frozen_unchanged
    assert len(losses(without)) == len(losses(with_it)) == 16
    pairs = zip(losses(without), losses(with_it), strict=True)
    assert max(abs(one - two) for one, two in pairs) < bound
    if precision == "fp32":
        assert apart(without, with_it) < 1e-3


def test_hidden_states_on_the_gpu_are_those_of_the_files_to_the_bit(train, monkeypatch):
    cached, on_gpu = train(*CACHED)
    assert cached.status is Status.FINISHED, cached.reason
    assert [made.data.device.type for made in gpu_memory.resident()] == ["cuda"]
    gpu_memory.forget()
    monkeypatch.setattr(gpu_memory, "MAX_SHARE", 0.0)
    _, from_files = train(*CACHED)
    assert not gpu_memory.resident()
    left, right = weights(on_gpu), weights(from_files)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert losses(on_gpu) == losses(from_files)


def test_hidden_states_stay_on_the_gpu_from_run_to_run_and_make_room(train, monkeypatch):
    train(*CACHED)
    (first,) = gpu_memory.resident()
    train(*CACHED, "seed=1")
    assert gpu_memory.resident() == [first]
    monkeypatch.setattr(gpu_memory, "free_bytes", lambda prefix: first.data.nbytes + 1)
    result, _ = train(*CACHED, "freeze.depth=3")
    assert result.status is Status.FINISHED, result.reason
    (second,) = gpu_memory.resident()
    assert second is not first


@pytest.mark.parametrize("cache", ["off", "require"])
def test_a_run_that_is_resumed_gives_the_same_bits(train, cache):
    shape = ("freeze.depth=2", "training.epochs=2", "runtime.deterministic=true", "training.checkpoint=epoch")
    shape = (*shape, f"runtime.cache={cache}")
    _, whole = train(*shape)
    cut, half = train(*shape, stop_at=12)
    assert cut.status is Status.KILLED
    result, rest = train(*shape, resume_from=half)
    assert result.status is Status.FINISHED, result.reason
    left, right = weights(whole), weights(rest)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_several_processes_on_one_gpu_are_refused_in_one_line(tiny_overrides, tmp_path):
    too_many = torch.cuda.device_count() + 1
    asked = ["runtime.device=cuda", f"runtime.num_processes={too_many}", "training.batch_size=24", "tracking=off"]
    done = call("run", *tiny_overrides, *asked, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"runtime.num_processes={too_many}: there are GPUs for {too_many - 1}" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_run_is_reproduced_and_predicts_on_the_gpu(tiny_overrides, tmp_path):
    asked = ["runtime.device=cuda", "runtime.deterministic=true", "freeze.depth=2", "runtime.cache=auto"]
    done = call("run", *tiny_overrides, *asked, "hydra.run.dir=first", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = call("reproduce", "first", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "identical" in done.stdout
    done = call("predict", "first", "--json", "the film was good", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "positive" in done.stdout


def test_four_slots_share_one_gpu_and_a_trial_that_runs_out_of_its_memory_is_tried_with_half_the_batch(
    tiny_overrides, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", PLUGINS, prepend=":")
    asked = [
        "runtime.device=cuda", "runtime.slots=4", "runtime.cache=auto", "training.precision=bf16", "sweep.sampler=grid",
        "sweep.n_trials=8", "optimizer.weight_decay=0.0,0.001,0.002,0.004,0.006,0.008,0.01,0.012", "freeze.depth=2",
        "plugins=[gpu_plugin]", "optimizer.name=starving", "training.epochs=2",
    ]  # fmt: skip
    done = call("sweep", "depth_only", *tiny_overrides, *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "depth_only"
    found = {round(trial.params["optimizer.weight_decay"] * 1000): trial for trial in trials_in(folder)}
    assert len(found) == 8
    assert {trial.state for trial in found.values()} == {TrialState.COMPLETE}, [p.outcome for p in found.values()]
    notes = {decay for decay, trial in found.items() if "half the batch" in (trial.outcome.note or "")}
    assert notes == {1}
    for decay, trial in found.items():
        run_folder = folder / f"{trial.number:03d}"
        result = json.loads((run_folder / "result.json").read_text())
        assert result["provenance"]["compute"]["device"] == "cuda"
        assert result["cost"]["peak_of"] == "cuda"
        spec = json.loads((run_folder / "spec.json").read_text())
        assert spec["training"]["batch_size"] == (8 if decay in notes else 16)


def test_as_many_trials_share_a_gpu_as_a_measurement_says(tiny_overrides, tmp_path):
    asked = ["runtime.device=cuda", "runtime.slots=auto", "sweep.sampler=grid", "sweep.n_trials=8", "training.epochs=1"]
    done = call("sweep", "lr_x_depth", *tiny_overrides, *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = re.search(r"note: (\d+) trials side by side", done.stderr)
    assert found is not None, done.stderr
    assert 2 <= int(found.group(1)) <= 8  # so small a model leaves the GPU idle most of the time
    assert {trial.state for trial in trials_in(tmp_path / "runs" / "lr_x_depth")} == {TrialState.COMPLETE}


@pytest.mark.parametrize("template", [None, "opened"])
def test_slots_are_forks_unless_the_template_has_opened_the_gpu(template, tmp_path):
    (tmp_path / "jobs.py").write_text(JOBS)
    (tmp_path / "opened.py").write_text(OPENED)
    command = [sys.executable, "-c", SLOTS, *([template] if template else [])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    parent, gpu, found = json.loads(done.stdout)
    assert [rest for _, _, *rest in found] == 2 * [[3.0, True, gpu]]
    assert len({pid for _, pid, *_ in found}) == 2
    above = {ppid for ppid, *_ in found}
    assert len(above) == 1
    assert (above == {parent}) == (template is not None)


def test_words_with_a_class_each(train, tmp_path):
    """From hidden states in the GPU's memory and without: the same sentences found, the same loss but for rounding."""
    conll = save_sentences(tmp_path / "moods.conll")
    given = [
        "dataset=conll",
        f"dataset.location={conll}",
        "training=token_classification",
        *TINY,
        "runtime.device=cuda",
    ]
    given += ["freeze.depth=2", "training.epochs=3", "runtime.device=cuda"]
    plain, _ = train(*given)
    cached, _ = train(*given, "runtime.cache=require")
    assert cached.status is plain.status is Status.FINISHED, cached.reason
    assert cached.prefix_cache.startswith("depth 2")
    assert cached.metrics["eval/loss"] == pytest.approx(plain.metrics["eval/loss"], rel=0.05)


@pytest.mark.parametrize("kind", ["vit", "resnet", "convnext"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_images(kind, precision, train, tmp_path):
    """What is frozen stays, of each architecture, and the same spec gives the same numbers."""
    model, images = save_model(kind, tmp_path / "model"), save_images(tmp_path / "images")
    given = [f"model.location={model}", "dataset=image_folder", f"dataset.location={images}", "freeze.depth=2"]
    given += [f"training.precision={precision}", "training.epochs=3", "optimizer.lr=3e-3"]
    first, _ = train(*given)
    second, _ = train(*given)
    assert first.status is Status.FINISHED, first.reason
    assert first.audit.frozen_unchanged
    assert first.cost.peak_of == "cuda"
    assert first.metrics["eval/accuracy"] >= 0.5
    assert second.metrics["eval/loss"] == pytest.approx(first.metrics["eval/loss"], rel=1e-2)


@pytest.mark.parametrize("kind", ["vit", "resnet", "convnext"])
def test_views_of_images_from_the_gpus_memory(kind, train, tmp_path):
    """Maps and vectors of augmented images, in both dtypes that they are kept in."""
    model, images = save_model(kind, tmp_path / "model"), save_images(tmp_path / "images")
    given = [f"model.location={model}", "dataset=image_folder", f"dataset.location={images}", "freeze.depth=2"]
    given += ["dataset.augment=flip_crop", "dataset.views=2", "training.epochs=3", "training.precision=fp32"]
    plain, _ = train(*given)
    for dtype, bound in (("float32", 1e-2), ("float16", 5e-2)):
        cached, _ = train(*given, "runtime.cache.mode=require", f"runtime.cache.dtype={dtype}")
        assert cached.status is Status.FINISHED, cached.reason
        assert cached.cache_uses[0].is_on
        assert cached.metrics["eval/loss"] == pytest.approx(plain.metrics["eval/loss"], rel=bound)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_language_model(precision, train, tmp_path):
    """Hidden states in the GPU's memory, packed rows, losses some tokens at a time."""
    model = save_language_model("llama", tmp_path / "model")
    given = [f"model.location={model}", "dataset.task=causal_lm", "training=causal_lm", *TINY, "runtime.device=cuda"]
    given += ["freeze.depth=2", "training.epochs=2", f"training.precision={precision}"]
    plain, _ = train(*given)
    cached, _ = train(*given, "runtime.cache=require", "training.packing=true")
    assert cached.status is plain.status is Status.FINISHED, cached.reason
    assert cached.cache_uses[0].is_on
    assert cached.metrics["eval/loss"] == pytest.approx(plain.metrics["eval/loss"], rel=1e-2)


@pytest.mark.parametrize("way", ["gradual", "lp_ft", "lora"])
def test_rungs_and_adapters(way, train):
    """From hidden states in the GPU's memory, of each rung's depth, and without: the same but for rounding."""
    given = [f"freeze={way}", "training.epochs=4", "training.precision=fp32", "optimizer.lr=5e-4"]
    given += ["freeze.depth=2"] if way != "lp_ft" else []
    plain, _ = train(*given, "runtime.cache=off")
    cached, _ = train(*given, "runtime.cache=require")
    assert cached.status is plain.status is Status.FINISHED, cached.reason
    assert cached.audit.frozen_unchanged
    assert cached.prefix_cache.startswith("depth")
    assert cached.metrics["eval/loss"] == pytest.approx(plain.metrics["eval/loss"], rel=0.02)
    assert cached.params == plain.params


def test_vectors_and_test_rows(train, tiny_overrides, tmp_path, frostline):
    import numpy as np
    import pyarrow.parquet as pq

    from frostline.inference.embeddings import Encoder, Pooling

    result, folder = train("freeze.depth=2", "dataset.test_fraction=0.2", "training.precision=fp32")
    assert result.status is Status.FINISHED, result.reason
    out = tmp_path / "vectors.parquet"
    code, _, err = frostline("predict", "--vectors", str(folder), "--out", str(out))
    assert code == 0, err
    table = pq.read_table(out)
    code, text, err = frostline("show", "--test", str(folder))
    assert code == 0, err
    assert "(32 rows)" in text
    encoder = Encoder(folder / "model", Pooling("mean"), device="cpu")
    from transformers import AutoTokenizer

    words = "the film was good"
    found = encoder.encode(AutoTokenizer.from_pretrained(folder / "model")([words], return_tensors="pt"))
    on_gpu = Encoder(folder / "model", Pooling("mean")).encode(
        AutoTokenizer.from_pretrained(folder / "model")([words], return_tensors="pt")
    )
    assert np.allclose(found, on_gpu, atol=1e-3)
    assert table.num_rows == 160
