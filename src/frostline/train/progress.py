"""The progress bar of a run.

A bar on a terminal, plain lines now and then elsewhere.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from frostline.spec import Progress

log = logging.getLogger(__name__)

_LINE_EVERY_S = 30.0


def wants_bar(choice: Progress) -> bool:
    """Returns whether to draw bars."""
    return choice is Progress.ON or (choice is Progress.AUTO and sys.stderr.isatty())


class ProgressCallback(TrainerCallback):
    """Shows steps, loss and the newest evaluation.

    Args:
        name: The run's name.
        bar: Draw a bar; else log a line every half a minute.
    """

    def __init__(self, name: str, bar: bool) -> None:
        self._name = name
        self._bar = bar
        self._tqdm: tqdm[Any] | None = None
        self._shown: dict[str, str] = {}
        self._next_line = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the bar, at the step that a resumed run begins with."""
        if self._bar:
            self._tqdm = tqdm(
                total=state.max_steps, initial=state.global_step, desc=self._name, unit="step", leave=False
            )
        self._next_line = time.monotonic() + _LINE_EVERY_S

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Moves on."""
        if self._tqdm is not None:
            self._tqdm.update(state.global_step - self._tqdm.n)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_EVERY_S
            shown = ", ".join(f"{key} {value}" for key, value in self._shown.items())
            log.info(
                "%s: step %d of %d%s",
                self._name,
                state.global_step,
                state.max_steps,
                f", {shown}" if shown else "",
            )

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Takes up the newest loss."""
        if "loss" in kwargs["logs"]:
            self._show("loss", float(kwargs["logs"]["loss"]))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Takes up the newest evaluation loss."""
        self._show("eval loss", float(kwargs["metrics"]["eval_loss"]))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ends the bar."""
        self.close()

    def close(self) -> None:
        """Ends the bar; may be called twice."""
        if self._tqdm is not None:
            self._tqdm.close()
            self._tqdm = None

    def _show(self, key: str, value: float) -> None:
        self._shown[key] = f"{value:.3f}"
        if self._tqdm is not None:
            self._tqdm.set_postfix(self._shown, refresh=False)
