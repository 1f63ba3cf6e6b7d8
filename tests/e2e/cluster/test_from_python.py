"""`frostline.sweep` on Ray, from a script: a cluster that is started on this machine for it."""

import subprocess
import sys
import textwrap

import pytest

from tests.conftest import TINY
from tests.support.sweep_tools import TRIALS_ALONE

pytest.importorskip("ray")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPT = """
import frostline as fl

rows = [{{"review": f"a {{word}} film {{number}}", "mood": mood}}
        for number in range(40) for word, mood in (("good", "up"), ("bad", "down"))]
study = fl.sweep("lr_x_depth", model={model!r}, train=rows, text="review", label="mood", overrides={overrides})
print(len(study.trials), study.best.status, list(study.predict(["a good film"])["label"]))
"""


def test_a_script_sweeps_on_ray(tiny_model, tmp_path):
    overrides = [
        *(word for word in TINY if not word.startswith("optimizer.lr=")), *TRIALS_ALONE, "sweep.n_trials=2",
        "runtime.engine=ray", "tracking=off", "training.epochs=2",
    ]  # fmt: skip
    (tmp_path / "mine.py").write_text(textwrap.dedent(SCRIPT).format(model=str(tiny_model), overrides=overrides))
    done = subprocess.run([sys.executable, "mine.py"], capture_output=True, text=True, cwd=tmp_path, timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 FINISHED ['")
