"""What a run is given besides its spec."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.records.monitor import Monitor, NullMonitor
from frostline.records.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from frostline.spec import RunSpec


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """What a run may share with others: what its frozen blocks compute.

    Attributes:
        num_runs: How many runs there will be in all, at whatever depth.
        depths: Their frozen depths, as far as they are known.
        threads: CPU threads to compute it on, while others wait for it; None: those of the run.
    """

    num_runs: int = 1
    depths: tuple[int, ...] = ()
    threads: int | None = None


@dataclass(frozen=True)
class RunContext:
    """What a run is given besides its spec.

    Attributes:
        recorder: Where numbers and the result go.
        folder: The run's folder: `model/` and checkpoints are written there.
        overrides: What the user typed, for the record.
        resume_from: Folder of an interrupted run of the same spec, whose newest whole checkpoint is resumed; may be
            `folder`. None: a new run.
        monitor: What may stop the run after an evaluation.
        until_step: Stop after this optimizer step, as PRUNED, everything before it computed as in the whole run.
        sharing: What the run shares with others; None: nothing but what `runtime.num_runs` says.
    """

    recorder: Recorder
    folder: Path
    overrides: Sequence[str] = ()
    resume_from: Path | None = None
    monitor: Monitor = field(default_factory=NullMonitor)
    until_step: int | None = None
    sharing: Sharing | None = None

    def sharing_of(self, spec: RunSpec) -> Sharing:
        """Returns what the run of a spec shares."""
        return self.sharing or Sharing(num_runs=spec.runtime.num_runs)
