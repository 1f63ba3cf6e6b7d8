"""Pickled weights become safetensors: the same tensors, and nothing in the file runs."""

from __future__ import annotations

import json
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file

from frostline.errors import ModelError
from frostline.pickled import to_safetensors
from tests.unit.test_model import load


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
