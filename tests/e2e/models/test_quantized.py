"""Frozen blocks in 8 and 4 bits by torchao, in an environment that has it: to import it makes every command slower."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from frostline.config import compose_run
from frostline.errors import SpecError
from tests.conftest import TINY, sentences, write_csv
from tests.support.language_models import save_encoder_decoder, save_language_model

ROOT = Path(__file__).parents[3]

CHECK = """
import json, sys
from pathlib import Path
import numpy as np, pyarrow.parquet as pq, torch
from frostline.config import compose_job
from frostline.inference.predict import Predictor
from frostline.models.quantized import is_packed, packed_parts
from frostline.records.recorder import NullRecorder
from frostline.records.run_context import RunContext
from frostline.train.run import run
from frostline.train.setup import prepare

given, bits = json.loads(sys.argv[1]), float(sys.argv[2])
spec = compose_job(given).run
setup = prepare(spec)
blocks = setup.anatomy.blocks[:2]
parameters = [parameter for _, block in blocks for parameter in block.parameters()]
assert all(parameter.is_meta for parameter in parameters), "the frozen blocks are in memory"
assert not any(parameter.is_meta for _, block in setup.anatomy.blocks[2:] for parameter in block.parameters())
setup.cached.detach()
layers = [module.weight for _, block in blocks for module in block.modules() if isinstance(module, torch.nn.Linear)]
assert layers and all(map(is_packed, layers))
size = sum(part.numel() * part.element_size() for weight in layers for part in packed_parts(weight).values())
assert size < bits / 8 * 1.3 * sum(weight.numel() for weight in layers), size
audit = setup.frozen.audit(setup.optimizer)
assert audit.frozen_unchanged and audit.num_tensors > len(layers)
packed_parts(layers[0])  # copies
first = next(iter(layers[0].__tensor_flatten__()[0]))
getattr(layers[0], first).view(-1)[0] += 1
assert not setup.frozen.audit(setup.optimizer).frozen_unchanged, "a packed tensor that moved is found"
getattr(layers[0], first).view(-1)[0] -= 1
setup.cached.attach()
assert all(parameter.is_meta for _, block in blocks for parameter in block.parameters())

folder = Path("run")
folder.mkdir()
result = run(spec, RunContext(NullRecorder(), folder))
assert result.status.value == "FINISHED", result.reason
assert result.audit.frozen_unchanged and result.provenance["quantize"] == given[-1].partition("=")[2]
part = Path("part")
part.mkdir()
run(spec, RunContext(NullRecorder(), part, until_step=9))
again = run(spec, RunContext(NullRecorder(), part, resume_from=part))
assert again.weights_sha256 == result.weights_sha256, "resumed in other bits"
table = pq.read_table(folder / "predictions.parquet").to_pandas()
held_out = table[table["set"] == "test"]
own = np.stack(held_out["probabilities"])
from frostline.train.data import load_data
rows, _ = load_data(spec, False)
logits = Predictor(folder / "model", 32).logits((text, None) for text in rows.test["text"])
shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
assert np.abs(shares - own).max() < 1e-4, np.abs(shares - own).max()
print(json.dumps({"loss": result.metrics["eval/loss"], "accuracy": result.metrics["eval/accuracy"]}))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> str:
    """A PYTHONPATH with torchao."""
    if find_spec("torchao"):
        return os.environ.get("PYTHONPATH", "")
    folder = tmp_path_factory.mktemp("torchao") / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(folder),
        "torchao==0.18.0",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized")
    return save_language_model("llama", folder / "llama", [text for text, _ in sentences(200)], width=64), write_csv(
        folder / "rows.csv", sentences(200)
    )


def overrides(model, rows, *more):
    return [
        "model=path", f"model.location={model}", "dataset=csv", f"dataset.location={rows}", *TINY,
        "dataset.test_fraction=0.2", "dataset.test_at_end=true", "training.epochs=4", "optimizer.lr=3e-3",
        "runtime.cache=auto", "freeze.depth=2", *more,
    ]  # fmt: skip


