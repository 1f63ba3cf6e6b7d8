"""Files between a sweep's parent and a node: what is sent, in which pieces, and what is refused."""

import pytest

from frostline.cluster import transfer
from frostline.cluster.transfer import Inputs, LocalInput, Piece, Sent, input_pieces, pieces, stamps, write
from frostline.errors import UserError


def send(source, target, names):
    for piece in pieces(source, names):
        write(target, piece)


def test_a_file_arrives_whole_in_pieces_with_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "PIECE_BYTES", 10)
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "checkpoints").mkdir(parents=True)
    (here / "checkpoints" / "a.bin").write_bytes(bytes(range(35)))
    (here / "empty").touch()
    found = list(pieces(here, ["checkpoints/a.bin", "empty"]))
    assert [(each.offset, each.is_last) for each in found] == [
        (0, False), (10, False), (20, False), (30, True), (0, True),
    ]  # fmt: skip
    for piece in found[:3]:
        write(there, piece)
    assert stamps(there) == {}  # not whole yet
    for piece in found[3:]:
        write(there, piece)
    assert (there / "checkpoints" / "a.bin").read_bytes() == bytes(range(35))
    assert stamps(there) == stamps(here)


def test_only_what_changed_is_sent_and_what_is_removed_goes(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for name in ("spec.json", "metrics.jsonl", "model/weights", "lock", ".a.tmp"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(name)
    sent = Sent(here, {})
    for piece in sent.changes():
        write(there, piece)
    assert set(stamps(there, models=True)) == {"spec.json", "metrics.jsonl"}
    assert list(sent.changes()) == []
    with (here / "metrics.jsonl").open("a") as file:
        file.write("more")
    (here / "spec.json").unlink()
    changes = list(sent.changes())
    assert [(each.name, each.data) for each in changes] == [
        ("metrics.jsonl", b"metrics.jsonlmore"), ("spec.json", None),
    ]  # fmt: skip
    for piece in changes:
        write(there, piece)
    assert set(stamps(there)) == {"metrics.jsonl"}


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="leads out of"):
        write(tmp_path / "there", Piece(name=name, data=b"x"))


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "there" / "checkpoints").symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match="link"):
        write(tmp_path / "there", Piece(name="checkpoints/a", data=b"x"))
    assert not list((tmp_path / "other").iterdir())


def test_inputs_are_known_by_content_and_name(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder / "model").mkdir(parents=True)
        (tmp_path / folder / "model" / "config.json").write_text("{}")
    inputs = Inputs()
    inputs.add("one/model", LocalInput(path=tmp_path / "one" / "model"))
    inputs.add("two/model", LocalInput(path=tmp_path / "two" / "model"))
    assert inputs.digests["one/model"] == inputs.digests["two/model"]
    (tmp_path / "two" / "model" / "config.json").write_text("{ }")
    changed = Inputs()
    changed.add("two/model", LocalInput(path=tmp_path / "two" / "model"))
    assert changed.digests["two/model"] != inputs.digests["two/model"]
    for piece in input_pieces(inputs.known["one/model"]):
        write(tmp_path / "node", piece)
    assert [path.name for path in (tmp_path / "node" / "model").iterdir()] == ["config.json"]


def test_a_table_takes_the_images_along_that_it_names(tmp_path):
    folder = tmp_path / "here"
    (folder / "pictures" / "a").mkdir(parents=True)
    (folder / "pictures" / "a" / "0.png").write_bytes(b"a picture")
    (folder / "other.png").write_bytes(b"named by nobody")
    (folder / "table.csv").write_text("image,label\npictures/a/0.png,dark\n")
    table = LocalInput(path=folder / "table.csv", beside=("pictures/a/0.png",))
    inputs, alone = Inputs(), Inputs()
    inputs.add("table.csv", table)
    alone.add("table.csv", LocalInput(path=folder / "table.csv"))
    assert inputs.digests != alone.digests  # another picture under the same name is another input
    for piece in input_pieces(table):
        write(tmp_path / "node", piece)
    found = sorted(path.relative_to(tmp_path / "node").as_posix() for path in (tmp_path / "node").rglob("*.*"))
    assert found == ["pictures/a/0.png", "table.csv"]
