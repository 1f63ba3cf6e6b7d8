"""The JSON Schema of the config takes what the config takes, and refuses what it refuses."""

from pathlib import Path

import jsonschema
import pytest
from omegaconf import OmegaConf

from frostline.config.errors import known_keys
from frostline.config.json_schema import json_schema

ROOT = Path(__file__).parents[3]
SCHEMA = json_schema()
STARTER = ROOT / "src" / "frostline" / "cli" / "starter" / "conf"
GROUP_FILES = [
    *sorted(path for path in (ROOT / "conf").glob("*/*.yaml") if path.parent.name != "experiment"),
    *sorted(STARTER.glob("dataset/*.yaml")),
]
WHOLE_FILES = [
    *sorted((ROOT / "sweeps" / "sweep").rglob("*.yaml")), *sorted((ROOT / "conf" / "experiment").glob("*.yaml")),
    *sorted(STARTER.glob("[se]*/*.yaml")), ROOT / "conf" / "config.yaml",
]  # fmt: skip


def errors(data, schema=SCHEMA):
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(data)]


def of_group(name):
    return {"$ref": f"#/$defs/{name}", "$defs": SCHEMA["$defs"]}


def content(path):
    """A file without its values that have to be given."""
    data = OmegaConf.to_container(OmegaConf.load(path))  # PyYAML alone reads 1e-3 as a text
    return {key: value for key, value in data.items() if value != "???"}


def test_it_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", GROUP_FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_it_takes_the_files_of_groups(path):
    assert errors(content(path), of_group(path.parent.name)) == []


@pytest.mark.parametrize("path", WHOLE_FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_it_takes_sweeps_and_experiments(path):
    data = content(path)
    sweep = data.get("sweep", {})
    data["sweep"] = {key: value for key, value in sweep.items() if value != "???"}
    assert errors(data) == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"optimizer": {"lrr": 1e-3}}, "optimizer: Additional properties"),
        ({"training": {"epochs": "three"}}, "training.epochs"),
        ({"freeze": {"name": "deep"}}, "freeze.name: 'deep' is not one of"),
        ({"sweep": {"sampler": "best"}}, "sweep.sampler: 'best' is not one of"),
        ({"dataset": {"task": "ranking"}}, "dataset.task"),
        ({"seed": -1}, "seed"),
        ({"model": {"quantize": "int4"}}, "model.quantize"),
    ],
)
def test_it_refuses_what_the_config_refuses(data, words):
    assert words in "; ".join(errors(data))


def test_it_has_every_key_of_the_config():
    def dotted(schema, prefix=""):
        for key, value in schema["properties"].items():
            yield f"{prefix}{key}"
            inner = value.get("anyOf", [value])
            for each in inner:
                if "properties" in each:
                    yield from dotted(each, f"{prefix}{key}.")

    keys = {f"{group}.{key}" for group in SCHEMA["$defs"] for key in dotted(SCHEMA["$defs"][group])}
    keys |= set(SCHEMA["properties"])
    assert set(known_keys()) - keys == set()


def test_each_key_has_its_words():
    bare = [
        f"{group}.{key}"
        for group, schema in SCHEMA["$defs"].items()
        for key, value in schema["properties"].items()
        if "description" not in value
    ]
    assert bare == []


def test_the_command_prints_it(frostline):
    import json

    code, out, _ = frostline("schema")
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(SCHEMA))
