r"""Labels and rows that once were taken for something else without a word: of databases, lists, comments, numbers."""

from __future__ import annotations

import datetime
import gzip
import io
import json
import struct
import zipfile
import zlib

import datasets
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from frostline.config import compose_run
from frostline.data.image_files import read_images
from frostline.data.load import load_rows
from frostline.data.pixel_table import in_mode
from frostline.errors import DataError, SpecError
from frostline.spec import TASKS, Format, MissingLabels
from tests.cases.test_wrong_numbers import json_lines, load, rows_of, with_eval


def cells(values: list[str]) -> str:
    return "text,label\n" + "".join(f"text {n},{value}\n" for n, value in enumerate(values))


def test_rows_of_bits_are_not_taken_for_the_classes_0_and_1(tmp_path):
    (tmp_path / "other.csv").write_text(cells(["0;1;0", "1;0;0", "0;0;1"] * 5), encoding="utf-8")
    with pytest.raises(DataError, match=r"other\.csv: its labels are a 0 or a 1 for each class"):
        with_eval(tmp_path, "ids.jsonl", json_lines([[0, 2], [1], [2, 1]] * 10), task=TASKS.get("multi_label"))


def test_rows_of_no_class_are_distinguished_from_rows_without_a_label(tmp_path):
    text = cells(["joy;fun", "joy", ""] * 20)
    with pytest.raises(DataError, match=r"row 3: the label is missing; .*=drop leaves .*, no_class takes them for"):
        rows_of(tmp_path, "a.csv", text, task=TASKS.get("multi_label"))
    dropped = load(tmp_path / "a.csv", task=TASKS.get("multi_label"), missing_labels=MissingLabels.DROP)
    assert dropped.report["rows_dropped"] == 20
    kept = load(tmp_path / "a.csv", task=TASKS.get("multi_label"), missing_labels=MissingLabels.NO_CLASS)
    assert kept.report["rows_dropped"] == 0
    assert set(kept.train["labels"]) == {0b11, 0b10, 0}
    table = pa.table({"text": [f"text {n}" for n in range(60)], "label": ["joy;fun", "joy", None] * 20})
    parquet.write_table(table, tmp_path / "b.parquet")
    same = load(tmp_path / "b.parquet", task=TASKS.get("multi_label"), missing_labels=MissingLabels.NO_CLASS)
    assert same.fingerprint == kept.fingerprint
    with pytest.raises(SpecError, match=r"dataset\.missing_labels=no_class: is for dataset\.task=multi_label"):
        load(tmp_path / "a.csv", missing_labels=MissingLabels.NO_CLASS)


@pytest.mark.parametrize("task", [TASKS.get("multi_label"), TASKS.get("token_classification")])
def test_a_blank_item_of_a_list_is_no_class(tmp_path, task):
    lists = [["joy", "fun"], ["joy", ""], ["fun", "joy"]]
    with pytest.raises(DataError, match="row 2: a label of the list is blank"):
        rows_of(tmp_path, "a.jsonl", json_lines(lists * 20), task=task)


def test_a_missing_number_is_no_class_where_rows_may_have_several(tmp_path):
    table = pa.table({"text": [f"text {n}" for n in range(60)], "label": [0.0, 1.0, float("nan")] * 20})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="row 3: the label is missing"):
        load(tmp_path / "a.parquet", task=TASKS.get("multi_label"))


