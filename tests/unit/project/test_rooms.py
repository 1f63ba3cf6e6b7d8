"""The picture of the rooms, and what it is drawn from."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def rooms():
    spec = importlib.util.spec_from_file_location("rooms", ROOT / "docs" / "rooms.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_modules_import_each_other_in_a_circle(rooms):
    assert rooms.circle(rooms.module_imports()) == []


def test_a_circle_is_found(rooms):
    assert set(rooms.circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()})) == {"a", "b", "c"}


def test_every_room_has_lines(rooms):
    assert all(rooms.num_lines(room) for row in rooms.rows() for room in row)


def test_the_picture_is_drawn(rooms, tmp_path):
    rooms.draw(tmp_path / "rooms.png", {"frostline.cli.main": {"frostline.errors"}, "frostline.errors": set()})
    assert (tmp_path / "rooms.png").stat().st_size > 10_000
