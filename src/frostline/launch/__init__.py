"""Runs on one process, or on several under `accelerate launch`."""

from frostline.launch.distributed_run import run

__all__ = ["run"]
