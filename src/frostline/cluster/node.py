"""One slot on a node of the cluster: its worker process, and the transfer of files and events to the parent."""

from __future__ import annotations

import os
import platform
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from frostline.assets import home
from frostline.cluster.transfer import Piece, Sent, Stamp, pieces, remove, stamps, write
from frostline.workers.pool import Pool, WorkerEvent, WorkerProgram
from frostline.workers.worker_main import EventKind, resolve

_SCAN_S = 1.0
"""Seconds between two scans of the running trial's folder for new files."""

_STEP_S = 0.05
_AT_ONCE = 8
"""So many pieces come back in one answer: 64 MiB of the object store."""


@dataclass(frozen=True, kw_only=True)
class SlotSettings:
    """What a slot needs to know.

    Attributes:
        study: Names the sweep on the node.
        folder: The sweep's, on the parent's machine.
        token: Name of a file in it: who sees that sees the parent's file system.
        cwd: The parent's current folder.
        function: See `Pool`.
        relocate: `module:name` of what adapts a job to the node: `f(job, cwd of the parent, the sweep's folder there,
            its counterpart here, where local files lie here)`.
        warm: See `Pool`.
        template: See `Pool`.
        env: Variables of the worker.
        heartbeat_timeout_s: See `Pool`.
    """

    study: str
    folder: Path
    token: str
    cwd: Path
    function: str
    relocate: str
    warm: str
    template: str | None
    env: Mapping[str, str]
    heartbeat_timeout_s: float


