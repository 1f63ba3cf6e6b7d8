"""What a run asks of the prefix cache, and what it gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from frostline.data.token_table import Padding
from frostline.data.tokenize import Tokenized
from frostline.machine import Machine
from frostline.prefix_cache.collate import HiddenRows
from frostline.prefix_cache.probe_model import ModelProbe
from frostline.prefix_cache.suffix import TrainableModel
from frostline.records.result import CacheUse
from frostline.records.run_context import Sharing
from frostline.spec import RunSpec


@dataclass(frozen=True, kw_only=True)
class CachedPrefix:
    """A run that begins at its frozen depth.

    Attributes:
        part: What is trained: attached, it wants hidden states.
        hidden: These, for each row.
        others: The hidden states of rows that the run is scored on besides, by name, where they are kept too.
        detach: Makes the model whole, for rows whose hidden states are not kept.
        attach: Lets it begin at its frozen depth again.
        use: For the run's provenance.
        fill_s: Seconds in which this run computed and wrote hidden states.
        pass_s: Seconds that one pass through the frozen blocks took when they were: training rows, held-out rows.
    """

    part: TrainableModel
    hidden: HiddenRows
    others: Mapping[str, HiddenRows]
    detach: Callable[[], None]
    attach: Callable[[], None]
    use: CacheUse
    fill_s: float
    pass_s: tuple[float, float]

    def saved_s(self, epochs: float, evaluations: int) -> float:
        """Returns the seconds of the passes that were not run."""
        return self.pass_s[0] * epochs + self.pass_s[1] * evaluations


@dataclass(frozen=True, kw_only=True)
class CacheRequest:
    """What a cache is asked for.

    Attributes:
        spec: The run.
        machine: Device and precision, decided.
        probe: The model, frozen, on the CPU.
        depth: How many of the lowest blocks are frozen, and the embeddings; None: the embeddings are trained.
        tables: Tokenized rows.
        padding: How a batch of them is filled up.
        facts: Hashes of weights and tokenizer, versions: what the prefix depends on.
        sharing: Who else will want it.
        resumed: How the interrupted run used the cache: it is resumed in the same bits. None: a new run.
        heartbeat: Called now and then while hidden states are computed or waited for.
    """

    spec: RunSpec
    machine: Machine
    probe: ModelProbe
    depth: int | None
    tables: Tokenized
    padding: Padding
    facts: Mapping[str, Any]
    sharing: Sharing
    resumed: CacheUse | None
    heartbeat: Callable[[], None]

    @property
    def dtype(self) -> str:
        """In which numbers hidden states are kept: a resumed run's, or those that the spec names."""
        is_on = self.resumed is not None and self.resumed.depth is not None
        return self.resumed.dtype if self.resumed is not None and is_on else self.spec.runtime.cache.dtype.value
