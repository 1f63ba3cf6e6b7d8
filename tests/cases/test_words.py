"""What once got an error without a way out, or the wrong one."""

from __future__ import annotations

import bz2
import datetime
import gzip
import json
import lzma
import signal
import zipfile
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from frostline import assets, files
from frostline.config import compose_job
from frostline.errors import DataError, ModelError
from frostline.models import loading
from frostline.spec import TASKS
from frostline.tracking.reach import knock
from tests.cases.test_wrong_numbers import rows_of
from tests.support import PLUGINS
from tests.support.sweep_tools import call, interrupt, start, wait_for

TABLE = "text,label\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(80))


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zip"])
def test_compressed_files_are_the_same_data(tmp_path, ending):
    plain = rows_of(tmp_path, "a.csv", TABLE)
    path = tmp_path / f"b.csv.{ending}" if ending != "zip" else tmp_path / "b.zip"
    data = TABLE.encode()
    if ending == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("inner/b.csv", TABLE)
            archive.writestr("__MACOSX/._b.csv", "x")
    else:
        path.write_bytes({"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[ending](data))
    found = rows_of(tmp_path, path.name)
    assert found.fingerprint == plain.fingerprint
    assert found.train["text"][:] == plain.train["text"][:]


@pytest.mark.slow
def test_what_was_made_of_data_files_is_listed_and_removed(frostline, in_tmp, tiny_overrides, tiny_csv):
    packed = in_tmp / "moods.csv.gz"
    packed.write_bytes(gzip.compress(tiny_csv.read_bytes()))
    words = [f"dataset.location={packed}" if w.startswith("dataset.location") else w for w in tiny_overrides]
    few = ("training.max_steps=1", "training.epochs=null", "tracking=off")
    code, _, err = frostline("run", *words, *few)
    assert code == 0, err
    kept = assets.table_folders()
    assert len(kept) == 2
    assert all(kept.values())
    assert " MB of data files, unpacked or as tables, in " in frostline("list", "cache")[1]
    assert " MB of data files from " in frostline("prune", "--cache")[1]
    assert not assets.table_folders()
    code, _, err = frostline("run", *words, *few, "hydra.run.dir=again")
    assert code == 0, err


def test_a_compressed_file_that_fills_a_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SMALL_BYTES", 1 << 20)
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(b"text,label\n" + b"a" * (8 << 20)))
    with pytest.raises(DataError, match="unpacks to more than 1 MiB"):
        rows_of(tmp_path, "bomb.csv.gz")
    assert not list(tmp_path.rglob("*.tmp"))
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(TABLE.encode())[:-20])
    with pytest.raises(DataError, match=r"cut\.csv\.gz: can't be unpacked"):
        rows_of(tmp_path, "cut.csv.gz")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.csv", TABLE)
        archive.writestr("b.csv", TABLE)
    with pytest.raises(DataError, match="holds 2 files"):
        rows_of(tmp_path, "two.zip")


DAYS = [datetime.date(2024, 1, 31), datetime.date(2025, 2, 1)]


def test_dates_are_the_same_classes_in_every_format(tmp_path):
    texts = [f"text {n}" for n in range(80)]
    days = [DAYS[n % 2] for n in range(80)]
    found = {}
    text = "text,label\n" + "".join(f"{t},{d.isoformat()}\n" for t, d in zip(texts, days, strict=True))
    found["csv"] = rows_of(tmp_path, "a.csv", text)
    lines = "".join(json.dumps({"text": t, "label": d.isoformat()}) + "\n" for t, d in zip(texts, days, strict=True))
    found["jsonl"] = rows_of(tmp_path, "a.jsonl", lines)
    for name, kind in {"date": pa.date32(), "timestamp": pa.timestamp("ns")}.items():
        table = pa.table({"text": texts, "label": pa.array(days).cast(kind)})
        pq.write_table(table, tmp_path / f"{name}.parquet")
        found[name] = rows_of(tmp_path, f"{name}.parquet")
    assert {rows.label_names for rows in found.values()} == {("2024-01-31", "2025-02-01")}
    assert len({str(rows.train["labels"][:]) for rows in found.values()}) == 1


@pytest.mark.parametrize("form", ["T12:30:00", " 12:30:00", "T12:30:00Z", "T00:00:00"])
def test_times_in_json_are_the_texts_that_stand_there(tmp_path, form):
    labels = [f"2024-01-3{n % 2}{form}" for n in range(80)]
    lines = "".join(json.dumps({"text": f"text {n}", "label": label}) + "\n" for n, label in enumerate(labels))
    assert rows_of(tmp_path, "a.jsonl", lines).label_names == (f"2024-01-30{form}", f"2024-01-31{form}")


