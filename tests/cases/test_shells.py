"""Users and shells as containers have them: no name, no home, an empty environment, a folder that is read-only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases.damaged import FEW
from tests.support.sweep_tools import TRIALS_ALONE

STRANGER = 12345


def is_open_to_others(path: Path) -> bool:
    """Returns whether another user may pass through a folder and those above it."""
    return all(each.stat().st_mode & 0o001 for each in (path, *path.parents))


INTERPRETER = Path(os.environ.get("FROSTLINE_TEST_PYTHON") or sys.executable).resolve()

needs_root = pytest.mark.skipif(
    os.getuid() != 0 or not is_open_to_others(INTERPRETER.parent),
    reason="only root can be somebody else, and Python must lie where others may read it (FROSTLINE_TEST_PYTHON)",
)


@pytest.mark.slow
@needs_root
@pytest.mark.timeout(600)
def test_a_user_without_name_home_or_environment_in_a_folder_that_cant_be_written(tmp_path, tiny_model, tiny_csv):
    place = Path("/tmp") / f"frostline-test-{os.getpid()}"
    try:
        _as_a_stranger(place, tiny_model, tiny_csv)
    finally:
        shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(f"/tmp/frostline-home-{STRANGER}", ignore_errors=True)


def _as_a_stranger(place: Path, tiny_model: Path, tiny_csv: Path) -> None:
    (place / "ro").mkdir(parents=True)
    (place / "out").mkdir()
    os.chown(place / "out", STRANGER, STRANGER)
    shutil.copytree(tiny_model, place / "model")
    shutil.copy(tiny_csv, place / "moods.csv")
    subprocess.run(["chmod", "-R", "a+rX", str(place)], check=True)
    (place / "ro").chmod(0o555)
    packages = [path for path in sys.path if path.endswith(("site-packages", "src"))]
    env = {"PYTHONPATH": os.pathsep.join([*packages, str(Path(__file__).parents[2] / "src")])}
    if "FROSTLINE_TEST_PYTHON" in os.environ:
        env["LD_LIBRARY_PATH"] = str(INTERPRETER.parent.parent / "lib")

    def call(*words: str) -> str:
        done = subprocess.run(
            [str(INTERPRETER), "-m", "frostline", *words], cwd=place / "ro", env=env, text=True, capture_output=True,
            timeout=200, check=False, user=STRANGER, group=STRANGER, extra_groups=[],
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        assert "does not answer" not in done.stderr
        assert "was in" not in done.stderr
        return done.stdout

    few = [word for word in FEW if word != "tracking=off"]
    words = [
        "model=path", f"model.location={place}/model", "dataset=csv", f"dataset.location={place}/moods.csv",
        "training.batch_size=16", "training.max_tokens=32", "runtime.threads=1", "runtime.device=cpu", *few,
        f"tracking.uri=sqlite:///{place}/out/mlflow.db",
    ]  # fmt: skip
    call("run", *words, f"hydra.run.dir={place}/out/one")
    call("predict", f"{place}/out/one", "a text")
    assert "verdict: identical" in call("reproduce", f"{place}/out/one", "tracking=off")
    sweep = ("sweep.n_trials=4", *TRIALS_ALONE, f"hydra.sweep.dir={place}/out/sweep")
    assert "4 trials: 4 to the end" in call("sweep", "lr_x_depth", *words, *sweep)
    call("predict", f"{place}/out/sweep", "a text")
