"""Rows in memory become Parquet files under the hash of their content."""

import datasets
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from frostline.api.tables import FOLDER, store
from frostline.assets import home
from frostline.errors import DataError

ROWS = [
    {"text": 'a "quoted" line\nand another', "mood": "good"},
    {"text": "émoji 😀", "mood": None},
    {"text": "c", "mood": "bad"},
]

SAME = {
    "list": lambda: ROWS,
    "columns": lambda: {name: [row[name] for row in ROWS] for name in ("text", "mood")},
    "pandas": lambda: pd.DataFrame(ROWS),
    "pandas, a slice": lambda: pd.DataFrame([*ROWS, *ROWS]).iloc[:3],
    "pandas, parts": lambda: pd.concat([pd.DataFrame(ROWS[:1]), pd.DataFrame(ROWS[1:])]),
    "pandas, categories": lambda: pd.DataFrame(ROWS).astype({"mood": "category"}),
    "polars": lambda: pl.DataFrame(ROWS),
    "polars, lazy": lambda: pl.DataFrame(ROWS).lazy(),
    "arrow": lambda: pa.Table.from_pylist(ROWS),
    "datasets": lambda: datasets.Dataset.from_list(ROWS),
    "datasets, chosen rows": lambda: datasets.Dataset.from_list([*ROWS, *ROWS]).select([0, 1, 2]),
}


@pytest.mark.parametrize("kind", SAME)
def test_the_same_rows_are_the_same_file_whatever_holds_them(kind):
    stored = store(SAME[kind](), "train")
    assert stored.path == store(ROWS, "train").path
    assert stored.path.parent == home() / FOLDER
    assert pq.read_table(stored.path).to_pylist() == ROWS
    assert stored.columns == ("text", "mood")


def test_other_rows_are_another_file():
    paths = {
        store(rows, "train").path
        for rows in (ROWS, ROWS[:2], [ROWS[1], ROWS[0], ROWS[2]], [{**row, "mood": "x"} for row in ROWS])
    }
    assert len(paths) == 4


def test_numbers_and_their_texts_are_other_rows():
    assert store([{"label": 1}], "train").path != store([{"label": "1"}], "train").path


def test_a_file_that_is_there_is_not_written_again():
    path = store(ROWS, "train").path
    before = path.stat().st_mtime_ns
    assert store(ROWS, "train").path.stat().st_mtime_ns == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_class_ids_of_a_dataset_become_class_names():
    rows = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]})
    stored = store(rows.cast_column("label", datasets.ClassLabel(names=["sad", "glad"])), "train")
    assert pq.read_table(stored.path).column("label").to_pylist() == ["glad", "sad", None]
    assert stored.class_names == {"label": ("sad", "glad")}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (3, "a int is no table"),
        ("abc", "a str is no table"),
        ([], "has no rows"),
        (pd.DataFrame({"text": []}), "has no rows"),
        ([{"text": "a"}, "b"], "row 2 is a str"),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), "several columns of one name: text"),
        (pd.DataFrame({"text": ["a", 1]}), "column text"),
        ([{"text": object()}], "no table of plain values"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_no_table_gets_one_line(rows, words):
    with pytest.raises(DataError) as caught:
        store(rows, "train")
    assert words in str(caught.value)
    assert str(caught.value).startswith("train: ")
    assert "\n" not in str(caught.value)
