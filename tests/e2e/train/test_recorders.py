"""Trackers beside MLflow, each in its offline mode: TensorBoard, Weights & Biases, Trackio."""

import json
import sqlite3
from contextlib import closing

import pytest

from frostline.records.result import RunResult
from tests.support.services import installed
from tests.support.sweep_tools import call


def logged(folder):
    """What a run's folder has of `eval/accuracy`, by step."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["eval/accuracy"] for row in rows if "eval/accuracy" in row}


def test_tensorboard(frostline, tiny_overrides, in_tmp):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ["training.epochs=2", "tracking=off", "tracking.recorders=[tensorboard]", "hydra.run.dir=it"]
    code, _, err = frostline("run", *tiny_overrides, *words)
    assert code == 0, err
    events = EventAccumulator(str(in_tmp / "it/tensorboard"))
    events.Reload()
    read = {event.step: event.tensor_proto.float_val[0] for event in events.Tensors("eval/accuracy")}
    assert read == pytest.approx(logged(in_tmp / "it"))


@pytest.mark.slow
def test_wandb(tiny_overrides, tmp_path):
    place = installed(
        tmp_path / "site", "wandb==0.31.0", "cwevals", "distro", "googleapis-common-protos", "httpcore", "httpx",
        "sniffio", "opentelemetry-exporter-http-transport==0.66b2", "opentelemetry-exporter-otlp-common==0.66b2",
        "opentelemetry-exporter-otlp-proto-common", "opentelemetry-exporter-otlp-proto-http",
    )  # fmt: skip
    words = [*tiny_overrides, "tracking=off", "tracking.recorders=[wandb]", "hydra.run.dir=it"]
    done = call("run", *words, cwd=tmp_path, PYTHONPATH=place, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    (record,) = (tmp_path / "it/wandb").glob("offline-run-*/run-*.wandb")
    content = record.read_bytes()
    assert b"eval/accuracy" in content
    assert RunResult.read(tmp_path / "it").name.encode() in content


@pytest.mark.slow
def test_trackio(tiny_overrides, tmp_path):
    place = installed(
        tmp_path / "site", "trackio==0.43.0", "brotli", "gradio-client>=2", "httpx", "httpcore", "sniffio", "orjson",
        "python-multipart", "websockets",
    )  # fmt: skip
    words = [*tiny_overrides, "training.epochs=2", "tracking=off", "tracking.recorders=[trackio]", "hydra.run.dir=it"]
    done = call("run", *words, cwd=tmp_path, PYTHONPATH=place, TRACKIO_DIR=str(tmp_path / "trackio"))
    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(tmp_path / "trackio/frostline.db")) as database, database:
        rows = database.execute("select step, metrics from metrics").fetchall()
    known = {step: json.loads(values) for step, values in rows}
    read = {step: values["eval/accuracy"] for step, values in known.items() if "eval/accuracy" in values}
    assert read == pytest.approx(logged(tmp_path / "it"))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_one_that_is_not_installed_gets_one_line(frostline, tiny_overrides, in_tmp, name):
    code, _, err = frostline("run", *tiny_overrides, "tracking=off", f"tracking.recorders=[{name}]", "hydra.run.dir=it")
    assert (code, err) == (
        2, f"frostline: tracking.recorders: {name} isn't installed: pip install 'frostline[{name}]'\n"
    )  # fmt: skip
