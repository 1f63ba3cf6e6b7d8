"""Starts worker processes, new or forked from a template, and ends them with their parent.

Forks of a template (the server of `multiprocessing`'s start method "forkserver") begin at once, and share the memory of
what it imported.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.process
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from frostline import scratch

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnContext, SpawnProcess

    Process = SpawnProcess | ForkServerProcess

P = ParamSpec("P")

_NOT_FOR_THE_TEMPLATE = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What a terminal or a scheduler sends to all processes of a group: the parent decides what becomes of the workers."""

_LOST = 255
"""The exit code that `multiprocessing` gives to a fork whose template died."""

_TEMPLATE_S = 180.0
"""How long a fork may be waited for (assumed: an import from a slow network disk takes a minute or two)."""

_QUIET = {"PYTHONWARNINGS": "ignore:resource_tracker:UserWarning"}
"""For the process that tidies up what killed workers leave (locks, as tqdm makes one): it need not report each."""

_FOLDER_PATH = 80
"""Bytes that the path of a socket's folder may have: 108 for the whole (unix(7)), less a name of up to 20."""

_PARENT = "FROSTLINE_TEMPLATE_OF"
"""Variable that holds the process id of a template's parent."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class ProcessStarter:
    """Starts processes that die with this one.

    Args:
        template: A module that is imported once, in a process that all others are forks of. It must start no thread and
            touch no GPU; one that finds that it did may end its process (`os._exit`), and is done without. None, or not
            on Linux: each process is a new one that imports for itself.
    """

    def __init__(self, template: str | None) -> None:
        self._template = template if sys.platform == "linux" else None

    @property
    def has_template(self) -> bool:
        """Whether processes are forks; no longer true once that has turned out to be impossible."""
        return self._template is not None

    def prepare(self, env: Mapping[str, str]) -> None:
        """Starts the template, which imports while the caller continues: a fork waits for it.

        Args:
            env: Variables that libraries may look at when they are imported, beside the caller's own.
        """
        if self.has_template:
            self._context(env)

    def start(
        self,
        body: Callable[Concatenate[Connection, P], None],
        env: Mapping[str, str],
        name: str,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> tuple[Process, Connection]:
        """Starts a process.

        Args:
            body: What it does, of a module that it can import: `body(connection, ...)`.
            env: Its variables, beside the caller's own.
            name: The process's.
            *args: To the body; picklable.
            **kwargs: Likewise.

        Returns:
            The process, and this side's end of its connection.

        Raises:
            OSError: The system starts no process.
        """
        attempts = 2  # a template may end just now: there will be another; if that ends, too, it goes without
        while True:
            if not attempts:
                self._template = None
            context = self._context(env)
            ours, theirs = context.Pipe()
            forked = context.get_start_method() == "forkserver"
            about = (forked, {**os.environ, **env}, str(Path.cwd()), body, theirs, args, kwargs)
            process = context.Process(target=_process_main, args=about, name=name)
            attempts -= 1
            try:
                with _hidden_main(), _watched(_TEMPLATE_S) if forked else contextlib.nullcontext():
                    process.start()
            except (EOFError, OSError):
                ours.close()
                if not forked:
                    raise
            else:
                return process, ours
            finally:
                theirs.close()

    def lost(self, process: Process) -> bool:
        """Whether an ended process ended only because its template did."""
        return self.has_template and process.exitcode == _LOST

    def _context(self, env: Mapping[str, str]) -> SpawnContext | ForkServerContext:
        with _environment(_QUIET), _blocked(_NOT_FOR_THE_TEMPLATE):  # a context of its own: its start unblocks some
            multiprocessing.resource_tracker.ensure_running()
        if self._template is not None:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([self._template])
            # Python 3.11 hands it no module search path, and puts the current folder before all others.
            path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}
            path[_PARENT] = str(os.getpid())
            try:
                _take_folder()
                with _environment({**env, **path}), _blocked(_NOT_FOR_THE_TEMPLATE):
                    multiprocessing.forkserver.ensure_running()
            except OSError:  # as where the path of the temporary folder is too long for a socket
                self._template = None
            else:
                return context
        return multiprocessing.get_context("spawn")


def _take_folder() -> None:
    """Gives `multiprocessing` a temporary folder that the next command removes, should this process be killed.

    Raises:
        OSError: There is none with a path short enough for the template's socket.
    """
    config = multiprocessing.process.current_process()._config  # type: ignore[attr-defined]
    if config.get("tempdir") is None:
        config["tempdir"] = str(scratch.make("workers", _FOLDER_PATH))


@contextlib.contextmanager
def _watched(limit_s: float) -> Iterator[None]:
    """Kills a template that does not answer in time: what waits for a fork is notified."""

    def kill() -> None:
        with contextlib.suppress(OSError, TypeError):
            os.kill(multiprocessing.forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]

    timer = threading.Timer(limit_s, kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """What is started within the context has these variables: some are read only when a process starts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _blocked(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """What is started within the context gets no such signal; to this process they come after it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _hidden_main() -> Any:
    """Keeps a spawned child from running the parent's main script again: the workers need nothing of it."""
    main = sys.modules["__main__"]
    missing = object()
    file, spec = getattr(main, "__file__", missing), getattr(main, "__spec__", missing)
    try:
        if file is not missing:
            del main.__file__
        main.__spec__ = None
        yield
    finally:
        if file is not missing:
            main.__file__ = file  # type: ignore[assignment]
        if spec is not missing:
            main.__spec__ = spec  # type: ignore[assignment]


def _process_main(
    forked: bool,
    env: Mapping[str, str],
    folder: str,
    body: Callable[..., None],
    connection: Connection,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    """A process's life, to its end."""
    try:
        os.environ.clear()  # the template's is that of when it started
        os.environ.update(env)
        os.chdir(folder)  # multiprocessing goes to where the program was started, and a notebook may have left that
        die_with_creator()  # of a fork that is the template: without it the parent gets no more from this process
        with contextlib.suppress(OSError):
            os.setsid()  # Ctrl-C in the terminal goes to the parent, which decides what its workers do
        _die_with_parent()
        signal.signal(signal.SIGINT, _exit_on_signal)
        signal.signal(signal.SIGTERM, _exit_on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _NOT_FOR_THE_TEMPLATE)
        body(connection, *args, **kwargs)
    finally:
        if forked:  # multiprocessing runs no exit handlers at the end of a fork
            sys.stdout.flush()
            atexit._run_exitfuncs()


def die_with_creator() -> None:
    """Has the kernel kill this process at once when the one that started it ends: it needs no thread of ours."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def be_template() -> None:
    """Has this process end with the one that it is a template of: it notices only between its imports."""
    die_with_creator()
    if os.environ.get(_PARENT, str(os.getppid())) != str(os.getppid()):  # it had ended before
        os._exit(1)


def _exit_on_signal(signum: int, frame: object) -> None:
    del frame
    os._exit(128 + signum)


def _die_with_parent() -> None:
    """Ends this process when the parent ends, however it ends: a killed sweep leaves no process behind."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
