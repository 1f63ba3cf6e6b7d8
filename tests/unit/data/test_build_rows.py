import json
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import pytest

from frostline.config import compose_run
from frostline.data.load import load_rows
from frostline.errors import DataError
from frostline.spec import TASKS, Format, Source
from tests.conftest import sentences, write_csv


@pytest.fixture
def load(tmp_path):
    def call(path, eval_path=None, **changes):
        spec = compose_run(["dataset=csv", f"dataset.location={path}"]).dataset
        changes.setdefault("format", Format.AUTO)
        if eval_path is not None:
            changes["eval_from"] = str(eval_path)
        return load_rows(replace(spec, **changes), lambda e: path if e is None else eval_path, tmp_path / "cache")

    return call


@pytest.fixture
def moods(tmp_path):
    return write_csv(tmp_path / "moods.csv", sentences(100))


def test_a_csv_is_read_labelled_split_and_reported(load, moods):
    rows = load(moods)
    assert rows.label_names == ("negative", "positive")
    assert rows.report["train_rows"] == 80
    assert rows.report["labels"] == {
        "train": {"negative": 40, "positive": 40},
        "eval": {"negative": 10, "positive": 10},
    }
    assert rows.report["overlap"] == 0
    assert set(rows.train.column_names) == {"text", "labels"}
    assert rows.warnings == ()
    truth = dict(sentences(100))
    for row in (*rows.train, *rows.evaluation):
        assert rows.label_names[row["labels"]] == truth[row["text"]]


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_rows(load, moods, tmp_path, kind):
    path = tmp_path / f"moods.{kind}"
    if kind == "tsv":
        path.write_text("text\tlabel\n" + "".join(f"{t}\t{y}\n" for t, y in sentences(100)))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in sentences(100)))
    else:
        datasets.Dataset.from_list([{"text": t, "label": y} for t, y in sentences(100)]).to_parquet(path)
    one, other = load(moods), load(path)
    assert one.train.to_list() == other.train.to_list()
    assert one.evaluation.to_list() == other.evaluation.to_list()


def test_a_hub_layout_in_a_local_folder(tmp_path):
    folder = tmp_path / "hubset"
    folder.mkdir()
    for split, seed in (("train", 0), ("validation", 1)):
        (folder / f"{split}.jsonl").write_text(
            "".join(json.dumps({"text": f"{t} {split}", "label": y}) + "\n" for t, y in sentences(40, seed))
        )
    spec = compose_run(["dataset=hub", f"dataset.location={folder}", "dataset.eval_from=validation"]).dataset
    assert spec.source is Source.HUB
    rows = load_rows(spec, lambda e: pytest.fail("hub datasets are no file"), tmp_path / "cache")
    assert rows.report["train_rows"] == 40
    assert rows.report["eval_rows"] == 40
    assert all("validation" in text for text in rows.evaluation["text"])
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere" / "hubset"))
    again = load_rows(replace(spec, location=str(moved)), lambda e: pytest.fail("no file"), tmp_path / "cache")
    assert again.fingerprint == rows.fingerprint  # by content
    with (moved / "train.jsonl").open("a") as file:
        file.write(json.dumps({"text": "one more", "label": sentences(1)[0][1]}) + "\n")
    more = load_rows(replace(spec, location=str(moved)), lambda e: pytest.fail("no file"), tmp_path / "cache2")
    assert more.fingerprint != rows.fingerprint


def test_the_same_input_is_the_same_and_is_converted_once(load, moods):
    one, two = load(moods), load(moods)
    assert one.fingerprint == two.fingerprint
    assert one.train.cache_files == two.train.cache_files
    assert one.train.cache_files  # memory-mapped, not in memory


def test_the_fingerprint_follows_the_content_and_the_choice(load, moods, tmp_path):
    base = load(moods).fingerprint
    assert load(moods, train_rows=20).fingerprint != base
    assert load(moods, seed=1).fingerprint != base
    assert load(moods, eval_fraction=0.5).fingerprint != base
    changed = write_csv(tmp_path / "changed.csv", [*sentences(99), ("a last one", "positive")])
    assert load(changed).fingerprint != base


def test_a_changed_file_under_the_same_name_is_read_anew(load, tmp_path):
    path = write_csv(tmp_path / "x.csv", sentences(50))
    assert load(path).report["rows_read"] == 50
    write_csv(path, sentences(60))
    assert load(path).report["rows_read"] == 60


def test_train_rows_are_the_first_of_a_fixed_order(load, moods):
    everything, few, fewer = load(moods), load(moods, train_rows=20), load(moods, train_rows=10)
    assert few.train["text"][:] == everything.train["text"][:20]
    assert fewer.train["text"][:] == few.train["text"][:10]
    assert few.evaluation["text"][:] == everything.evaluation["text"][:]


