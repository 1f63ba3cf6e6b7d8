"""One table, written as CSV, TSV, JSON lines and Parquet, gives the same rows and labels: property tests."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frostline.errors import DataError
from frostline.spec import TASKS
from tests.cases.test_wrong_numbers import load

FORMS = ("csv", "tsv", "jsonl", "parquet")

_SAFE = st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\ufeff\u2028\u2029\x85")
_TEXTS = st.text(st.one_of(_SAFE, st.sampled_from('",;\t\n \\')), min_size=1, max_size=30)
_NAMES = st.text(_SAFE, min_size=1, max_size=12).filter(lambda name: name.strip() == name)
_KINDS = {
    "texts": _NAMES,
    "truth": st.booleans(),
    "whole": st.integers(-(2**52), 2**52),
    "dates": st.dates().map(lambda day: day.isoformat()),
}


def write(path: Path, texts: list[str], labels: list[Any]) -> None:
    form = path.suffix[1:]
    if form == "parquet":
        pq.write_table(pa.table({"text": texts, "label": labels}), path)
    elif form == "jsonl":
        rows = (
            json.dumps({"text": text, "label": label}, ensure_ascii=False)
            for text, label in zip(texts, labels, strict=True)
        )
        path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    else:
        buffer = io.StringIO()
        writer = csv.writer(buffer, delimiter="," if form == "csv" else "\t", lineterminator="\n")
        writer.writerow(["text", "label"])
        writer.writerows(zip(texts, labels, strict=True))
        path.write_bytes(buffer.getvalue().encode())


def read(path: Path, **changes: Any) -> Any:
    try:
        rows = load(path, **changes)
    except DataError as error:
        return type(error)
    tables = {"train": rows.train, "eval": rows.evaluation}
    return {
        "names": rows.label_names,
        "fingerprint": rows.fingerprint,
        **{name: (table["text"][:], table["labels"][:]) for name, table in tables.items()},
    }


@pytest.mark.parametrize("kind", sorted(_KINDS))
@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_table_means_the_same_in_every_format(kind, data):
    classes = data.draw(st.lists(_KINDS[kind], min_size=2, max_size=4, unique=True))
    texts = data.draw(st.lists(_TEXTS, min_size=12, max_size=30, unique=True))
    labels = [classes[n % len(classes)] for n in range(len(texts))]
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for form in FORMS:
            write(Path(folder) / f"a.{form}", texts, labels)
            found[form] = read(Path(folder) / f"a.{form}")
    assert found["tsv"] == found["csv"]
    assert found["jsonl"] == found["csv"]
    assert found["parquet"] == found["csv"]


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_numbers_mean_the_same_in_every_format(data):
    numbers = data.draw(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=20, max_size=30))
    texts = [f"text {n}" for n in range(len(numbers))]
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for form in FORMS:
            write(Path(folder) / f"a.{form}", texts, numbers)
            found[form] = read(Path(folder) / f"a.{form}", task=TASKS.get("regression"))
    assert found["tsv"] == found["jsonl"] == found["parquet"] == found["csv"]
