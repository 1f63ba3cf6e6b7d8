"""An interrupted run's checkpoint, and what must still be the same when it is resumed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from frostline.errors import UserError
from frostline.records.recorder import Recorder
from frostline.records.result import CacheUse, read_cache_uses
from frostline.records.run_folder import INPUTS, metrics_up_to
from frostline.spec import RunSpec
from frostline.train.checkpoint import CheckpointStore
from frostline.train.train_log import restore_train_log
from frostline.train.trainer import Assembly

log = logging.getLogger(__name__)

_VERSIONS = ("torch", "transformers", "accelerate", "numpy", "frostline")
"""Packages whose version may change the numbers."""


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """The newest whole checkpoint of an interrupted run.

    Attributes:
        run_folder: The interrupted run's.
        folder: The checkpoint's.
        manifest: The checkpoint's, as `CheckpointCallback` wrote it.
    """

    run_folder: Path
    folder: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, spec: RunSpec, run_folder: Path) -> ResumePoint:
        """Returns where a run is resumed.

        Args:
            spec: Of the run.
            run_folder: The interrupted run's.

        Raises:
            UserError: There is no whole checkpoint, or it is of another spec.
        """
        folder, manifest = CheckpointStore(run_folder).newest_whole()
        if manifest["spec_digest"] != spec.digest():
            raise UserError(f"resume={run_folder}: its checkpoint is of another config; compare its spec.json")
        return cls(run_folder=run_folder, folder=folder, manifest=manifest)

    @property
    def step(self) -> int:
        """The optimizer step."""
        return int(self.manifest["step"])

    @property
    def epoch(self) -> float:
        """Epochs trained, a fraction inside one."""
        return float(self.manifest["epoch"] or 0.0)

    @property
    def cache_uses(self) -> tuple[CacheUse, ...]:
        """How each phase of the interrupted run used the prefix cache."""
        return read_cache_uses(self.manifest["prefix_cache"])

    def check_inputs(self, provenance: Mapping[str, Any]) -> None:
        """Checks that the resumed run has the data, weights, tokenizer and plugins of its checkpoint.

        Args:
            provenance: Of the run as it is set up now.

        Raises:
            UserError: Some differ; the message names them.
        """
        then = self.manifest["inputs"]
        other = [
            f"{name} {str(then.get(key, 'none'))[:12]} -> {str(provenance.get(key, 'none'))[:12]}"
            for key, name in INPUTS.items()
            if then.get(key) != provenance.get(key)
        ]
        if other:
            raise UserError(f"resume={self.run_folder}: its inputs changed since the run started: {', '.join(other)}")

    def check_weights(self, model: nn.Module) -> None:
        """Checks that the checkpoint has every parameter that is trained: Trainer passes over what it does not find.

        Args:
            model: Trainer's.

        Raises:
            UserError: One is missing.
        """
        path = self.folder / "model.safetensors"
        if not path.is_file():
            return  # in several files
        with safe_open(path, framework="pt") as file:
            present = set(file.keys())
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        if (missing := next((name for name in trained if name not in present), None)) is not None:
            raise UserError(f"resume={self.run_folder}: its checkpoint lacks {missing}: start the run anew")

    def warn_of_differences(self, precision: str, num_processes: int, versions: Mapping[str, str]) -> None:
        """Warns of what may change the numbers: precision, processes, versions of packages."""
        before = self.manifest
        if before["precision"] != precision:
            log.warning(
                "resume: the run was started in %s and continues in %s, as training.precision=auto decides here",
                before["precision"], precision,
            )  # fmt: skip
        if int(before["processes"]) != num_processes:
            log.warning(
                "resume: the run was started on %d processes and continues on %d: dropout draws other numbers",
                int(before["processes"]), num_processes,
            )  # fmt: skip
        then = before["versions"]
        other = [
            f"{name} {then[name]} -> {versions.get(name)}"
            for name in _VERSIONS
            if name in then and then[name] != versions.get(name)
        ]
        if other:
            log.warning("resume: %s: the numbers may differ from those of a run that was not stopped", ", ".join(other))

    def carry_over(self, assembly: Assembly, recorder: Recorder) -> None:
        """Takes the best evaluation and the recorded numbers up to the checkpoint over from the interrupted run.

        Raises:
            UserError: The checkpoint lacks a parameter that is trained.
        """
        assert assembly.trainer.model is not None
        self.check_weights(assembly.trainer.model)
        restore_train_log(assembly.train_log, self.folder, self.manifest)
        assembly.window.carry(self.manifest["window"])
        best = assembly.train_log.best
        log.info("resuming from %s (best so far: %s)", self.folder, best.value if best.step is not None else "none")
        for step, values in metrics_up_to(self.run_folder, self.step):
            recorder.log(values, step)
