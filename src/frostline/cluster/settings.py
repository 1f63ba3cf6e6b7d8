"""What a sweep asks of a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass

KNOCK_S = 5.0


RAY_WORDS = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # without GPUs asked for, none is hidden
    "RAY_BACKEND_LOG_LEVEL": "error",  # what its core has to say goes to the terminal otherwise
    "RAY_NUM_REDIS_GET_RETRIES": "5",  # seconds for an address that accepts and does not answer
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # of a cluster that is started here: training is no work of the background
}
"""What Ray reads when it is imported or starts."""


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """What a sweep asks of the cluster.

    Attributes:
        address: Of Ray: `auto`, `HOST:PORT`, `ray://HOST:PORT`; None starts a cluster on this machine.
        slots: Trials side by side; None: as many as fit on the nodes, also on those that come later.
        cpus: Cores of a trial.
        gpus: GPUs of a trial, a part of one too; None: one for each process, if the cluster has any.
        processes: Processes of a trial, all on one node.
        memory_bytes: Memory of a trial, as Ray counts it; None: it is not asked for.
        shared: Whether a file system that a node shares with the parent is used.
    """

    address: str | None
    slots: int | None
    cpus: float
    gpus: float | None
    processes: int
    memory_bytes: float | None
    shared: bool