def test_folds_hold_out_every_row_once(load, moods):
    parts = [load(moods, folds=4, fold=fold) for fold in range(4)]
    texts = sorted(text for text, _ in sentences(100))
    assert sorted(text for rows in parts for text in rows.evaluation["text"]) == texts
    for rows in parts:
        assert sorted([*rows.train["text"], *rows.evaluation["text"]]) == texts
        assert rows.report["labels"]["eval"] in ({"negative": 12, "positive": 13}, {"negative": 13, "positive": 12})
        # what the parts are in the pool, which is the same for all folds
        assert rows.pool.rows["text"] == parts[0].pool.rows["text"]
        assert rows.pool.fingerprint == parts[0].pool.fingerprint
        for places, part in ((rows.pool.train, rows.train), (rows.pool.evaluation, rows.evaluation)):
            assert rows.pool.rows.select(places)["text"] == part["text"]
    assert len({rows.fingerprint for rows in parts}) == 4
    assert load(moods).pool is None


def test_folds_are_dealt_from_the_rows_that_were_asked_for(load, moods):
    rows = load(moods, folds=3, fold=1, train_rows=20, eval_rows=10)
    plain = load(moods, train_rows=20, eval_rows=10)
    assert sorted(rows.pool.rows["text"]) == sorted([*plain.train["text"], *plain.evaluation["text"]])
    assert (len(rows.train), len(rows.evaluation)) == (20, 10)


def test_classes_that_are_too_small_for_the_folds(load, tmp_path):
    rows = [(f"good {i}", "good") for i in range(20)] + [(f"bad {i}", "bad") for i in range(3)]
    path = write_csv(tmp_path / "few.csv", rows)
    assert len(load(path, folds=3).evaluation) in {7, 8}
    with pytest.raises(DataError, match=r"the class bad has 3 different texts, .*; take 3 folds or fewer"):
        load(path, folds=4)
    same = write_csv(tmp_path / "same.csv", [*rows[:20], ("bad", "bad"), ("bad", "bad"), ("bad", "bad")])
    with pytest.raises(DataError, match="the class bad has 1 different text, .* 2 or more of every class"):
        load(same, folds=2)


def test_the_order_in_the_file_does_not_matter(load, moods, tmp_path):
    shuffled = write_csv(tmp_path / "shuffled.csv", list(reversed(sentences(100))))
    assert load(moods).train.to_list() == load(shuffled).train.to_list()


def test_ratings(load, tmp_path):
    path = write_csv(tmp_path / "r.csv", [(f"text {i}", str(i / 10 - 5)) for i in range(100)])
    rows = load(path, threshold=0.0, dead_zone=1.0, label_names=("neg", "pos"))
    assert rows.report["rows_dropped"] == 19
    assert sum(rows.report["labels"]["train"].values()) + sum(rows.report["labels"]["eval"].values()) == 81
    number = load(path, task=TASKS.get("regression"))
    assert number.label_names == ()
    assert number.train.features["labels"].dtype == "float64"
    assert -0.3 < number.report["labels"]["train"]["mean"] < 0.2


def test_pairs(load, tmp_path):
    path = write_csv(
        tmp_path / "p.csv", [(f"a {i}", f"b {i}", str(i % 2)) for i in range(20)], ("text", "second", "label")
    )
    rows = load(path, pair_column="second")
    assert set(rows.train.column_names) == {"text", "pair", "labels"}
    assert rows.train[0]["text"].replace("a", "b") == rows.train[0]["pair"]


def test_nothing_is_guessed_texts_stay_texts(load, tmp_path):
    odd = ["NA", "null", "None", "007", "1e5", "True", "", "nan"]
    path = write_csv(tmp_path / "odd.csv", [(text, str(i % 2)) for i, text in enumerate(odd * 2)])
    rows = load(path)
    assert set(rows.train["text"][:]) | set(rows.evaluation["text"][:]) == set(odd)
    assert rows.report["empty_texts"] == 2


def test_odd_but_fine_texts_run(load, tmp_path):
    big = "word " * 2_000_000  # 10 MB
    texts = ["😀 emoji ☃", "two\r\nlines", 'quoted "so"', "tab\there", " \u200f rtl", big, "e\u0301", "-"]
    path = write_csv(tmp_path / "odd.csv", [(text, str(i % 2)) for i, text in enumerate(texts)])
    rows = load(path, eval_fraction=0.3)
    assert set(rows.train["text"][:]) | set(rows.evaluation["text"][:]) == set(texts)


def test_crlf_and_a_byte_order_mark(load, tmp_path):
    path = tmp_path / "dos.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\r\n" + b"".join(f"{t},{y}\r\n".encode() for t, y in sentences(20)))
    assert load(path).label_names == ("negative", "positive")


