"""After a fault at any write, rename or fsync the next command ends in the same bits, or says in a line what is wrong.

`make test-faults` tries every operation and prints a table; the suite tries a sample.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.sweep_tools import TRIALS_ALONE, call, end_what_was_started, start, trials_in

ALL = os.environ.get("FROSTLINE_FAULTS") == "all"
SAMPLE = 4
"""Of each kind, in the suite."""

SAME, ONE_LINE, SILENT = "resumed to the same bits", "one line of error", "wrong without an error"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200 if ALL else 900)]


def broken(words: Sequence[str], cwd: Path, below: Path, how: str, number: int) -> tuple[int, str]:
    """Gives a command, one of whose operations on files fails; returns its exit code and standard error."""
    before = f"from tests.faults import shim; shim.install({str(below)!r}, {how!r}, {number})"
    process = start(*words, cwd=cwd, before=before)
    _, err = process.communicate(timeout=120)
    end_what_was_started()
    return process.returncode, err


def is_one_line(err: str) -> bool:
    lines = [line for line in err.splitlines() if line.startswith("frostline: ")]
    return len(lines) == 1 and "Traceback" not in err


def chosen(count: int, how: str) -> list[int]:
    every = list(range(1, count + 1))
    return every if ALL else sorted(random.Random(f"{how} 20261128").sample(every, min(SAMPLE, count)))


def show(what: str, how: str, found: Counter[str]) -> None:
    print(f"\n{what}, {how}: {sum(found.values())} tried, " + ", ".join(f"{n} {name}" for name, n in found.items()))


@pytest.mark.parametrize("how", ["kill", "full"])
def test_a_run(tmp_path, tiny_overrides, how):
    words = ["run", *tiny_overrides, "training.epochs=3", "training.checkpoint=epoch", "tracking=off"]
    whole = tmp_path / "whole"
    whole.mkdir()
    code, err = broken([*words, "hydra.run.dir=one"], whole, whole / "one", how, 0)
    assert code == 0, err
    wanted = outcome(whole / "one")
    count = int((whole / "one.count").read_text())
    found: Counter[str] = Counter()
    for number in chosen(count, how):
        home = tmp_path / f"{number}"
        home.mkdir()
        code, err = broken([*words, "hydra.run.dir=one"], home, home / "one", how, number)
        if code == 0:
            result = SAME if outcome(home / "one") == wanted else SILENT
        else:
            assert how == "kill" or is_one_line(err), (number, err)
            is_resumable = any((home / "one/checkpoints").glob("step-*")) and not (home / "one/result.json").exists()
            again = call(*words, "hydra.run.dir=one", "resume=one", cwd=home, timeout=120)
            if again.returncode == 0:
                result = SAME if outcome(home / "one") == wanted else SILENT
            else:
                assert not is_resumable, (number, again.stderr)
                result = ONE_LINE if again.returncode == 2 and is_one_line(again.stderr) else SILENT
                anew = call(*words, "hydra.run.dir=two", cwd=home, timeout=120)  # and nothing stands in the way
                assert anew.returncode == 0, anew.stderr
                assert outcome(home / "two") == wanted
        found[result] += 1
        assert result != SILENT, (number, err)
        shutil.rmtree(home)
    show("a run", how, found)


def outcome(folder: Path) -> tuple[str, str]:
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "FINISHED"
    assert set(result["files"]) >= {"spec.json", "metrics.jsonl", "model/model.safetensors"}
    return result["weights_sha256"], (folder / "metrics.jsonl").read_text()


@pytest.mark.parametrize("how", ["kill", "full"])
def test_a_sweep(tmp_path, tiny_overrides, how):
    tiny = [word for word in tiny_overrides if not word.startswith("optimizer.lr=")]
    few = ("sweep.name=s", "sweep.n_trials=3", "training.max_steps=2", "training.epochs=null", "tracking=off")
    words = ["sweep", "lr_x_depth", *tiny, *few, *TRIALS_ALONE]
    whole = tmp_path / "whole"
    whole.mkdir()
    code, err = broken(words, whole, whole / "runs", how, 0)
    assert code == 0, err
    wanted = table(whole)
    count = int((whole / "runs.count").read_text())
    found: Counter[str] = Counter()
    for number in chosen(count, how):
        home = tmp_path / f"{number}"
        home.mkdir()
        code, err = broken(words, home, home / "runs", how, number)
        if code != 0:
            assert how == "kill" or is_one_line(err), (number, err)
            again = call(*words, cwd=home, timeout=120)
            code, err = again.returncode, again.stderr
        if code == 0:
            result = SAME if table(home) == wanted else SILENT
        else:
            result = ONE_LINE if code == 2 and is_one_line(err) else SILENT
        found[result] += 1
        if result == ONE_LINE:
            print(number, err.strip().splitlines()[-1].replace(str(home), ""))
        assert result != SILENT, (number, err)
        shutil.rmtree(home)
    show("a sweep", how, found)


def table(home: Path) -> list[tuple[object, ...]]:
    reported = json.loads((home / "runs/s/report/recommended.json").read_text())
    return [(reported["trial"],), *((p.number, p.params, p.state, dict(p.by_seed)) for p in trials_in(home / "runs/s"))]
