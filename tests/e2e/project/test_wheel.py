"""conf/ and sweeps/ travel in the wheel: built, installed alone in an empty venv, run from an empty folder."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A venv with the wheel; its dependencies come from this environment, frostline itself is not."""
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = place.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(place / "venv")], check=True)
    python = place / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True)
    (site,) = (place / "venv").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return wheel, python.with_name("frostline")


def call(installed, folder, *arguments):
    return subprocess.run([str(installed[1]), *arguments], capture_output=True, text=True, cwd=folder)


def test_the_wheel_holds_the_config_and_no_tests(installed):
    names = zipfile.ZipFile(installed[0]).namelist()
    assert "frostline/_data/conf/config.yaml" in names
    assert "frostline/_data/sweeps/sweep/demo.yaml" in names
    assert "hydra_plugins/frostline_sweeps/search_path.py" in names
    assert "hydra_plugins/__init__.py" not in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]


def test_the_installed_command_runs_from_an_empty_folder(installed, tmp_path):
    done = call(installed, tmp_path, "run", "+sweep=demo", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    for line in (ROOT / "sweeps" / "sweep" / "demo.yaml").read_text(encoding="utf-8").splitlines():
        if "_rows:" in line:  # the sweep's own values, whatever they are
            assert line in done.stdout
    done = call(installed, tmp_path, "run", "freeze.depth=9")
    assert (done.returncode, done.stderr) == (2, "frostline: freeze.depth=9: minilm has 6 blocks, so give 0 to 6\n")
    done = call(installed, tmp_path, "--version")
    assert done.stdout == "frostline 0.1.0\n"
    where = subprocess.run(
        [installed[1].with_name("python"), "-c", "import frostline.paths as p; print(p.conf_dir())"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    ).stdout.strip()
    assert where.endswith("site-packages/frostline/_data/conf")


def test_the_installed_command_trains(installed, tmp_path, tiny_overrides):
    done = call(installed, tmp_path, "run", *tiny_overrides, "tracking=off", "freeze.depth=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("run_dir: ")
