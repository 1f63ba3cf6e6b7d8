"""Makes the records of a release that later versions must open: python tests/assets/make.py 0.1

A tiny model and data, a run that was stopped inside its second epoch, a sweep with two rungs and a pruned trial, the
store in MLflow, a cache entry. They are made by the commands, as a user would; once a release is out they are never
made again.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.conftest import TINY, save_tokenizer, sentences, tiny_config, write_csv
from tests.support.sweep_tools import TRIALS_ALONE, call

SETTINGS = ("model=path", "model.location=model", "dataset=csv", "dataset.location=moods.csv", *TINY)
SWEEP = (
    "lr_x_depth", *(word for word in SETTINGS if not word.startswith(("optimizer.lr=", "runtime.cache="))),
    "runtime.cache=require", "sweep.space.freeze.depth.low=3", "sweep.space.optimizer.lr.low=1e-3",
    "sweep.space.optimizer.lr.high=1e-2", "sweep.name=s", "sweep.n_trials=6", "sweep.rung_epochs=1",
    "sweep.promote_fraction=0.5", "sweep.sampler=random", "training.epochs=4", *TRIALS_ALONE,
)  # fmt: skip
STOPPED = (*SETTINGS, "training.epochs=3", "freeze.depth=2", "hydra.run.dir=runs/stopped")


def main(release: str) -> None:
    """Writes the records of a release beside this file."""
    import torch
    from transformers import BertModel

    target = Path(__file__).parent / release
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        torch.manual_seed(0)
        BertModel(tiny_config()).save_pretrained(home / "model")
        save_tokenizer(home / "model")
        write_csv(home / "moods.csv", sentences(120))
        os.environ["FROSTLINE_HOME"] = str(home / "cache")
        stop = ("plugins=[stop_plugin]", "optimizer.name=stops")
        for words in (("sweep", *SWEEP), ("run", *STOPPED, *stop)):
            done = call(*words, cwd=home, timeout=300, PYTHONPATH=str(Path(__file__).parent))
            print(done.stdout, done.stderr, file=sys.stderr)
            if done.returncode not in {0, 130}:
                raise SystemExit(done.returncode)
        shutil.rmtree(target, ignore_errors=True)
        for folder in ("runs", "model", "mlruns", "cache/prefix"):
            if (home / folder).exists():
                shutil.copytree(home / folder, target / folder)
        for file in ("mlflow.db", "moods.csv"):
            shutil.copy(home / file, target / file)


if __name__ == "__main__":
    main(sys.argv[1])
