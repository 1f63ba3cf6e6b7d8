"""Owns: a run as one process or as several under `accelerate launch`. Must not know: Hydra, MLflow, Optuna."""

from frostline.launch.distributed_run import run

__all__ = ["run"]
