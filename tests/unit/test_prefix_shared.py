"""Entries that several hosts share: one host fills, the others copy; whoever dies, whatever can't be written."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from frostline.prefix.entry import CacheError
from frostline.prefix.shared import SharedStore
from frostline.prefix.store import PrefixStore
from tests.unit.test_prefix_store import KEY, SHAPE, assert_holds, rows, write

NAME = "depth-001"
GRACE_S = 0.6


def alive():
    pass


@pytest.fixture
def shared(tmp_path):
    return SharedStore(tmp_path / "shared", 10**6, grace_s=GRACE_S)


@pytest.fixture
def hosts(tmp_path):
    """The entries of one key on two hosts."""
    return [PrefixStore(tmp_path / name, 10**6).entry(KEY) for name in ("a", "b")]


@pytest.fixture
def other_file_system(monkeypatch):
    """Where a file can't have a second name it is copied; also on one machine, where it could."""

    def refuse(*names, **options):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)


def copy(shared, entry):
    with entry.building():
        return shared.take(entry, {NAME: SHAPE}, alive)


@pytest.mark.parametrize("linked", [True, False])
def test_what_one_host_gives_another_takes(shared, hosts, linked, request):
    if not linked:
        request.getfixturevalue("other_file_system")
    a, b = hosts
    write(a)
    assert not shared.has(b, NAME, SHAPE)
    assert copy(shared, b) == []
    shared.give(a, {NAME: SHAPE}, alive)
    assert shared.has(b, NAME, SHAPE)
    assert copy(shared, b) == [NAME]
    assert_holds(b.open(NAME, SHAPE), rows())
    twin = shared.root / a.folder.name
    assert json.loads((twin / "key.json").read_text())["weights_sha256"] == "a"
    assert not [path for path in (*twin.iterdir(), *b.folder.iterdir()) if path.name.endswith(".tmp")]
    same = (twin / f"{NAME}.bin").stat().st_ino == (b.folder / f"{NAME}.bin").stat().st_ino
    assert same is linked


def test_a_file_of_the_shared_folder_that_goes_takes_nothing_from_who_reads(shared, hosts, other_file_system):
    a, b = hosts
    write(a)
    shared.give(a, {NAME: SHAPE}, alive)
    copy(shared, b)
    found = b.open(NAME, SHAPE)
    (shared.root / a.folder.name / f"{NAME}.bin").write_bytes(b"")
    assert_holds(found, rows())
    assert not shared.has(a, NAME, SHAPE)  # of another size: absent


def test_a_flipped_bit_in_the_shared_folder_is_never_handed_out(shared, hosts, other_file_system, caplog):
    a, b = hosts
    write(a)
    shared.give(a, {NAME: SHAPE}, alive)
    path = shared.root / a.folder.name / f"{NAME}.bin"
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)
    copy(shared, b)
    with caplog.at_level(logging.WARNING):
        assert b.open(NAME, SHAPE) is None
    assert "is damaged" in caplog.text


def test_one_host_fills_and_the_others_wait(shared, hosts):
    filled, done = [], []

    def work(entry):
        with shared.turn(entry, NAME, SHAPE, alive):
            if not copy(shared, entry):
                filled.append(entry)
                time.sleep(3 * GRACE_S)  # longer than the grace: it is alive, and says so
                write(entry)
                shared.give(entry, {NAME: SHAPE}, alive)
        assert_holds(entry.open(NAME, SHAPE), rows())
        done.append(entry)

    threads = [threading.Thread(target=work, args=(entry,)) for entry in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(filled) == 1
    assert len(done) == 2
    assert not list(shared.root.glob("*.filling"))


def test_where_there_is_no_room_for_it_nobody_waits_for_a_turn(tmp_path, hosts, caplog):
    small = SharedStore(tmp_path / "small", SHAPE.num_bytes - 1, grace_s=60.0)
    waiting, began = threading.Event(), []

    def wait():
        other = SharedStore(tmp_path / "small", SHAPE.num_bytes - 1, grace_s=60.0)
        with other.turn(hosts[1], NAME, SHAPE, waiting.set):
            began.append(time.monotonic())

    thread = threading.Thread(target=wait)
    with small.turn(hosts[0], NAME, SHAPE, alive):
        thread.start()
        waiting.wait(10)
        write(hosts[0])
        small.give(hosts[0], {NAME: SHAPE}, alive)
    thread.join(10)
    assert began
    # Who comes later tries again: there may be room.
    with small.turn(hosts[1], NAME, SHAPE, alive):
        assert json.loads((small.root / f"{hosts[0].folder.name}.filling").read_text())["token"]


def test_what_a_killed_host_left_half_written_goes_with_the_next_one(shared, hosts):
    a, _ = hosts
    write(a)
    left = shared.root / a.folder.name / ".depth-001.0123.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x" * 100)
    shared.give(a, {NAME: SHAPE}, alive)
    assert not left.exists()


