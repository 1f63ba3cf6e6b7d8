"""inspect, predict, fetch, ui, completion."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.cli.store_runs import runs_of


def test_inspect(frostline, in_tmp, tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "config-only", ignore=shutil.ignore_patterns("*.safetensors"))
    arguments = ["show", "--blocks", "model=path", f"model.location={tmp_path / 'config-only'}"]
    code, out, err = frostline(*arguments, "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["num_blocks"] == 4
    assert facts["base"]["num_named_params"] == 5 + 4 * 16 + 2
    assert sum(part["num_params"] for part in facts["parts"]) == facts["num_params"]
    assert [row["freeze"] for row in facts["depths"]] == ["none", *(f"depth={k}" for k in range(5))]
    assert all(row["num_frozen"] + row["num_trainable"] == facts["num_params"] for row in facts["depths"])
    assert {"name": "classifier.bias", "shape": [2], "num_params": 2, "trained": True} in facts["params"]
    whole = facts["num_params"]
    chosen = ["freeze=blocks", "freeze.blocks=[0-1,3]"]
    facts = json.loads(frostline(*arguments, *chosen, "--json")[1])
    assert facts["chosen"]["frozen"] == "the embeddings and 3 of 4 blocks (0-1, 3)"
    assert facts["chosen"]["begins_above"] == 2
    frozen = {row["name"] for row in facts["params"] if not row["trained"]}
    assert "bert.encoder.layer.3.attention.self.query.weight" in frozen
    assert "bert.encoder.layer.2.attention.self.query.weight" not in frozen
    counted = sum(row["num_params"] for row in facts["params"] if row["name"] in frozen)
    assert counted == facts["chosen"]["num_frozen"] == whole - facts["chosen"]["num_trainable"]
    assert "chosen (b0-1+3): frozen the embeddings and 3 of 4 blocks" in frostline(*arguments, *chosen)[1]
    code, _, err = frostline(*arguments, "freeze=blocks", "freeze.blocks=[4]")
    assert (code, err.count("\n")) == (2, 1)
    assert "has 4 blocks, so give 0 to 3" in err
    code, out, _ = frostline(*arguments, "--params", "freeze.depth=1")
    assert code == 0
    assert re.search(r"layer\.0\.attention\.self\.query\.weight .* frozen", out)
    assert not re.search(r"layer\.1\.attention\.self\.query\.weight .* frozen", out)
    for text in ("block 3", "depth=4 (head)", "bert.encoder.layer.0.attention.self.query.weight", "32 x 32"):
        assert text in out


def test_inspect_counts_bert_as_it_comes(frostline, in_tmp):
    from transformers import BertConfig, DistilBertConfig

    BertConfig().save_pretrained(in_tmp / "bert")
    DistilBertConfig().save_pretrained(in_tmp / "distilbert")
    facts = json.loads(frostline("show", "--blocks", "model=path", "model.location=bert", "--json")[1])
    assert facts["base"]["num_named_params"] == 199
    facts = json.loads(frostline("show", "--blocks", "model=path", "model.location=distilbert", "--json")[1])
    parts = {part["part"]: part["num_params"] for part in facts["parts"]}
    assert parts["embeddings"] == 23_440_896 + 393_216 + 1_536
    assert sum(count for part, count in parts.items() if part.startswith("block")) == 42_527_232
    assert parts["head"] == 590_592 + 1_538


@pytest.mark.slow
def test_predict_from_arguments_lines_and_a_run_id(frostline, tiny_overrides, store, monkeypatch):
    code, out, _ = frostline("run", *tiny_overrides, "freeze=none", "training.epochs=24", "training.evaluate=never")
    assert code == 0
    folder = out.splitlines()[-1].removeprefix("run_dir: ")
    code, out, err = frostline("predict", folder, "the film was lovely", "the film was dreadful")
    assert code == 0, err
    assert [line.split("\t")[0] for line in out.splitlines()] == ["positive", "negative"]
    code, out, _ = frostline("predict", folder, "--json", "the film was lovely")
    answer = json.loads(out)
    assert set(answer["scores"]) == {"positive", "negative"}
    assert sum(answer["scores"].values()) == pytest.approx(1)
    assert answer["score"] == answer["scores"][answer["label"]]
    import io

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the film was lovely\nthe film was dreadful\n\n")))
    assert len(frostline("predict", folder)[1].splitlines()) == 3
    run_id = runs_of(store)[0].info.run_id
    assert frostline("predict", run_id, "the film was lovely")[1].startswith("positive\t")
    shutil.move(folder, "elsewhere")  # on another machine: the artifacts are all there is
    assert frostline("predict", run_id, "the film was lovely")[1].startswith("positive\t")


def test_fetch_of_local_things_names_them(frostline, in_tmp, tiny_overrides, tiny_csv):
    code, out, _ = frostline("fetch", *tiny_overrides)
    assert code == 0
    assert str(tiny_csv) in out


def test_ui_on_a_server_points_to_it(frostline, in_tmp):
    code, _, err = frostline("ui", "tracking.uri=http://me:pw@somewhere:5000")
    assert code == 2
    assert "is a server with a UI of its own" in err
    assert "pw" not in err


def test_hydras_own_flags(frostline, in_tmp, tiny_overrides):
    code, out, _ = frostline("run", *tiny_overrides, "--cfg", "job")
    assert code == 0
    assert "lr: 0.001" in out
    code, out, _ = frostline("run", "+sweep=demo", "--cfg", "job")
    assert "train_rows: 1024" in out
    code, out, _ = frostline("sweep", "demo", "--cfg", "job")
    assert "n_trials: 8" in out
    assert not (in_tmp / "runs").exists()


@pytest.mark.parametrize(
    ("line", "has"),
    [
        ("frostline r", {"run"}),
        ("frostline ", {"run", "sweep", "report", "fetch", "show", "predict", "ui"}),
        ("frostline run model=", {"model=minilm", "model=path", "model=hub"}),
        ("frostline run freeze.de", {"freeze.depth="}),
        ("frostline sweep ", {"lr_x_depth", "demo", "pareto"}),
        ("frostline list ", {"models", "datasets", "freezes", "sweeps", "metrics", "samplers"}),
        ("frostline list mo", {"models"}),
        ("frostline list ca", {"cache"}),
        ("frostline sweep lr", {"lr_x_depth", "lr_only"}),
        ("frostline sweep demo sweep.n_tr", {"sweep.n_trials="}),
        ("frostline show --blocks dataset=tw", {"dataset=tweets"}),
    ],
)
def test_completion(frostline, in_tmp, monkeypatch, line, has):
    monkeypatch.setenv("COMP_LINE", line)
    code, out, _ = frostline("-sc", "query=bash")
    assert code == 0
    assert has <= set(out.split())


@pytest.mark.slow
def test_completion_in_a_real_bash(in_tmp):
    """What a person gets after `eval "$(frostline -sc install=bash)"`."""
    binary = Path(sys.executable).with_name("frostline")
    script = (
        f'export PATH={binary.parent}:$PATH; eval "$(frostline -sc install=bash)"; '
        'COMP_LINE="frostline run freeze=" COMP_POINT=20 COMP_CWORD=2; COMP_WORDS=(frostline run freeze=); '
        'hydra_bash_completion; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert {"freeze=depth", "freeze=head", "freeze=none"} <= set(done.stdout.split()), done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_installed(frostline, in_tmp, shell):
    code, out, _ = frostline("-sc", f"install={shell}")
    assert code == 0
    assert "frostline" in out