@pytest.mark.parametrize(
    ("task", "odd"),
    [
        (TASKS.get("multi_label"), "[joy;fun]"), (TASKS.get("multi_label"), "{'joy'}"),
        (TASKS.get("classification"), "['joy']"),
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
    rows = rows_of(tmp_path, "a.jsonl", json_lines(lists), task=TASKS.get("multi_label"))
    assert rows.label_names == ("2024-01-31", "2024-02-01")
    days = [[datetime.date.fromisoformat(day) for day in row] for row in lists]
    parquet.write_table(pa.table({"text": [f"text {n}" for n in range(60)], "label": days}), tmp_path / "b.parquet")
    same = load(tmp_path / "b.parquet", task=TASKS.get("multi_label"))
    assert same.fingerprint == rows.fingerprint
    days = [datetime.date(2024, 1, n % 28 + 1).isoformat() for n in range(40)]
    words = [{"text": [days[n], days[-n]], "label": ["O", "B-DAY"]} for n in range(40)]
    lines = "".join(json.dumps(row) + "\n" for row in words)
    tagged = rows_of(tmp_path, "c.jsonl", lines, task=TASKS.get("token_classification"))
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
    given = {"task": TASKS.get("token_classification"), "text_column": "words", "label_column": "tags"}
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


def test_texts_beside_numbers_in_json_are_reported(tmp_path):
    with pytest.raises(DataError, match=r'label_column=label: holds values of several kinds \("1" beside 1\)'):
        rows_of(tmp_path, "a.jsonl", json_lines(["1", 2] * 20))


def test_rows_below_a_key_are_named(tmp_path):
    table = {"data": [{"text": f"text {n}", "label": n % 2} for n in range(40)], "version": 1}
    with pytest.raises(DataError, match="is one object, whose rows are below 'data'"):
        rows_of(tmp_path, "a.json", json.dumps(table))


def test_parquet_without_rows_is_reported(tmp_path):
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
    rows = rows_of(tmp_path, "a.csv", cells([str(1_700_000_000 + n) for n in range(40)]), task=TASKS.get("regression"))
    assert any("are trained on to the nearest 128 (numbers of 32 bits)" in line for line in rows.warnings)
    rows = rows_of(tmp_path, "b.csv", cells([f"{n / 7}" for n in range(40)]), task=TASKS.get("regression"))
    assert not any("32 bits" in line for line in rows.warnings)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_images_of_other_colours_are_converted_or_refused(mode):
    for colours in ("CMYK", "YCbCr", "HSV", "P", "1", "LA", "PA"):
        assert in_mode(Image.new(colours, (2, 2)), mode, "here").mode == mode
    see_through = Image.new("LA", (2, 2), (0, 0)).convert("La")
    assert in_mode(see_through, mode, "here").getpixel((0, 0)) in {255, (255, 255, 255)}
    shown = in_mode(Image.new("LAB", (2, 2), (255, 128, 128)), mode, "here")
    assert np.abs(np.asarray(shown, dtype=int) - 255).max() <= 1


# -- what a second attack found ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_large_json_file_means_what_a_small_one_does(tmp_path):
    rows = [{"text": f'{n} said "hi"\n' + "x" * 10_000, "label": "ab"[n % 2]} for n in range(1_200)]
    lines = [json.dumps(row) + "\n" for row in rows]
    assert sum(map(len, lines)) > 10 << 20
    found = rows_of(tmp_path, "a.jsonl", "".join(lines))
    assert all(text.endswith("x") for text in found.train["text"])
    rows[1_150]["text"] = 404
    with pytest.raises(DataError, match="row 1151: expected text in column text, got int"):
        rows_of(tmp_path, "b.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    rows[1_150] = {"text": "one", "label": 3}
    with pytest.raises(DataError, match="holds values of several kinds"):
        rows_of(tmp_path, "c.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    numbers = [{"text": "x" * 10_000 + str(n), "label": n if n < 1_100 else n + 0.5} for n in range(1_200)]
    assert rows_of(tmp_path, "d.jsonl", "".join(json.dumps(n) + "\n" for n in numbers), task=TASKS.get("regression"))


@pytest.mark.parametrize("names", [("1", "2", "3", "4", "5+"), ("none", "2", "1", "3", "x")])
def test_ids_are_ids_in_the_second_file_too(tmp_path, names):
    lines = "".join(json.dumps({"text": f"more {n}", "label": n % 5}) + "\n" for n in range(20))
    (tmp_path / "other.csv").write_text("text,label\n" + "".join(f"more {n},{n % 5}\n" for n in range(20)))
    rows = with_eval(tmp_path, "a.jsonl", json_lines([n % 5 for n in range(60)]), label_names=names)
    assert all(row["labels"] == int(row["text"].split()[1]) % 5 for row in rows.evaluation)
    (tmp_path / "train.csv").write_text(cells([str(n % 5) for n in range(60)]))
    (tmp_path / "other.csv").write_text(lines)
    table = pa.table({"text": [f"more {n}" for n in range(20)], "label": [n % 5 for n in range(20)]})
    parquet.write_table(table, tmp_path / "other.csv")
    train = pa.table({"text": [f"text {n}" for n in range(60)], "label": [str(n % 5) for n in range(60)]})
    parquet.write_table(train, tmp_path / "b.parquet")
    rows = with_eval(tmp_path, "b.parquet", None, form=Format.PARQUET, label_names=names)
    assert all(row["labels"] == int(row["text"].split()[1]) % 5 for row in rows.evaluation)


def test_an_empty_list_among_bits_is_a_row_of_no_class(tmp_path):
    hot = [[0, 1, 0], [1, 0, 1], [1, 1, 0], []] * 15
    rows = rows_of(tmp_path, "a.jsonl", json_lines(hot), task=TASKS.get("multi_label"))
    assert rows.label_names == ("0", "1", "2")
    assert set(rows.train["labels"]) == {0b010, 0b101, 0b011, 0}
    with pytest.raises(DataError, match=r"row \d+: \[\d, \d, \d\] names a class twice"):
        rows_of(tmp_path, "b.jsonl", json_lines([*hot[:30], [0, 2, 0], *hot[:20]]), task=TASKS.get("multi_label"))
    words = rows_of(
        tmp_path, "c.csv", cells(["True;False;True", "False;True;False"] * 20), task=TASKS.get("multi_label")
    )
    assert set(words.train["labels"]) == {0b101, 0b010}


@pytest.mark.parametrize("value", ["[O, B-X, O]", "O, B-X, O", "{O,B-X,O}"])
def test_tags_in_a_list_without_quotes_are_refused(tmp_path, value):
    text = "text,label\n" + "".join(f'the film {n},"{value}"\n' for n in range(40))
    with pytest.raises(DataError, match="looks like a list"):
        rows_of(tmp_path, "a.csv", text, task=TASKS.get("token_classification"))


def test_tags_in_a_tuple_are_read(tmp_path):
    text = "text,label\n" + "".join(f"\"('the', 'film', '{n}')\",\"('O', 'B-X', 'O')\"\n" for n in range(40))
    rows = rows_of(tmp_path, "a.csv", text, task=TASKS.get("token_classification"))
    assert rows.label_names == ("B-X", "O")
    assert rows.train["words"][0][:2] == ["the", "film"]


def test_words_without_labels_are_missing_or_named(tmp_path):
    lines = [{"text": ["a", str(n)], "label": None if n == 2 else ["O", "B-X"]} for n in range(40)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    given = {"task": TASKS.get("token_classification")}
    with pytest.raises(DataError, match="row 3: the labels are missing; dataset.missing_labels=drop"):
        rows_of(tmp_path, "a.jsonl", text, **given)
    assert load(tmp_path / "a.jsonl", missing_labels=MissingLabels.DROP, **given).report["rows_dropped"] == 1
    ids = [{"text": ["a", str(n), "b"], "label": [-100, 0, 1]} for n in range(40)]
    with pytest.raises(DataError, match="the label -100 marks words without a label"):
        rows_of(tmp_path, "b.jsonl", "".join(json.dumps(line) + "\n" for line in ids), **given)
    many = [{"text": ["a", "b", "c"], "label": [f"l{n}{k}" for k in range(3)]} for n in range(60)]
    with pytest.raises(DataError, match="180 different values in 60 rows are no classes of words"):
        rows_of(tmp_path, "c.jsonl", "".join(json.dumps(line) + "\n" for line in many), **given)
    single = rows_of(tmp_path, "d.csv", cells(["O", "B-X"] * 20).replace("text ", "w"), **given)
    assert any("every row has one word" in line for line in single.warnings)


def test_quotes_that_are_left_out_are_noted(tmp_path):
    text = "text,label\n" + "".join(f'"Casablanca" is great {n},{"ab"[n % 2]}\n' for n in range(40))
    rows = rows_of(tmp_path, "a.csv", text)
    assert any("line 2: something stands behind the closing quote" in line for line in rows.warnings)
    rows = load(tmp_path / "a.csv", quoted=False)
    assert all(text.startswith('"Casablanca"') for text in rows.train["text"])
    assert not any("closing quote" in line for line in rows.warnings)


@pytest.mark.parametrize("blank", ["\n", "\n\n", "\r\n", "\ufeff\n"])
def test_blank_lines_before_the_header_are_none(tmp_path, blank):
    rows = rows_of(tmp_path, "a.csv", blank + cells(["a", "b"] * 20))
    assert (rows.label_names, rows.report["rows_read"]) == (("a", "b"), 40)


@pytest.mark.parametrize("line", ["text,label\n", "----,-----\n"])
def test_a_header_or_a_rule_among_the_rows_is_refused(tmp_path, line):
    text = cells(["a", "b"] * 20)
    with pytest.raises(DataError, match="is no row, but the header once more or a rule"):
        rows_of(tmp_path, "a.csv", text + line + text.partition("\n")[2])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("seg_train", "seg_test"), r"holds splits \(seg_test, seg_train\), not classes"),
        (("PetImages",), r"holds one folder, PetImages, of 2 folders; if those are the classes"),
    ],
)
def test_folders_of_splits_are_no_classes(tmp_path, names, message):
    for name in names:
        for kind in ("cat", "dog"):
            (tmp_path / "data" / name / kind).mkdir(parents=True)
            Image.new("RGB", (2, 2)).save(tmp_path / "data" / name / kind / "a.png")
    with pytest.raises(DataError, match=message):
        read_images(tmp_path / "data")


def test_hidden_images_are_left_alone_and_deep_ones_refused(tmp_path):
    for kind in ("cat", "dog"):
        (tmp_path / "data" / kind / ".ipynb_checkpoints").mkdir(parents=True)
        for name in ("a.png", ".ipynb_checkpoints/a-checkpoint.png"):
            Image.new("RGB", (2, 2)).save(tmp_path / "data" / kind / name)
    assert len(read_images(tmp_path / "data").table) == 2
    deep = zlib.compress(b"\0" + bytes(range(6)))

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", deep) + chunk(b"IEND", b"")
    assert Image.open(io.BytesIO(png)).mode == "RGB"  # of which Pillow keeps half
    (tmp_path / "data" / "cat" / "b.png").write_bytes(png)
    spec = compose_run(["dataset=image_folder", f"dataset.location={tmp_path / 'data'}", "dataset.eval_fraction=0.5"])
    with pytest.raises(DataError, match=r"b\.png: has more than 8 bits a channel"):
        load_rows(spec.dataset, lambda _other: tmp_path / "data", tmp_path / "cache")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{n}\tw{k}\tO", "its first column counts the words"),
        ("doc-{s}\t{n}\tw{k}\tO", "its first column is the same in each sentence"),
    ],
)
def test_a_first_column_that_is_no_word_is_refused(tmp_path, line, message):
    sentences = ["".join(line.format(n=n, k=n + s, s=s) + "\n" for n in (1, 2, 3)) for s in range(20)]
    with pytest.raises(DataError, match=message):
        rows_of(
            tmp_path, "a.conll", "\n".join(sentences), task=TASKS.get("token_classification"), text_column="words",
            label_column="tags",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["1", "2.5", "4.5", "n/a"], "2.5, 4.5 are classes (if they are numbers"),
        (["good", "bad", "NA"], "NA is a class (if it stands for no value"),
        (["joy;fun", "fear", "joy"], "'joy;fun' is one class (if it is meant for several"),
        (["7", "007", "8"], "two classes for one number: '007', '7'"),
        (["-1", "\u22121", "1"], "two classes for one number: '-1', '\u22121'"),
    ],
)
def test_classes_that_may_be_meant_otherwise_are_noted(tmp_path, values, words):
    text = "text,label\n" + "".join(f'text {n},"{values[n % len(values)]}"\n' for n in range(60))
    assert any(words in line for line in rows_of(tmp_path, "a.csv", text).warnings)