def python(script: str, *arguments: str, site: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, "PYTHONPATH": site})


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "bits"), [("int8", 8), ("nf4", 4)])
def test_quantized_blocks_are_hashed_left_out_of_memory_and_saved_as_numbers(kind, bits, site, data, tmp_path):
    done = python(CHECK, json.dumps(overrides(*data, f"model.quantize={kind}")), str(bits), site=site, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plain = "from tests.support.tiny_runs import train; from pathlib import Path; import sys, json;"
    plain += "print(json.dumps(train(json.loads(sys.argv[1]), Path('plain')).metrics))"
    other = python(plain, json.dumps(overrides(*data)), site=os.pathsep.join([str(ROOT), site]), cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    quantized, full = (json.loads(each.stdout.splitlines()[-1]) for each in (done, other))
    assert quantized["loss"] == pytest.approx(full["eval/loss"], abs=0.05 if kind == "int8" else 0.3)
    assert quantized["loss"] != full["eval/loss"]


MAIN = """
import json, sys
from frostline.cli.main import main

for arguments in json.loads(sys.argv[1]):
    try:
        print("exit", main(arguments))
    except SystemExit as stop:
        print("exit", stop.code)
"""


@pytest.mark.slow
def test_what_can_not_be_quantized_is_one_line(site, data, tmp_path):
    texts = [text for text, _ in sentences(60)]
    models = [save_language_model("gpt2", tmp_path / "gpt2", texts), save_encoder_decoder("t5", tmp_path / "t5", texts)]
    runs = [["run", *overrides(model, data[1], "model.quantize=int8", "tracking=off")] for model in models]
    done = python(MAIN, json.dumps(runs), site=site, cwd=tmp_path)
    assert done.stdout.split() == ["exit", "2"] * 2, (done.stdout, done.stderr)
    assert "the blocks of GPT2ForSequenceClassification have no linear layers" in done.stderr
    assert "is for models of one stack; T5ForSequenceClassification has two" in done.stderr


@pytest.mark.slow
def test_a_sweep_quantizes_what_each_trial_freezes(site, data, tmp_path):
    quiet = [each for each in overrides(*data, "model.quantize=int8", "tracking=off") if not each.startswith("freeze")]
    given = [each for each in quiet if not each.startswith("optimizer.lr")]
    sweep = ["sweep", "lr_x_depth", *given, "freeze.depth=choice(0,2)", "sweep.n_trials=5"]
    sweep += ["sweep.settle=0", "sweep.name=s", "sweep.margin=0.2"]
    done = python(MAIN, json.dumps([sweep]), site=site, cwd=tmp_path)
    assert "exit 0" in done.stdout, (done.stdout, done.stderr)
    results = [json.loads(path.read_text()) for path in (tmp_path / "runs" / "s").glob("[0-9]*/result.json")]
    assert {result["freeze"]["depth"] for result in results} == {0, 2}
    for result in results:
        assert ("quantize" in result["provenance"]) == (result["freeze"]["depth"] > 0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["runtime.cache=off"], "computes the hidden states of frozen blocks once; give runtime.cache=auto"),
        (["freeze=gradual", "training.epochs=4"], "with freeze=gradual what is frozen changes; give freeze=depth"),
        (["dataset=mnist_5k"], "is for models of texts"),
        (["runtime.num_processes=2"], "is for one process"),
    ],
)
def test_settings_that_contradict_it_are_refused(more, message):
    with pytest.raises(SpecError, match=message):
        compose_run(["model.quantize=int8", *([] if "freeze" in more[0] else ["freeze.depth=2"]), *more])


def test_without_torchao_a_line_says_what_to_install(frostline, in_tmp, tiny_overrides):
    if find_spec("torchao"):
        pytest.skip("torchao is installed")
    code, _, err = frostline("run", *tiny_overrides, "model.quantize=int8", "runtime.cache=auto", "freeze.depth=2")
    assert (code, "pip install 'frostline[quantize]'" in err) == (2, True), err