def test_decimals_and_half_precision_are_numbers(tmp_path):
    texts = [f"text {n}" for n in range(80)]
    numbers = [n / 4 for n in range(80)]
    arrays = {
        "double": pa.array(numbers),
        "half": pa.array(np.array(numbers, dtype=np.float16)),
        "decimal": pa.array([Decimal(str(number)) for number in numbers], pa.decimal128(10, 2)),
    }
    found = {}
    for name, array in arrays.items():
        pq.write_table(pa.table({"text": texts, "label": array}), tmp_path / f"{name}.parquet")
        found[name] = rows_of(tmp_path, f"{name}.parquet", task=TASKS.get("regression"))
    assert len({str(rows.train["labels"][:]) for rows in found.values()}) == 1
    whole = pa.array([Decimal(n % 2) for n in range(80)], pa.decimal128(10, 2))
    pq.write_table(pa.table({"text": texts, "label": whole}), tmp_path / "whole.parquet")
    assert rows_of(tmp_path, "whole.parquet").label_names == ("0", "1")


@pytest.mark.parametrize("orient", ["list", "dict", "indented"])
def test_json_of_whole_columns_gets_one_short_line(tmp_path, orient):
    texts, labels = [f"text {n}" for n in range(5000)], [f"l{n % 2}" for n in range(5000)]
    data = {"text": texts, "label": labels}
    if orient != "list":
        data = {name: dict(enumerate(values)) for name, values in data.items()}
    with pytest.raises(DataError, match="is one object of columns, not an object a line") as error:
        rows_of(tmp_path, "a.json", json.dumps(data, indent=1 if orient == "indented" else None))
    assert len(str(error.value)) < 300


def test_a_message_does_not_grow_with_the_data(tmp_path):
    lines = "".join(json.dumps({"text": f"t {n}", "label": ["x" * 50_000]}) + "\n" for n in range(40))
    with pytest.raises(DataError) as error:
        rows_of(tmp_path, "a.jsonl", lines)
    assert len(str(error.value)) < 1300


def test_rows_of_one_text_are_reported(tmp_path):
    text = "text,label\n" + "".join(f"the same,{'ab'[n % 2]}\n" for n in range(80))
    with pytest.raises(DataError, match=r"all 80 rows have the same text, .* is dataset.text_column the right column"):
        rows_of(tmp_path, "a.csv", text)


def test_classes_of_one_row_each_want_rows_to_evaluate_on(tmp_path):
    text = "text,label\n" + "".join(f"text {n},c{n:02d}\n" for n in range(60))
    names = tuple(f"c{n:02d}" for n in range(60))
    with pytest.raises(DataError, match=r"60 rows of 60 classes are too few to hold any out.*dataset\.eval_from"):
        rows_of(tmp_path, "a.csv", text, label_names=names)


def test_a_stray_quote_names_the_key(tmp_path):
    text = TABLE + 'text 81,"a\n'
    with pytest.raises(DataError, match=r"dataset\.quoted=false"):
        rows_of(tmp_path, "a.csv", text)


def test_a_git_lfs_pointer_is_named(tmp_path, tiny_model):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n"
    with pytest.raises(DataError, match="git-lfs pointer"):
        rows_of(tmp_path, "a.csv", pointer)
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text((tiny_model / "config.json").read_text())
    (folder / "model.safetensors").write_text(pointer)
    spec = compose_job(["model=path", f"model.location={folder}"]).run.model
    with pytest.raises(ModelError, match="git-lfs pointer, not the weights"):
        loading.check_weights(spec, folder)
    (folder / "model.safetensors").rename(folder / "tf_model.h5")
    with pytest.raises(ModelError, match=r"weights of TensorFlow alone .*from_tf=True"):
        loading.check_weights(spec, folder)


@pytest.mark.parametrize("uri", ["./mlruns", "mlruns", "file:///tmp/mlruns"])
def test_a_store_of_files_says_why_it_takes_no_runs(monkeypatch, uri):
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with pytest.raises(OSError, match=r"takes no new runs in a folder of files; give tracking\.uri=sqlite"):
        knock(uri)


