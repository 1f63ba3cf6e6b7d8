"""How long a run takes from SIGTERM to its end with a whole checkpoint: what a machine that is wanted back must allow.

A BERT with random weights, nothing frozen, so that the checkpoint holds all weights and both moments of AdamW. The run
gets SIGTERM once it has taken some steps. `step` is what was left of the step, `checkpoint` the rest until the process
had ended; the checkpoint is then read and every hash compared.

    python benchmarks/stop.py [--blocks 24 --width 1024] [--batch 4] [--repeats 3]
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import random_bert
from frostline import assets
from frostline.config import compose_run
from frostline.records.run_folder import CHECKPOINTS_FOLDER
from frostline.train.checkpoint import CheckpointStore


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=24, help="24 blocks of width 1024 are BERT-large's size")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--gpu", action="store_true")
    options = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="frostline-bench-") as name:
        model = Path(name) / "bert"
        source = assets.model_folder(compose_run([]).model)
        random_bert.make(model, blocks=options.blocks, width=options.width, tokenizer_from=source)
        size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
        print(f"weights {size / 1e9:.2f} GB", flush=True)
        seconds = [stop(model, options, Path(name) / str(number), rng) for number in range(options.repeats)]
    whole = sorted(seconds)
    print(
        f"SIGTERM to the end of the process: median {statistics.median(whole):.1f} s, "
        f"{whole[0]:.1f} to {whole[-1]:.1f} (n={len(whole)})"
    )


def stop(model: Path, options: argparse.Namespace, folder: Path, rng: random.Random) -> float:
    """Returns the seconds from the signal to the end of the process, after printing their parts."""
    command = [
        sys.executable, "-m", "frostline", "run", "model=path", f"model.location={model}", "tracking=off",
        f"hydra.run.dir={folder}", f"training.batch_size={options.batch}", "training.log_every=1", "freeze.depth=0",
        "dataset.train_rows=512", "dataset.eval_rows=32", f"runtime.device={'cuda' if options.gpu else 'cpu'}",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    curve = folder / "metrics.jsonl"
    while not curve.exists() or len(curve.read_text().splitlines()) < 3:
        if process.poll() is not None:
            raise SystemExit("the run ended too early")
        time.sleep(0.2)
    time.sleep(rng.uniform(0, 5))
    began = time.time()
    process.send_signal(signal.SIGTERM)
    code = process.wait()
    ended = time.time()
    assert code == 128 + signal.SIGTERM, code
    checkpoint, _ = CheckpointStore(folder).newest_whole()  # compares all hashes
    written = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    last_step = curve.stat().st_mtime
    print(
        f"step {max(0.0, last_step - began):.1f} s, checkpoint {ended - max(began, last_step):.1f} s "
        f"({written / 1e9:.2f} GB in {CHECKPOINTS_FOLDER})",
        flush=True,
    )
    return ended - began


if __name__ == "__main__":
    main()
