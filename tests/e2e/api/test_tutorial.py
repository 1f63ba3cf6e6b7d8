"""docs/tutorial.ipynb, executed as a reader does."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REAL_HOME
from tests.support.shared import built_once

NOTEBOOK = Path(__file__).parents[3] / "docs" / "tutorial.ipynb"

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def cells(path):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def data(cell):
    """What a cell shows as its value, by type."""
    shown = [output["data"] for output in cell["outputs"] if "data" in output]
    return shown[-1] if shown else {}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    def execute(folder):
        shutil.copy(NOTEBOOK, folder)
        words = ["nbconvert", "--to", "notebook", "--execute", "--output", "done.ipynb", NOTEBOOK.name]
        env = {**os.environ, "FROSTLINE_HOME": str(REAL_HOME)}
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=folder, env=env, capture_output=True, text=True, timeout=840
        )
        assert done.returncode == 0, done.stderr[-4000:]

    folder = built_once(tmp_path_factory, "tutorial", execute)
    return {"".join(cell["source"]).splitlines()[-1]: cell for cell in cells(folder / "done.ipynb")}


def test_it_runs_and_answers(real_home, executed):
    answer = "".join(data(executed["study.answer"])["text/plain"])
    assert "<- " in answer
    assert "\x1b" not in answer
    assert "recommended" in answer or "best guess" in answer


def test_its_pictures_are_pictures(real_home, executed):
    for line in ('study.figures["depth"]', 'study.figures["rates"]'):
        picture = base64.b64decode("".join(data(executed[line])["image/png"]))
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 10_000


def test_its_run_comes_out_the_same(real_home, executed):
    outputs = executed["print(fl.reproduce(run))"]["outputs"]
    text = "".join("".join(output.get("text", "")) for output in outputs)
    assert "verdict: identical" in text
    assert data(executed['fl.load("tweets").answer == study.answer'])["text/plain"] in ("True", ["True"])


def test_the_one_in_the_docs_was_executed():
    for cell in cells(NOTEBOOK):
        assert cell["execution_count"] is not None
        assert not [output for output in cell["outputs"] if output["output_type"] == "error"]