def test_mlflows_variables_count(monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "films")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:1")
    tracking = compose_job([]).tracking
    assert (tracking.experiment, tracking.uri) == ("films", "http://host:1")
    assert compose_job(["tracking.experiment=mine"]).tracking.experiment == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep", "lr_only", "training.max_tokens=choice(null,32)"], "for example training.max_tokens=null,32"),
        (["run", "-m", "optimizer.lr=interval(1e-5,1e-3)"], "a multirun draws nothing from an interval"),
        (["run", "dataset=csv", "dataset.location=ünï.csv"], """quote the value: 'dataset.location="ünï.csv"'"""),
        (["run", "dataset=csv", "dataset.location=a=b.csv"], """quote the value: 'dataset.location="a=b.csv"'"""),
        (["sweep", "mine", "--config-dir=conf"], "its file lacks its first line, '# @package _global_'"),
        (["sweep", "lr_only", "sweep.space.optimizer.lr={min:1e-5,max:1e-3}"], "(did you mean 'sweep.space"),
        (["sweep", "lr_only", "sweep.space.optimizer.lrr.low=1"], "no such key in a run's config (did you mean"),
    ],
)  # fmt: skip
def test_overrides_that_hydra_reads_otherwise_show_how_they_are_typed(frostline, in_tmp, words, message):
    (in_tmp / "conf/sweep").mkdir(parents=True)
    (in_tmp / "conf/sweep/mine.yaml").write_text(
        "sweep:\n  name: mine\n  space:\n    optimizer.lr: {low: 1e-5, high: 1e-3}\n"
    )
    code, out, err = frostline(*words, "tracking=off")
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_a_new_key_of_the_space_needs_no_plus(tmp_path, tiny_overrides):
    tiny = [each for each in tiny_overrides if not each.startswith("optimizer.lr=")]
    space = ("sweep.space.optimizer.weight_decay.low=0.01", "sweep.space.optimizer.weight_decay.high=0.1")
    done = call("sweep", "lr_only", *tiny, *space, "--cfg=job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "high: 0.1" in done.stdout


def test_an_hf_home_that_cant_be_written_is_named(tmp_path):
    error = PermissionError(13, "Permission denied", "/nowhere/hub")
    reported = str(assets.hub_error("model", "bert", error))
    assert (
        reported
        == "model.location=bert: /nowhere/hub can't be written (Permission denied); set HF_HOME to a folder that can be"
    )


@pytest.mark.slow
def test_the_same_command_and_resume_resumes_where_it_names_its_folder(tmp_path, tiny_overrides):
    env = {"PYTHONPATH": PLUGINS, "SLOW_S": "0.2"}
    words = ["run", *tiny_overrides, "plugins=[sweep_plugin]", "optimizer.name=slow", "training.epochs=2",
             "hydra.run.dir=one", "tracking=off"]  # fmt: skip
    whole = call(*(word.replace("=one", "=whole") for word in words), cwd=tmp_path, **{**env, "SLOW_S": "0"})
    assert whole.returncode == 0, whole.stderr
    process = start(*words, cwd=tmp_path, **env)
    wait_for(
        lambda: (tmp_path / "one/metrics.jsonl").exists() and len((tmp_path / "one/metrics.jsonl").read_text()) > 50
    )
    interrupt(process, signal.SIGTERM)
    process.communicate(timeout=60)
    again = call(*words, "resume=one", cwd=tmp_path, **{**env, "SLOW_S": "0"})
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "one/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()


def test_archives_that_are_none_are_reported(tmp_path):
    (tmp_path / "a.csv.bz2").write_bytes(b"text,label\n")
    with pytest.raises(DataError, match=r"a\.csv\.bz2: can't be unpacked"):
        rows_of(tmp_path, "a.csv.bz2")
    with zipfile.ZipFile(tmp_path / "b.csv.zip", "w") as archive:
        archive.writestr("b.csv", "text,label\n" + "a good text,x\n" * 40)
    data = bytearray((tmp_path / "b.csv.zip").read_bytes())
    data[6] |= 1  # of the local header and the directory: encrypted
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "b.csv.zip").write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"b\.csv\.zip: can't be unpacked \(.*encrypted"):
        rows_of(tmp_path, "b.csv.zip")


def test_a_broken_file_gets_one_line(frostline, in_tmp, tiny_overrides):
    (in_tmp / "moods.jsonl").write_text('{"text": "a", "label": }\n', encoding="utf-8")
    words = [
        f"dataset.location={in_tmp}/moods.jsonl" if w.startswith("dataset.location") else w for w in tiny_overrides
    ]
    code, _, err = frostline("run", *words, "dataset.format=auto", "tracking=off")
    assert code == 2
    assert len(err.strip().splitlines()) == 1, err
