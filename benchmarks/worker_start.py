"""What it costs until the workers of a sweep are ready: new processes (A) against forks of a template (B).

Both alternate. Measured from the pool's start until each slot has done a job that trains nothing: seconds, seconds of
the cores (of all processes, user and system), and the memory that they hold together (PSS: what is shared counts once).

    python benchmarks/worker_start.py --slots 8 --repeats 5
    python benchmarks/worker_start.py --slots 8 --repeats 5 --gpu     # ready: the GPU is open
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from frostline.sweeps.pool_executor import TEMPLATE, WARM
from frostline.sweeps.slots import slot_env, visible_gpus
from frostline.workers.pool import Pool, WorkerProgram
from frostline.workers.worker_main import Channel, EventKind


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--measure", choices=["new", "forks"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.slots, TEMPLATE if options.measure == "forks" else None, gpu=options.gpu)))
        return
    ratios: dict[str, list[float]] = {}
    for _ in range(options.repeats):
        new, forks = (child(kind, options.slots, gpu=options.gpu) for kind in ("new", "forks"))
        for name, value in new.items():
            ratios.setdefault(name, []).append(value / forks[name])
        print(f"  new {shown(new)}   forks {shown(forks)}", flush=True)
    for name, values in ratios.items():
        middle = statistics.median(values)
        print(f"{name}, A/B: median {middle:.1f}, {min(values):.1f} to {max(values):.1f} (n={len(values)})")


def shown(values: dict[str, float]) -> str:
    """Returns the figures of one start."""
    return ", ".join(f"{value:.1f} {name}" for name, value in values.items())


def child(kind: str, slots: int, *, gpu: bool) -> dict[str, float]:
    """Measures in a process of its own: a template stays with its parent."""
    command = [sys.executable, __file__, "--measure", kind, "--slots", str(slots), *(["--gpu"] if gpu else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    values: dict[str, float] = json.loads(done.stdout)
    # Only now all that it started has ended, and counts.
    return values


def ready(payload: object, channel: Channel) -> int:
    """A job that trains nothing."""
    del channel
    if payload == "gpu":
        import torch

        torch.ones(1, device="cuda")
    time.sleep(0.2)  # no slot takes two
    return os.getpid()


def measure(slots: int, template: str | None, *, gpu: bool) -> dict[str, float]:
    """Starts a pool and ends it."""
    here = str(Path(__file__).parent)
    function = f"{Path(__file__).stem}:ready"
    began = time.monotonic()
    with Pool(
        slots,
        WorkerProgram(function=function, warm=WARM, path=[here], template=template),
        env=slot_env(slots, 1, visible_gpus() if gpu else ()),
    ) as pool:
        for key in range(slots):
            pool.submit(key, "gpu" if gpu else None)
        pids: set[int] = set()
        while len(pids) < slots:
            for event in pool.poll(1.0):
                assert event.kind is EventKind.DONE, event
                pids.add(event.value)
        wall_s = time.monotonic() - began
        memory = sum(pss_bytes(pid) for pid in family(os.getpid()))
        cores = sum(cpu_s(pid) for pid in family(os.getpid()))
    own = resource.getrusage(resource.RUSAGE_SELF)
    cores -= own.ru_utime + own.ru_stime
    return {"s": wall_s, "s of the cores": cores, "GB": memory / 1e9}


def family(root: int) -> list[int]:
    """Returns a process and all that descend from it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [root]
    for pid in found:
        found += [other for other, parent in parents.items() if parent == pid]
    return found


def pss_bytes(pid: int) -> int:
    """Returns the memory of a process, what it shares divided among those that share it."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def cpu_s(pid: int) -> float:
    """Returns user and system seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
