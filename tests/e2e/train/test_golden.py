"""The golden loss curve: a change that is no change of computation leaves it bit-equal.

Bits are only promised on like hardware, so a recorded curve names the machine it was made on; elsewhere it is compared
within a tolerance. `python -m tests.e2e.train.test_golden` records it anew: only for a change that is meant to compute
something else, and says so in its commit.
"""

import json
import os
import tempfile
from pathlib import Path

import pytest

from frostline.config import compose_run
from frostline.records.recorder import NullRecorder, Recorders
from frostline.records.run_context import RunContext
from frostline.train import run
from tests import conftest

GOLDEN = Path(__file__).with_name("golden_curve.json")
BEFORE = ["training.sampling=random", "training.last_block=whole"]
"""What a run did before these two could be chosen."""

CASES = {
    "depth 2": ["freeze.depth=2", *BEFORE],
    "none, accumulated, decayed": [
        "freeze=none", "training.batch_size=8", "training.accumulation_steps=2", "optimizer.layer_decay=0.9",
        "optimizer.warmup_ratio=0.2", "optimizer.schedule=cosine", *BEFORE,
    ],
    "head, sgd": ["freeze=head", "optimizer=sgd", "optimizer.lr=1e-2", *BEFORE],
    "depth 2, by length, one position": ["freeze.depth=2"],
    "none, by length, accumulated": ["freeze=none", "training.batch_size=8", "training.accumulation_steps=2"],
}  # fmt: skip


class Curve(NullRecorder):
    def __init__(self):
        self.lines = []

    def log(self, metrics, step):
        self.lines.append({"step": step, **{key: float(value).hex() for key, value in metrics.items()}})


def machine():
    import torch

    from frostline.provenance import capture

    seen = capture()
    versions = {name: seen["versions"][name].split("+")[0] for name in ("torch", "transformers", "numpy")}
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines() if Path("/proc/cpuinfo").exists() else []
    kind = [line.partition(":")[2].strip() for line in lines if line.startswith(("cpu family", "model\t", "stepping"))]
    return {
        "cpu": seen["platform"]["cpu"],
        "kind": kind,
        "capability": torch.backends.cpu.get_cpu_capability(),
        **versions,
    }


def curve(model, data, overrides, folder):
    recorder = Curve()
    spec = compose_run(
        ["model=path", f"model.location={model}", "dataset=csv", f"dataset.location={data}", *conftest.TINY,
         "training.epochs=2", *overrides]
    )  # fmt: skip
    run(spec, RunContext(Recorders([recorder]), folder))
    return recorder.lines


@pytest.mark.parametrize("case", CASES)
def test_the_golden_curve(tiny_model, tiny_csv, tmp_path, case):
    golden = json.loads(GOLDEN.read_text())
    lines = curve(tiny_model, tiny_csv, CASES[case], tmp_path)
    wanted = golden["curves"][case]
    if golden["machine"] == machine():
        assert lines == wanted
    assert [line["step"] for line in lines] == [line["step"] for line in wanted]
    for line, other in zip(lines, wanted, strict=True):
        for key, value in other.items():
            if key != "step":
                assert float.fromhex(line[key]) == pytest.approx(float.fromhex(value), rel=5e-2, abs=5e-2), key


def record():
    os.environ["FROSTLINE_HOME"] = tempfile.mkdtemp()
    scratch = Path(tempfile.mkdtemp())

    class Factory:
        @staticmethod
        def mktemp(name):
            (scratch / name).mkdir()
            return scratch / name

    model, data = conftest.tiny_model.__wrapped__(Factory), conftest.tiny_csv.__wrapped__(Factory)
    curves = {case: curve(model, data, overrides, scratch / "run") for case, overrides in CASES.items()}
    GOLDEN.write_text(json.dumps({"machine": machine(), "curves": curves}, indent=1) + "\n")


if __name__ == "__main__":
    record()
