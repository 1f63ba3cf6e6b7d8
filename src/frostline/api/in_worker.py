"""Calls a function in a worker process: what it sets in torch, and what it fills of a GPU, ends with it.

A notebook or a script keeps its own threads, seeds and random states, and a run has the numbers that it has on the
command line.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline import assets
from frostline.console import configure_logging
from frostline.errors import RunFailedError, UserError, visible
from frostline.records.run_folder import FOR_TERMINAL
from frostline.signals import Interrupted
from frostline.sweeps.pool_executor import TEMPLATE, WARM
from frostline.sweeps.stop_signals import StopSignals
from frostline.workers.pool import Pool, WorkerProgram
from frostline.workers.worker_main import EventKind, resolve

if TYPE_CHECKING:
    from frostline.workers.worker_main import Channel

_POLL_S = 0.2
_KEY = "call"


@dataclass(frozen=True, kw_only=True)
class _Call:
    function: str
    arguments: Mapping[str, Any]
    places: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Printed:
    """A line for the person who waits."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Logged:
    """Numbers of a run, sent while it trains.

    Attributes:
        step: The optimizer step.
        metrics: By name: `train/loss`, `eval/accuracy`.
    """

    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class _Refused:
    """An error that the caller gets as its own."""

    kind: type[Exception]
    text: str


@dataclass(frozen=True, kw_only=True)
class _Stopped:
    signum: int


def call(function: str, on_logged: Callable[[Logged], None] | None = None, **arguments: Any) -> Any:
    """Calls a function in a process of its own and returns what it returns.

    The first SIGINT asks it to stop after a step, the second ends it at once. Lines that it logs are printed to
    `sys.stderr` of this process, which in a notebook is the cell's output.

    Args:
        function: `module:name`; called with the arguments and `channel`.
        on_logged: Called with each `Logged` that it sends.
        **arguments: Picklable.

    Raises:
        UserError: It raised one.
        RunFailedError: It raised one, or its process died.
        KeyboardInterrupt: A signal ended it.
    """
    threads = {"OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"]} if "OMP_NUM_THREADS" in os.environ else {}
    program = WorkerProgram(function=f"{__name__}:serve", warm=WARM, path=[str(Path.cwd())], template=TEMPLATE)
    signals = StopSignals()
    with signals.held(), Pool(1, program, env=lambda _slot: {"TOKENIZERS_PARALLELISM": "false", **threads}) as pool:
        job = _Call(function=function, arguments=arguments, places=assets.places())
        pool.submit(_KEY, job)
        was_passed_on = has_retried = False
        while True:
            if signals.requested is not None and not was_passed_on:
                was_passed_on = True
                pool.signal_all(signals.requested)
            for event in pool.poll(_POLL_S):
                if event.kind is EventKind.MESSAGE:
                    _receive(event.value, on_logged)
                elif event.kind is EventKind.TEMPLATE_DIED and not has_retried:
                    has_retried = True
                    pool.submit(_KEY, job)
                else:
                    return _result(event.kind, event.value, signals)


def _receive(message: Any, on_logged: Callable[[Logged], None] | None) -> None:
    if isinstance(message, Printed):
        print(message.text, file=sys.stderr, flush=True)
    elif isinstance(message, Logged) and on_logged is not None:
        on_logged(message)


def _result(kind: EventKind, value: Any, signals: StopSignals) -> Any:
    if kind is EventKind.DONE and isinstance(value, _Refused):
        raise value.kind(value.text)
    if kind is EventKind.DONE and isinstance(value, _Stopped):
        raise KeyboardInterrupt(f"stopped by {signal.Signals(value.signum).name}")
    if kind is EventKind.DONE:
        return value
    if signals.requested is not None:
        raise KeyboardInterrupt(f"stopped by {signal.Signals(signals.requested).name}")
    raise RunFailedError(str(value) if kind is EventKind.ERROR else f"its process ended: {value}")


class _LogSender(logging.Handler):
    """Sends frostline's own messages to the caller; tracebacks stay in the run's log."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(logging.INFO)
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        is_meant = record.levelno >= logging.WARNING or getattr(record, FOR_TERMINAL, False)
        if record.exc_info is None and is_meant:
            self._channel.send(Printed(text=visible(record.getMessage())))


def serve(call_: _Call, channel: Channel) -> Any:
    """Runs a call, in the worker."""
    assets.set_places(call_.places)
    configure_logging()
    logger = logging.getLogger("frostline")
    before = list(logger.handlers)
    logger.handlers = [_LogSender(channel)]
    try:
        return resolve(call_.function)(channel=channel, **call_.arguments)
    except UserError as error:
        # Some kinds are made of more than a text.
        kind = type(error) if type(error).__init__ is UserError.__init__ else UserError
        return _Refused(kind=kind, text=str(error))
    except RunFailedError as error:
        return _Refused(kind=RunFailedError, text=str(error))
    except Interrupted as stop:
        return _Stopped(signum=stop.signum)
    finally:
        logger.handlers = before
