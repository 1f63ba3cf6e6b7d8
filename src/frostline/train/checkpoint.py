"""Checkpoints of a run: complete and checksummed, or absent.

Trainer writes a checkpoint file by file, and resumes from the highest number unchecked. Here it is written aside,
given a manifest of sizes and hashes, and published by a rename; one that doesn't match its manifest is never resumed.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from frostline.errors import UserError
from frostline.files import write_atomically
from frostline.hashes import file_sha256
from frostline.records.run_folder import CHECKPOINTS_FOLDER

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
"""Version of the manifest and of what lies beside it; a checkpoint of another version is refused, not passed over."""

_NUM_KEPT = 2  # the newest and one to fall back on
_REQUIRED = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")


class CheckpointStore:
    """The checkpoints of one run, below `checkpoints/` of its folder.

    Args:
        run_folder: The run's folder.
    """

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder / CHECKPOINTS_FOLDER

    @property
    def writing(self) -> Path:
        """Where Trainer writes: not yet a checkpoint."""
        return self.folder / ".writing"

    def publish(self, step: int, extra: dict[str, Any]) -> Path:
        """Turns what Trainer wrote for a step into a checkpoint, and removes the ones no longer needed.

        Args:
            step: The optimizer step.
            extra: Kept in the manifest, for the run that resumes.
        """
        source = self.writing / f"checkpoint-{step}"
        files = {}
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            with path.open("rb") as file:
                os.fsync(file.fileno())
            name = path.relative_to(source).as_posix()
            files[name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        write_atomically(
            source / MANIFEST, json.dumps({"schema": SCHEMA_VERSION, "step": step, "files": files, **extra}, indent=1)
        )
        target = self.folder / f"step-{step:09d}"
        if target.exists():
            shutil.rmtree(target)
        source.replace(target)
        for old in self.steps()[:-_NUM_KEPT]:
            shutil.rmtree(old)
        return target

    def steps(self) -> list[Path]:
        """Returns published checkpoints, oldest first."""
        return sorted(self.folder.glob("step-*"))

    def newest_whole(self) -> tuple[Path, dict[str, Any]]:
        """Returns the newest checkpoint that matches its manifest, with the manifest.

        A damaged one is named in a warning and passed over.

        Raises:
            UserError: There is none, or it was written by another version of frostline.
        """
        for path in reversed(self.steps()):
            trouble, manifest = _inspect(path)
            if trouble is None:
                _check_schema(path, manifest)
                return path, manifest
            log.warning("checkpoint %s is damaged (%s): going back to the one before", path.name, trouble)
        raise UserError(f"resume: {self.folder} holds no whole checkpoint: start the run anew")

    def newest_step(self) -> int | None:
        """Returns the step of the newest whole checkpoint, or None if there is none.

        Raises:
            UserError: It was written by another version of frostline.
        """
        for path in reversed(self.steps()):
            trouble, manifest = _inspect(path)
            if trouble is None:
                _check_schema(path, manifest)
                return int(manifest["step"])
        return None

    def remove(self) -> None:
        """Removes all of them: a finished run needs none."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _check_schema(path: Path, manifest: dict[str, Any]) -> None:
    schema = manifest.get("schema")
    if schema != SCHEMA_VERSION:
        raise UserError(
            f"resume: {path} was written by another version of frostline (schema {schema}, this one reads "
            f"{SCHEMA_VERSION}): resume with that version, or remove {path.parent} to start the run anew"
        )


def _inspect(path: Path) -> tuple[str | None, dict[str, Any]]:
    """Returns what is wrong with a checkpoint, or None, and its manifest."""
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return "no readable manifest", {}
    missing = [name for name in _required(manifest) if name not in files and not _sharded(name, files)]
    if missing:
        return f"{missing[0]} is missing", manifest
    for name, entry in files.items():
        file = path / name
        if ".." in Path(name).parts or not file.is_file() or file.is_symlink():
            return f"{name} is missing", manifest
        if file.stat().st_size != entry["bytes"]:
            return f"{name} has {file.stat().st_size} bytes instead of {entry['bytes']}", manifest
        if file_sha256(file) != entry["sha256"]:
            return f"{name} has another checksum", manifest
    return None, manifest


def _required(manifest: dict[str, Any]) -> list[str]:
    """Returns the files without which nothing is resumed: each process of a run has random numbers of its own."""
    processes = manifest.get("processes", 1)
    is_distributed = isinstance(processes, int) and 1 < processes <= 2**16
    own = [f"rng_state_{rank}.pth" for rank in range(processes)] if is_distributed else ["rng_state.pth"]
    return [*_REQUIRED, *own]


def _sharded(name: str, files: dict[str, Any]) -> bool:
    return name == "model.safetensors" and "model.safetensors.index.json" in files
