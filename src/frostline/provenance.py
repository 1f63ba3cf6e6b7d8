"""Where and with what a run was made: versions, platform, git, hashes."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from frostline import variables
from frostline.process_cache import PROCESS_CACHE

_PACKAGES = (
    "frostline",
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "datasets",
    "evaluate",
    "numpy",
    "scikit-learn",
    "scipy",
    "safetensors",
    "hydra-core",
    "omegaconf",
    "mlflow",
)


def capture() -> dict[str, Any]:
    """Returns versions, platform, variables that can change a number, and the git state of the working directory."""
    return {
        "versions": {"python": platform.python_version(), **installed_versions()},
        "platform": {
            "system": platform.platform(),
            "machine": platform.machine(),
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
        },
        "variables": {name: redact(value) for name, value in variables.arithmetic(os.environ).items()},
        "git": git_state(Path.cwd()),
        "command": [redact(argument) for argument in [Path(sys.argv[0]).name, *sys.argv[1:]]],
    }


def environment() -> dict[str, Any]:
    """Returns what one needs to come back to this environment: what `environment.json` holds beside `capture`.

    Packages are listed as `pip install` takes them; the environment's variables are those of `frostline.variables`,
    without users and passwords in URIs. Found out once for each process.
    """
    return {
        **capture(),
        "python": {
            "version": sys.version,
            "implementation": platform.python_implementation(),
            "flags": {"optimize": sys.flags.optimize, "hash_randomization": sys.flags.hash_randomization},
        },
        "packages": list(packages()),
        "instruction_set": list(_instruction_set()),
        "variables": {name: redact(value) for name, value in variables.recorded(os.environ).items()},
        "ignored_variables": {name: redact(value) for name, value in variables.ignored(os.environ).items()},
    }


@PROCESS_CACHE.function
def packages() -> tuple[str, ...]:
    """Returns the installed packages as `pip freeze` lists them: `name==version`, or `name @ url`."""
    lines: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if not name:  # a broken installation
            continue
        line = f"{name}=={distribution.version}"
        with suppress(OSError, ValueError, KeyError, TypeError):
            direct = json.loads(distribution.read_text("direct_url.json") or "null")
            if direct is not None:
                revision = (direct.get("vcs_info") or {}).get("commit_id")
                line = f"{name} @ {redact(direct['url'])}{f'@{revision}' if revision else ''}"
        lines.setdefault(name.lower(), line)  # of two the first one is imported
    return tuple(line for _, line in sorted(lines.items()))


@PROCESS_CACHE.function
def _instruction_set() -> tuple[str, ...]:
    """Returns the CPU's vector and matrix instructions, which decide about the kernels that are chosen."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                names = line.partition(":")[2].split()
                wanted = ("sse4", "avx", "amx", "fma", "f16c", "bf16", "asimd", "sve", "i8mm")
                return tuple(sorted(name for name in names if name.startswith(wanted)))
    except OSError:
        pass
    return ()


def git_diff(folder: Path, limit_bytes: int = 256 * 1024) -> str | None:
    """Returns what is changed beside the commit, None if nothing is; cut with a line that says so past the limit.

    Of the whole repository, tracked files only; files that are named like secrets (`.env`, `*.pem`) are left out.

    Args:
        folder: Inside the repository.
        limit_bytes: A record is no place for a data set that was just changed.
    """
    secrets = [":(top,exclude,glob)**/.env*", ":(top,exclude,glob)**/*.pem", ":(top,exclude,glob)**/*secret*"]
    text = _git(folder, "diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv", "--", ":(top)", *secrets)
    if not text:
        return None
    data = text.encode()
    if len(data) > limit_bytes:
        text = data[:limit_bytes].decode(errors="ignore") + f"\n# cut: {len(data)} bytes in all"
    return redact(text) + "\n"


@PROCESS_CACHE.function
def num_cores() -> int:
    """Returns the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def free_memory() -> int:
    """Returns the bytes of memory that can be had without swapping; files that are kept in it count as free."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def installed_versions() -> dict[str, str]:
    """Returns the versions of the packages that can change a number."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


@PROCESS_CACHE.function
def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def redact(text: str) -> str:
    """Returns `text` without users and passwords of URIs, also of their queries; Hydra may have escaped colons."""
    # Rather too much than too little: a password may hold a slash. Bounded, for long lines of addresses.
    text = re.sub(r"(\w\\?://)\S{0,2000}@", r"\1***@", text)
    return re.sub(
        r"([?&](?:password|passwd|pwd|token|secret|api_?key)=)[^&\s'\"]+", r"\1***", text, flags=re.IGNORECASE
    )


def without_user(uri: str) -> str:
    """Returns a URI that can be shown and opened: without user and password."""
    return re.sub(r"(\w://)\S*@", r"\1", uri)


def process_start(pid: int) -> str | None:
    """Returns when a process started, which a later one with its number does not share; None: no such process.

    Linux gives the start in ticks since boot; elsewhere a living process has the mark `alive`.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        return stat.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        return "alive"
    return None if Path("/proc/self/stat").exists() else "alive"


def git_state(folder: Path) -> dict[str, Any] | None:
    """Returns `{'commit': ..., 'dirty': ...}` of the repository around a folder, or None without one (or git)."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(status)}


_GIT_SAFELY = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
"""A repository's own config may name commands, and this one is whatever the current folder lies in."""


def _git(folder: Path, *arguments: str) -> str | None:
    """Returns what git prints, None if it fails; no command that the repository's config names is run."""
    listed = _run_git(
        folder, "config", "--local", "--name-only", "--get-regexp", r"^filter\..*\.(clean|smudge|process)$"
    )
    without = [part for name in (listed or "").splitlines() for part in ("-c", f"{name}=")]
    return _run_git(folder, *arguments, settings=without)


def _run_git(folder: Path, *arguments: str, settings: Sequence[str] = ()) -> str | None:
    command = ["git", *_GIT_SAFELY, *settings, "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=10, check=False, text=True,
            encoding="utf-8", errors="replace",  # a change of a file in another encoding
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


class PeakMemory:
    """Largest resident memory of this process since it was made, in bytes.

    Linux resets its high-water mark on request, so that runs of one process don't inherit each other's peak;
    elsewhere the peak is that of the process's whole life.
    """

    def __init__(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def read(self) -> int:
        """Returns the peak so far."""
        try:
            for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        except OSError:
            pass
        import resource  # not on Windows

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
