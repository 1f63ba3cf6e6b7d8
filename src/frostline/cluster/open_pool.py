"""A pool of workers on a Ray cluster, opened."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager
from typing import Any
from urllib.parse import urlsplit

from frostline import scratch
from frostline.cluster.pool import ClusterPool
from frostline.cluster.settings import KNOCK_S, RAY_WORDS, ClusterSettings
from frostline.cluster.transfer import LocalInput
from frostline.errors import UserError, as_user_error, in_one_line


@contextmanager
def open_pool(
    settings: ClusterSettings,
    inputs_of: Callable[[Any], Mapping[str, LocalInput]],
    name_of: Callable[[Any], str],
    near_of: Callable[[Any], Any],
    is_cut_short: Callable[[Any], bool],
    **slot: Any,
) -> Iterator[ClusterPool]:
    """Joins the cluster, or starts one, within the context.

    Args:
        settings: What is asked of it.
        inputs_of: Payload of a job -> the local files that it reads, by the path in the config.
        name_of: Key of a job -> its folder, relative to the sweep's.
        near_of: Payload of a job -> what makes a node that had it before the better one, for example the frozen depth.
        is_cut_short: Result of a job -> whether a signal ended it before its end.
        **slot: Of `SlotSettings`: folder, function, relocate, warm, template, env, heartbeat_timeout_s.

    Raises:
        UserError: Ray is missing, the cluster does not answer, or no node has what a trial asks for.
    """
    for name, value in RAY_WORDS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise UserError("runtime.engine=ray: Ray is not installed: pip install 'frostline[ray]'") from error
    _join(ray, settings)
    try:
        pool = ClusterPool(ray, settings, inputs_of, name_of, near_of, is_cut_short, **slot)
        try:
            yield pool
        finally:
            pool.close()
    finally:
        ray.shutdown()


def _join(ray: Any, settings: ClusterSettings) -> None:
    address = settings.address
    host = urlsplit(address if address is None or "://" in address else f"//{address}")
    if address not in {None, "auto", "local"}:
        try:
            socket.create_connection((str(host.hostname), host.port or 6379), KNOCK_S).close()
        except OSError as error:
            why = error.strerror or error
            raise UserError(f"runtime.ray.address={address}: does not answer ({why})") from error
    started = {"include_dashboard": False} if address is None else {}
    # Ray has its own way to end at SIGTERM: a sweep finishes its steps and writes checkpoints.

    def unreachable(error: BaseException) -> UserError:
        return UserError(f"runtime.ray.address={address}: can't be joined: {in_one_line(error)}")

    ours = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # Ray has its workers search modules in the current folder, before all others: it gets an empty one.
        with as_user_error(unreachable), _quiet_core(), scratch.folder("ray") as empty, chdir(empty):
            ray.init(
                address="local" if address is None else address, log_to_driver=False, logging_level=logging.ERROR,
                **started,
            )  # fmt: skip
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


@contextmanager
def _quiet_core() -> Iterator[None]:
    """Discards stderr: Ray's C++ core prints a line for each failed attempt to connect."""
    sys.stderr.flush()
    before = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
