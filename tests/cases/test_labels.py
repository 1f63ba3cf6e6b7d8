r"""Labels and rows that once were taken for something else without a word: of databases, lists, comments, numbers."""

from __future__ import annotations

import datetime
import json
import zipfile

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from frostline.dataset.pixels import in_mode
from frostline.errors import DataError, SpecError
from frostline.spec import Format, MissingLabels, Task
from tests.cases.test_wrong_numbers import json_lines, load, rows_of, with_eval


def cells(values: list[str]) -> str:
    return "text,label\n" + "".join(f"text {n},{value}\n" for n, value in enumerate(values))


def test_rows_of_bits_are_not_taken_for_the_classes_0_and_1(tmp_path):
    (tmp_path / "other.csv").write_text(cells(["0;1;0", "1;0;0", "0;0;1"] * 5), encoding="utf-8")
    with pytest.raises(DataError, match=r"other\.csv: its labels are a 0 or a 1 for each class"):
        with_eval(tmp_path, "ids.jsonl", json_lines([[0, 2], [1], [2, 1]] * 10), task=Task.MULTI_LABEL)


def test_rows_of_no_class_are_told_from_rows_without_a_label(tmp_path):
    text = cells(["joy;fun", "joy", ""] * 20)
    with pytest.raises(DataError, match=r"row 3: the label is missing; .*=drop leaves .*, no_class takes them for"):
        rows_of(tmp_path, "a.csv", text, task=Task.MULTI_LABEL)
    dropped = load(tmp_path / "a.csv", task=Task.MULTI_LABEL, missing_labels=MissingLabels.DROP)
    assert dropped.report["rows_dropped"] == 20
    kept = load(tmp_path / "a.csv", task=Task.MULTI_LABEL, missing_labels=MissingLabels.NO_CLASS)
    assert kept.report["rows_dropped"] == 0
    assert set(kept.train["labels"]) == {0b11, 0b10, 0}
    table = pa.table({"text": [f"text {n}" for n in range(60)], "label": ["joy;fun", "joy", None] * 20})
    parquet.write_table(table, tmp_path / "b.parquet")
    same = load(tmp_path / "b.parquet", task=Task.MULTI_LABEL, missing_labels=MissingLabels.NO_CLASS)
    assert same.fingerprint == kept.fingerprint
    with pytest.raises(SpecError, match=r"dataset\.missing_labels=no_class: is for dataset\.task=multi_label"):
        load(tmp_path / "a.csv", missing_labels=MissingLabels.NO_CLASS)


@pytest.mark.parametrize("task", [Task.MULTI_LABEL, Task.TOKEN_CLASSIFICATION])
def test_a_blank_item_of_a_list_is_no_class(tmp_path, task):
    lists = [["joy", "fun"], ["joy", ""], ["fun", "joy"]]
    with pytest.raises(DataError, match="row 2: a label of the list is blank"):
        rows_of(tmp_path, "a.jsonl", json_lines(lists * 20), task=task)


def test_a_missing_number_is_no_class_where_rows_may_have_several(tmp_path):
    table = pa.table({"text": [f"text {n}" for n in range(60)], "label": [0.0, 1.0, float("nan")] * 20})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="row 3: the label is missing"):
        load(tmp_path / "a.parquet", task=Task.MULTI_LABEL)


@pytest.mark.parametrize(
    ("task", "odd"),
    [
        (Task.MULTI_LABEL, "[joy;fun]"), (Task.MULTI_LABEL, "{'joy'}"), (Task.CLASSIFICATION, "['joy']"),
    ],
)  # fmt: skip
def test_classes_that_look_like_lists_are_noted(tmp_path, task, odd):
    rows = rows_of(tmp_path, "a.csv", cells([odd, "joy", "fear"] * 20), task=task)
    assert any("is one class (if it is meant for a list" in line for line in rows.warnings)


def test_truth_values_are_one_class_in_any_case(tmp_path):
    rows = rows_of(tmp_path, "a.csv", cells(["tRuE", "True", "false"] * 20))
    assert rows.label_names == ("False", "True")
    counts = rows.report["labels"]["train"]
    assert counts["True"] == 2 * counts["False"]


