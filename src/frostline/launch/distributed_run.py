"""One run on several processes, as their parent sees it.

They send what is to be recorded and the parent records it, so that the record is true whatever happens to them: one
that raises or is killed takes the others with it, within seconds and with one reason. One that hangs is noticed by
what watches the run's heartbeats, for example a sweep.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import yaml

from frostline import assets, paths
from frostline.errors import UserError, listing
from frostline.launch import messages
from frostline.launch.processes import GRACE_S, Processes
from frostline.provenance import num_cores
from frostline.records.monitor import Monitor
from frostline.records.recorder import Recorder
from frostline.records.result import Cause, RunResult, Status
from frostline.records.run_context import RunContext
from frostline.records.run_folder import FOR_TERMINAL, SPEC_FILE
from frostline.registry import imported_plugins
from frostline.signals import Interrupted, SignalGuard
from frostline.spec import Progress, RunSpec

log = logging.getLogger(__name__)

_KINDS = ("MULTI_GPU", "MULTI_CPU", "NO")
"""Data parallel; under FSDP and DeepSpeed a process has a part of each tensor, which the audit does not know."""

_POLL_S = 0.1
_SETTLE_S = 1.0
"""How long to listen for the first cause of a failure: the others' connections break when a process dies."""

LOST_S = 10.0
"""The same, while all that is known is that another process could not be reached: that one knows the cause."""


def run(spec: RunSpec, context: RunContext) -> RunResult:
    """Trains one model as `frostline.train.run` does, on several processes: as many as `runtime.num_processes` says.

    Args:
        spec: What to train; it lies in the run's folder already, as `RunFolder` writes it.
        context: Where it is recorded, who may stop it.

    Raises:
        UserError: Bad input.
        Interrupted: A signal came when the last step was done.
    """
    if spec.runtime.accelerate_config is not None:
        _check_config(spec.runtime.accelerate_config)  # before anything is started
    threads = spec.runtime.threads or _own_threads()
    sharing = context.sharing_of(spec)
    job = {
        "spec": str((context.folder / SPEC_FILE).absolute()),
        "folder": str(context.folder.absolute()),
        "overrides": list(context.overrides),
        "resume_from": None if context.resume_from is None else str(context.resume_from.absolute()),
        "until_step": context.until_step,
        # One process computes hidden states while the others wait: on the threads of all.
        "sharing": asdict(replace(sharing, threads=sharing.threads or threads)),
        "plugins": list(imported_plugins()),
        "places": assets.places(),
        "path": paths.search_path(),
        "bar": spec.runtime.progress is Progress.ON or (spec.runtime.progress is Progress.AUTO and sys.stderr.isatty()),
    }
    with Processes(spec, job, context.folder, threads) as processes:
        return DistributedRun(spec, context.recorder, context.monitor, processes).go()


