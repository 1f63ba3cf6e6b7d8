"""Owns: starting, watching and ending the processes of one run. Must not know: how they train, who records.

The processes run under `accelerate launch`. They tell what is to be recorded over a Unix socket and the parent records
it, so that the record is true whatever becomes of them: one that raises or is killed takes the others with it, within
seconds and with one reason. One that hangs is noticed by whoever watches the run's signs of life, as a sweep does.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import yaml

from frostline.errors import UserError, listing
from frostline.launch import wire
from frostline.launch.rank import KEY_VARIABLE
from frostline.provenance import num_cores
from frostline.record import SPEC_FILE, TELL, Monitor, NullMonitor, Recorder, Sharing
from frostline.registry import imported_plugins
from frostline.result import RunResult, Status
from frostline.signals import PREEMPTED, Interrupted, SignalGuard
from frostline.spec import Progress, RunSpec

log = logging.getLogger(__name__)

RANKS_LOG = "processes.log"
"""What the processes of a run print, in its folder."""

_KINDS = ("MULTI_GPU", "MULTI_CPU", "NO")
"""Data parallel; under FSDP and DeepSpeed a process has a part of each tensor, which the audit does not know."""

_POLL_S = 0.1
_GRACE_S = 10.0
"""How long processes may take to leave by themselves, once their run is over or one of them is gone."""

_SETTLE_S = 1.0
"""How long to listen for the first cause of a failure: the others' connections break when a process dies."""

_OF_THE_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


def run(
    spec: RunSpec,
    recorder: Recorder,
    out_dir: Path,
    *,
    overrides: Sequence[str] = (),
    resume_from: Path | None = None,
    monitor: Monitor | None = None,
    until_step: int | None = None,
    sharing: Sharing | None = None,
) -> RunResult:
    """Trains one model as `frostline.train.run` does, on as many processes as `runtime.num_processes` says.

    Args:
        spec: What to train; with several processes it lies in `out_dir` already, as `record.RunFolder` writes it.
        recorder: Where numbers and the result go.
        out_dir: The run's folder.
        overrides: What the user typed, for the record.
        resume_from: Folder of an interrupted run of the same spec.
        monitor: Who may stop the run after an evaluation.
        until_step: Stop after this optimizer step.
        sharing: Who else will want what the frozen blocks compute.

    Raises:
        UserError: Bad input.
        Interrupted: A signal came when the last step was done.
    """
    if spec.runtime.num_processes == 1:
        from frostline.train import run as alone

        return alone(
            spec, recorder, out_dir, overrides=overrides, resume_from=resume_from, monitor=monitor,
            until_step=until_step, sharing=sharing,
        )  # fmt: skip
    if spec.runtime.accelerate_config is not None:
        _check_config(spec.runtime.accelerate_config)
    threads = spec.runtime.threads or _own_threads()
    sharing = sharing or Sharing()
    job = {
        "spec": str((out_dir / SPEC_FILE).absolute()),
        "out_dir": str(out_dir.absolute()),
        "overrides": list(overrides),
        "resume_from": None if resume_from is None else str(resume_from.absolute()),
        "until_step": until_step,
        # One process computes hidden states while the others wait: on the threads of all.
        "sharing": asdict(replace(sharing, threads=sharing.threads or threads)),
        "plugins": list(imported_plugins()),
        "path": [str(Path.cwd()), *sys.path],
        "bar": spec.runtime.progress is Progress.ON or (spec.runtime.progress is Progress.AUTO and sys.stderr.isatty()),
    }
    with _Processes(spec, job, out_dir, threads) as processes:
        return _Course(spec, recorder, monitor or NullMonitor(), processes).go()


