import os
from pathlib import Path

import pytest

from frostline.config import compose_job, compose_run, spec_from_text
from frostline.config.errors import known_keys
from frostline.errors import SpecError, UserError, nearest


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.learing_rate=1"], r"optimizer.learing_rate: unknown key \(did you mean 'optimizer.lr'\?\)"),
        (["+optimizer.learing_rate=1"], r"optimizer.learing_rate: unknown key \(did you mean 'optimizer.lr'\?\)"),
        (["training.batchsize=1"], r"did you mean 'training.batch_size'"),
        (["bert_base"], r"bert_base: is no KEY=VALUE \(did you mean model=bert_base\?\)"),
        (["modle=minilm"], r"modle: unknown key \(did you mean 'model'\?\)"),
        (["learning_rate=1e-3"], r"did you mean 'optimizer.lr'"),
        (
            ["model.name=bert_base"],
            r"model.name=bert_base: is the name of the ready-made model .*; use that one by model=bert_base",
        ),
        (["dataset.name=tweets"], r"dataset.name=tweets: is the name of the ready-made dataset .* by dataset=tweets"),
        (["+nonsense=1"], r"nonsense: unknown key"),
        (["optimizer.lr=abc"], r"optimizer.lr=abc: expected a number, got the text 'abc'"),
        (["seed=1.5"], r"seed=1.5: expected a whole number"),
        (["freeze.depth=true"], r"freeze.depth=True: expected a whole number, got the switch True"),
        (["training.metrics=accuracy"], r"training.metrics: expected a list, for example \[a,b\]"),
        (["training.metrics=[1]"], r"training.metrics\[0\]=1: expected a text"),
        (["training.precision=fp8"], r"training.precision=fp8: no such choice.*one of auto, bf16, fp16, fp32"),
        (["model=nosuch"], r"model=nosuch: no such choice; one of albert_base, .*, minilm, .*"),
        (["optimizer=adamww"], r"optimizer=adamww: no such choice \(did you mean 'adamw'\?\)"),
        (["model=path"], r"model.location is missing: give it, for example model.location="),
        (["optimizer=null"], r"group override must be a string"),
        (["~optimizer.lr"], r"optimizer.lr is missing"),
        (["~optimizer"], r"optimizer is missing"),
        (["optimizer=[]"], r"optimizer"),
        (["freeze=none", "freeze.depth=2"], r"freeze.depth=2 contradicts freeze=none"),
        (["freeze.depth=1,2"], r"freeze.depth=1,2: several values: frostline run -m makes a run of each"),
        (["optimizer.lr=["], r"optimizer.lr=\[: can't be read as KEY=VALUE"),
        (["dataset.name=${oc.env:FROSTLINE_NO_SUCH}"], r"environment variable FROSTLINE_NO_SUCH is not set"),
        (["dataset.name=${dataset.location}", "dataset.location=${dataset.name}"], r"refers to itself"),
        (["dataset.name=${nosuch}"], r"Interpolation key 'nosuch' not found \(at dataset.name\)"),
        (["+x._target_=os.system"], r"x._target_ is refused"),
        (["+tracking.tags.a={_target_:os.getpid}"], r"tracking.tags.a._target_ is refused"),
        (["resume=3"], r"resume=3: expected a text"),
        (["plugins=mine"], r"plugins: expected a list"),
    ],
)
def test_a_bad_config_gets_one_line(overrides, message):
    with pytest.raises(SpecError, match=message) as error:
        compose_job(overrides)
    assert "\n" not in str(error.value)


def test_what_a_user_may_write():
    assert compose_run(["optimizer.lr=1"]).optimizer.lr == 1.0
    assert compose_run(["runtime.progress=off"]).runtime.progress == "off"
    assert compose_job(["+tracking.tags.team=nlp"]).tracking.tags == {"team": "nlp"}
    assert compose_run(["dataset.columns=[a,b]"]).dataset.columns == ("a", "b")
    assert compose_run(["training.epochs=0.5"]).training.epochs == 0.5


@pytest.fixture
def own_conf(tmp_path: Path) -> Path:
    (tmp_path / "freeze").mkdir()
    return tmp_path


def test_a_users_own_groups(own_conf):
    (own_conf / "freeze" / "half.yaml").write_text("name: depth\ndepth: 3\n")
    assert compose_job(["freeze=half"], str(own_conf)).run.freeze.depth == 3


def test_bad_yaml_is_named_with_its_line(own_conf):
    (own_conf / "freeze" / "bad.yaml").write_text("name: depth\ndepth: [1\nother: 2\n")
    with pytest.raises(SpecError, match=r"bad YAML in bad.yaml, line 3"):
        compose_job(["freeze=bad"], str(own_conf))


def test_a_target_in_a_users_file_runs_nothing(own_conf, tmp_path):
    canary = tmp_path / "canary"
    (own_conf / "freeze" / "evil.yaml").write_text(
        f"name: depth\ndepth:\n  _target_: pathlib.Path.touch\n  _args_: [{canary}]\n"
    )
    with pytest.raises(SpecError, match="_target_ is refused|_args_ is refused"):
        compose_job(["freeze=evil"], str(own_conf))
    assert not canary.exists()


def test_a_yaml_tag_in_a_recorded_spec_runs_nothing(tmp_path):
    canary = tmp_path / "canary"
    with pytest.raises(SpecError, match="bad YAML"):
        spec_from_text(f"schema: 1\nmodel: !!python/object/apply:os.mkdir ['{canary}']\n")
    assert not canary.exists()


def test_a_recorded_spec_is_data_interpolations_stay_text(monkeypatch):
    monkeypatch.setenv("SECRET", "leaked")
    text = compose_run(["dataset.name=x"]).to_json().replace('"name": "x"', '"name": "${oc.env:SECRET}"')
    assert spec_from_text(text).dataset.name == "${oc.env:SECRET}"


def test_a_hand_written_recorded_spec_may_say_1e_4():
    from frostline.config import spec_to_yaml

    text = spec_to_yaml(compose_run()).replace("lr: 0.0001", "lr: 1e-4")
    assert "1e-4" in text
    assert spec_from_text(text).optimizer.lr == 1e-4


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "schema: 1"])
def test_a_recorded_spec_that_is_none(text):
    with pytest.raises(UserError):
        spec_from_text(text)


def test_known_keys_are_those_of_the_config():
    keys = known_keys()
    assert {"optimizer.lr", "freeze.depth", "seed", "tracking.uri", "resume", "plugins"} <= set(keys)
    assert set(compose_run().flat()) <= set(keys)


def test_nearest_knows_initials_and_letters():
    assert "'optimizer.lr'" in nearest("optimizer.learning_rate", ["optimizer.lr", "optimizer.layer_decay"])
    assert "'minilm'" in nearest("minlm", ["minilm", "path"])
    assert nearest("zzz", ["minilm"]) == ""


def test_composition_leaves_the_environment_alone():
    before = dict(os.environ)
    compose_run()
    assert dict(os.environ) == before


def test_mlflows_own_variable_names_the_store(monkeypatch):
    assert compose_job().tracking.uri == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert compose_job().tracking.uri == "http://host:5000"
    assert compose_job(["tracking.uri=sqlite:///other.db"]).tracking.uri == "sqlite:///other.db"
