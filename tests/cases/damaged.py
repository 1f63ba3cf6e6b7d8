"""A trained home, and what damages it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.sweep_tools import TRIALS_ALONE

FEW = ("training.max_steps=2", "training.epochs=null", "tracking=off")


def sweep_words(tiny_overrides):
    tiny = [each for each in tiny_overrides if not each.startswith(("optimizer.lr=", "freeze"))]
    return (*tiny, "sweep.name=s", "sweep.n_trials=4", *FEW, *TRIALS_ALONE)


def flip(path: Path, at: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(bytes(data))


def cut(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def answer(home: Path) -> dict[str, object]:
    reported = json.loads((home / "runs/s/report/recommended.json").read_text())
    return {key: reported[key] for key in ("trial", "params") if key in reported}


def one_line(done, code: int, *words: str) -> None:
    """Asserts that a command ended with one line on stderr that holds some words."""
    assert done.returncode == code, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0], done.stderr


def pend(folder: Path, uri: str, **more: object) -> None:
    """Makes a folder one that MLflow has missed, as a stranger could."""
    place = {"uri": uri, "experiment": "e", "log_model": True, "tags": {}}
    missed = {"kind": "run", "tracking": place, "child": None, "why": "", **more}
    (folder / ".mlflow-pending.json").write_text(json.dumps(missed))
