"""The files of the prefix cache: complete or absent, whatever crashes, fills the disk, or writes at the same time."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from frostline.prefix_cache.entry import CacheError
from frostline.prefix_cache.hidden_states import FileShape
from frostline.prefix_cache.store import PrefixStore

LENGTHS = np.array([3, 1, 4, 2], dtype=np.int64)
SHAPE = FileShape(lengths=LENGTHS, width=5, dtype="float32")
KEY = {"weights_sha256": "a", "rows_sha256": "b"}


def rows(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((length, 5)).astype(np.float32) for length in LENGTHS]


def write(entry, name="depth-001", data=None, shape=SHAPE):
    with entry.building(), entry.writing({name: shape}) as (writers, _):
        for row in (2, 0, 3, 1):  # in any order
            writers[name].put(row, (data or rows())[row])


@pytest.fixture
def store(tmp_path):
    return PrefixStore(tmp_path / "prefix", 10**6)


@pytest.fixture
def entry(store):
    made = store.entry(KEY)
    write(made)
    return made


def assert_holds(found, data):
    assert found is not None
    assert all(np.array_equal(found[index], data[index]) for index in range(len(data)))


def test_what_was_put_comes_back_and_nothing_else_lies_there(store, entry):
    assert_holds(entry.open("depth-001", SHAPE), rows())
    assert sorted(path.name for path in entry.folder.iterdir() if path.name != ".lock") == [
        "depth-001.bin", "depth-001.json", "key.json",
    ]  # fmt: skip
    assert json.loads((entry.folder / "key.json").read_text()) == {**KEY, "about": {}}
    assert entry.open("depth-002", SHAPE) is None
    assert store.entry({**KEY, "weights_sha256": "c"}).open("depth-001", SHAPE) is None


@pytest.mark.parametrize(
    "other",
    [
        FileShape(lengths=LENGTHS[::-1].copy(), width=5, dtype="float32"),
        FileShape(lengths=LENGTHS, width=5, dtype="float16"),
        FileShape(lengths=LENGTHS[:3], width=5, dtype="float32"),
    ],
)
def test_a_file_of_another_form_is_not_handed_out(entry, other, caplog):
    assert not entry.has("depth-001", other)
    assert entry.open("depth-001", other) is None
    assert "is damaged" in caplog.text


def truncate(path):
    os.truncate(path, path.stat().st_size - 4)


def flip(path):
    data = bytearray(path.read_bytes())
    data[17] ^= 1
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip, lambda path: path.unlink()])
def test_damage_is_noticed_reported_and_repaired(store, caplog, damage):
    made = store.entry(KEY)
    write(made)
    damage(made.folder / "depth-001.bin")
    assert made.open("depth-001", SHAPE) is None
    assert "depth-001.bin is damaged" in caplog.text
    write(made)
    assert_holds(made.open("depth-001", SHAPE), rows())


def test_what_is_removed_while_it_is_read_through_is_absent(entry, monkeypatch, caplog):
    from frostline.prefix_cache import entry as module

    def missing(*arguments):
        raise FileNotFoundError("missing")

    monkeypatch.setattr(module, "damage_of", missing)
    assert entry.open("depth-001", SHAPE) is None
    assert "is damaged (missing)" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99}'])
def test_a_damaged_manifest_is_no_manifest(entry, text):
    (entry.folder / "depth-001.json").write_text(text)
    assert entry.open("depth-001", SHAPE) is None


def test_a_reader_is_not_disturbed_when_it_is_replaced_or_removed(store, entry):
    found = entry.open("depth-001", SHAPE)
    write(entry, data=rows(1))
    assert_holds(found, rows(0))
    assert_holds(entry.open("depth-001", SHAPE), rows(1))
    again = entry.open("depth-001", SHAPE)
    assert store.clear() == SHAPE.num_bytes
    assert not entry.folder.exists()
    assert_holds(again, rows(1))
    assert entry.open("depth-001", SHAPE) is None


def test_a_row_that_is_missing_publishes_nothing(store):
    made = store.entry(KEY)
    lacking = pytest.raises(AssertionError, match="rows are missing")
    with lacking, made.building(), made.writing({"depth-001": SHAPE}) as (writers, _):
        writers["depth-001"].put(0, rows()[0])
    assert made.open("depth-001", SHAPE) is None
    assert not list(made.folder.glob("*.tmp")) + list(made.folder.glob(".*.tmp"))


@pytest.mark.parametrize("when", ["reserving", "writing", "publishing"])
def test_a_full_disk_is_one_clean_error_and_leaves_nothing(store, monkeypatch, when):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    names = {"reserving": "posix_fallocate", "writing": "pwrite", "publishing": "fsync"}
    made = store.entry(KEY)
    with made.building():
        pass
    monkeypatch.setattr(os, names[when], full)
    with pytest.raises(CacheError, match="the disk is full"):
        write(made)
    monkeypatch.undo()
    assert not list(made.folder.glob(".*.tmp"))
    assert not list(made.folder.glob("*.bin"))
    assert made.open("depth-001", SHAPE) is None


def test_a_real_full_disk(tmp_path):
    """A file system of one MiB, where the machine lets us make one."""
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(mount)], capture_output=True).returncode:
        pytest.skip("this user can't mount a tmpfs")
    try:
        big = FileShape(lengths=np.full(100, 100, dtype=np.int64), width=64, dtype="float32")
        made = PrefixStore(mount / "prefix", 10**9).entry(KEY)
        full = pytest.raises(CacheError, match="the disk is full")
        with full, made.building(), made.writing({"depth-001": big}):
            raise AssertionError("there is no room to reserve")
        assert not list(made.folder.glob(".*.tmp"))
        assert PrefixStore(mount / "prefix", 10**9).room_for(big.num_bytes) is not None
    finally:
        subprocess.run(["umount", str(mount)], check=True)


BUILDER = """
import os, signal, sys, time
import numpy as np
from frostline.prefix_cache.hidden_states import FileShape
from frostline.prefix_cache.store import PrefixStore
shape = FileShape(lengths=np.array([3, 1, 4, 2]), width=5, dtype="float32")
entry = PrefixStore({root!r}, 10**6).entry({key!r})
with entry.building(), entry.writing({{"depth-001": shape}}) as (writers, _):
    writers["depth-001"].put(0, np.zeros((3, 5), np.float32))
    print("half", flush=True)
    time.sleep(60)