def _check_config(name: str) -> None:
    """Checks that a file of `accelerate config` is of a kind that a run can be audited under.

    Raises:
        UserError: It isn't.
    """
    try:
        found = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"runtime.accelerate_config={name}: can't be read ({type(error).__name__})") from error
    if not isinstance(found, dict):
        raise UserError(f"runtime.accelerate_config={name}: is no file of `accelerate config`")
    kind = str(found.get("distributed_type", "NO"))
    if kind not in _KINDS:
        raise UserError(
            f"runtime.accelerate_config={name}: distributed_type {kind} is not supported, only data parallel: "
            f"{listing(_KINDS)}"
        )
    if found.get("num_machines", 1) not in {1, "1"}:
        raise UserError(
            f"runtime.accelerate_config={name}: a run has the processes of one machine; num_machines is more"
        )


def _own_threads() -> int:
    with suppress(KeyError, ValueError):
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    return num_cores()


@contextmanager
def _ignoring(signum: int) -> Iterator[None]:
    """What is started within the context ignores a signal: a scheduler sends it to all, the parent alone answers it."""
    if threading.current_thread() is not threading.main_thread():  # elsewhere Python allows no handlers
        yield
        return
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signum, before or signal.SIG_DFL)


def _send(pid: int, signum: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signum)


