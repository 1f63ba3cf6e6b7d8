"""The steps that `train/loss` is averaged over, kept across a resume.

Trainer adds up the losses since its last log and forgets the sum when it is resumed. A run that was stopped between two
logs would then show other numbers than one that was not, with the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class LossWindow(TrainerCallback):
    """The losses since the last log.

    What it reads and sets are private attributes of Trainer: tests/contract/test_trainer_facts.py watches them.
    """

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._carried: Mapping[str, Any] | None = None

    def attach(self, trainer: Trainer) -> None:
        """Names the Trainer, which is made after its callbacks."""
        self._trainer = trainer

    def read(self) -> dict[str, Any]:
        """Returns the step of the last log and the sum of the steps' losses since."""
        assert self._trainer is not None
        return {"since": self._trainer._globalstep_last_logged, "loss": self._trainer._tr_loss.item()}

    def carry(self, window: Mapping[str, Any] | None) -> None:
        """Takes over what a checkpoint holds, None if it holds nothing: the next training continues from it."""
        self._carried = window

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Trainer has just set both to nothing."""
        if self._carried is not None:
            assert self._trainer is not None
            self._trainer._globalstep_last_logged = int(self._carried["since"])
            self._trainer._tr_loss.fill_(float(self._carried["loss"]))
