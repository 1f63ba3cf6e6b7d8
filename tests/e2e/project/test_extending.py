"""Each example of docs/extending.md: its files are written, its command is run on a tiny model and few rows."""

from __future__ import annotations

import csv
import json
import re
import shlex

import pytest

from frostline.records.result import RunResult, Status
from tests.conftest import write_csv
from tests.support.sweep_tools import TRIALS_ALONE, call
from tests.unit.project.test_docs import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+)\n((?:(?!^## ).*\n?)*)", PAGE, re.MULTILINE))
EXAMPLES = {title: text for title, text in SECTIONS.items() if "```python" in text}


def write_files(text, folder):
    """Writes the example's files; the first line of each is its name."""
    for name, content in re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", text, re.DOTALL):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def command(text, tiny_overrides):
    (line,) = re.findall(r"^frostline (run RUN .*)$", text, re.MULTILINE)
    words = shlex.split(line)
    return ["run", *tiny_overrides, "tracking=off", "hydra.run.dir=r", *words[2:]]


def test_there_is_an_example_of_each_kind_of_part():
    assert len(EXAMPLES) == 6


@pytest.mark.slow
@pytest.mark.parametrize("title", EXAMPLES)
def test_the_example_runs(title, tmp_path, tiny_overrides):
    write_files(EXAMPLES[title], tmp_path)
    words = command(EXAMPLES[title], tiny_overrides)
    if "regression" in EXAMPLES[title]:
        write_csv(tmp_path / "numbers.csv", [(f"a film of {n} stars", str(n % 5)) for n in range(60)])
        words += ["dataset.location=numbers.csv"]
    if "moods.pipes" in EXAMPLES[title]:
        kinds = [("good", "a fine film"), ("bad", "a dull film")]
        lines = [f"{label} | {text} {number}" for number in range(30) for label, text in kinds]
        (tmp_path / "moods.pipes").write_text("\n".join(lines))
    done = call(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = RunResult.read(tmp_path / "r")
    assert result.status is Status.FINISHED
    assert "plugins_sha256" in result.provenance
    if title == "A freeze method":
        assert result.audit.frozen_unchanged
        assert result.freeze.name == "every_other"
    if title == "A metric":
        assert result.objective.metric == "brier"
        assert result.metrics["eval/errors"] == round(result.metrics["eval/errors"])
    if title == "A kind of data":
        assert result.data["label_names"] == ["bad", "good"]
    if title == "A tracker":
        rows = list(csv.reader((tmp_path / "r" / "metrics.csv").read_text().splitlines()))
        assert rows[0] == ["step", "metric", "value"]
        assert rows[-1] == ["", "status", "FINISHED"]
        assert "eval/accuracy" in [name for _, name, _ in rows]


@pytest.mark.slow
def test_a_sweeps_workers_know_the_parts(tmp_path, tiny_overrides):
    for text in EXAMPLES.values():
        write_files(text, tmp_path)
    parts = ["plugins=[my_freezing,my_optimizer,my_tracker]", "optimizer.name=rmsprop", "tracking.recorders=[csv]"]
    tiny = [each for each in tiny_overrides if not each.startswith(("optimizer.lr=", "freeze"))]
    words = [*tiny, "tracking=off", *parts, "freeze=every_other", "sweep.n_trials=2", *TRIALS_ALONE]
    words = ["sweep", "lr_only", *words, "--config-dir", "conf"]
    done = call(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").glob("*/000")
    assert json.loads((folder / "trial.json").read_text())["state"] == "COMPLETE"
    assert (folder / "metrics.csv").is_file()


@pytest.mark.slow
def test_a_recorder_that_fails_ends_no_run(tmp_path, tiny_overrides):
    (tmp_path / "broken.py").write_text(
        "from frostline.records.recorder import RECORDERS, NullRecorder\n"
        "class Broken(NullRecorder):\n"
        "    def log(self, metrics, step):\n"
        "        raise OSError('the wire is cut')\n"
        "RECORDERS.register('broken')(lambda spec, folder: Broken())\n"
    )
    words = ["run", *tiny_overrides, "tracking=off", "hydra.run.dir=r", "plugins=[broken]"]
    done = call(*words, "tracking.recorders=[broken]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the wire is cut") == 1
    unknown = call(*words, "tracking.recorders=[borken]", cwd=tmp_path)
    assert unknown.returncode == 2
    assert unknown.stderr.strip().endswith(
        "recorder 'borken' is not known (did you mean 'broken'?); known: broken, tensorboard, trackio, wandb"
    )
