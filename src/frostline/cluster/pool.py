"""The slots of a sweep on a Ray cluster, seen from its parent: placed by Ray, filled with jobs, lost with nodes."""

from __future__ import annotations

import logging
import math
import signal
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from frostline.cluster.node import About, Slot, SlotSettings, versions
from frostline.cluster.placed_slot import PlacedSlot
from frostline.cluster.settings import ClusterSettings
from frostline.cluster.transfer import Inputs, LocalInput, Piece, batches_of, input_pieces, pieces, stamps, write
from frostline.errors import MachineError, UserError, as_user_error, best_effort
from frostline.workers.pool import WorkerEvent
from frostline.workers.worker_main import EventKind

log = logging.getLogger(__name__)

_POLL_S = 2.0
"""How long a slot waits for news before it says that there are none."""

_LOOK_S = 2.0
"""Seconds between two queries of the cluster's nodes."""

_REPLY_S = 120.0
"""How long an answer of a node that lives is waited for (assumed: moving a checkpoint takes seconds)."""


_MOST_STARTS = 3
"""So many slots in a row that do not start end the sweep (assumed)."""


class ClusterPool:
    """See `Workers`. Made by `open_pool`."""

    def __init__(
        self,
        ray: Any,
        settings: ClusterSettings,
        inputs_of: Callable[[Any], Mapping[str, LocalInput]],
        name_of: Callable[[Any], str],
        near_of: Callable[[Any], Any],
        is_cut_short: Callable[[Any], bool],
        **slot: Any,
    ) -> None:
        self._ray = ray
        if settings.gpus is None:
            has_any = ray.cluster_resources().get("GPU", 0) > 0
            settings = replace(settings, gpus=float(settings.processes if has_any else 0))
        self._settings = settings
        self._inputs = Inputs()
        self._inputs_of = inputs_of
        self._name_of = name_of
        self._near_of = near_of
        self._is_cut_short = is_cut_short
        self._folder: Path = slot["folder"].absolute()
        self._token = f".seen-{uuid.uuid4().hex}"
        self._slot = SlotSettings(
            study=uuid.uuid5(uuid.NAMESPACE_URL, f"{socket.gethostname()}{self._folder}").hex, token=self._token,
            cwd=Path.cwd(), **{**slot, "folder": self._folder},
        )  # fmt: skip
        self._placed: list[PlacedSlot] = []
        self._waiting: list[tuple[Any, Any]] = []
        self._remote: dict[Any, bool] = {}
        self._next_look = 0.0
        self._fits = 0
        self._failed_starts = 0
        self._is_closing = False
        if settings.shared:
            (self._folder / self._token).touch()
        self._make = ray.remote(Slot).options(
            num_cpus=settings.cpus, num_gpus=settings.gpus, memory=settings.memory_bytes, max_concurrency=2,
            max_restarts=0,
        )  # fmt: skip
        self._look()
        if not self._fits:
            raise UserError(f"runtime.ray: no node of the cluster has {self._wanted()}; it has {self._there()}")

    # -- Workers -----------------------------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """See `Workers`. Slots that Ray has yet to place count: a job waits for them."""
        busy = sum(placed.key is not None for placed in self._placed)
        return max(0, max(1, len(self._placed)) - busy - len(self._waiting))

    @property
    def num_slots(self) -> int:
        """How many trials can be trained side by side now."""
        return max(1, len(self._placed))

    def is_remote(self, key: Any) -> bool:
        """Whether the node that had a job last lacks the parent's file system."""
        return self._remote.get(key, False)

    def submit(self, key: Any, payload: Any) -> None:
        """See `Workers`."""
        self._waiting.append((key, payload))
        self._hand_out()

    def poll(self, timeout_s: float) -> list[WorkerEvent]:
        """See `Workers`.

        Raises:
            UserError: A node has other versions than the parent.
            MachineError: The cluster can't be reached, or this machine's disk is full.
        """
        self._look()
        self._take_ready()
        self._hand_out()
        refs = {each.pending: each for each in self._placed if each.pending is not None}
        if not refs:
            time.sleep(min(timeout_s, 0.2))
            return []
        ready, _ = self._ray.wait(list(refs), num_returns=len(refs), timeout=0)
        if not ready:
            ready, _ = self._ray.wait(list(refs), num_returns=1, timeout=timeout_s)
        return [event for ref in ready for event in self._hear(refs[ref], ref)]

    def answer(self, key: Any, value: Any) -> None:
        """See `Workers`."""
        for placed in self._placed:
            if placed.key == key:
                placed.actor.answer.remote(placed.name, value)

    def signal_all(self, signum: int) -> None:
        """See `Workers`."""
        for placed in self._placed:
            if placed.key is not None:
                placed.actor.signal.remote(int(signum))

    def bring(self, key: Any, below: str) -> bool:
        """Brings what a node has below a folder of a trial's, for example `model`; returns whether one had it."""
        name = self._name_of(key)
        for placed in self._placed:
            if name not in placed.held or placed.about is None or placed.about.is_shared:
                continue
            skip = 0
            with suppress(self._ray.exceptions.RayError):
                while parts := self._ask(placed.actor.fetch.remote(name, below, skip)):
                    for part in parts:
                        write(self._folder / name, part)
                    skip += len(parts)
                if skip:
                    return True
        return False

    def kill(self) -> None:
        """See `Workers`."""
        for placed in self._placed:
            self._ray.kill(placed.actor)
        self._placed = []

    def close(self) -> None:
        """See `Workers`; what the nodes hold of the sweep goes."""
        if self._is_closing:
            return
        self._is_closing = True
        with suppress(OSError):
            (self._folder / self._token).unlink(missing_ok=True)
        ends = [placed.actor.close.remote(forget=True) for placed in self._placed if placed.about is not None]
        with best_effort("ending the nodes' workers"):  # whatever is wrong with a node, the others end
            self._ray.wait(ends, num_returns=len(ends), timeout=30)
        with best_effort("ending the workers"):
            self.kill()

    # -- slots -------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Asks for slots on what the cluster has now."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_S
        leaving = self._leaving()
        for placed in list(self._placed):
            if placed.about is not None and placed.about.node_id in leaving and not placed.is_leaving:
                self._leave(placed)
        with as_user_error(
            lambda error: MachineError(f"runtime.engine=ray: the cluster is lost ({type(error).__name__})")
        ):  # Ray's own, or gRPC's
            alive = [node for node in self._ray.nodes() if node["Alive"]]
            nodes = [node["Resources"] for node in alive if node["NodeID"] not in leaving]
        self._fits = sum(map(self._fit, nodes))
        wanted = self._settings.slots or self._fits
        while len(self._placed) < min(wanted, max(1, self._fits)) and not self._is_closing:
            actor = self._make.remote(self._slot)
            self._placed.append(PlacedSlot(actor=actor, asked=actor.about.remote()))

    def _leaving(self) -> set[str]:
        """Returns the ids of nodes that Ray is draining, as before a preemption."""
        with best_effort("which nodes drain"):  # it is no public call of Ray's: without it such a node is one that dies
            from ray._private.state import state

            return set(state.get_draining_nodes())
        return set()

    def _leave(self, placed: PlacedSlot) -> None:
        """Has the slot's trial write a checkpoint and stop; the slot takes no further trial."""
        placed.is_leaving = True
        if placed.key is None:
            self._drop(placed)
        else:
            placed.actor.signal.remote(int(signal.SIGTERM))

    def _fit(self, resources: Mapping[str, float]) -> int:
        settings = self._settings
        asked = {"CPU": settings.cpus, "GPU": settings.gpus, "memory": settings.memory_bytes or 0}
        return min((math.floor(resources.get(key, 0) / number) for key, number in asked.items() if number), default=1)

    def _wanted(self) -> str:
        settings = self._settings
        memory = f", {settings.memory_bytes / 1e9:.1f} GB" if settings.memory_bytes else ""
        return f"{settings.cpus:g} cores and {settings.gpus or 0:g} GPUs{memory} for a trial"

    def _there(self) -> str:
        resources = self._ray.cluster_resources()
        return f"{resources.get('CPU', 0):g} cores and {resources.get('GPU', 0):g} GPUs in all"

    def _take_ready(self) -> None:
        """Lets slots that Ray has placed take jobs."""
        asked = {each.asked: each for each in self._placed if each.about is None}
        if not asked:
            return
        ready, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=0)
        for ref in ready:
            placed = asked[ref]
            try:
                placed.about = self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                self._failed_starts += 1
                if self._failed_starts >= _MOST_STARTS:  # not nodes that die: frostline is missing there, for example
                    raise UserError(f"runtime.engine=ray: no slot starts on the nodes: {_last_line(error)}") from error
                log.warning("a slot on a node of the cluster did not start (%s)", type(error).__name__)
                self._placed.remove(placed)
                continue
            self._failed_starts = 0
            self._check_versions(placed.about)
            placed.pending = placed.actor.poll.remote(_POLL_S)

    def _check_versions(self, about: About | None) -> None:
        assert about is not None
        ours = versions()
        other = {key: (about.versions.get(key), own) for key, own in ours.items() if about.versions.get(key) != own}
        if other:
            what = ", ".join(f"{key} {theirs} (here {own})" for key, (theirs, own) in other.items())
            raise UserError(f"runtime.engine=ray: {about.host} has {what}: its numbers would not be comparable")

    def _hand_out(self) -> None:
        """Gives jobs that wait to idle slots: to one that has been near, if there is any."""
        while self._waiting and (idle := [each for each in self._placed if each.is_idle]):
            key, payload = self._waiting[0]
            name, near = self._name_of(key), self._near_of(payload)
            placed = max(idle, key=lambda each: (name in each.held, near in each.near))
            try:
                self._send_all(placed, name, payload)
                self._ask(placed.actor.submit.remote(name, payload))
            except self._ray.exceptions.RayTaskError as error:  # the node lives, and could not do it
                assert placed.about is not None
                raise MachineError(f"{placed.about.host}: {_last_line(error)}") from error
            except self._ray.exceptions.RayError:
                self._drop(placed)
                continue
            self._waiting.pop(0)
            self._remote[key] = placed.about is not None and not placed.about.is_shared
            placed.key, placed.name = key, name
            placed.held.add(name)
            placed.near.add(near)

    def _send_all(self, placed: PlacedSlot, name: str, payload: Any) -> None:
        """Brings a slot's node what it lacks: inputs, and what the trial's folder holds here."""
        assert placed.about is not None
        if placed.about.is_shared:
            return
        actor = placed.actor
        for missing, local in self._inputs_of(payload).items():
            self._inputs.add(missing, local)
        names = {missing: local.path.name for missing, local in self._inputs.known.items()}
        for missing in self._ask(actor.lacks.remote(self._inputs.digests, names)):
            digest = self._inputs.digests[missing]
            for batch, is_last in batches_of(input_pieces(self._inputs.known[missing])):
                self._ask(actor.put_input.remote(digest, batch, is_last))
        theirs, ours = self._ask(actor.files.remote(name)), stamps(self._folder / name)
        removed = [Piece(name=each) for each in theirs.keys() - ours.keys()]
        if removed:
            self._ask(actor.put.remote(name, removed))
        lacking = [each for each, stamp in ours.items() if theirs.get(each) != stamp]
        for batch, _ in batches_of(pieces(self._folder / name, lacking)):
            self._ask(actor.put.remote(name, batch))

    def _ask(self, ref: Any) -> Any:
        return self._ray.get(ref, timeout=_REPLY_S)

    def _hear(self, placed: PlacedSlot, ref: Any) -> list[WorkerEvent]:
        try:
            news = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:  # the node lives, and its slot can't continue
            assert placed.about is not None
            raise MachineError(f"{placed.about.host}: {_last_line(error)}") from error
        except self._ray.exceptions.RayError as error:
            log.info("a slot of the cluster died", exc_info=True)
            key, host = placed.key, placed.about.host if placed.about is not None else "a node"
            self._drop(placed)
            self._next_look = 0.0
            why = f"{host} died ({type(error).__name__})"
            return [] if key is None else [WorkerEvent(EventKind.MACHINE_DIED, key, why)]
        placed.pending = placed.actor.poll.remote(_POLL_S)
        events = []
        for each in news:
            if isinstance(each, Piece):
                write(self._folder / placed.name, each)
                continue
            if placed.key is None:
                continue
            event = WorkerEvent(each.kind, placed.key, each.value)
            if placed.is_leaving and each.kind is EventKind.DONE and self._is_cut_short(each.value):
                host = placed.about.host if placed.about is not None else "a node"
                event = WorkerEvent(EventKind.MACHINE_DIED, placed.key, f"{host} is being drained")
            events.append(event)
            if each.kind is not EventKind.MESSAGE:
                placed.key = None
        if placed.is_leaving and placed.key is None:
            self._drop(placed)
        return events

    def _drop(self, placed: PlacedSlot) -> None:
        self._placed = [each for each in self._placed if each is not placed]
        with best_effort("ending a worker"):
            self._ray.kill(placed.actor)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