def _check_config(name: str) -> None:
    """Checks that a file of `accelerate config` is of a kind that a run can be audited under.

    Raises:
        UserError: It isn't.
    """
    try:
        config = yaml.safe_load(assets.local_path(name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"runtime.accelerate_config={name}: can't be read ({type(error).__name__})") from error
    if not isinstance(config, dict):
        raise UserError(f"runtime.accelerate_config={name}: is no file of `accelerate config`")
    kind = str(config.get("distributed_type", "NO"))
    if kind not in _KINDS:
        raise UserError(
            f"runtime.accelerate_config={name}: distributed_type {kind} is not supported, only data parallel: "
            f"{listing(_KINDS)}"
        )
    if config.get("num_machines", 1) not in {1, "1"}:
        raise UserError(
            f"runtime.accelerate_config={name}: a run has the processes of one machine; num_machines is more"
        )


def _own_threads() -> int:
    with suppress(KeyError, ValueError):
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    return num_cores()


class DistributedRun:
    """What the processes send, in order, until the run is over."""

    def __init__(self, spec: RunSpec, recorder: Recorder, monitor: Monitor, processes: Processes) -> None:
        self._spec = spec
        self._recorder = recorder
        self._monitor = monitor
        self._processes = processes
        self._known: dict[str, Any] = {}
        self._ended: set[int] = set()
        self._someone_was_killed = False

    def go(self) -> RunResult:
        """Returns how the run ended, recorded."""
        with SignalGuard() as guard:
            guard.defer()  # the first signal is handed on, the second ends it at once
            grace_s = GRACE_S
            try:
                result = self._listen(guard)
            except (Interrupted, KeyboardInterrupt) as stop:
                cause = stop.cause if isinstance(stop, Interrupted) else Cause.INTERRUPTED
                result, grace_s = self._cut_short(Status.KILLED, str(stop) or "stopped by SIGINT", cause), 0.0
            except UserError as error:
                if self._known:
                    self._recorder.finish(self._cut_short(Status.FAILED, str(error)))
                raise
            self._processes.end(0.0 if result.status is Status.FAILED else grace_s)
            self._recorder.finish(result)
        if guard.requested is not None and result.status is Status.FINISHED:
            raise Interrupted(guard.requested)
        return result

    def _listen(self, guard: SignalGuard) -> RunResult:
        while True:
            was_signalled = guard.requested is not None
            if guard.requested is not None:
                if not self._processes.pids:
                    return self._stopped(guard)
                self._processes.stop(guard.requested)
            over = self._processes.is_over  # asked first: what it sent before its end is received below
            try:
                envelope = self._processes.messages_in.get(timeout=_SETTLE_S if over else _POLL_S)
            except queue.Empty:
                if not over:
                    continue
                return self._stopped(guard) if was_signalled else self._cut_short(Status.FAILED, self._why_none())
            if (result := self._take(envelope)) is None:
                continue
            # Of a run that is being stopped the first process may fail because another one has left already.
            left = envelope.rank != 0 or isinstance(envelope.message, messages.Disconnected) or self._someone_was_killed
            if was_signalled and result.status is Status.FAILED and left:
                return self._stopped(guard)
            if was_signalled and result.status is Status.KILLED:
                stopped = self._stopped(guard)
                return replace(result, reason=stopped.reason, cause=stopped.cause)
            return result

    def _take(self, envelope: messages.Envelope) -> RunResult | None:
        """Passes a message on; returns the result if it was the last one."""
        message = envelope.message
        if isinstance(message, messages.RankEnded):
            self._ended.add(envelope.rank)
            self._someone_was_killed |= message.result.status is Status.KILLED
            if message.result.status is Status.FAILED or envelope.rank == 0:
                return self._first_cause(envelope)
        elif isinstance(message, messages.Disconnected):
            if envelope.rank not in self._ended:
                self._processes.end(GRACE_S)
                return self._died(envelope.rank)
        elif isinstance(message, messages.Refused):
            raise UserError(message.text)
        elif isinstance(message, messages.RunStarted):
            self._known = {"data": message.run.data, "provenance": message.run.provenance}
            self._recorder.start(replace(message.run, spec=self._spec))
        elif isinstance(message, messages.MetricsLogged):
            self._recorder.log(message.metrics, message.step)
        elif isinstance(message, messages.Evaluated):
            self._processes.answer(envelope.rank, self._monitor.evaluated(message.epoch, message.value))
        elif isinstance(message, messages.Heartbeat):
            self._monitor.heartbeat()
        elif isinstance(message, messages.ProgressText):
            print(message.text, end="", file=sys.stderr, flush=True)
        elif isinstance(message, messages.LogLine):
            logging.getLogger(message.logger).log(
                message.level, "%s", message.text, extra={FOR_TERMINAL: message.for_terminal}
            )
        return None

    def _first_cause(self, envelope: messages.Envelope) -> RunResult:
        """Returns the result; of a failure the first process's to fail, or of one that died without a word."""
        result: RunResult = envelope.message.result
        if result.status is not Status.FAILED:
            return result
        failed, began = [envelope], time.monotonic()

        def left_s() -> float:
            waits = LOST_S if all(_lost_peer(each.message.result) for each in failed) else _SETTLE_S
            return waits - (time.monotonic() - began)

        while (left := left_s()) > 0 and len(self._ended) < self._processes.size:
            try:
                other = self._processes.messages_in.get(timeout=left)
            except queue.Empty:
                break
            if isinstance(other.message, messages.Disconnected) and other.rank not in self._ended:
                self._processes.end(GRACE_S)
                # `accelerate launch` itself ends the others when one has left: that is no cause.
                if self._processes.exit_code(other.rank) in {None, -signal.SIGTERM}:
                    self._ended.add(other.rank)
                    continue
                return self._died(other.rank)
            if isinstance(other.message, messages.RankEnded):
                self._ended.add(other.rank)
                self._someone_was_killed |= other.message.result.status is Status.KILLED
                if other.message.result.status is Status.FAILED:
                    failed.append(other)
            elif isinstance(
                other.message, (messages.Refused, messages.LogLine, messages.MetricsLogged, messages.RunStarted)
            ):
                self._take(other)
        causes = [each for each in failed if not _lost_peer(each.message.result)]
        first = min(causes or failed, key=lambda each: each.at)
        result = first.message.result
        own = next((each.message.result for each in failed if each.rank == 0), None)
        if not causes:  # the other one ended without a word: its death is the cause, this is all that is known of it
            lost_peer = f"process {first.rank} of {self._processes.size} lost another one: {result.reason}"
            return replace(own or result, reason=lost_peer, cause=Cause.LOST_PEER)
        if first.rank == 0 or (own is not None and own.error is not None and own.error == result.error):
            return own or result
        reason = f"process {first.rank} of {self._processes.size}: {result.reason}"
        return replace(self._cut_short(Status.FAILED, reason, result.cause or Cause.ERROR), error=result.error)

    def _why_none(self) -> str:
        last = [line.strip() for line in self._processes.log_tail().splitlines() if line.strip()]
        return f"its processes ended without a result{f': {last[-1][:300]}' if last else ''}"

    def _stopped(self, guard: SignalGuard) -> RunResult:
        stop = Interrupted(guard.requested or signal.SIGINT)
        return self._cut_short(Status.KILLED, str(stop), stop.cause)

    def _died(self, rank: int) -> RunResult:
        cause = Cause.PROCESS_KILLED if self._processes.was_killed(rank) else Cause.ERROR
        return self._cut_short(Status.FAILED, self._processes.how_it_died(rank), cause)

    def _cut_short(self, status: Status, reason: str, cause: Cause = Cause.ERROR) -> RunResult:
        """Returns the result of a run whose first process gave none: what it cost is not known."""
        return RunResult(
            name=self._spec.name(),
            status=status,
            reason=reason,
            cause=cause,
            spec_digest=self._spec.digest(),
            **self._known,
        )


def _lost_peer(result: RunResult) -> bool:
    """Whether a process failed because it lost another one: no cause of its own."""
    return result.status is Status.FAILED and result.cause is Cause.LOST_PEER
