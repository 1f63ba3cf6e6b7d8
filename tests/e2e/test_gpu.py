"""What only a CUDA device can show. Skipped without one."""

import pytest
import torch
from safetensors.torch import load_file

from frostline.record import RunFolder
from frostline.result import Status
from frostline.train import run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture
def train(make_spec, tmp_path):
    count = iter(range(100))

    def call(*overrides):
        spec, folder = make_spec("runtime.device=cuda", *overrides), tmp_path / str(next(count))
        with RunFolder(folder, spec) as recorder:
            return run(spec, recorder, folder), folder

    return call


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
    left, right = (load_file(folder / "model" / "model.safetensors") for folder in (one, two))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_divergence_is_found_at_its_step_although_the_loss_stays_on_the_device(train):
    result, _ = train("optimizer.lr=1e30", "training.log_every=4", "training.epochs=2")
    assert result.status is Status.FAILED
    assert result.reason.startswith(("diverged at step 2", "diverged at step 3"))