def test_truth_values_are_not_the_numbers_0_and_1(tmp_path):
    (tmp_path / "other.csv").write_text(cells(["1", "0"] * 10), encoding="utf-8")
    with pytest.raises(DataError, match="label '1' is none of False, True"):
        with_eval(tmp_path, "a.jsonl", json_lines([True, False] * 20))
    parquet.write_table(pa.table({"text": ["more 1", "more 2"], "label": [True, False]}), tmp_path / "other.csv")
    table = pa.table({"text": [f"text {n}" for n in range(40)], "label": [0, 1] * 20})
    parquet.write_table(table, tmp_path / "b.parquet")
    with pytest.raises(DataError, match="label True is none of 0, 1"):
        with_eval(tmp_path, "b.parquet", None, form=Format.PARQUET)


# -- dates -------------------------------------------------------------------------------------------------------------


def test_lists_of_dates_are_texts_in_every_format(tmp_path):
    lists = [["2024-01-31", "2024-02-01"], ["2024-02-01", "2024-01-31"], ["2024-01-31"]] * 20
    rows = rows_of(tmp_path, "a.jsonl", json_lines(lists), task=Task.MULTI_LABEL)
    assert rows.label_names == ("2024-01-31", "2024-02-01")
    days = [[datetime.date.fromisoformat(day) for day in row] for row in lists]
    parquet.write_table(pa.table({"text": [f"text {n}" for n in range(60)], "label": days}), tmp_path / "b.parquet")
    same = load(tmp_path / "b.parquet", task=Task.MULTI_LABEL)
    assert same.fingerprint == rows.fingerprint
    days = [datetime.date(2024, 1, n % 28 + 1).isoformat() for n in range(40)]
    words = [{"text": [days[n], days[-n]], "label": ["O", "B-DAY"]} for n in range(40)]
    lines = "".join(json.dumps(row) + "\n" for row in words)
    tagged = rows_of(tmp_path, "c.jsonl", lines, task=Task.TOKEN_CLASSIFICATION)
    assert {word for row in tagged.train["words"] for word in row} <= set(days)


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.timestamp("us", tz="Mars/Olympus")])
def test_times_that_python_does_not_know_get_one_line(tmp_path, kind):
    labels = pa.array([10**14, 10**14 + 86400] * 20, type=pa.int64()).cast(kind)
    parquet.write_table(pa.table({"text": [f"text {n}" for n in range(40)], "label": labels}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: .*label.*can't be read"):
        load(tmp_path / "a.parquet")


# -- CSV and CoNLL -----------------------------------------------------------------------------------------------------


def test_a_blank_before_a_quote_is_refused_and_texts_with_quotes_are_not(tmp_path):
    text = 'text,label\n"good one", "a"\n' + "".join(f'"text {n}", "b"\n' for n in range(40))
    with pytest.raises(DataError, match=r"line 2: a blank stands between the separator and the quote"):
        rows_of(tmp_path, "a.csv", text)
    fine = ['"he said, ""hi"" to me"', '"so, "', '" ""quoted"" "', 'a "quoted" word']
    text = "text,label\n" + "".join(f"{fine[n % 4]},{n % 2}\n" for n in range(40))
    rows = rows_of(tmp_path, "b.csv", text)
    texts = {*rows.train["text"], *rows.evaluation["text"]}
    assert texts == {
        'he said, "hi" to me',
        "so, ",
        ' "quoted" ',
        'a "quoted" word',
    }


def test_what_databases_write_for_no_value_is_none(tmp_path):
    text = cells(["a", "b", r"\N"] * 20)
    with pytest.raises(DataError, match="row 3: the label is missing"):
        rows_of(tmp_path, "a.csv", text)
    assert load(tmp_path / "a.csv", missing_labels=MissingLabels.DROP).report["rows_dropped"] == 20
    with pytest.raises(DataError, match=r"line 4: holds \\N, with which databases mean no value"):
        load(tmp_path / "a.csv", escape="\\")


def test_letters_behind_an_escape_are_noted(tmp_path):
    text = "text,label\n" + "".join(f"one\\nline {n},{n % 2}\n" for n in range(20))
    rows = rows_of(tmp_path, "a.csv", text, escape="\\")
    assert any(r"20 lines hold \n, \r or \t, the first is line 2" in line for line in rows.warnings)
    assert not any("hold" in line for line in load(tmp_path / "a.csv").warnings)


def test_a_line_for_excel_is_named(tmp_path):
    with pytest.raises(DataError, match="first line, sep=;, is for Excel alone: remove it"):
        rows_of(tmp_path, "a.csv", "sep=;\n" + cells(["a", "b"] * 20).replace(",", ";"))


def test_a_header_with_another_name_is_noted(tmp_path):
    text = cells(["a", "b"] * 20)
    rows = rows_of(tmp_path, "a.csv", text, columns=("text", "mood"), label_column="mood")
    assert any("its first line is a row, and holds 'text', the name of a column" in line for line in rows.warnings)


def test_comments_in_conll_are_no_words(tmp_path):
    sentences = [f"a DT _ O\nfilm{n} NN _ B-X\n\n" for n in range(20)]
    given = {"task": Task.TOKEN_CLASSIFICATION, "text_column": "words", "label_column": "tags"}
    text = "".join(f"# sent_id = 1\n{each}" for each in sentences)
    rows = rows_of(tmp_path, "a.conll", text, **given)
    words = ["a", rows.train["words"][0][1]]
    assert (rows.label_names, rows.train["words"][0]) == (("B-X", "O"), words)
    text = "".join("# a b c\n" + each.replace(" ", "\t") for each in sentences)
    assert rows_of(tmp_path, "b.conll", text, **given).train["words"][0] == words
    rows = rows_of(tmp_path, "c.conll", "".join(f"# NN _ O\n{each}" for each in sentences), **given)
    assert rows.train["words"][0][:2] == ["#", "a"]
    assert any("line 1: '#' is taken for a word" in line for line in rows.warnings)


# -- JSON, Parquet, archives, images -----------------------------------------------------------------------------------


def test_texts_beside_numbers_in_json_are_told_so(tmp_path):
    with pytest.raises(DataError, match=r'label_column=label: holds values of several kinds \("1" beside 1\)'):
        rows_of(tmp_path, "a.jsonl", json_lines(["1", 2] * 20))


def test_rows_below_a_key_are_named(tmp_path):
    table = {"data": [{"text": f"text {n}", "label": n % 2} for n in range(40)], "version": 1}
    with pytest.raises(DataError, match="is one object, whose rows are below 'data'"):
        rows_of(tmp_path, "a.json", json.dumps(table))


def test_parquet_without_rows_is_told_so(tmp_path):
    parquet.write_table(
        pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}), tmp_path / "a.parquet"
    )
    with pytest.raises(DataError, match="holds no rows"):
        load(tmp_path / "a.parquet")


