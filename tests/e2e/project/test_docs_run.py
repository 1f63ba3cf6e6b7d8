"""Each command in a block of README and docs, run: on small models, few rows and few trials, one block after the other.

index.md is run as it stands (test_quickstart), extending.md by its own test; commands in running text and tables are
composed (test_docs).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import urllib.request
from pathlib import Path

import pytest

from frostline.records.run_folder import RUN_FILE
from tests.conftest import save_tokenizer, sentences, tiny_config, write_csv
from tests.e2e.tasks.test_tokens import save_sentences
from tests.support.language_models import save_language_model
from tests.support.pictures import save_images, save_model
from tests.support.services import free_port
from tests.support.sweep_tools import TRIALS_ALONE, call, start, wait_for
from tests.unit.project.test_docs import BLOCKS

ELSEWHERE = {
    "< lines.txt": "what is typed or piped: test_cli",
    "<the same overrides>": "a run that was stopped: test_resume",
    "runtime.num_processes=4": "two are run here",
    "postgresql://": "a server of its own: test_stores",
    "runtime.ray.address=": "a cluster: test_cluster",
    "launcher=submitit": "another launcher: test_engines",
}
"""What is not run here, and why."""

SMALL = (
    "training.batch_size=8", "training.max_tokens=16", "training.epochs=1", "dataset.train_rows=32",
    "dataset.eval_rows=16", "runtime.threads=1", "runtime.device=cpu", "runtime.progress=off",
)  # fmt: skip
SMALL_SWEEP = (*SMALL, "sweep.n_trials=2", "dataset.test_fraction=0.2")


def commands(text: str) -> list[str]:
    lines = text.replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+# .*", "", line).strip() for line in lines if line.startswith("frostline ")]


def _get(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def reason(command: str) -> str | None:
    return next((why for part, why in ELSEWHERE.items() if part in command), None)


SHOWN = [block for block in BLOCKS if block.page not in {"index.md", "extending.md"} and commands(block.text)]
RUN = [block for block in SHOWN if any(reason(command) is None for command in commands(block.text))]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """As many blocks as the models have that the commands name."""
    import torch
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    BertModel(tiny_config(num_hidden_layers=6, max_position_embeddings=128)).save_pretrained(folder / "words")
    save_tokenizer(folder / "words")
    return {
        "words": folder / "words",
        "images": save_model("vit", folder / "images", num_blocks=12),
        "texts": save_language_model("gpt2", folder / "texts"),
    }


class Desk:
    """A folder in which somebody types the commands."""

    def __init__(self, folder: Path, home: Path, models: dict[str, Path]) -> None:
        self.folder = folder
        self._home = home
        self._models = models
        rows = [(text, mood, "5" if mood == "positive" else "1") for text, mood in sentences(80)]
        write_csv(folder / "reviews.csv", rows, header=("review", "mood", "stars"))
        save_sentences(folder / "train.conll", rows=60)
        save_images(folder / "photos")
        parts = next(block.text for block in BLOCKS if "@OPTIMIZERS.register" in block.text)
        (folder / "my_parts.py").write_text(parts)

    def type(self, command: str) -> str:
        words = shlex.split(self._filled_in(command))[1:]
        kind = words[0]
        if kind in {"run", "sweep"} or {"--blocks", "--vectors"} & set(words):
            words = self._on_small_models(words)
        words += SMALL if kind == "run" else SMALL_SWEEP if kind == "sweep" else ()
        if kind == "sweep" and "sweep.settle" not in command:
            words += TRIALS_ALONE
        if kind == "ui" and "--sync" not in words:
            return self._look_at(words)
        done = call(*words, cwd=self.folder, FROSTLINE_HOME=str(self._home))
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _look_at(self, words: list[str]) -> str:
        """Serves until the page and the runs are there."""
        port = free_port()
        process = start(*words, "--port", str(port), cwd=self.folder, as_users_do=True)
        try:
            wait_for(lambda: _get(port, "") or process.poll() is not None, what="the MLflow UI")
            assert process.poll() is None, process.stderr.read()
            assert "<title>MLflow" in _get(port, "")
            return _get(port, "api/2.0/mlflow/experiments/get-by-name?experiment_name=frostline")
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.communicate()

    def _on_small_models(self, words: list[str]) -> list[str]:
        if any(word.startswith("runs/") for word in words):
            return words
        kind = "images" if "model=vit_base" in words else "texts" if "dataset.task=causal_lm" in words else "words"
        place = self._models[kind]
        kept = [word for word in words if not word.startswith("model=")]
        return [*kept, "model=path", f"model.location={place}"]

    def _filled_in(self, command: str) -> str:
        """What the page leaves to the reader; what it takes for granted is made first."""
        if "<" in command:
            if not (self.folder / "runs" / "single").is_dir():
                self.type("frostline run dataset=tweets")
            run = next((self.folder / "runs" / "single").iterdir())
            command = command.replace("runs/single/<time>", str(run.relative_to(self.folder)))
            command = command.replace("<MLflow run id>", self._run_id(run))
        kind, name = command.split()[1:3] if len(command.split()) > 2 else (command.split()[-1], "")
        for sweep in ("demo", "lr_x_depth"):
            asked = name == sweep or f"runs/{sweep}" in command or name in {"seeds", "RUN"} or name.startswith("0123")
            if asked and kind not in {"sweep", "plan"} and not (self.folder / "runs" / sweep).is_dir():
                self.type(f"frostline sweep {sweep}")
        first = self.folder / "runs" / "lr_x_depth" / "000"
        if "0123456789abcdef" in command:
            command = command.replace("0123456789abcdef0123456789abcdef", self._run_id(first))
        command = command.replace("runs/lr_x_depth/016", "runs/lr_x_depth/000").replace("RUN", "runs/lr_x_depth/000")
        return command.replace("tracking.uri=...", "tracking.uri=sqlite:///another.db").replace("--at 20", "--at 4")

    def _run_id(self, run: Path) -> str:
        return str(json.loads((run / RUN_FILE).read_text())["run_id"])


def test_nothing_is_left_out_without_a_reason():
    every = [command for block in SHOWN for command in commands(block.text)]
    left = [command for command in every if reason(command) is not None]
    assert len(every) >= 40
    assert len(left) <= 12, left
    assert {part for part in ELSEWHERE if any(part in command for command in every)} == set(ELSEWHERE)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("block", RUN, ids=str)
def test_commands_do_what_is_shown(block, real_home, models, tmp_path):
    desk = Desk(tmp_path, real_home, models)
    said = [desk.type(command) for command in commands(block.text) if reason(command) is None]
    assert all(said), "each says what it did"