def test_words_for_no_value_are_missing_where_numbers_are_asked_for(tmp_path):
    text = cells(["1.5", "2.5", "nan", "NA"] * 20)
    with pytest.raises(DataError, match="row 3: the label is missing"):
        rows_of(tmp_path, "a.csv", text, task=TASKS.get("regression"))
    rows = load(tmp_path / "a.csv", task=TASKS.get("regression"), missing_labels=MissingLabels.DROP)
    assert rows.report["rows_dropped"] == 40


def test_truth_values_are_no_numbers(tmp_path):
    with pytest.raises(DataError, match="the label True is not a finite number"):
        rows_of(tmp_path, "a.jsonl", json_lines([True, False] * 20), task=TASKS.get("regression"))


def test_texts_that_are_none_are_counted_or_refused(tmp_path):
    text = "text,label\n" + "".join(f"{'  ' if n < 8 else f'text {n}'},{'ab'[n % 2]}\n" for n in range(40))
    assert rows_of(tmp_path, "a.csv", text).report["empty_texts"] == 8
    with pytest.raises(DataError, match="row 2: the text is missing"):
        rows_of(tmp_path, "b.csv", "text,label\ngood,a\n\\N,b\n" + text.partition("\n")[2])
    lines = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(40)]
    lines.append({"text": None, "label": None})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    assert rows_of(tmp_path, "c.jsonl", text, missing_labels=MissingLabels.DROP).report["rows_dropped"] == 1


