"""The processes of one run: started, listened to, ended.

They run under `accelerate launch`, each in a session of its own, and talk over a Unix socket.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from subprocess import DEVNULL, Popen, TimeoutExpired
from typing import Any

from frostline import assets, scratch
from frostline.errors import UserError
from frostline.launch import messages
from frostline.launch.rank import KEY_VARIABLE
from frostline.signals import PREEMPTED
from frostline.spec import RunSpec

RANKS_LOG = "processes.log"
"""What the processes of a run print, in its folder."""

GRACE_S = 10.0
"""How long processes may take to leave by themselves, once their run is over or one of them has died."""

_OF_THE_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


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


_SOCKET_PATH = 100
"""Bytes that the path of a socket may have, somewhat less than all systems allow (unix(7): 108)."""


def _short_folder() -> Path:
    """Makes a folder in which there is room for a socket's path.

    Raises:
        UserError: There is none.
    """
    try:
        return scratch.make("wire", _SOCKET_PATH - len("/wire"))
    except OSError as error:
        raise UserError(f"runtime.num_processes: {error}") from error


class Processes:
    """`accelerate launch` and what it started. Use as a context manager: nothing is left behind.

    Args:
        spec: What they train.
        job: What they run.
        out_dir: The run's folder.
        threads: CPU threads of all of them.
    """

    def __init__(self, spec: RunSpec, job: dict[str, Any], out_dir: Path, threads: int) -> None:
        self.size = spec.runtime.num_processes
        self._spec = spec
        self._job = job
        self._log = out_dir / RANKS_LOG
        self._threads = threads
        self.messages_in: queue.Queue[messages.Envelope] = queue.Queue()
        self.pids: dict[int, int] = {}
        self._alive: dict[int, int] = {}
        """Of those whose wire is open: a number that is free again may be another process's."""
        self._signalled: set[int] = set()
        self._wires: dict[int, Connection] = {}

    def __enter__(self) -> Processes:
        self._folder = _short_folder()
        self._exit_codes = self._folder / "exit-codes.json"
        try:
            key = secrets.token_bytes(32)
            self._listener = Listener(str(self._folder / "wire"), family="AF_UNIX", authkey=key)
            self._job["address"] = str(self._folder / "wire")
            (self._folder / "job.json").write_text(json.dumps(self._job), encoding="utf-8")
            threading.Thread(target=self._accept, name="frostline-ranks", daemon=True).start()
            with self._log.open("ab") as output, _ignoring(PREEMPTED):
                self._launcher = Popen(
                    self._command(), stdin=DEVNULL, stdout=output, stderr=output,
                    env=self._environment(key), start_new_session=True,
                )  # fmt: skip
        except BaseException:
            scratch.remove(self._folder)
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end(0.0)
        with suppress(OSError):
            self._listener.close()
        scratch.remove(self._folder)
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
        # To them preemption is a signal like any other: no scheduler requeues a single process.
        signum = signal.SIGTERM if signum == PREEMPTED else signum
        for rank, pid in list(self._alive.items()):
            if rank not in self._signalled:
                self._signalled.add(rank)
                _send(pid, signum)

    def _kill(self) -> None:
        for pid in list(self._alive.values()):
            _send(pid, signal.SIGKILL)

    def end(self, grace_s: float) -> None:
        """Waits for all to leave, then ends those that have not.

        Args:
            grace_s: Seconds to wait.
        """
        with suppress(TimeoutExpired):
            self._launcher.wait(grace_s)
        if not self.is_over:
            self._kill()
            with suppress(TimeoutExpired):
                self._launcher.wait(GRACE_S if grace_s else 1.0)
        if not self.is_over:
            with suppress(ProcessLookupError):
                os.killpg(self._launcher.pid, signal.SIGKILL)
            self._launcher.wait()
        self._kill()  # one that greeted late

    def exit_code(self, rank: int) -> int | None:
        """Returns the exit code of a process that said nothing, negative for a signal; None if it is unknown."""
        try:
            codes = json.loads(self._exit_codes.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # the launcher runs, or was killed
            return None
        code: int | None = codes.get(str(rank))
        return code

    def how_it_died(self, rank: int) -> str:
        """Returns how a process ended that said nothing, as far as `accelerate launch` knows it."""
        code = self.exit_code(rank)
        if code is None:
            how = "died"
        elif code < 0:
            how = f"was killed by signal {-code}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
        else:
            how = f"ended with exit code {code}"
        return f"process {rank} of {self.size} {how}; what it printed is in {self._log}"

    def was_killed(self, rank: int) -> bool:
        """Returns whether a process was killed from outside, as the system does when memory runs out."""
        return self.exit_code(rank) == -signal.SIGKILL

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
        else:
            config = str(assets.local_path(config))
        return [
            sys.executable, "-P", "-m", "frostline.launch.accelerate_launch", "--config_file", config,
            # What else the file says of these would contradict the record, or the GPUs of the slot.
            "--multi_gpu", "--num_processes", str(self.size), "--num_machines", "1", "--gpu_ids", "all",
            "--mixed_precision", "no", "--dynamo_backend", "no",
            "--main_process_port", "0",  # any free one
            "--log_dir", str(self._folder / "torchelastic"),  # else in the temporary folder, where torch leaves it
            "-m", "frostline.launch.rank", str(self._folder / "job.json"),
        ]  # fmt: skip

    def _environment(self, key: bytes) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if name not in _OF_THE_GROUP}
        path = [str(Path(__file__).parents[2]), *filter(None, [env.get("PYTHONPATH")])]
        return {
            **env,
            KEY_VARIABLE: key.hex(),
            messages.EXIT_CODES_VARIABLE: str(self._exit_codes),
            "PYTHONPATH": os.pathsep.join(path),
            "PYTHONSAFEPATH": "1",  # the current folder comes last: `paths.search_path`
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
                self.messages_in.put(messages.Envelope(rank=rank, message=messages.Disconnected()))
                return
            self.messages_in.put(messages.Envelope(rank=rank, message=message))
