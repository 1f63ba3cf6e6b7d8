"""Pickled weights become safetensors: the same tensors, and nothing in the file runs."""

from __future__ import annotations

import json
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file

from frostline.assets.convert import is_converted, to_safetensors
from frostline.errors import ModelError
from tests.unit.models.test_loading import load


def tensors():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 6, generator=generator)
    return OrderedDict(a=weight, tied=weight, turned=weight.T, number=torch.tensor(3), half=weight.half())


@pytest.mark.parametrize("zipped", [True, False])  # files of before PyTorch 1.6 are no archives
def test_tensors_come_out_as_they_are(tmp_path, zipped):
    torch.save(tensors(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert to_safetensors(tmp_path, tmp_path) == [tmp_path / "model.safetensors"]
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == tensors().keys()
    for name, value in tensors().items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
    before = (tmp_path / "model.safetensors").read_bytes()
    to_safetensors(tmp_path, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before  # a hash names the weights wherever they were made


def test_a_model_in_parts_stays_one(own_model):
    names = sorted(load_file(own_model / "model.safetensors"))
    whole = load_file(own_model / "model.safetensors")
    (own_model / "model.safetensors").unlink()
    weight_map = {}
    for part, chosen in enumerate((names[:5], names[5:]), 1):
        file = f"pytorch_model-0000{part}-of-00002.bin"
        torch.save({name: whole[name] for name in chosen}, own_model / file)
        weight_map |= dict.fromkeys(chosen, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (own_model / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    written = to_safetensors(own_model, own_model)
    assert [file.name for file in written] == [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    loaded = load(own_model)
    assert set(loaded.fresh) == {"classifier.bias", "classifier.weight"}
    state = loaded.model.bert.state_dict()
    assert all(torch.equal(state[name], value) for name, value in whole.items())


def test_what_could_run_code_is_refused_and_does_not_run(tmp_path):
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self):
            return (open, (str(canary), "w"))

    torch.save({"x": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="more than tensors, which could run code when loaded: refused"):
        to_safetensors(tmp_path, tmp_path)
    assert not canary.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["pytorch_model.bin"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 3, "model": {}}, "epoch is no tensor"),
        ([torch.ones(2)], "holds no tensors by name"),
        (b"", "can't be"),
    ],
)
def test_what_holds_no_weights_is_one_line(tmp_path, content, words):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ModelError, match=words) as refused:
        to_safetensors(tmp_path, tmp_path)
    assert "\n" not in str(refused.value)


def in_parts(folder, weight_map=None, index=None):
    for part in (1, 2):
        torch.save({f"t{part}": torch.ones(2)}, folder / f"pytorch_model-0000{part}-of-00002.bin")
    weight_map = weight_map or {f"t{part}": f"pytorch_model-0000{part}-of-00002.bin" for part in (1, 2)}
    text = json.dumps({"weight_map": weight_map}) if index is None else index
    (folder / "pytorch_model.bin.index.json").write_text(text)


def test_all_parts_or_none(tmp_path):
    """A part that is cut off, mended, and converted: nothing of the first attempt counts as done."""
    in_parts(tmp_path)
    whole = (tmp_path / "pytorch_model-00002-of-00002.bin").read_bytes()
    (tmp_path / "pytorch_model-00002-of-00002.bin").write_bytes(whole[:100])
    with pytest.raises(ModelError, match="can't be read as weights"):
        to_safetensors(tmp_path, tmp_path)
    assert not list(tmp_path.glob("*.safetensors*"))
    assert not list(tmp_path.glob(".convert-*"))
    assert not is_converted(tmp_path)
    (tmp_path / "pytorch_model-00002-of-00002.bin").write_bytes(whole)
    to_safetensors(tmp_path, tmp_path)
    assert is_converted(tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    assert not is_converted(tmp_path)


@pytest.mark.parametrize(
    ("weight_map", "index"),
    [
        ({"t1": "../../pytorch_model.bin"}, None), ({"t1": "pytorch_model-00003-of-00002.bin"}, None),
        ({"t1": 3}, None), (None, "{"), (None, "[]"), (None, "{}"),
    ],
)  # fmt: skip
def test_an_odd_index_is_one_line(tmp_path, weight_map, index):
    in_parts(tmp_path, weight_map, index)
    with pytest.raises(ModelError, match=r"index\.json: (names|is no index)"):
        to_safetensors(tmp_path, tmp_path)
    assert not list(tmp_path.glob("*.safetensors*"))


@pytest.mark.parametrize(
    "tensors",
    [
        {"sparse": torch.eye(3).to_sparse()}, {"meta": torch.ones(2, device="meta")}, {"__metadata__": torch.ones(2)},
        {"huge": torch.zeros(1).expand(400_000, 400_000)},
    ],
)  # fmt: skip
def test_what_safetensors_do_not_hold_is_one_line(tmp_path, tensors):
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pytorch_model.bin: "):
        to_safetensors(tmp_path, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pytorch_model.bin"]


def test_other_pickles_beside_it_are_not_weights(tmp_path):
    for name in ("pytorch_model.bin", "pytorch_model.fp16.bin", "pytorch_model_old.bin"):
        torch.save(tensors(), tmp_path / name)
    assert [path.name for path in to_safetensors(tmp_path, tmp_path)] == ["model.safetensors"]


def test_without_any(tmp_path):
    with pytest.raises(ModelError, match="no pickled weights there"):
        to_safetensors(tmp_path, tmp_path)


def test_a_folder_of_the_user_is_converted_where_it_is(own_model, tiny_csv, frostline):
    before = load_file(own_model / "model.safetensors")
    torch.save(before, own_model / "pytorch_model.bin")
    (own_model / "model.safetensors").unlink()
    given = ["model=path", f"model.location={own_model}", "dataset=csv", f"dataset.location={tiny_csv}"]
    with pytest.raises(ModelError, match=r"model=path model.location=\S+ --convert-pickle`") as refused:
        load(own_model)
    assert f"frostline fetch model=path model.location={own_model} --convert-pickle" in str(refused.value)
    code, out, err = frostline("fetch", *given, "--convert-pickle")
    assert (code, err) == (0, "")
    assert str(own_model) in out
    after = load_file(own_model / "model.safetensors")
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
