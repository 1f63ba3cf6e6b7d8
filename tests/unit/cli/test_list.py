"""`frostline list`: every name that a config may choose, each with what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from frostline.cli.list import first_sentence
from frostline.config import compose_run
from frostline.metrics import METRICS
from frostline.spec import PrunerName, SamplerName
from tests.support.sweep_tools import call

ROOT = Path(__file__).parents[3]


def listed(frostline, *arguments):
    code, out, err = frostline("list", *arguments, "--json")
    assert code == 0, err
    return {each["name"]: each["about"] for each in json.loads(out)}


@pytest.mark.parametrize(
    ("what", "folder"),
    [
        ("models", "conf/model"), ("datasets", "conf/dataset"), ("freezes", "conf/freeze"),
        ("optimizers", "conf/optimizer"), ("sweeps", "sweeps/sweep"),
    ],
)  # fmt: skip
def test_files_are_listed_with_their_first_sentence(frostline, what, folder):
    # Other tests of this process may have registered some of their own.
    found = {name: about for name, about in listed(frostline, what).items() if not name.startswith("test-")}
    assert set(found) == {path.stem for path in (ROOT / folder).glob("*.yaml")}
    assert all(len(about) > 10 for about in found.values()), found
    assert not [about for about in found.values() if "\n" in about or about.startswith("#") or "frostline " in about]


def test_names_of_the_code_are_listed(frostline):
    assert set(listed(frostline, "samplers")) == {name.value for name in SamplerName}
    assert set(listed(frostline, "pruners")) == {name.value for name in PrunerName}
    metrics = listed(frostline, "metrics")
    assert set(metrics) == set(METRICS)
    assert metrics["f1"] == "classification, maximize, two classes only"
    assert metrics["mse"] == "regression, minimize"


def test_a_table_for_people(frostline, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    code, out, _ = frostline("list", "freezes")
    assert code == 0
    lines = out.splitlines()
    assert (
        next(line for line in lines if line.startswith("none "))
        .split(maxsplit=1)[1]
        .startswith("Everything is trained")
    )
    assert all(len(line) <= 60 for line in lines)


@pytest.mark.slow
def test_a_users_own_groups_and_plugins_are_listed(frostline, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# My own model. It is good.\nname: mine\n")
    (tmp_path / "model" / "odd.yaml").write_bytes(b"# caf\xe9\n")
    (tmp_path / "model" / "folder.yaml").mkdir()
    found = listed(frostline, "models", "--config-dir", str(tmp_path))
    assert found["mine"] == "My own model."
    assert found["odd"] == "(can't be read: UnicodeDecodeError)"
    assert found["folder"] == "(can't be read: IsADirectoryError)"
    (tmp_path / "list_plugin.py").write_text(
        "from frostline.models.optimizer import OPTIMIZERS\n"
        "@OPTIMIZERS.register('listed')\ndef build(groups, spec): ...\n"
    )
    # In a process of its own: what is registered here would be every later test's.
    done = call("list", "optimizers", "--plugin", "list_plugin", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "listed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch"], "invalid choice: 'nosuch'"),
        ([], "required: what"),
        (["models", "--config-dir", "/nowhere"], "no such folder"),
    ],
)
def test_bad_arguments_get_one_line(frostline, arguments, message):
    code, _, err = frostline("list", *arguments)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("# One. Two.\nname: x\n", "One."),
        ("# @package _global_\n# Which depth, at\n# which rate? More.\n", "Which depth, at which rate?"),
        ("# Adafactor (arXiv 1804.04235), as it is\n#   frostline run\n", "Adafactor (arXiv 1804.04235), as it is"),
        ("name: x\n# later\n", ""),
    ],
)
def test_the_first_sentence_of_a_comment(text, about):
    assert first_sentence(text) == about


@pytest.mark.slow
def test_what_is_listed_composes(frostline):
    for name in listed(frostline, "models"):
        more = ["model.location=somewhere"] if name in {"path", "hub"} else []
        freeze = ["freeze=none"] if name == "albert_base" else []
        assert compose_run([f"model={name}", *more, *freeze]).model.source
