"""Owns: which of several parents on one storage are alive. Must not know: trials, what a parent does.

Each parent raises a counter in the study now and then. One whose counter has stood still for a while, by the clock of
whoever watches it, is taken for dead: no two clocks are compared, and any storage that Optuna has will do.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import optuna

from frostline.search import marks

log = logging.getLogger(__name__)

_BEATS = 6
"""So many signs of life fall into the time after which a parent is taken for dead (assumed: some may be late)."""


class Presence:
    """The parents of one study, seen by one of them.

    Args:
        study: Of all of them.
        owner: This one.
        grace_s: Seconds without a sign of life after which a parent is taken for dead.
        clock: Seconds; never the wall clock, which may jump.
    """

    def __init__(
        self, study: optuna.Study, owner: str, grace_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._study = study
        self._owner = owner
        self._grace_s = grace_s
        self._clock = clock
        self._session = uuid.uuid4().hex[:8]  # a restarted parent begins with another number than it stopped at
        self._count = 0
        self._about: dict[str, Any] = {}
        self._seen: dict[str, tuple[Any, float]] = {}
        """Of each parent the newest counter, and since when it has been the same."""
        self._next_look = -1.0
        self._looked = 0.0
        self._notes: dict[str, dict[str, Any]] = {}

    @property
    def every_s(self) -> float:
        """How often a sign of life is given and looked for, in seconds."""
        return self._grace_s / _BEATS

    @contextmanager
    def shown(self, about: Mapping[str, Any]) -> Iterator[None]:
        """Gives signs of life meanwhile, from a thread: a launcher may keep its parent waiting for hours.

        Args:
            about: What others may want to know of this parent when it is gone.
        """
        self._about, ended = dict(about), threading.Event()
        self.beat()

        def go_on() -> None:
            while not ended.wait(self.every_s):
                try:
                    self.beat()
                except Exception:
                    log.warning("a sign of life could not be given to the storage; the next one may", exc_info=True)

        thread = threading.Thread(target=go_on, name="frostline-presence", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with suppress(Exception):  # it is taken for dead a little later then
                self._write(left=True)

    def beat(self) -> None:
        """Gives a sign of life."""
        self._count += 1
        self._write(left=False)

    def _write(self, *, left: bool) -> None:
        value = {**self._about, "beat": f"{self._session}.{self._count}", "left": left}
        self._study.set_user_attr(f"{marks.ALIVE}{self._owner}", value)

    def gone(self, owners: Collection[str] = (), *, fresh: bool = False) -> dict[str, dict[str, Any]]:
        """Returns the parents that are dead or have left, with what they said of themselves.

        Args:
            owners: More that there must be: one that never gave a sign of life is watched from now on.
            fresh: Look now; else what was seen within the last moments will do.
        """
        if fresh or self._clock() >= self._next_look:
            self._look()
        now = self._looked
        for owner in owners:
            self._seen.setdefault(owner, (None, now))
            self._notes.setdefault(owner, {})
        return {
            owner: note
            for owner, note in self._notes.items()
            if owner != self._owner and (note.get("left") or now - self._seen[owner][1] > self._grace_s)
        }

    def _look(self) -> None:
        attrs = self._study.user_attrs
        now = self._clock()  # only now: a database that was away keeps whoever asks it waiting
        if now - self._looked > self._grace_s / 2:
            # So long nobody could be seen: the others may not have been able to give a sign either.
            self._seen = {owner: (beat, now) for owner, (beat, _) in self._seen.items()}
        self._looked, self._next_look = now, now + self.every_s
        for key, value in attrs.items():
            if not key.startswith(marks.ALIVE) or not isinstance(value, dict):
                continue
            owner = key.removeprefix(marks.ALIVE)
            self._notes[owner] = value
            if owner not in self._seen or self._seen[owner][0] != value.get("beat"):
                self._seen[owner] = value.get("beat"), now
