"""Owns: entries that several hosts share - copied from there, brought there, made by one. Must not know: models.

A folder on a file system that all hosts see. Nobody reads hidden states from it while training: they are copied to the
host's own disk once (or linked, where that is the same file system), since a mapped file that another host removes may
end a process, and since epochs read rows in another order each time.

Who fills says so by a lease, a file beside the entry whose content changes every few seconds. Locks of the system are
not asked: not every shared file system has them. A lease only saves work. Two hosts that fill one entry at once write
the same numbers, each file under a name of its own first.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from frostline.prefix.entry import CacheError, Entry, Shape
from frostline.prefix.store import PrefixStore

log = logging.getLogger(__name__)

_GRACE_S = 60.0
"""Seconds after which a host whose lease stands still is taken for dead (assumed: longer than a server's hiccup)."""

_BEATS = 6
_REFUSED = "refused"


class SharedStore:
    """Entries that several hosts share.

    Args:
        root: Below which they lie.
        max_bytes: What they may take together.
        grace_s: Seconds without a sign of life after which another host's filling is taken over.
    """

    def __init__(self, root: Path, max_bytes: int, grace_s: float = _GRACE_S) -> None:
        self.root = root
        self._store = PrefixStore(root, max_bytes, locks=False)
        self._grace_s = grace_s
        self._refused: set[str] = set()
        """Entries that there was no room for: who waits for one need not wait its turn to find that out."""

    def has(self, entry: Entry, name: str, shape: Shape) -> bool:
        """Returns whether a file of a host's entry is here; it is not read yet."""
        return self._twin(entry).has(name, shape)

    def take(self, entry: Entry, shapes: Mapping[str, Shape], alive: Callable[[], None]) -> list[str]:
        """Copies files to a host's entry; the right to write there is held.

        Args:
            entry: The host's own.
            shapes: Of the files, by name.
            alive: Called now and then.

        Returns:
            The names of those that were there.

        Raises:
            CacheError: The host's disk is full.
        """
        return [name for name, shape in shapes.items() if entry.adopt(self._twin(entry), name, shape, alive)]

    def give(self, entry: Entry, shapes: Mapping[str, Shape], alive: Callable[[], None]) -> None:
        """Copies files of a host's entry here; what can't be brought is told, and the others fill for themselves."""
        twin = self._twin(entry)
        try:
            for left in twin.folder.glob(".*.tmp"):  # by a host that died over it; one that only seemed to is told
                left.unlink(missing_ok=True)
            self._store.make_room(sum(shape.num_bytes for shape in shapes.values()))
            twin.folder.mkdir(parents=True, exist_ok=True)
            for name, shape in shapes.items():
                twin.adopt(entry, name, shape, alive)
        except (CacheError, OSError) as error:
            self._refused.add(entry.folder.name)
            log.warning("prefix cache: %s could not take what was computed: %s", self.root, error)

    @contextmanager
    def turn(self, entry: Entry, name: str, shape: Shape, alive: Callable[[], None]) -> Iterator[None]:
        """Waits while another host is filling an entry; within the context it is this one's turn, or the file is here.

        Args:
            entry: The host's own.
            name: Of the file that is wanted.
            shape: Its form.
            alive: Called now and then while waiting.
        """
        lease = self._twin(entry).folder.with_suffix(".filling")
        token = uuid.uuid4().hex
        ours = self._wait(lease, token, lambda: self.has(entry, name, shape), alive)
        if not ours:
            yield
            return
        ended = threading.Event()
        thread = threading.Thread(target=self._beat, args=(lease, token, ended), name="frostline-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with suppress(OSError):
                if _token(_read(lease)) == token and entry.folder.name in self._refused:
                    self._write(lease, token, json.dumps({_REFUSED: True}))
                elif _token(_read(lease)) == token:
                    lease.unlink()

    def _wait(self, lease: Path, token: str, is_there: Callable[[], bool], alive: Callable[[], None]) -> bool:
        """Returns whether the lease is ours; else the file is there, or the folder can't be written."""
        seen, since, told = "", time.monotonic(), False
        while not is_there():
            try:
                if _make(lease, token):
                    return True
            except OSError as error:
                log.warning("prefix cache: %s can't be written (%s): filled here alone", self.root, error.strerror)
                return False
            now = _read(lease)
            is_refused = bool(_field(now, _REFUSED))
            if is_refused and told:
                return False
            if now != seen and not is_refused:
                seen, since = now, time.monotonic()
            elif is_refused:  # by somebody before this one came: there may be room now
                with suppress(OSError):
                    lease.unlink()
                continue
            elif time.monotonic() - since > self._grace_s:
                log.warning("prefix cache: %s gives no sign of life: it is filled here", _host(now))
                with suppress(OSError):
                    if _read(lease) == now:
                        lease.unlink()
                continue
            if not told:
                told = True
                log.info("prefix cache: %s is filling it for all hosts: waiting", _host(now))
            alive()
            time.sleep(min(0.5, self._grace_s / _BEATS))
        return False

    def _beat(self, lease: Path, token: str, ended: threading.Event) -> None:
        count = 0
        while not ended.wait(self._grace_s / _BEATS):
            count += 1
            with suppress(OSError):  # the next one may come through
                if _token(lease.read_text(encoding="utf-8")) != token:
                    return  # it was taken for dead; what it computes is right nevertheless
                self._write(lease, token, _content(token, count))

    @staticmethod
    def _write(lease: Path, token: str, content: str) -> None:
        beside = lease.with_name(f".{lease.name}.{token}")
        beside.write_text(content, encoding="utf-8")
        beside.replace(lease)

    def _twin(self, entry: Entry) -> Entry:
        return entry.elsewhere(self.root)


def _make(lease: Path, token: str) -> bool:
    lease.parent.mkdir(parents=True, exist_ok=True)
    try:
        fd = os.open(lease, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(_content(token, 0))
    return True


def _content(token: str, count: int) -> str:
    return json.dumps({"token": token, "host": socket.gethostname(), "pid": os.getpid(), "beat": count})


def _read(lease: Path) -> str:
    try:
        return lease.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _field(content: str, key: str) -> str:
    try:
        data = json.loads(content)
    except ValueError:
        return ""
    return str(data.get(key, "")) if isinstance(data, dict) else ""


def _token(content: str) -> str:
    return _field(content, "token")


def _host(content: str) -> str:
    return f"{_field(content, 'host') or 'another host'} (pid {_field(content, 'pid') or 'unknown'})"
