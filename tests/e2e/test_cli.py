"""The command as a user sees it: what it prints, its exit codes, its folders and its MLflow store."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from frostline.cli.comparison import rows_of
from frostline.records.result import RunResult, Status
from tests.conftest import sentences, write_csv
from tests.e2e.sweep_tools import start, wait_for

OFF = "tracking=off"


@pytest.fixture
def store(in_tmp):
    """An MLflow client on `mlflow.db` in the working folder, the default store."""
    from frostline.tracking import client

    return client("sqlite:///mlflow.db")


def runs_of(store, experiment="frostline"):
    found = store.get_experiment_by_name(experiment)
    return store.search_runs([found.experiment_id], order_by=["attributes.start_time"]) if found else []


def test_a_run_ends_with_where_it_is(frostline, in_tmp, tiny_overrides):
    code, out, err = frostline("run", *tiny_overrides, OFF, "freeze.depth=1")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "d1-lr1e-03-s0-tiny-moods: FINISHED"
    assert lines[-1].startswith("run_dir: ")
    folder = Path(lines[-1].removeprefix("run_dir: "))
    assert RunResult.read(folder).status is Status.FINISHED
    assert "the embeddings and 1 of 4 blocks, unchanged" in out
    overrides = (folder / "overrides.yaml").read_text()
    assert "- freeze.depth=1\n" in overrides
    assert "training on cpu" in err
    assert "Traceback" not in err
    assert not (in_tmp / "mlflow.db").exists()


def test_mlflow_has_the_run_with_all_that_matters(frostline, in_tmp, tiny_overrides, store):
    code, out, err = frostline("run", *tiny_overrides, "freeze.depth=2", "+tracking.tags.team=nlp", "training.epochs=2")
    assert code == 0, err
    (run,) = runs_of(store)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "d2-lr1e-03-s0-tiny-moods"
    assert len(run.data.params) <= 25
    assert run.data.params["freeze.depth"] == "2"
    assert run.data.params["optimizer.lr"] == "0.001"
    assert run.data.params["optimizer.log10_lr"] == "-3.0"
    folder = Path(out.splitlines()[-1].removeprefix("run_dir: "))
    recorded = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for name in ("train/loss", "train/grad_norm", "train/lr", "eval/loss", "eval/accuracy"):
        history = store.get_metric_history(run.info.run_id, name)
        assert [(m.step, m.value) for m in history] == [(line["step"], line[name]) for line in recorded if name in line]
    result = RunResult.read(folder)
    assert run.data.metrics["best/accuracy"] == result.objective.value
    assert run.data.metrics["cost/num_trainable"] == result.params.num_trainable
    tags = run.data.tags
    assert tags["team"] == "nlp"
    assert tags["frostline.spec_digest"] == result.spec_digest
    assert tags["frostline.frozen_unchanged"] == "true"
    assert tags["frostline.version.torch"]
    assert "frostline run" in tags["mlflow.note.content"]
    assert f"Result: **accuracy {result.objective.value:.4f}**" in tags["mlflow.note.content"]
    (dataset,) = [item.dataset for item in run.inputs.dataset_inputs]
    assert (dataset.name, dataset.source_type) == ("moods", "path")
    assert result.provenance["data_fingerprint"].startswith(dataset.digest)
    assert json.loads(dataset.profile)["train_rows"] == 128
    experiment = store.get_experiment_by_name("frostline")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    artifacts = {item.path for item in store.list_artifacts(run.info.run_id)}
    files = {
        "spec.json",
        "overrides.yaml",
        "environment.json",
        "metrics.jsonl",
        "result.json",
        "run.log",
        "predictions.parquet",
    }
    assert artifacts - {"git.diff"} == files
    assert len(run.outputs.model_outputs) == 1  # tests/e2e/test_mlflow_model.py


def test_freeze_head_has_its_depth_as_a_number_and_the_model_may_stay_out(frostline, tiny_overrides, store):
    assert frostline("run", *tiny_overrides, "freeze=head", "tracking.log_model=false")[0] == 0
    (run,) = runs_of(store)
    assert (run.data.params["freeze.name"], run.data.params["freeze.depth"]) == ("head", "4")
    assert not run.outputs.model_outputs


def test_a_diverged_run_is_failed_everywhere(frostline, in_tmp, tiny_overrides, store):
    code, out, err = frostline("run", *tiny_overrides, "optimizer.lr=1e30")
    assert code == 1
    assert err.splitlines()[-1].startswith("frostline: d0-lr1e+30-s0-tiny-moods: diverged at step ")
    assert "Traceback" not in err
    (run,) = runs_of(store)
    assert run.info.status == "FAILED"
    assert run.data.tags["frostline.reason"].startswith("diverged at step ")
    assert "best/accuracy" not in run.data.metrics
    assert out.splitlines()[-1].startswith("run_dir: ")


def test_a_crash_is_failed_and_not_a_traceback(frostline, in_tmp, tiny_overrides, store, monkeypatch):
    from transformers import Trainer

    def explode(self, *args, **kwargs):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Trainer, "training_step", explode)
    code, _, err = frostline("run", *tiny_overrides)
    assert code == 1
    assert err.splitlines()[-1] == "frostline: d0-lr1e-03-s0-tiny-moods: RuntimeError: out of luck"
    (run,) = runs_of(store)
    assert (run.info.status, run.data.tags["frostline.reason"]) == ("FAILED", "RuntimeError: out of luck")


@pytest.mark.parametrize("raised", [SystemExit(3), SystemExit(0), SystemExit("bye")])
@pytest.mark.slow
def test_an_exit_in_a_run_is_a_failure(frostline, in_tmp, tiny_overrides, store, monkeypatch, raised):
    from transformers import Trainer

    def leave(self, *args, **kwargs):
        raise raised

    monkeypatch.setattr(Trainer, "training_step", leave)
    code, _, err = frostline("run", *tiny_overrides)
    assert code == 1, err
    assert runs_of(store)[0].info.status == "FAILED"
    assert "SystemExit" in RunResult.read(next((in_tmp / "runs" / "single").iterdir())).reason


def test_a_tracking_server_that_is_down_ends_no_run(frostline, in_tmp, tiny_overrides, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    code, out, err = frostline("run", *tiny_overrides, "tracking.uri=http://me:secret@127.0.0.1:9")
    assert code == 0
    assert err.count("MLflow at") == 1
    assert "training continues. What it misses is kept in the runs' folders: frostline sync records it later" in err
    assert RunResult.read(Path(out.splitlines()[-1].removeprefix("run_dir: "))).status is Status.FINISHED
    arguments = (
        "tracking.uri=http://me:secret@127.0.0.1:9",
        "seed=0,1",
        "training.max_steps=1",
        "training.epochs=null",
    )
    assert frostline("run", "-m", *tiny_overrides, *arguments)[0] == 0
    for path in (in_tmp / "runs").rglob("*"):
        assert path.is_dir() or b"secret" not in path.read_bytes(), path
    assert "secret" not in err


@pytest.mark.slow
def test_a_multirun_runs_all_and_compares(frostline, in_tmp, tiny_overrides):
    code, out, err = frostline("run", "-m", *tiny_overrides, OFF, "freeze.depth=0,3", "seed=0,1")
    assert code == 0, err
    assert len(re.findall(r"^\[\d/4\] ", out, re.M)) == 4
    rows = rows_of(next((in_tmp / "runs" / "multirun").iterdir()))
    assert len(rows) == 4
    assert {(row.coordinates["freeze.depth"], row.coordinates["seed"]) for row in rows} == {
        (0, 0),
        (0, 1),
        (3, 0),
        (3, 1),
    }
    assert re.search(r"freeze.depth\s+seed\s+accuracy", out)
    best = max(row.result.objective.value for row in rows)
    assert f"accuracy {best:.4f}" in out.split("best: ")[1]
    assert out.splitlines()[-1].startswith("run_dir: ")


@pytest.mark.slow
def test_a_failing_run_lets_the_others_go_on(frostline, in_tmp, tiny_overrides, store):
    code, out, err = frostline("run", "-m", *tiny_overrides, "optimizer.lr=1e30,1e-3,1e25", "tracking.log_model=false")
    assert code == 1
    assert sorted(run.info.status for run in runs_of(store)) == ["FAILED", "FAILED", "FINISHED"]
    statuses = [row.result.status for row in rows_of(next((in_tmp / "runs" / "multirun").iterdir()))]
    assert sorted(statuses) == ["FAILED", "FAILED", "FINISHED"]
    assert out.count("diverged at step") >= 2
    assert "best: optimizer.lr=1e-03" in out
    assert "Traceback" not in err


def test_bad_data_in_a_multirun_lets_the_others_go_on(frostline, in_tmp, tiny_overrides):
    code, out, err = frostline("run", "-m", *tiny_overrides, OFF, "dataset.text_column=text,words")
    assert code == 1
    assert err.count("no such column") >= 1
    results = [row.result for row in rows_of(next((in_tmp / "runs" / "multirun").iterdir()))]
    assert [result.status for result in results] == ["FINISHED", "FAILED"]
    assert "no such column" in results[1].reason


def test_one_bad_value_of_a_multirun_stops_it_before_the_first_run(frostline, in_tmp, tiny_overrides):
    code, _, err = frostline("run", "-m", *tiny_overrides, OFF, "freeze.depth=0,1,9", "seed=0,1")
    assert (code, err) == (2, "frostline: freeze.depth=9: tiny has 4 blocks, so give 0 to 4\n")
    assert not (in_tmp / "runs").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["freeze.depth=5"], "freeze.depth=5: tiny has 4 blocks, so give 0 to 4"),
        (["freeze.depth=-1"], "freeze.depth=-1: must be 0 or more"),
        (["optimizer.learing_rate=1"], "did you mean 'optimizer.lr'?"),
        (["optimizer.lr=abc"], "optimizer.lr=abc: expected a number"),
        (["optimizer.lr=nan"], "optimizer.lr=nan: must be a finite number above 0"),
        (["model=nosuch"], "no such choice; one of albert_base, "),
        (["dataset.location=missing.csv"], "dataset.location=missing.csv: no such file"),
        (["dataset.eval_from=missing.csv"], "dataset.eval_from=missing.csv: no such file"),
        (["dataset.label_column=stars"], "dataset.label_column=stars: moods.csv has no such column"),
        (["dataset.train_rows=1"], "hold one class only"),
        (["+freeze._target_=os.getpid"], "freeze._target_ is refused"),
        (["model=hub", "model.location=some/model"], "the hub can't be reached"),
        (["dataset=hub", "dataset.location=some/data"], "the hub can't be reached"),
        (["training.max_tokens=100"], "the model has 64 positions"),
        (["plugins=[no_such_module]"], "plugins: can't import 'no_such_module'"),
        (["resume=nowhere"], "resume=nowhere: no run's folder there"),
        (["training.metrics=[accuracy,acuracy]"], "did you mean 'accuracy'?"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(frostline, in_tmp, tiny_overrides, overrides, message):
    code, out, err = frostline("run", *tiny_overrides, OFF, *overrides)
    assert code == 2
    assert out == ""
    assert message in err
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("frostline: ")


def test_two_runs_at_once_in_one_folder(frostline, in_tmp, tiny_overrides, make_spec):
    from frostline.records.run_folder import RunFolder

    with RunFolder(in_tmp / "same", make_spec()):
        code, _, err = frostline("run", *tiny_overrides, OFF, "hydra.run.dir=same")
    assert code == 2
    assert "another process is writing a run there" in err
    code, _, err = frostline("run", *tiny_overrides, OFF, "hydra.run.dir=same")
    assert (code, "holds a run already" in err) == (2, True)


def test_flags_may_stand_anywhere_and_wrong_ones_get_one_line(frostline, in_tmp, tiny_overrides):
    code, out, err = frostline("run", *tiny_overrides, OFF, "-m", "freeze.depth=0,4")
    assert code == 0, err
    assert "[2/2]" in out
    for arguments in (["--nosuch"], ["--cfg", "nope"], ["freeze.depth=1", "--cfg"]):
        code, _, err = frostline("run", *arguments)
        assert code == 2
        assert len(err.strip().splitlines()) == 1, err
    assert frostline("run", "--info", "freeze.depth=1")[0] == 0


def test_a_sweep_without_values(frostline, in_tmp, tiny_overrides):
    code, _, err = frostline("run", "-m", *tiny_overrides, OFF, "seed=range(0,0)")
    assert code == 2
    assert "seed=range(0,0): holds no values" in err
    assert not (in_tmp / "runs").exists()


@pytest.mark.slow
def test_an_earlier_commands_runs_stay_out_of_the_table(frostline, in_tmp, tiny_overrides):
    assert frostline("run", *tiny_overrides, OFF, "hydra.run.dir=runs/all/old", "freeze=none")[0] == 0
    code, out, err = frostline("run", "-m", *tiny_overrides, OFF, "hydra.sweep.dir=runs/all", "seed=0,1")
    assert code == 0, err
    assert "runs/all/old" not in out


def test_predict_wants_pairs_where_the_model_does(frostline, in_tmp, tiny_overrides):
    rows = [(text, text, str(i % 2)) for i, (text, _) in enumerate(sentences(40))]
    write_csv(in_tmp / "pairs.csv", rows, ("text", "second", "label"))
    pairs = ["dataset.location=pairs.csv", "dataset.pair_column=second", "hydra.run.dir=pairs"]
    assert frostline("run", *tiny_overrides, OFF, *pairs)[0] == 0
    assert "give the second with --pair" in frostline("predict", "pairs", "a text")[2]
    assert frostline("predict", "pairs", "--pair", "other", "a text")[0] == 0


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model/model.safetensors", b"half"),
        ("model/tokenizer.json", b'{"a": 1}'),
        ("model/config.json", b"[]"),
        ("spec.json", b"\xff\xfe"),
        ("spec.json", b'{"schema": 1'),
    ],
)
@pytest.mark.slow
def test_predict_on_a_damaged_run_gets_one_line(frostline, in_tmp, tiny_overrides, file, content):
    assert (
        frostline("run", *tiny_overrides, OFF, "hydra.run.dir=run", "training.max_steps=1", "training.epochs=null")[0]
        == 0
    )
    (in_tmp / "run" / file).write_bytes(content)
    code, _, err = frostline("predict", "run", "a text")
    assert code == 2
    assert len(err.strip().splitlines()) == 1, err


@pytest.mark.parametrize("command", ["inspect", "run", "run -m"])
def test_debug_shows_the_traceback_too(frostline, in_tmp, monkeypatch, command):
    monkeypatch.setenv("FROSTLINE_DEBUG", "1")
    code, _, err = frostline(*command.split(), "freeze.depth=9")
    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-1] == "frostline: freeze.depth=9: minilm has 6 blocks, so give 0 to 6"


def test_a_folder_that_can_not_be_written(frostline, in_tmp, tiny_overrides):
    (in_tmp / "taken").write_text("")
    code, _, err = frostline("run", *tiny_overrides, OFF, "hydra.run.dir=taken/run")
    assert code == 2
    assert len(err.strip().splitlines()) == 1, err
    assert "taken" in err


def test_a_folder_with_spaces_and_unicode(frostline, in_tmp, tiny_overrides):
    code, out, err = frostline("run", *tiny_overrides, OFF, "hydra.run.dir='my runs/été ☃'")
    assert code == 0, err
    assert (in_tmp / "my runs" / "été ☃" / "result.json").exists()


def test_a_folder_that_holds_a_run_is_not_written_over(frostline, in_tmp, tiny_overrides):
    assert frostline("run", *tiny_overrides, OFF, "hydra.run.dir=here")[0] == 0
    code, _, err = frostline("run", *tiny_overrides, OFF, "hydra.run.dir=here")
    assert code == 2
    assert "holds a run already" in err


def test_a_users_own_optimizer_and_metric_from_a_plugin(frostline, in_tmp, tiny_overrides):
    (in_tmp / "my_parts.py").write_text(
        "import torch\n"
        "from frostline.models.optimizer import OPTIMIZERS\n"
        "@OPTIMIZERS.register('plain_sgd')\n"
        "def plain(groups, spec):\n"
        "    return torch.optim.SGD(groups, lr=spec.lr)\n"
    )
    code, _, err = frostline("run", *tiny_overrides, OFF, "plugins=[my_parts]", "optimizer.name=plain_sgd")
    assert code == 0, err


def test_resume_resumes_and_refuses_another_config(frostline, in_tmp, tiny_overrides):
    code, out, _ = frostline("run", *tiny_overrides, OFF, "hydra.run.dir=whole", "training.epochs=2")
    assert code == 0
    code, _, err = frostline("run", *tiny_overrides, OFF, "resume=whole", "training.epochs=2", "optimizer.lr=2e-3")
    assert code == 2
    assert "that run had another config: optimizer.lr: 0.001 -> 0.002" in err
    code, _, err = frostline("run", *tiny_overrides, OFF, "resume=whole", "training.epochs=2")
    assert code == 2
    assert "no whole checkpoint" in err


def test_inspect(frostline, in_tmp, tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "config-only", ignore=shutil.ignore_patterns("*.safetensors"))
    arguments = ["inspect", "model=path", f"model.location={tmp_path / 'config-only'}"]
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
    facts = json.loads(frostline("inspect", "model=path", "model.location=bert", "--json")[1])
    assert facts["base"]["num_named_params"] == 199
    facts = json.loads(frostline("inspect", "model=path", "model.location=distilbert", "--json")[1])
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


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("runs/none", "runs/none: no run's folder, no sweep in runs/, and no MLflow run id"),
        (".", "is no run's folder"),
        (
            "0123456789abcdef",
            "0123456789abcdef: no run's folder, no sweep in runs/, and no MLflow run id",
        ),
    ],
)
def test_predict_without_a_run(frostline, store, run, message):
    code, _, err = frostline("predict", run, "text")
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


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
    assert "train_rows: 256" in out
    code, out, _ = frostline("sweep", "demo", "--cfg", "job")
    assert "n_trials: 11" in out
    assert not (in_tmp / "runs").exists()


@pytest.mark.parametrize(
    ("line", "has"),
    [
        ("frostline r", {"run"}),
        ("frostline ", {"run", "sweep", "report", "fetch", "inspect", "predict", "ui"}),
        ("frostline run model=", {"model=minilm", "model=path", "model=hub"}),
        ("frostline run freeze.de", {"freeze.depth="}),
        ("frostline sweep ", {"lr_x_depth", "demo", "pareto"}),
        ("frostline list ", {"models", "datasets", "freezes", "sweeps", "metrics", "samplers"}),
        ("frostline list mo", {"models"}),
        ("frostline cache ", {"list", "clear"}),
        ("frostline sweep lr", {"lr_x_depth", "lr_only"}),
        ("frostline sweep demo sweep.n_tr", {"sweep.n_trials="}),
        ("frostline inspect dataset=tw", {"dataset=tweets"}),
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


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_killed_everywhere_and_the_run_can_go_on(store, in_tmp, tiny_overrides, signum, code):
    """A real process, a real signal, then `resume=`."""
    arguments = ["run", *tiny_overrides, "training.epochs=400", "hydra.run.dir=cut short"]
    process = start(*arguments, cwd=in_tmp, as_users_do=signum == signal.SIGINT)
    metrics = in_tmp / "cut short" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") > 20)
    os.kill(process.pid, signum)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "KILLED" in out
    assert "Traceback" not in err
    assert RunResult.read(in_tmp / "cut short").status is Status.KILLED
    (run,) = runs_of(store)
    assert run.info.status == "KILLED"
    assert list((in_tmp / "cut short" / "checkpoints").glob("step-*"))
    assert err.splitlines()[-1] == f"resume it with the same command and 'resume={in_tmp / 'cut short'}'"


def interrupt_step_three(monkeypatch):
    """Sends Ctrl-C in the third step of this process; returns a list that grows with every step."""
    from transformers import Trainer

    real, calls = Trainer.training_step, []

    def step(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", step)
    return calls


def test_resume_by_the_run_id_in_mlflow(frostline, in_tmp, tiny_overrides, store, monkeypatch):
    with monkeypatch.context() as patched:
        interrupt_step_three(patched)
        assert frostline("run", *tiny_overrides, "hydra.run.dir=first")[0] == 130
    (run,) = runs_of(store)
    code, _, err = frostline("run", *tiny_overrides, f"resume={run.info.run_id}", "hydra.run.dir=second")
    assert code == 0, err
    assert RunResult.read(in_tmp / "second").provenance["resumed_from"] == str(in_tmp / "first")
    shutil.rmtree(in_tmp / "first")
    code, _, err = frostline("run", *tiny_overrides, f"resume={run.info.run_id}", "hydra.run.dir=third")
    assert code == 2
    assert err == f"frostline: resume={run.info.run_id}: its folder ({in_tmp / 'first'}) isn't on this machine\n"
    code, _, err = frostline("run", *tiny_overrides, f"resume={'0' * 32}", "hydra.run.dir=third")
    assert code == 2
    assert "neither a run's folder nor a run in sqlite:///mlflow.db" in err


def test_an_interrupted_multirun_stops(frostline, in_tmp, tiny_overrides, monkeypatch):
    calls = interrupt_step_three(monkeypatch)
    code, out, _ = frostline("run", "-m", *tiny_overrides, OFF, "seed=0,1,2")
    assert code == 130
    assert len(calls) == 3
    assert "KILLED (stopped by SIGINT)" in out


def test_two_texts_files(frostline, in_tmp, tiny_overrides):
    write_csv(in_tmp / "train.csv", sentences(40))
    write_csv(in_tmp / "test.csv", sentences(20, seed=9))
    code, out, _ = frostline(
        "run", *tiny_overrides, OFF, "dataset.location=train.csv", "dataset.eval_from=test.csv", "freeze=head"
    )
    assert code == 0
    assert "40 rows trained on, 20 held out" in out


@pytest.mark.slow
def test_a_users_own_sweep_file(frostline, in_tmp, tiny_overrides):
    (in_tmp / "my_conf" / "sweep").mkdir(parents=True)
    (in_tmp / "my_conf" / "sweep" / "mine.yaml").write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      freeze.depth: 0,4\n"
    )
    code, out, err = frostline("run", "--config-dir", "my_conf", "+sweep=mine", *tiny_overrides, OFF)
    assert code == 0, err
    assert "[2/2] d4-" in out
    code, _, err = frostline(
        "run", "--config-dir", "my_conf", "+sweep=mine", *tiny_overrides, OFF, "model.num_blocks=3"
    )
    assert (code, err) == (2, "frostline: freeze.depth=4: tiny has 3 blocks, so give 0 to 3\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_installed(frostline, in_tmp, shell):
    code, out, _ = frostline("-sc", f"install={shell}")
    assert code == 0
    assert "frostline" in out
