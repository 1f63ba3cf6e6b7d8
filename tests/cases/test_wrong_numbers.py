"""Inputs that once gave other numbers than were asked for, and exit 0: a test for each kind."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file, save_file

from frostline.config import compose_run
from frostline.data.load import load_rows
from frostline.data.pixel_table import in_mode
from frostline.errors import DataError, UserError
from frostline.records.recorder import Recorders
from frostline.records.result import Status
from frostline.records.run_context import RunContext
from frostline.records.run_folder import RunFolder
from frostline.spec import TASKS, Format
from frostline.train import run
from tests.conftest import save_tokenizer, tiny_config
from tests.e2e.train.test_resume import StopAt
from tests.support.sweep_tools import call

FEW = ("training.max_steps=4", "training.epochs=null", "tracking=off")

# -- 1: variables that a launcher left in the shell --------------------------------------------------------------------

LEFT_BEHIND = (
    {"ACCELERATE_MIXED_PRECISION": "bf16"},
    {"ACCELERATE_USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true"},
    {"ACCELERATE_USE_DEEPSPEED": "true"},
    {"ACCELERATE_DYNAMO_BACKEND": "EAGER", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
    {"ACCELERATE_TORCH_DEVICE": "meta"},
    {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
    {"LOCAL_RANK": "0"},
    {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "PMI_SIZE": "2", "PMI_RANK": "1"},
    {"XLA_USE_BF16": "1", "USE_TORCH_XLA": "1"},
    {"LOGLEVEL": "debug"},
    {"TRANSFORMERS_SDPA_FORCE_GQA": "1", "USE_HUB_KERNELS": "1"},
)


def losses(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_1_no_variable_of_another_launcher_changes_a_number(tmp_path, tiny_overrides):
    plain = call("run", *tiny_overrides, *FEW, "hydra.run.dir=plain", cwd=tmp_path)
    assert plain.returncode == 0, plain.stderr
    expected = losses(tmp_path / "plain")
    assert "ignored" not in plain.stderr
    for index, variables in enumerate(LEFT_BEHIND):
        done = call("run", *tiny_overrides, *FEW, f"hydra.run.dir=with{index}", cwd=tmp_path, **variables)
        assert done.returncode == 0, (variables, done.stderr)
        assert losses(tmp_path / f"with{index}") == expected, variables
        for name, value in variables.items():
            assert f"{name}={value}" in done.stderr
        seen = json.loads((tmp_path / f"with{index}" / "environment.json").read_text())
        assert seen["ignored_variables"] == variables
        assert not variables.keys() & seen["variables"].keys()


@pytest.mark.slow
def test_1_what_can_change_bits_is_recorded_and_named_by_reproduce(tmp_path, tiny_overrides):
    done = call("run", *tiny_overrides, *FEW, "hydra.run.dir=a", cwd=tmp_path, ATEN_CPU_CAPABILITY="default")
    assert done.returncode == 0, done.stderr
    seen = json.loads((tmp_path / "a" / "result.json").read_text())["provenance"]["variables"]
    assert seen["ATEN_CPU_CAPABILITY"] == "default"
    again = call("reproduce", "a", cwd=tmp_path)
    assert "ATEN_CPU_CAPABILITY: default -> -" in again.stdout + again.stderr


# -- 2: a classifier's head --------------------------------------------------------------------------------------------


def classifier(folder: Path, names: list[str], kind: str = "BertForSequenceClassification") -> Path:
    """A model that was fine-tuned before, of which `names` are the classes."""
    import transformers

    torch.manual_seed(1)
    model = getattr(transformers, kind)(
        tiny_config(id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)})
    )
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.fill_(7.0)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.mark.slow
def test_2_the_head_is_a_fresh_one_though_the_folder_holds_a_classifier(tmp_path, tiny_overrides):
    for name, kind in (("sentences", "BertForSequenceClassification"), ("words", "BertForTokenClassification")):
        folder = classifier(tmp_path / name, ["positive", "negative"], kind)
        overrides = [*tiny_overrides, f"model.location={folder}", "optimizer.lr=1e-9", "optimizer.weight_decay=0", *FEW]
        done = call("run", *overrides, f"hydra.run.dir=run-{name}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        trained = load_file(tmp_path / f"run-{name}" / "model" / "model.safetensors")
        assert trained["classifier.weight"].abs().max() < 1, "the old head"
        assert trained["classifier.weight"].std() > 0.01
        assert "classifier.bias, classifier.weight" in done.stdout.partition("newly initialized: ")[2]
        before = load_file(folder / "model.safetensors")
        assert torch.equal(
            trained["bert.embeddings.word_embeddings.weight"], before["bert.embeddings.word_embeddings.weight"]
        )
        reported = call(
            "show", "--blocks", *tiny_overrides[2:4], "model=path", f"model.location={folder}", cwd=tmp_path
        )
        assert "classifier.bias, classifier.weight" in reported.stdout.partition("newly initialized: ")[2]
        if name == "words":  # its weights have no pooler
            assert "bert.pooler.dense.weight" in reported.stdout


@pytest.mark.slow
def test_2_a_head_that_is_kept_is_mapped_by_the_names_of_its_classes(tmp_path, tiny_overrides):
    first = call("run", *tiny_overrides, "training.epochs=12", "tracking=off", "hydra.run.dir=first", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    accuracy = json.loads((tmp_path / "first" / "result.json").read_text())["metrics"]["eval/accuracy"]
    assert accuracy > 0.7
    turned = tmp_path / "turned"  # the same classifier, its classes in another order
    (tmp_path / "first" / "model").rename(turned)
    weights = load_file(turned / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name].flip(0).contiguous()
    save_file(weights, turned / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((turned / "config.json").read_text())
    names = [config["id2label"][key] for key in ("0", "1")]
    config |= {"id2label": {"0": names[1], "1": names[0]}, "label2id": {names[1]: 0, names[0]: 1}}
    (turned / "config.json").write_text(json.dumps(config))
    overrides = [*tiny_overrides, f"model.location={turned}", "optimizer.lr=1e-9", "optimizer.weight_decay=0", *FEW]
    kept = call("run", *overrides, "model.head=keep", "hydra.run.dir=kept", cwd=tmp_path)
    assert kept.returncode == 0, kept.stderr
    assert json.loads((tmp_path / "kept" / "result.json").read_text())["metrics"]["eval/accuracy"] == accuracy
    assert "newly initialized" not in kept.stdout


@pytest.mark.slow
def test_2_a_head_of_other_classes_is_not_kept(tmp_path, tiny_overrides, tiny_model):
    folder = classifier(tmp_path / "other", ["joy", "anger"])
    done = call("run", *tiny_overrides, f"model.location={folder}", "model.head=keep", *FEW, cwd=tmp_path)
    assert done.returncode == 2
    assert "the classes of" in done.stderr
    assert "joy, anger, the data set's are negative, positive" in done.stderr
    done = call("run", *tiny_overrides, "model.head=keep", *FEW, cwd=tmp_path)
    assert done.returncode == 2
    assert "holds no classifier's head; take model.head=fresh" in done.stderr
    done = call("run", *tiny_overrides, "model.head=keep", "model.init=random", "freeze=none", *FEW, cwd=tmp_path)
    assert done.returncode == 2
    assert "with model.init=random there is no head to keep" in done.stderr


# -- 3: resuming with other inputs -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["data", "weights", "tokenizer"])
def test_3_a_stopped_run_does_not_go_on_with_other_inputs(tmp_path, make_spec, own_model, tiny_csv, changed):
    own_csv = tmp_path / "own.csv"
    own_csv.write_text(tiny_csv.read_text())
    spec = make_spec("training.epochs=4", f"model.location={own_model}", f"dataset.location={own_csv}")
    with RunFolder(tmp_path / "cut", spec) as folder:
        stopped = run(spec, RunContext(Recorders([folder, StopAt(9)]), tmp_path / "cut"))
    assert stopped.status is Status.KILLED
    if changed == "data":
        swapped = {"positive": "negative", "negative": "positive"}
        lines = [line.rpartition(",") for line in own_csv.read_text().splitlines()]
        own_csv.write_text("\n".join(f"{text},{swapped.get(label, label)}" for text, _, label in lines) + "\n")
    elif changed == "weights":
        weights = load_file(own_model / "model.safetensors")
        weights["embeddings.word_embeddings.weight"] += 0.01
        save_file(weights, own_model / "model.safetensors", metadata={"format": "pt"})
    else:
        tokenizer = json.loads((own_model / "tokenizer.json").read_text())
        tokenizer["normalizer"]["lowercase"] = not tokenizer["normalizer"]["lowercase"]
        (own_model / "tokenizer.json").write_text(json.dumps(tokenizer))
    name = {"data": "data", "weights": "model weights", "tokenizer": "tokenizer"}[changed]
    with (
        pytest.raises(UserError, match=f"its inputs changed since the run started: {name} "),
        RunFolder(tmp_path / "again", spec) as folder,
    ):
        run(spec, RunContext(Recorders([folder]), tmp_path / "again", resume_from=tmp_path / "cut"))


# -- 4 to 7, 14: labels ------------------------------------------------------------------------------------------------


def load(path: Path, **settings) -> Any:
    """What a file is read as."""
    spec = compose_run(["dataset=csv", f"dataset.location={path}"]).dataset
    with tempfile.TemporaryDirectory(dir=path.parent) as cache:
        rows = load_rows(replace(spec, **{"format": Format.AUTO, **settings}), lambda _: path, Path(cache))
        return replace(rows, train=pick(rows.train), evaluation=pick(rows.evaluation))


def pick(table: Any) -> dict[str, list]:
    return {name: list(table[name]) for name in table.column_names}


def rows_of(folder: Path, name: str, text: str | None = None, **settings) -> Any:
    if text is not None:
        (folder / name).write_text(text, encoding="utf-8")
    return load(folder / name, **settings)


def json_lines(values: list) -> str:
    return "".join(json.dumps({"text": f"text {index}", "label": value}) + "\n" for index, value in enumerate(values))


def test_4_lists_of_0_and_1_are_one_bit_for_each_class(tmp_path):
    hot = [[0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]] * 10
    rows = rows_of(tmp_path, "a.jsonl", json_lines(hot), task=TASKS.get("multi_label"))
    assert rows.label_names == ("0", "1", "2", "3")
    assert set(rows.train["labels"]) == {0b1010, 0b0011, 0b0100, 0}
    names = ("joy", "fun", "fear", "awe")
    rows = rows_of(tmp_path, "b.jsonl", json_lines(hot), task=TASKS.get("multi_label"), label_names=names)
    assert rows.label_names == names
    cells = "text,label\n" + "".join(f'text {index},"{value}"\n' for index, value in enumerate(hot))
    rows = rows_of(tmp_path, "c.csv", cells, task=TASKS.get("multi_label"))  # as pandas writes them
    assert set(rows.train["labels"]) == {0b1010, 0b0011, 0b0100, 0}
    rows = rows_of(
        tmp_path, "e.jsonl", json_lines([[str(bit) for bit in row] for row in hot]), task=TASKS.get("multi_label")
    )
    assert set(rows.train["labels"]) == {0b1010, 0b0011, 0b0100, 0}
    cells = "text,label\n" + "".join(f"text {i},{';'.join(map(str, row))}\n" for i, row in enumerate(hot))
    rows = rows_of(tmp_path, "f.csv", cells, task=TASKS.get("multi_label"))
    assert set(rows.train["labels"]) == {0b1010, 0b0011, 0b0100, 0}
    with pytest.raises(DataError, match="are of 4 classes, dataset.label_names names 2"):
        rows_of(tmp_path, "d.jsonl", json_lines(hot), task=TASKS.get("multi_label"), label_names=("a", "b"))
    ids = rows_of(tmp_path, "e.jsonl", json_lines([[0, 2], [1], [2, 1]] * 10), task=TASKS.get("multi_label"))
    assert set(ids.train["labels"]) == {0b101, 0b010, 0b110}  # lists of ids are what they were


def test_5_a_text_that_holds_a_list_is_one(tmp_path):
    cells = ["\"['joy', 'fun']\"", '"[""fear""]"', "joy;fear", "[]"] * 10
    text = "text,label\n" + "".join(f"text {index},{cell}\n" for index, cell in enumerate(cells))
    rows = rows_of(tmp_path, "a.csv", text, task=TASKS.get("multi_label"))
    assert rows.label_names == ("fear", "fun", "joy")
    assert set(rows.train["labels"]) == {0b110, 0b001, 0b101, 0}
    tags = "text,label\n" + "".join(f"the film {index},\"['O', 'B-X', 'O']\"\n" for index in range(40))
    rows = rows_of(tmp_path, "b.csv", tags, task=TASKS.get("token_classification"))
    assert rows.label_names == ("B-X", "O")
    assert rows.train["labels"][0] == [1, 0, 1]
    words = "text,label\n" + "".join(f"\"['New York', 'is', '{n}']\",O O B-X\n" for n in range(40))
    rows = rows_of(tmp_path, "c.csv", words, task=TASKS.get("token_classification"))
    assert rows.train["words"][0][:2] == ["New York", "is"]
    for wrong in ("['joy' 'fun']", "['joy', __import__('os')]"):  # the first one is numpy's
        text = "text,label\n" + "".join(f'text {index},"{wrong}"\n' for index in range(40))
        with pytest.raises(DataError, match="starts and ends like a list, but is not one"):
            rows_of(tmp_path, "d.csv", text, task=TASKS.get("multi_label"))


def test_6_one_name_is_one_class(tmp_path):
    text = "text,label\n" + "".join(f"text {n},{('1', '1.0', 'unknown')[n % 3]}\n" for n in range(60))
    rows = rows_of(tmp_path, "a.csv", text)
    assert rows.label_names == ("1", "unknown")
    assert sum(rows.report["labels"]["train"].values()) == len(rows.train["text"])
    assert rows.report["labels"]["train"]["1"] == 2 * rows.report["labels"]["train"]["unknown"]


def test_6_truth_values_are_one_class_in_every_format(tmp_path):
    values = [True, False] * 20
    found = [rows_of(tmp_path, "a.jsonl", json_lines(values))]
    for index, words in enumerate((("True", "False"), ("true", "false"), ("TRUE", "FALSE"))):
        text = "text,label\n" + "".join(f"text {n},{words[n % 2]}\n" for n in range(40))
        found.append(rows_of(tmp_path, f"b{index}.csv", text))
    table = pa.table({"text": [f"text {n}" for n in range(40)], "label": values})
    parquet.write_table(table, tmp_path / "c.parquet")
    found.append(load(tmp_path / "c.parquet"))
    for rows in found:
        assert rows.label_names == ("False", "True")
        assert list(rows.train["labels"]) == list(found[0].train["labels"])


def test_6_truth_values_among_others_and_named_by_the_user_stay_what_they_are(tmp_path):
    text = "text,label\n" + "".join(f"text {n},{('true', 'false', 'maybe')[n % 3]}\n" for n in range(60))
    assert rows_of(tmp_path, "a.csv", text).label_names == ("false", "maybe", "true")
    pair = "text,label\n" + "".join(f"text {n},{('true', 'false')[n % 2]}\n" for n in range(60))
    rows = rows_of(tmp_path, "b.csv", pair, label_names=("true", "false"))
    assert [rows.label_names[label] for label in rows.train["labels"]] == [
        ("true", "false")[int(line.split()[1]) % 2] for line in rows.train["text"]
    ]
    rows = rows_of(tmp_path, "c.jsonl", json_lines([True, False] * 30), label_names=("no", "yes"))
    assert [rows.label_names[label] for label in rows.train["labels"]] == [
        ("yes", "no")[int(line.split()[1]) % 2] for line in rows.train["text"]
    ]


def test_7_numbers_too_large_to_be_distinguished_are_refused(tmp_path):
    with pytest.raises(DataError, match="may stand for several whole ones"):
        rows_of(tmp_path, "a.jsonl", json_lines([7, 2**63, 2**63 + 1] * 10))
    rows = rows_of(tmp_path, "b.jsonl", json_lines([7, 2**62, 2**62 + 1] * 10))
    assert rows.label_names == ("7", str(2**62), str(2**62 + 1))
    rows = rows_of(tmp_path, "c.jsonl", json_lines(["7", str(2**63), str(2**63 + 1)] * 10))
    assert len(rows.label_names) == 3


def test_14_what_python_alone_takes_for_a_number_is_refused_and_classes_alike_are_noted(tmp_path):
    text = "text,label\n" + "".join(f"text {n},{n}.5\n" for n in range(40)) + "odd,1_001\n"
    with pytest.raises(DataError, match=r"row 41: the label '1_001' is not a finite number"):
        rows_of(tmp_path, "a.csv", text, task=TASKS.get("regression"))
    text = "text,label\n" + "".join(f"text {n},{('good', 'good ', 'bad')[n % 3]}\n" for n in range(60))
    rows = rows_of(tmp_path, "b.csv", text)
    assert any("differ in blanks or case alone: 'good', 'good '" in line for line in rows.warnings)
    text = "text,label\n" + "".join(f'text {n},"{("joy,fun", "joy", "fear")[n % 3]}"\n' for n in range(60))
    rows = rows_of(tmp_path, "c.csv", text, task=TASKS.get("multi_label"))
    assert any("the class 'joy,fun' is one: dataset.label_separator is ';'" in line for line in rows.warnings)


# -- 9: images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_9_what_lies_below_transparent_pixels_is_not_trained_on(mode):
    shown = np.array(Image.new("RGBA", (4, 4), (10, 20, 30, 255)))
    hidden = shown.copy()
    shown[:2, :, 3] = hidden[:2, :, 3] = 0
    hidden[:2, :, :3] = 200
    one, other = (in_mode(Image.fromarray(each).convert(mode), "RGB", "an image") for each in (shown, hidden))
    assert np.array_equal(one, other)
    assert (np.array(one)[0, 0] == 255).all()
    opaque = Image.fromarray(np.array(Image.new("RGBA", (4, 4), (10, 20, 30, 255))))
    assert np.array_equal(in_mode(opaque, "RGB", "an image"), opaque.convert("RGB"))


# -- 10, 12: how a file is written -------------------------------------------------------------------------------------


def test_10_a_quote_behind_a_backslash_is_noted_and_can_be_read(tmp_path):
    lines = "".join(f'"he said \\"hi\\" {n}",{("a", "b")[n % 2]}\n' for n in range(40))
    rows = rows_of(tmp_path, "a.csv", "text,label\n" + lines)
    assert any(r"use 'dataset.escape=\\')" in line and "the first is line 2" in line for line in rows.warnings)
    rows = rows_of(tmp_path, "a.csv", "text,label\n" + lines, escape="\\")
    assert rows.train["text"][0].startswith('he said "hi" ')
    assert not any("dataset.escape" in line for line in rows.warnings)
    comma = "text,label\n" + "".join(f'"he said \\"hi, you\\" {n}",{("a", "b")[n % 2]}\n' for n in range(40))
    with pytest.raises(DataError, match=r"line 2: .* if \\\" is a quote there, use 'dataset.escape=\\\\'"):
        rows_of(tmp_path, "b.csv", comma)
    rows = rows_of(tmp_path, "b.csv", comma, escape="\\")
    assert rows.train["text"][0].startswith('he said "hi, you" ')


def test_12_columns_for_a_file_that_names_them_itself_are_refused(tmp_path):
    text = "text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(40))
    with pytest.raises(DataError, match="its first line holds the names in dataset.columns"):
        rows_of(tmp_path, "a.csv", text, columns=("text", "label"))
    assert len(rows_of(tmp_path, "a.csv", text.split("\n", 1)[1], columns=("text", "label")).train["text"]) == 32


# -- 11: what decides which rows are held out --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("key", ["dataset.seed", "dataset.eval_fraction", "dataset.eval_rows", "dataset.threshold"])
def test_11_trials_are_not_judged_by_different_rows(frostline, in_tmp, tiny_overrides, key):
    code, _, err = frostline("sweep", "lr_only", *tiny_overrides[:4], f"{key}=choice(1,2)", "tracking=off")
    assert code == 2
    assert f"sweep.space.{key}: trials would be judged by different rows or labels" in err


# -- of the same kinds, found later ------------------------------------------------------------------------------------


def with_eval(folder: Path, name: str, text: str | None, form: Format = Format.AUTO, **settings) -> Any:
    """Rows that train from one file, and rows to evaluate on from another one; text None: it is there."""
    if text is not None:
        (folder / name).write_text(text, encoding="utf-8")
    spec = compose_run(["dataset=csv", f"dataset.location={folder / name}"]).dataset
    spec = replace(spec, format=form, eval_from="other", **settings)
    return load_rows(spec, lambda other: folder / ("other.csv" if other else name), folder / "cache")


def test_the_same_classes_in_two_files_are_the_same_however_they_are_written(tmp_path):
    other = "text,label\n" + "".join(f"more {n},{n % 2}\n" for n in range(20))
    (tmp_path / "other.csv").write_text(other, encoding="utf-8")
    for name, values in (("whole", [0, 1]), ("float", [0.0, 1.0])):
        rows = with_eval(tmp_path, f"{name}.jsonl", json_lines(values * 20))
        assert rows.label_names == ("0", "1")
        assert all(row["labels"] == int(row["text"].split()[1]) % 2 for row in rows.evaluation)
    named = "text,label\n" + "".join(f"more {n},{('neg', 'pos')[n % 2]}\n" for n in range(20))
    (tmp_path / "other.csv").write_text(named, encoding="utf-8")
    rows = with_eval(tmp_path, "ids.jsonl", json_lines([0, 1] * 20), label_names=("neg", "pos"))
    assert all(row["labels"] == int(row["text"].split()[1]) % 2 for row in rows.evaluation)


def test_numbers_that_name_classes_are_never_taken_for_ids(tmp_path):
    text = "text,label\n" + "".join(f"text {n},{n % 5}\n" for n in range(60))
    with pytest.raises(DataError, match="label '0' is none of 1, 2, 3, 4, 5"):
        rows_of(tmp_path, "a.csv", text, label_names=("1", "2", "3", "4", "5"))


@pytest.mark.parametrize("header", ["Text,Label\n", "\ntext,label\n", " text , LABEL\n"])
def test_a_header_is_no_row(tmp_path, header):
    text = header + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(40))
    with pytest.raises(DataError, match=r"its first line holds the names in dataset\.columns"):
        rows_of(tmp_path, "a.csv", text, columns=("text", "label"))


@pytest.mark.parametrize("line", ["Paris NNP", "# one more comment", "New York NNP B-LOC"])
def test_a_line_of_words_with_other_fields_than_the_rest_is_refused(tmp_path, line):
    text = ("a DT O\nfilm NN O\n\n" * 20) + f"in IN O\n{line}\n\n"
    with pytest.raises(DataError, match=r"line 62: has \d fields, most lines have 3"):
        rows_of(
            tmp_path, "a.conll", text, task=TASKS.get("token_classification"), text_column="words", label_column="tags"
        )


def test_classes_that_look_the_same_are_noted_and_blanks_are_no_class(tmp_path):
    for index, pair in enumerate((("caf\u00e9", "cafe\u0301"), ("good", "good\u200b"))):
        text = "text,label\n" + "".join(f"text {n},{(*pair, 'bad')[n % 3]}\n" for n in range(60))
        rows = rows_of(tmp_path, f"{index}.csv", text)
        assert any("differ in how Unicode writes them alone" in line for line in rows.warnings)
    text = "text,label\n" + "".join(f"text {n},{('a', 'b', '  ')[n % 3]}\n" for n in range(60))
    with pytest.raises(DataError, match="row 3: the label is missing"):
        rows_of(tmp_path, "blank.csv", text)


def test_a_number_that_float32_does_not_hold_is_no_label(tmp_path):
    text = "text,label\n" + "".join(f"text {n},{n}e38\n" for n in range(40))
    with pytest.raises(DataError, match=r"row 5: the label '4e38' is larger than what a model computes with"):
        rows_of(tmp_path, "a.csv", text, task=TASKS.get("regression"))
