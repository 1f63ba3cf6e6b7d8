"""Errors that a user can cause, and helpers that put foreign exceptions into one line."""

from __future__ import annotations

import errno
import logging
import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

log = logging.getLogger(__name__)

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"  # all but tab and newline; orders of direction
)


def visible(text: str) -> str:
    r"""Returns a text with its control characters written out, for example `\x1b`: a terminal would obey them."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


_MOST_LETTERS = 1200


class UserError(ValueError):
    """Something the user can mend: shown as one line, without a traceback, with exit code 2.

    The message names the key or the file and the way out. It holds no line breaks.
    """

    def __init__(self, message: str) -> None:
        line = visible(" ".join(message.split()))
        if len(line) > _MOST_LETTERS:  # it quotes a cell, or a config, as long as a file
            line = f"{line[: _MOST_LETTERS - _MOST_LETTERS // 4]} [...] {line[-_MOST_LETTERS // 4 :]}"
        super().__init__(line)


class SpecError(UserError):
    """A run's description is wrong: an unknown key, a wrong type, a value out of range."""


class AssetError(UserError):
    """A model or data file can't be had, or isn't what its checksum says."""


class DataError(UserError):
    """The rows can't be used: a missing column, a null, one class only."""


class ModelError(UserError):
    """The model can't be used: an unsupported architecture, pickled weights, remote code."""


class MachineError(UserError):
    """The machine's trouble, not the run's: a full disk, a lost file system. What was trained is kept."""


_MACHINE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENOTCONN, errno.EMFILE}
)

MACHINE_WAY_OUT = "mend that (df -h shows what is full); the same command resumes"

_HIDDEN = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
"""What libraries written in C++ and Rust pass on of an error, without its number."""


def machine_trouble(error: BaseException | None) -> str | None:
    """Returns in a few words what is wrong with the machine, if an exception or one of its causes comes from that."""
    while error is not None:
        if isinstance(error, MachineError):
            return str(error)
        if isinstance(error, OSError) and error.errno in _MACHINE:
            return f"{os.strerror(error.errno)}{f': {error.filename}' if error.filename else ''}"
        if (hidden := next((words for words in _HIDDEN if words in str(error)), None)) is not None:
            return hidden
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def origin(error: BaseException) -> str:
    """Returns an exception's type and the innermost function of frostline that it passed through.

    For example `ValueError at frostline.train.loss:step_loss`; of one that passed through none, the innermost function.
    """
    frames = [
        (str(frame.f_globals.get("__name__", "?")), frame.f_code.co_qualname)
        for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    own = [each for each in frames if each[0].partition(".")[0] == __package__]
    module, function = (own or frames or [("?", "?")])[-1]
    return f"{type(error).__name__} at {module}:{function}"


class RunFailedError(RuntimeError):
    """A run ended as FAILED; its reason is recorded in its folder. Exit code 1."""


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's text that says anything; its type if none does."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def in_one_line(error: BaseException, length: int = 200) -> str:
    """Returns an exception's text in one line; its type if it has none.

    Args:
        error: The exception.
        length: Letters at most.
    """
    return " ".join(str(error).split())[:length] or type(error).__name__


@contextmanager
def as_user_error(explain: Callable[[BaseException], UserError]) -> Iterator[None]:
    """Turns whatever a foreign library raises for a user's input into one line; a `UserError` passes as it is.

    Args:
        explain: The exception -> the user's message.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a library may raise anything for a file, a name or an address that it can't use
        raise explain(error) from error


class best_effort:  # noqa: N801 - reads as a statement, as `contextlib.suppress` does
    """Continues if something fails on which nothing depends; the exception is logged at debug level.

    Args:
        what: Is tried, for the log.
        level: Of the log line.
    """

    def __init__(self, what: str, level: int = logging.DEBUG) -> None:
        self._what = what
        self._level = level

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Exception):
            log.debug("%s", self._what, exc_info=error)
            if self._level > logging.DEBUG:
                log.log(self._level, "%s (%s: %s)", self._what, type(error).__name__, in_one_line(error))
            return True
        return False


_OTHER_WORDS = {"min": "low", "max": "high"}
"""What other tools call the bounds of a space."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Returns `" (did you mean 'x'?)"` for the choice nearest to `word`, or an empty string.

    Args:
        word: What the user wrote; may be dotted.
        choices: What would have been valid, dotted alike.
    """
    known = list(choices)
    group, _, last = word.rpartition(".")
    # `learing_rate` is near `lr` in meaning, not in letters: try the initials of its parts first.
    if last == "learning_rate" and "optimizer.lr" in known:
        return " (did you mean 'optimizer.lr'?)"
    other = f"{group}.{_OTHER_WORDS[last]}" if last in _OTHER_WORDS else None
    if other in known:
        return f" (did you mean {other!r}?)"
    initials = "".join(part[:1] for part in last.split("_")) if "_" in last else ""
    guess = f"{group}.{initials}" if group else initials
    same_end = [name for name in known if not group and name.rpartition(".")[2] == word]  # `lr`: optimizer.lr
    match = [guess] if guess in known else same_end or get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""


def listing(choices: Iterable[object]) -> str:
    """Returns `choices` as `a, b, c`, sorted: the tail of an error message."""
    return ", ".join(sorted(str(choice) for choice in choices))