def test_a_host_that_died_over_it_is_replaced(shared, hosts, caplog):
    a, b = hosts
    shared.root.mkdir()
    lease = shared.root / f"{a.folder.name}.filling"
    lease.write_text(json.dumps({"token": "x", "host": "gone", "pid": 7, "beat": 3}))
    waited = []
    began = time.monotonic()
    with caplog.at_level(logging.INFO), shared.turn(b, NAME, SHAPE, lambda: waited.append(1)):
        assert time.monotonic() - began >= GRACE_S
        assert json.loads(lease.read_text())["token"] != "x"
    assert waited
    assert "gone (pid 7) is filling it for all hosts: waiting" in caplog.text
    assert "gone (pid 7) gives no sign of life" in caplog.text
    assert not lease.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_a_lease_that_can_t_be_read_holds_nobody_for_ever(shared, hosts, text):
    shared.root.mkdir()
    lease = shared.root / f"{hosts[0].folder.name}.filling"
    lease.write_text(text)
    with shared.turn(hosts[0], NAME, SHAPE, alive):
        pass
    assert not lease.exists()


def test_who_was_taken_for_dead_leaves_the_other_s_lease_alone(shared, hosts):
    a, _ = hosts
    lease = shared.root / f"{a.folder.name}.filling"
    with shared.turn(a, NAME, SHAPE, alive):
        lease.write_text(json.dumps({"token": "of another host"}))
        time.sleep(2 * GRACE_S / 6)
    assert json.loads(lease.read_text())["token"] == "of another host"


def test_a_shared_folder_that_takes_nothing_stops_nobody(tmp_path, hosts, caplog):
    (tmp_path / "file").write_text("")
    broken = SharedStore(tmp_path / "file", 10**6, grace_s=GRACE_S)
    with caplog.at_level(logging.WARNING), broken.turn(hosts[0], NAME, SHAPE, alive):
        write(hosts[0])
        broken.give(hosts[0], {NAME: SHAPE}, alive)
    assert "filled here alone" in caplog.text
    assert "could not take what was computed" in caplog.text
    assert_holds(hosts[0].open(NAME, SHAPE), rows())


def test_the_shared_folder_is_bounded_too_and_the_oldest_go(tmp_path, caplog):
    shared = SharedStore(tmp_path / "shared", 2 * SHAPE.num_bytes)
    home = PrefixStore(tmp_path / "home", 10**6)
    entries = [home.entry({"weights_sha256": str(index)}) for index in range(3)]
    for index, entry in enumerate(entries):
        write(entry)
        shared.give(entry, {NAME: SHAPE}, alive)
        os.utime(shared.root / entry.folder.name / f"{NAME}.json", (index, index))
    assert [shared.has(entry, NAME, SHAPE) for entry in entries] == [False, True, True]
    small = SharedStore(tmp_path / "small", SHAPE.num_bytes - 1)
    with caplog.at_level(logging.WARNING):
        small.give(entries[0], {NAME: SHAPE}, alive)
    assert "runtime.cache.max_bytes" in caplog.text


def test_a_full_disk_of_the_host_is_told_and_leaves_nothing(shared, hosts, other_file_system, monkeypatch):
    a, b = hosts
    write(a)
    shared.give(a, {NAME: SHAPE}, alive)

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    b.folder.mkdir(parents=True)
    with pytest.raises(CacheError, match="the disk is full"):
        shared.take(b, {NAME: SHAPE}, alive)
    assert list(b.folder.iterdir()) == []


def test_a_file_that_another_host_removes_while_it_is_copied_is_absent(shared, hosts, other_file_system, monkeypatch):
    a, b = hosts
    write(a)
    shared.give(a, {NAME: SHAPE}, alive)
    real = Path.open

    def stale(self, mode="r", *rest, **options):
        if "r" in mode and self.parent.parent == shared.root and self.suffix == ".bin":
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(self, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", stale)
    assert copy(shared, b) == []
    assert b.open(NAME, SHAPE) is None


def test_rows_are_the_same_bits_on_both(shared, hosts, other_file_system):
    a, b = hosts
    write(a)
    shared.give(a, {NAME: SHAPE}, alive)
    copy(shared, b)
    one, two = a.open(NAME, SHAPE), b.open(NAME, SHAPE)
    assert all(np.array_equal(one[index], two[index]) for index in range(len(one)))