def test_a_member_named_like_a_folder_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "w") as archive:
        archive.writestr("a/..", cells(["a", "b"] * 20))
    with pytest.raises(DataError, match="holds a file without a name"):
        load(tmp_path / "a.csv.zip")


def test_numbers_that_32_bits_blur_are_noted(tmp_path):
    rows = rows_of(tmp_path, "a.csv", cells([str(1_700_000_000 + n) for n in range(40)]), task=Task.REGRESSION)
    assert any("are trained on to the nearest 128 (numbers of 32 bits)" in line for line in rows.warnings)
    rows = rows_of(tmp_path, "b.csv", cells([f"{n / 7}" for n in range(40)]), task=Task.REGRESSION)
    assert not any("32 bits" in line for line in rows.warnings)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_images_of_other_colours_are_converted_or_refused(mode):
    for colours in ("CMYK", "YCbCr", "HSV", "P", "1", "LA", "PA"):
        assert in_mode(Image.new(colours, (2, 2)), mode, "here").mode == mode
    see_through = Image.new("LA", (2, 2), (0, 0)).convert("La")
    assert in_mode(see_through, mode, "here").getpixel((0, 0)) in {255, (255, 255, 255)}
    shown = in_mode(Image.new("LAB", (2, 2), (255, 128, 128)), mode, "here")
    assert np.abs(np.asarray(shown, dtype=int) - 255).max() <= 1