def test_a_headerless_tsv_with_bare_quotes(load, tmp_path):
    path = tmp_path / "v.txt"
    path.write_text("".join(f'{i}\t{i % 2}\tan "odd text {i}\n' for i in range(20)))
    rows = load(path, format=Format.TSV, columns=("id", "label", "text"), quoted=False)
    assert rows.report["rows_read"] == 20
    assert all(text.startswith('an "odd') for text in rows.train["text"])


def test_overlap_and_duplicates_are_counted(load, tmp_path):
    train = write_csv(tmp_path / "t.csv", [*sentences(40), *sentences(4)])
    other = write_csv(tmp_path / "e.csv", sentences(10))
    rows = load(train, other)
    assert rows.report["overlap"] == 10
    assert rows.report["duplicates"] == {"train": 4, "eval": 0}
    assert rows.warnings == (
        "evaluation rows whose text is trained on: 10 of 10",
        "training rows that repeat another's text: 4",
    )


def test_an_evaluation_file_has_the_training_files_classes(load, moods, tmp_path):
    other = write_csv(tmp_path / "e.csv", [("x", "neutral"), ("y", "positive")])
    with pytest.raises(DataError, match=r"e.csv, row 1: label 'neutral'.* is none of negative, positive"):
        load(moods, other)


def test_few_rows_are_enough(load, tmp_path):
    path = write_csv(tmp_path / "few.csv", [("a", "0"), ("b", "1"), ("c", "0"), ("d", "1"), ("e", "0")])
    rows = load(path)
    assert rows.report["eval_rows"] == 1
    assert rows.report["train_rows"] == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty"),
        (b"text,label\n", r"holds a header line and no rows"),
        (b"\n", r"no column names"),
        (b"text,label,text\na,b,c\n", r"column 'text' stands in its header more than once"),
        (b"words,label\na,b\n", r"dataset.text_column=text: .*no such column.*it has label, words"),
        (b"text,stars\na,b\n", r"dataset.label_column=label: .*no such column"),
        (b"text,label\ngood,1\nb\x00ad,0\n", r"line 3: holds a NUL byte"),
        (b"text,label\ngood,1\nb\xe9d,0\n", r"line 3: is not UTF-8 \(byte 2\)"),
        (b"text,label\na,1\nb,1\nc,1\n", r"hold one class only \(1\)"),
        (b"text,label\na,\nb,\n", r"all its values are missing"),
        (b"text,label\na,1\nb,\nc,0\n", r"row 2: the label is missing"),
        (b"text,label\na,1\nb,2,3\n", r"line 3: has 3 fields, there are 2 columns; quote texts"),
        (b"text,label\ngood, really,1\nbad, truly,0\n", r"line 2: has 3 fields, there are 2 columns"),
        (b"text,label\na,1\nb\n", r"line 3: has 1 fields, there are 2 columns"),
        (b"text,label\na,1\nb,0\n", r"no rows to evaluate on"),
    ],
)
def test_a_bad_file_gets_one_line(load, tmp_path, content, message):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a", "label": 1}\n{"text": "b", "lab', r"can't be read as jsonl"),
        ('{"text": null, "label": 1}\n{"text": "b", "label": 0}\n', r"row 1: the text is missing"),
        ('{"text": 3, "label": 1}\n{"text": 4, "label": 0}\n', r"row 1: expected text in column text, got int"),
        ('{"text": "a", "label": [1]}\n{"text": "b", "label": [0]}\n', r"dataset.label_column=label"),
    ],
)
def test_bad_json_lines_get_one_line(load, tmp_path, content, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as error:
        load(path)
    assert "\n" not in str(error.value)


def test_a_file_of_unknown_form(load, tmp_path):
    path = tmp_path / "data.xyz"
    path.write_text("text,label\na,1\n")
    with pytest.raises(DataError, match=r"give dataset.format"):
        load(path)


def test_a_slice_with_one_class(load, tmp_path):
    path = write_csv(tmp_path / "u.csv", [(f"t{i}", "rare" if i == 0 else "common") for i in range(60)])
    with pytest.raises(DataError, match=r"the 2 training rows of dataset.train_rows=2 hold one class only"):
        load(path, train_rows=2)


def test_a_table_that_another_process_has_just_made_is_never_away(load, moods, monkeypatch):
    first = load(moods)
    (target,) = {Path(file["filename"]) for file in first.train.cache_files if "cache-" in file["filename"]}
    target.with_name(f"{target.name}.sha256").unlink()  # the other one has not come so far
    real, there = datasets.Dataset.map, []

    def watched(self, *arguments, **options):
        there.append(target.is_file())
        return real(self, *arguments, **options)

    monkeypatch.setattr(datasets.Dataset, "map", watched)
    again = load(moods)
    assert there
    assert all(there)
    assert again.train["text"][:] == first.train["text"][:]
    assert not list(target.parent.glob(".*.tmp"))