@dataclass(frozen=True, kw_only=True)
class About:
    """What a node says of itself.

    Attributes:
        host: Its name.
        node_id: Ray's own.
        versions: Of Python and of what computes.
        is_shared: Whether it sees the parent's folders.
    """

    host: str
    node_id: str
    versions: dict[str, str]
    is_shared: bool


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that decide what a trial computes."""
    names = ("frostline", "torch", "transformers", "tokenizers", "datasets")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


class Slot:
    """One slot. Its methods return at once, but for `poll`; a thread of its own owns the worker process.

    Args:
        settings: What to run, and where.
    """

    def __init__(self, settings: SlotSettings) -> None:
        self._settings = settings
        self._is_shared = (settings.folder / settings.token).is_file()
        self._root = home() / "cluster" / settings.study
        self._commands: queue.Queue[Callable[[Pool], None]] = queue.Queue()
        self._news: queue.Queue[WorkerEvent | Piece] = queue.Queue(maxsize=4 * _AT_ONCE)
        self._sent: Sent | None = None
        self._ended = threading.Event()
        self._broken: BaseException | None = None
        self._places: dict[str, str] = {}
        cwd = settings.cwd if self._is_shared else self._root / "cwd"
        cwd.mkdir(parents=True, exist_ok=True)
        os.chdir(cwd)
        self._thread = threading.Thread(target=self._live, args=(cwd,), name="frostline-slot", daemon=True)
        self._thread.start()

    def about(self) -> About:
        """Returns what the parent wants to know before it sends anything."""
        import ray

        return About(
            host=socket.gethostname(), node_id=ray.get_runtime_context().get_node_id(), versions=versions(),
            is_shared=self._is_shared,
        )  # fmt: skip

    # -- files -------------------------------------------------------------------------------------------------------

    def lacks(self, inputs: Mapping[str, str], names: Mapping[str, str]) -> list[str]:
        """Returns which inputs are not on the node yet.

        Args:
            inputs: sha256 by path, as in `Inputs.digests`.
            names: Of the file or folder itself, by path.
        """
        if self._is_shared:
            return []
        self._places |= {name: str(self._input(digest) / names[name]) for name, digest in inputs.items()}
        return [name for name, digest in inputs.items() if not (self._input(digest) / ".complete").exists()]

    def put_input(self, digest: str, parts: list[Piece], is_last: bool) -> None:
        """Writes parts of an input."""
        for part in parts:
            write(self._input(digest), part)
        if is_last:
            (self._input(digest) / ".complete").touch()

    def _input(self, digest: str) -> Path:
        return self._root.parent / "inputs" / digest[:32]

    def files(self, name: str) -> dict[str, Stamp]:
        """Returns what the node has of a trial's folder."""
        return {} if self._is_shared else stamps(self._trial(name))

    def put(self, name: str, parts: list[Piece]) -> None:
        """Writes parts of files into a trial's folder."""
        for part in parts:
            write(self._trial(name), part)

    def fetch(self, name: str, below: str, skip: int) -> list[Piece]:
        """Returns parts of the files below a folder of a trial's, in a fixed order, from one on; none: that was all.

        Args:
            name: Of the trial.
            below: Folder in it, for example `model`.
            skip: How many parts were had before.
        """
        folder = self._trial(name)
        wanted = sorted(each for each in stamps(folder, models=True) if each.startswith(f"{below}/"))
        fetched: list[Piece] = []
        for number, part in enumerate(pieces(folder, wanted)):
            if number >= skip + _AT_ONCE:
                break
            if number >= skip:
                fetched.append(part)
        return fetched

    def _trial(self, name: str) -> Path:
        return (self._settings.folder if self._is_shared else self._root) / name

    # -- the worker --------------------------------------------------------------------------------------------------

    def submit(self, name: str, job: Any) -> None:
        """Begins a job.

        Args:
            name: Of its folder.
            job: Picklable.
        """

        def begin(pool: Pool) -> None:
            adapted = job
            if not self._is_shared:
                folder = self._trial(name)
                folder.mkdir(parents=True, exist_ok=True)
                self._sent = Sent(folder, stamps(folder))
                adapted = resolve(self._settings.relocate)(
                    job, self._settings.cwd, self._settings.folder, self._root, self._places
                )
            pool.submit(name, adapted)

        self._commands.put(begin)

    def answer(self, name: str, value: Any) -> None:
        """Answers the job's question."""
        self._commands.put(lambda pool: pool.answer(name, value))

    def signal(self, signum: int) -> None:
        """Sends a signal to the worker."""
        self._commands.put(lambda pool: pool.signal_all(signum))

    def poll(self, wait_s: float) -> list[WorkerEvent | Piece]:
        """Returns what happened, in its order, after a while at most; a job's end comes behind all of its files.

        Raises:
            RuntimeError: The slot can't continue, for example because the node's disk is full.
        """
        received: list[WorkerEvent | Piece] = []
        if self._broken is not None:
            raise RuntimeError(f"{type(self._broken).__name__}: {self._broken}") from self._broken
        with suppress(queue.Empty):
            received.append(self._news.get(timeout=wait_s))
            while len(received) < _AT_ONCE:
                received.append(self._news.get_nowait())
        return received

    def close(self, *, forget: bool) -> None:
        """Ends the worker.

        Args:
            forget: Whether what the node holds of the sweep goes, too.
        """
        self._ended.set()
        self._thread.join(20)
        if forget and not self._is_shared:
            remove(self._root)

    def _live(self, cwd: Path) -> None:
        try:
            self._work(cwd)
        except BaseException as error:  # a full disk, or a bug: the next `poll` raises it
            self._broken = error
            raise

    def _work(self, cwd: Path) -> None:
        settings = self._settings
        logs = self._trial("workers") / f"{socket.gethostname()}-{os.getpid()}"
        logs.mkdir(parents=True, exist_ok=True)
        program = WorkerProgram(
            function=settings.function, warm=settings.warm, path=[str(cwd)], template=settings.template, log_dir=logs
        )
        pool = Pool(1, program, env=lambda _slot: settings.env, heartbeat_timeout_s=settings.heartbeat_timeout_s)
        scanned = 0.0
        with pool:
            while not self._ended.is_set():
                with suppress(queue.Empty):
                    while True:
                        self._commands.get_nowait()(pool)
                events = pool.poll(_STEP_S)
                if self._sent is not None and (events or time.monotonic() - scanned > _SCAN_S):
                    scanned = time.monotonic()
                    self._tell(*self._sent.changes())
                self._tell(*events)
                if any(event.kind is not EventKind.MESSAGE for event in events):
                    self._sent = None

    def _tell(self, *news: WorkerEvent | Piece) -> None:
        for each in news:
            while not self._ended.is_set():
                with suppress(queue.Full):  # the parent takes its time; the worker is not held up by it
                    self._news.put(each, timeout=0.5)
                    break
