"""conf/ and sweeps/ travel in the wheel: built, installed alone in an empty venv, run from an empty folder."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A venv with the wheel; its dependencies come from this environment, frostline itself is not."""
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place), str(ROOT)]
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
    assert "frostline/cli/starter/conf/dataset/my_data.yaml" in names
    assert "frostline/py.typed" in names
    assert "frostline/_data/sweeps/sweep/demo.yaml" in names
    assert "hydra_plugins/frostline_sweeps/search_path.py" in names
    assert "hydra_plugins/__init__.py" not in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]


def test_the_source_distribution_holds_what_builds_and_tests_it(installed):
    (packed,) = installed[0].parent.glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("Makefile", "constraints.txt", "README.md", "CHANGELOG.md", "LICENSE", "CITATION.cff", "SECURITY.md"):
        assert name in names
    assert {"conf/config.yaml", "sweeps/sweep/demo.yaml", "tests/conftest.py", "docs/index.md"} <= names
    assert not [name for name in names if name.startswith(("runs/", ".venv", "mlflow.db", "site/", "dist/"))]


def test_a_package_index_takes_them(installed):
    """The metadata is whole, and the README renders there."""
    files = [str(path) for path in (installed[0], *installed[0].parent.glob("*.tar.gz"))]
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2
    with zipfile.ZipFile(installed[0]) as wheel:
        metadata = wheel.read("frostline-0.1.0.dist-info/METADATA").decode()
    extras = set(re.findall(r"^Provides-Extra: (\S+)$", metadata, re.M))
    assert extras == {
        "dev",
        "images",
        "lora",
        "postgresql",
        "quantize",
        "ray",
        "rouge",
        "tensorboard",
        "timm",
        "trackio",
        "wandb",
    }


def test_the_installed_package_is_used_from_python(installed, tmp_path, tiny_model, tiny_csv):
    words = ["training.max_tokens=32", "tracking=off"]
    code = (
        "import frostline as fl\n"
        f"run = fl.run({words}, model={str(tiny_model)!r}, train={str(tiny_csv)!r}, text='text', label='label')\n"
        "print(fl.__file__, run.status, len(run.predict(['a good film'])))\n"
    )
    (tmp_path / "mine.py").write_text(code)
    python = installed[1].with_name("python")
    done = subprocess.run([python, "mine.py"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "site-packages/frostline/__init__.py FINISHED 1" in done.stdout


def test_a_folder_of_ones_own_runs_as_it_is(installed, tmp_path, tiny_model):
    done = call(installed, tmp_path, "init", "mine")
    assert done.returncode == 0, done.stderr
    tiny = ["model=path", f"model.location={tiny_model}", "training.max_tokens=32", "tracking=off", "sweep.settle=0"]
    env = {**os.environ, "FROSTLINE_CONFIG_DIR": "conf"}
    sweep = [str(installed[1]), "sweep", "my_sweep", *tiny, "sweep.n_trials=3", "sweep.baseline=false"]
    done = subprocess.run(sweep, capture_output=True, text=True, cwd=tmp_path / "mine", env=env)
    assert done.returncode == 0, done.stderr
    assert "3 trials: 3 to the end" in done.stdout
    run = [str(installed[1]), "run", "+experiment=my_experiment", *tiny[:-1]]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path / "mine", env=env)
    assert done.returncode == 0, done.stderr
    assert "worst_class" in done.stdout
    again = call(installed, tmp_path, "init", "mine")
    assert (again.returncode, again.stderr) == (2, "frostline: mine: is there and not empty; give another name\n")


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