class _Processes:
    """`accelerate launch` and what it started. Use as a context manager: nothing is left behind.

    Args:
        spec: What they train.
        job: What they are told.
        out_dir: The run's folder.
        threads: CPU threads of all of them.
    """

    def __init__(self, spec: RunSpec, job: dict[str, Any], out_dir: Path, threads: int) -> None:
        self.size = spec.runtime.num_processes
        self._spec = spec
        self._job = job
        self._log = out_dir / RANKS_LOG
        self._threads = threads
        self.heard: queue.Queue[wire.Heard] = queue.Queue()
        self.pids: dict[int, int] = {}
        self._alive: dict[int, int] = {}
        """Of those whose wire is open: a number that is free again may be another process's."""
        self._told: set[int] = set()
        self._wires: dict[int, Connection] = {}

    def __enter__(self) -> _Processes:
        self._folder = Path(tempfile.mkdtemp(prefix="frostline-"))  # of this user alone; a socket's path must be short
        try:
            key = secrets.token_bytes(32)
            self._listener = Listener(str(self._folder / "wire"), family="AF_UNIX", authkey=key)
            self._job["address"] = str(self._folder / "wire")
            (self._folder / "job.json").write_text(json.dumps(self._job), encoding="utf-8")
            threading.Thread(target=self._accept, name="frostline-ranks", daemon=True).start()
            with self._log.open("ab") as output, _ignoring(PREEMPTED):
                self._launcher = subprocess.Popen(
                    self._command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    env=self._environment(key), start_new_session=True,
                )  # fmt: skip
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end(0.0)
        with suppress(OSError):
            self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):
            if not self._log.stat().st_size:
                self._log.unlink()

    @property
    def is_over(self) -> bool:
        """Whether `accelerate launch` has ended, and with it all that it started."""
        return self._launcher.poll() is not None

    def answer(self, rank: int, value: Any) -> None:
        """Answers a process that asked."""
        with suppress(OSError):
            self._wires[rank].send(value)

    def stop(self, signum: int) -> None:
        """Hands a signal to every process, once; each has a session of its own, so that a terminal's reaches none."""
        # To them preemption is a signal like any other: nobody would put a single process into the queue again.
        signum = signal.SIGTERM if signum == PREEMPTED else signum
        for rank, pid in list(self._alive.items()):
            if rank not in self._told:
                self._told.add(rank)
                _send(pid, signum)

    def _kill(self) -> None:
        for pid in list(self._alive.values()):
            _send(pid, signal.SIGKILL)

    def end(self, grace_s: float) -> None:
        """Waits for all to leave, then ends those that have not.

        Args:
            grace_s: Seconds to wait.
        """
        with suppress(subprocess.TimeoutExpired):
            self._launcher.wait(grace_s)
        if not self.is_over:
            self._kill()
            with suppress(subprocess.TimeoutExpired):
                self._launcher.wait(_GRACE_S if grace_s else 1.0)
        if not self.is_over:
            with suppress(ProcessLookupError):
                os.killpg(self._launcher.pid, signal.SIGKILL)
            self._launcher.wait()
        self._kill()  # one that greeted late

    def how_it_died(self, rank: int) -> str:
        """Returns how a process ended that said nothing, as far as `accelerate launch` knows it."""
        found = re.findall(rf"exitcode\s*:\s*(-?\d+)\s*\(pid:\s*{self.pids.get(rank, -1)}\)", self.log_tail())
        code = int(found[-1]) if found else None
        if code is None:
            how = "is gone"
        elif code < 0:
            how = f"was killed by signal {-code}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
        else:
            how = f"ended with exit code {code}"
        return f"process {rank} of {self.size} {how}; what it printed is in {self._log}"

    def log_tail(self) -> str:
        """Returns the end of what they printed."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, self._log.stat().st_size - 20_000))
                return file.read().decode("utf-8", errors="replace")
        except OSError:
            return ""

    def _command(self) -> list[str]:
        config = self._spec.runtime.accelerate_config
        if config is None:
            # A file of our own: else the one in the user's home would have a say.
            path = self._folder / "accelerate.yaml"
            plain = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU", "mixed_precision": "no"}
            path.write_text(json.dumps({**plain, "num_machines": 1, "num_processes": self.size}), encoding="utf-8")
            config = str(path)
        return [
            sys.executable, "-m", "accelerate.commands.launch", "--config_file", config,
            # What else the file says of these would contradict the record, or the GPUs of the slot.
            "--multi_gpu", "--num_processes", str(self.size), "--num_machines", "1", "--gpu_ids", "all",
            "--mixed_precision", "no", "--dynamo_backend", "no",
            "--main_process_port", "0",  # any free one
            "-m", "frostline.launch.rank", str(self._folder / "job.json"),
        ]  # fmt: skip

    def _environment(self, key: bytes) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if name not in _OF_THE_GROUP}
        path = [str(Path(__file__).parents[2]), *filter(None, [env.get("PYTHONPATH")])]
        return {
            **env,
            KEY_VARIABLE: key.hex(),
            "PYTHONPATH": os.pathsep.join(path),
            "OMP_NUM_THREADS": str(max(1, self._threads // self.size)),
            "OMP_WAIT_POLICY": "passive",
            "TOKENIZERS_PARALLELISM": "false",
            "COLUMNS": str(shutil.get_terminal_size().columns),
        }

    def _accept(self) -> None:
        for _ in range(self.size):
            try:
                connection = self._listener.accept()
                hello = connection.recv()
            except (EOFError, OSError):
                return
            self.pids[hello.rank] = self._alive[hello.rank] = hello.pid
            self._wires[hello.rank] = connection
            threading.Thread(target=self._listen, args=(hello.rank, connection), daemon=True).start()

    def _listen(self, rank: int, connection: Connection) -> None:
        while True:
            try:
                message = connection.recv()
            except (EOFError, OSError):
                self._alive.pop(rank, None)
                self.heard.put(wire.Heard(rank=rank, message=wire.Gone()))
                return
            self.heard.put(wire.Heard(rank=rank, message=message))


class _Course:
    """What the processes tell, in order, until the run is over."""

    def __init__(self, spec: RunSpec, recorder: Recorder, monitor: Monitor, processes: _Processes) -> None:
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
            grace_s = _GRACE_S
            try:
                result = self._listen(guard)
            except (Interrupted, KeyboardInterrupt) as stop:
                result, grace_s = self._cut_short(Status.KILLED, str(stop) or "stopped by SIGINT"), 0.0
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
            told = guard.requested is not None
            if guard.requested is not None:
                if not self._processes.pids:
                    return self._stopped(guard)
                self._processes.stop(guard.requested)
            over = self._processes.is_over  # asked first: what it said before its end is heard below
            try:
                heard = self._processes.heard.get(timeout=_SETTLE_S if over else _POLL_S)
            except queue.Empty:
                if not over:
                    continue
                return self._stopped(guard) if told else self._cut_short(Status.FAILED, self._why_none())
            if (result := self._take(heard)) is None:
                continue
            # Of a run that is being stopped the first process may fail because another one has left already.
            left = heard.rank != 0 or isinstance(heard.message, wire.Gone) or self._someone_was_killed
            if told and result.status is Status.FAILED and left:
                return self._stopped(guard)
            if told and result.status is Status.KILLED:
                return replace(result, reason=self._stopped(guard).reason)
            return result

    def _take(self, heard: wire.Heard) -> RunResult | None:
        """Passes a message on; returns the result if it was the last one."""
        message = heard.message
        if isinstance(message, wire.Ended):
            self._ended.add(heard.rank)
            self._someone_was_killed |= message.result.status is Status.KILLED
            if message.result.status is Status.FAILED or heard.rank == 0:
                return self._first_cause(heard)
        elif isinstance(message, wire.Gone):
            if heard.rank not in self._ended:
                self._processes.end(_GRACE_S)
                return self._cut_short(Status.FAILED, self._processes.how_it_died(heard.rank))
        elif isinstance(message, wire.Refused):
            raise UserError(message.text)
        elif isinstance(message, wire.Started):
            self._known = {"data": message.run.data, "provenance": message.run.provenance}
            self._recorder.start(replace(message.run, spec=self._spec))
        elif isinstance(message, wire.Logged):
            self._recorder.log(message.metrics, message.step)
        elif isinstance(message, wire.Asked):
            self._processes.answer(heard.rank, self._monitor.evaluated(message.epoch, message.value))
        elif isinstance(message, wire.Alive):
            self._monitor.alive()
        elif isinstance(message, wire.Drawn):
            print(message.text, end="", file=sys.stderr, flush=True)
        elif isinstance(message, wire.Said):
            logging.getLogger(message.logger).log(message.level, "%s", message.text, extra={TELL: message.tell})
        return None

    def _first_cause(self, heard: wire.Heard) -> RunResult:
        """Returns the result; of a failure the first process's to fail, or of one that died without a word."""
        result: RunResult = heard.message.result
        if result.status is not Status.FAILED:
            return result
        failed = [heard]
        deadline = time.monotonic() + _SETTLE_S
        while (left := deadline - time.monotonic()) > 0:
            try:
                other = self._processes.heard.get(timeout=left)
            except queue.Empty:
                break
            if isinstance(other.message, wire.Gone) and other.rank not in self._ended:
                return self._take(other) or result
            if isinstance(other.message, wire.Ended):
                self._ended.add(other.rank)
                self._someone_was_killed |= other.message.result.status is Status.KILLED
                if other.message.result.status is Status.FAILED:
                    failed.append(other)
            elif isinstance(other.message, (wire.Refused, wire.Said, wire.Logged, wire.Started)):
                self._take(other)
        first = min(failed, key=lambda each: each.at)
        result = first.message.result
        own = next((each.message.result for each in failed if each.rank == 0), None)
        if first.rank == 0 or (own is not None and own.reason == result.reason):
            return own or result
        return self._cut_short(Status.FAILED, f"process {first.rank} of {self._processes.size}: {result.reason}")

    def _why_none(self) -> str:
        last = [line.strip() for line in self._processes.log_tail().splitlines() if line.strip()]
        return f"its processes ended without a result{f': {last[-1][:300]}' if last else ''}"

    def _stopped(self, guard: SignalGuard) -> RunResult:
        return self._cut_short(Status.KILLED, f"stopped by {signal.Signals(guard.requested or signal.SIGINT).name}")

    def _cut_short(self, status: Status, reason: str) -> RunResult:
        """Returns the result of a run whose first process gave none: what it cost is not known."""
        return RunResult(
            name=self._spec.name(), status=status, reason=reason, spec_digest=self._spec.digest(), **self._known
        )
