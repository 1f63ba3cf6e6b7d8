"""What all tests share: a tiny true BERT with its tokenizer, tiny data, specs made by the real config."""

from __future__ import annotations

import csv
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A server's processes for jobs (evaluations of language models), of which nothing is asked here.
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's; torch has another one: two tests run side by side

import pytest

from frostline import assets
from frostline.config import compose_run
from frostline.hashes import sealed
from frostline.process_cache import PROCESS_CACHE
from frostline.spec import RunSpec

REAL_HOME = (
    assets.home()
)  # where the real model and data are, or will be fetched to, before tests get homes of their own

POSITIVE = ["good", "great", "fine", "lovely", "superb"]
NEGATIVE = ["bad", "awful", "poor", "dull", "dreadful"]
FILLER = ["the", "film", "was", "a", "story", "and", "plot", "with", "actors", "very", "in", "of"]


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job: what tests start would ignore it, too
    signal.signal(signal.SIGINT, signal.default_int_handler)

for _variable in ("FROSTLINE_DEBUG", "MLFLOW_TRACKING_URI"):
    os.environ.pop(_variable, None)


@pytest.fixture(autouse=True)
def _own_home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch) -> Iterator[None]:
    """Each test has a cache of its own, but for those on the real model; none leaves its store to the next."""
    home = REAL_HOME if "real_home" in request.fixturenames else tmp_path_factory.mktemp("home")
    monkeypatch.setenv("FROSTLINE_HOME", str(home))
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # mlflow.set_tracking_uri sets it, for fixtures of modules, too


@pytest.fixture
def real_home() -> Path:
    """Asks for the user's real cache: MiniLM and the review sentences, fetched once."""
    return REAL_HOME


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch) -> Path:
    """Works in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sentences(rows: int, seed: int = 0) -> list[tuple[str, str]]:
    """Sentences whose label is the mood of one of their words: easy to learn, not trivial."""
    rng = random.Random(seed)
    out = []
    for index in range(rows):
        label = index % 2
        words = rng.choices(FILLER, k=rng.randint(3, 9))
        words.insert(rng.randrange(len(words)), rng.choice(POSITIVE if label else NEGATIVE))
        out.append((" ".join(words) + f" {index}", "positive" if label else "negative"))
    return out


def write_csv(path: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def tiny_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 labelled sentences."""
    return write_csv(tmp_path_factory.mktemp("data") / "moods.csv", sentences(160))


@cache
def _migrated() -> Path:
    from mlflow import MlflowClient

    path = Path(tempfile.mkdtemp(prefix="frostline-store-")) / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments(max_results=1)
    return path


def fresh_store(path: Path) -> None:
    """Puts an empty MLflow database there: making one takes some six seconds, copying it none."""
    shutil.copyfile(_migrated(), path)


@pytest.fixture(autouse=True, scope="session")
def _stores_are_copied() -> Iterator[None]:
    """An MLflow database that a test needs in its own process is a copy, too."""
    client = importlib.import_module("frostline.tracking.client")
    lock = client.migration_lock

    @contextmanager
    def copied(uri: str) -> Iterator[None]:
        with lock(uri):
            path = Path(uri.removeprefix("sqlite:///"))
            if uri.startswith("sqlite:///") and path.parent.is_dir() and not path.exists():
                fresh_store(path)
            yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "migration_lock", copied)
        yield


def save_tokenizer(folder: Path, extra_words: int = 0) -> None:
    """A WordPiece tokenizer over the words of `sentences`."""
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *POSITIVE, *NEGATIVE, *FILLER]
    words += [str(digit) for digit in range(10)] + [f"##{digit}" for digit in range(10)]
    words += [f"extra{index}" for index in range(extra_words)]
    vocab = folder / "vocab-source.txt"
    vocab.write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(vocab=str(vocab)).save_pretrained(folder)
    vocab.unlink()


def tiny_config(**changes):
    from transformers import BertConfig

    settings = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "initializer_range": 0.1,  # words that differ enough to be learned in a few steps
    }
    return BertConfig(**{**settings, **changes})


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BERT of 4 blocks, d=32, as save_pretrained writes it: no head, as a pretrained model has none."""
    import torch
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    torch.manual_seed(0)
    BertModel(tiny_config()).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture
def own_model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "own-model"))


TINY = (
    "training.batch_size=16",
    "training.max_tokens=32",
    "optimizer.lr=1e-3",
    "training.log_every=1",
    "runtime.progress=off",
    "runtime.threads=1",
    "runtime.slots=1",  # tables of two sweeps are compared: no chance decides who ends first
    "runtime.device=cpu",
    "runtime.cache=off",
)


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes a sealed JSON record as a stranger could: its hash fits."""
    data = json.loads(path.read_text(encoding="utf-8"))
    data.pop("sha256")
    change(data)
    path.write_text(sealed(data), encoding="utf-8")


@pytest.fixture(scope="session")
def tiny_overrides(tiny_model: Path, tiny_csv: Path) -> list[str]:
    """Overrides of a run that takes a second."""
    return ["model=path", f"model.location={tiny_model}", "dataset=csv", f"dataset.location={tiny_csv}", *TINY]


@pytest.fixture
def make_spec(tiny_overrides: list[str]) -> Callable[..., RunSpec]:
    """Composes a spec of a tiny run from overrides, through the real config."""

    def make(*overrides: str) -> RunSpec:
        return compose_run([*tiny_overrides, *overrides])

    return make


@pytest.fixture
def frostline(capfd: pytest.CaptureFixture[str], monkeypatch) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Runs the command in this process; returns exit code, standard output and standard error."""
    import logging

    from frostline.cli.main import main

    monkeypatch.setattr(sys, "argv", ["frostline"])
    monkeypatch.setattr("frostline.signals.end_on_second", lambda: None)  # this process gets the signals of all tests

    def call(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        PROCESS_CACHE.clear()
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        out, err = capfd.readouterr()
        return int(stop.value.code or 0), out, err

    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # the command sets it: put back after the test
    root, own = logging.getLogger(), logging.getLogger("frostline")
    handlers, level = list(root.handlers), root.level
    # A test that called the code itself leaves a handler on its own captured stream, and a logger that does not
    # propagate, to which pytest adds its own handlers.
    own.handlers.clear()
    own.propagate = True
    yield call
    # Hydra's --info leaves a handler on this test's captured stream.
    root.handlers[:] = handlers
    root.setLevel(level)
    own.handlers.clear()
    own.propagate = True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest tests first: at the end, one of two workers would wait for the other's."""

    def limit_s(item: pytest.Item) -> float:
        marker = item.get_closest_marker("timeout")
        return float(marker.args[0]) if marker is not None else 0.0

    items.sort(key=limit_s, reverse=True)