def test_a_label_is_no_input(tmp_path):
    with pytest.raises(SpecError, match=r"dataset\.pair_column=label: dataset\.label_column names the same column"):
        rows_of(tmp_path, "a.csv", cells(["a", "b"] * 20), pair_column="label")


def test_names_of_numbers_are_numbers_in_a_regression(tmp_path):
    names = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["4", "2"])})
    table = {"text": [f"text {n}" for n in range(40)], "label": [n % 2 for n in range(40)]}
    datasets.Dataset.from_dict(table, features=names).to_parquet(tmp_path / "a.parquet")
    assert set(load(tmp_path / "a.parquet", task=TASKS.get("regression")).train["labels"]) == {4.0, 2.0}


def test_dates_in_objects_of_several_lines_stay_texts(tmp_path):
    rows = [{"text": f"text {n}", "label": f"2024-01-3{n % 2}T00:00:00"} for n in range(40)]
    found = rows_of(tmp_path, "a.json", "".join(json.dumps(row, indent=1) + "\n" for row in rows))
    assert found.label_names == ("2024-01-30T00:00:00", "2024-01-31T00:00:00")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", gzip.compress(b"text,label\n", mtime=0), r"is packed by gzip: let its name end in \.gz"),
        ("a.csv", "text,label\n".encode("utf-16"), r"is UTF-16, not UTF-8"),
        ("a.csv", b"PK\x03\x04 and so on\n", r"a zip archive or a spreadsheet"),
        ("a.csv.gz", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", r"git-lfs pointer"),
        ("a.csv", b"text,label,,\na,b,,\n", r"2 columns of its first line have no name"),
        ("a.tsv", b'"text"\t"label"\n"1"\t"good"\t"a"\n', r"as R writes it, write without \(row.names=FALSE\)"),
    ],
)
def test_files_of_another_kind_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(tmp_path / name)


def test_words_for_no_value_are_noted_where_rows_have_several_classes(tmp_path):
    rows = rows_of(tmp_path, "a.csv", cells(["joy;fun", "nan", "joy"] * 20), task=TASKS.get("multi_label"))
    assert any("nan is a class (if it stands for no value" in line for line in rows.warnings)
    rows = rows_of(tmp_path, "b.csv", cells(['"[False, True]"', '"[True, True]"'] * 20), task=TASKS.get("multi_label"))
    assert set(rows.train["labels"]) == {0b10, 0b11}