"""


def builder(store):
    script = textwrap.dedent(BUILDER).format(root=str(store.root), key=KEY)
    script = script.replace(f"PrefixStore('{store.root}'", f"PrefixStore(__import__('pathlib').Path('{store.root}')")
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "half\n"
    return process


def test_a_builder_that_is_killed_leaves_nothing_to_be_trusted_and_its_place_is_taken(store):
    process = builder(store)
    made = store.entry(KEY)
    assert made.open("depth-001", SHAPE) is None
    with pytest.raises(CacheError, match="another process is still filling"), made.building(wait_s=0.2):
        raise AssertionError
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(made.folder.glob(".*.tmp"))
    assert made.open("depth-001", SHAPE) is None
    write(made)
    assert not list(made.folder.glob(".*.tmp"))
    assert_holds(made.open("depth-001", SHAPE), rows())


def test_one_builds_and_the_other_waits(store):
    made, order = store.entry(KEY), []

    def first():
        with made.building():
            order.append("first")
            time.sleep(0.5)
            order.append("done")

    thread = threading.Thread(target=first)
    thread.start()
    while not order:
        time.sleep(0.01)
    with store.entry(KEY).building():
        order.append("second")
    thread.join()
    assert order == ["first", "done", "second"]


def test_what_was_used_longest_ago_goes_first(tmp_path, caplog):
    store = PrefixStore(tmp_path, 3 * SHAPE.num_bytes)
    entries = [store.entry({**KEY, "weights_sha256": str(number)}) for number in range(3)]
    for age, made in enumerate(entries):
        write(made)
        os.utime(made.folder / "depth-001.json", (1000 + age, 1000 + age))
    assert entries[0].open("depth-001", SHAPE) is not None  # used just now
    caplog.set_level(logging.INFO)
    store.make_room(SHAPE.num_bytes)
    assert [made.has("depth-001", SHAPE) for made in entries] == [True, False, True]
    assert str(entries[1].folder) in caplog.text
    with pytest.raises(CacheError, match=r"runtime\.cache\.max_bytes"):
        store.make_room(4 * SHAPE.num_bytes)
    assert not [made for made in entries if made.has("depth-001", SHAPE)]


def test_depths_of_the_same_rows_make_room_for_each_other(tmp_path):
    store = PrefixStore(tmp_path, 2 * SHAPE.num_bytes)
    made = store.entry(KEY)
    write(made, "depth-001")
    write(made, "depth-002")
    with made.building():
        store.make_room(SHAPE.num_bytes, {(made.folder, "depth-001")})
        assert (made.has("depth-001", SHAPE), made.has("depth-002", SHAPE)) == (True, False)
        with pytest.raises(CacheError, match="no room"):
            store.make_room(2 * SHAPE.num_bytes, {(made.folder, "depth-001")})


def test_what_somebody_is_building_stays(store):
    process = builder(store)
    folder = store.entry(KEY).folder
    (size,) = [path.stat().st_size for path in folder.glob(".*.tmp")]
    assert sum(store.listing()[0][2].values()) == size == SHAPE.num_bytes  # it counts
    assert store.clear() == 0
    with pytest.raises(CacheError):
        store.make_room(10**6 - 1)
    assert list(folder.glob(".*.tmp"))
    process.kill()
    process.communicate()
    assert store.clear() == SHAPE.num_bytes
    assert not folder.exists()


def test_what_cant_fit_is_said_before_anything_is_done(store):
    assert store.room_for(10**5) is None
    assert "runtime.cache.max_bytes is 1 MB" in store.room_for(2 * 10**6)
    huge = PrefixStore(store.root, 10**18)
    assert "are free at" in huge.room_for(10**17)


def test_a_folder_that_cant_be_made_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(CacheError, match="can't be written"),
        PrefixStore(tmp_path / "file", 10**6).entry(KEY).building(),
    ):
        raise AssertionError
