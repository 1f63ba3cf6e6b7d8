"""Listeners of a running sweep: the progress view and MLflow."""

from __future__ import annotations

import logging
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from frostline.errors import visible
from frostline.records.trial import TrialRecord, TrialState, label, ranked
from frostline.report import number
from frostline.search import Listener, TrialTask

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from frostline.tracking import SweepRun

log = logging.getLogger(__name__)


class ProgressView:
    """Shows a sweep: a bar and one line for each finished trial on a terminal, plain lines elsewhere.

    Args:
        metric: The objective's name.
        maximize: Whether more of it is better.
        total: Trials in all.
        slots: Trained side by side, for the time left.
        bar: Whether a person watches.
    """

    def __init__(self, metric: str, maximize: bool, total: int, slots: int, bar: bool) -> None:
        self._metric = metric
        self._maximize = maximize
        self._total = total
        self._slots = slots
        self._running: dict[int, tuple[TrialTask, float]] = {}
        self._seconds: list[float] = []
        self._trials: Sequence[TrialRecord] = ()
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        if bar:
            self._make_bar()

    def _make_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("sweep", total=self._total, state="starting the workers")
        self._progress.start()

    def close(self) -> None:
        """Ends the bar."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def say(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self._progress is not None:
            self._progress.console.print(visible(text), highlight=False, markup=False, soft_wrap=True)
        else:
            print(visible(text), file=sys.stderr, flush=True)

    def resume(self, trials: Sequence[TrialRecord]) -> None:
        """Takes up what earlier commands did."""
        self._trials = trials
        done = sum(_is_done(trial) for trial in trials)
        if done:
            self.say(f"resuming: {done} of {self._total} trials are done")
        self._refresh()

    def started(self, task: TrialTask) -> None:
        """See `Listener`."""
        self._running[task.number] = (task, time.monotonic())
        self._refresh()

    def reported(self, number: int, step: int, value: float) -> None:
        """See `Listener`."""

    def ended(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        """See `Listener`."""
        self._trials = [each for each in trials if not each.is_baseline]
        task, began = self._running.pop(trial.number, (None, time.monotonic()))
        if task is not None and not trial.is_baseline:
            self._seconds.append(time.monotonic() - began)
        self.say(self._line(trial))
        self._refresh()

    def pruned(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        """See `Listener`."""
        self._trials = trials
        self._refresh()

    def replicated(self, trial: TrialRecord, seed: int) -> None:
        """See `Listener`."""
        self._running.pop(trial.number, None)
        outcome = trial.replicates[seed]
        name = trial.label() if trial.is_baseline else f"#{trial.number} {trial.label()}"
        head = f"[further seeds] {name} s{seed}:"
        if outcome.quality is None:
            self.say(f"{head} FAILED: {outcome.reason}")
        else:
            self.say(
                f"{head} {self._metric} {number(outcome.quality)} (mean of {len(trial.by_seed)} seeds "
                f"{number(trial.quality or 0.0)}), {outcome.cost.get('train_s', 0.0):.0f} s"
            )
        self._refresh()

    def released(self, number: int) -> None:
        """See `Listener`."""
        self._running.pop(number, None)
        self._refresh()

    def _line(self, trial: TrialRecord) -> str:
        done = sum(_is_done(other) for other in self._trials)
        head = f"[{done}/{self._total}] #{trial.number} {trial.label()}:"
        if trial.is_baseline:
            head = f"[full fine-tuning] {trial.label()}:"
        outcome = trial.outcome
        assert outcome is not None
        if trial.state is TrialState.FAILED or outcome.quality is None:
            return f"{head} FAILED: {trial.reason}"
        value = f"{self._metric} {number(outcome.quality)}"
        if trial.spread is not None:
            value += f" (sd {number(trial.spread)} over {len(outcome.by_seed)} seeds)"
        seconds = f", {outcome.cost['train_s']:.0f} s" if "train_s" in outcome.cost else ""
        rest = f" - {outcome.reason}" if outcome.reason and trial.state is TrialState.PRUNED else ""
        rest = " - may be promoted later" if outcome.paused else rest
        rest += f" (as #{trial.copy_of})" if trial.copy_of is not None else ""
        rest += f" [{outcome.note}]" if outcome.note else ""
        return f"{head} {value}{seconds}{rest}"

    def _refresh(self) -> None:
        if self._progress is None or self._task is None:
            return
        best = ranked(self._trials, self._maximize)
        waiting = [trial for trial in self._trials if trial.is_paused]
        pool = best or sorted(
            (trial for trial in waiting if trial.quality is not None),
            key=lambda trial: trial.quality or 0.0,
            reverse=self._maximize,
        )
        parts = []
        if pool:
            parts.append(f"best {number(pool[0].quality or 0.0)} ({pool[0].label()})")
        parts.append("running " + (", ".join(label(task.params) for task, _ in self._running.values()) or "-"))
        counts = {
            "after rung 1": len(waiting),
            "pruned": sum(trial.state is TrialState.PRUNED for trial in self._trials) - len(waiting),
            "failed": sum(trial.state is TrialState.FAILED for trial in self._trials),
        }
        parts += [f"{name} {count}" for name, count in counts.items() if count]
        left = self._time_left()
        if left is not None:
            parts.append(f"{int(left) // 60}:{int(left) % 60:02d} left{' of rung 1' if waiting else ''}")
        done = min(self._total, sum(_is_done(trial) for trial in self._trials))
        self._progress.update(self._task, completed=done, state=" · ".join(parts))

    def _time_left(self) -> float | None:
        if not self._seconds or any(task.rung == 2 for task, _ in self._running.values()):
            return None
        left = self._total - sum(_is_done(trial) for trial in self._trials)
        return statistics.median(self._seconds) * max(0, left) / self._slots


def _is_done(trial: TrialRecord) -> bool:
    return trial.state is not TrialState.WAITING and trial.state is not TrialState.RUNNING


class MlflowListener:
    """Draws the sweep on its parent run's charts: trials and the best so far over the number of the trial.

    Args:
        run: The parent run.
        metric: The objective's name.
        maximize: Whether more of it is better.
    """

    def __init__(self, run: SweepRun, metric: str, maximize: bool) -> None:
        self._run = run
        self._metric = metric
        self._maximize = maximize

    def started(self, task: TrialTask) -> None:
        """See `Listener`."""

    def reported(self, number: int, step: int, value: float) -> None:
        """See `Listener`."""

    def ended(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        """See `Listener`."""
        if trial.quality is not None and trial.rung == 1 and not trial.is_baseline:
            self._run.log({f"trial/{self._metric}": trial.quality}, trial.number)

    def pruned(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        """See `Listener`."""

    def replicated(self, trial: TrialRecord, seed: int) -> None:
        """See `Listener`: the run itself is there."""

    def released(self, number: int) -> None:
        """See `Listener`."""


class Listeners:
    """Calls several listeners, in order."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = tuple(listeners)

    def started(self, task: TrialTask) -> None:
        """See `Listener`."""
        self._each(lambda listener: listener.started(task))

    def reported(self, number: int, step: int, value: float) -> None:
        """See `Listener`."""
        self._each(lambda listener: listener.reported(number, step, value))

    def ended(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        """See `Listener`."""
        self._each(lambda listener: listener.ended(trial, trials))

    def pruned(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        """See `Listener`."""
        self._each(lambda listener: listener.pruned(trial, trials))

    def replicated(self, trial: TrialRecord, seed: int) -> None:
        """See `Listener`."""
        self._each(lambda listener: listener.replicated(trial, seed))

    def released(self, number: int) -> None:
        """See `Listener`."""
        self._each(lambda listener: listener.released(number))

    def _each(self, call: Callable[[Listener], None]) -> None:
        for listener in self._listeners:
            call(listener)
