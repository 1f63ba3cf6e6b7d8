"""What is a hit, a miss, a refusal."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path

import pytest

from frostline.errors import UserError
from frostline.prefix_cache.collate import Collator
from frostline.process_cache import PROCESS_CACHE
from frostline.records.result import Status
from frostline.records.run_context import Sharing
from tests.conftest import NEGATIVE, POSITIVE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["freeze=none"], "the embeddings are trained"),
        (["freeze=bias_only"], "the embeddings are trained"),
        (["freeze=blocks", "freeze.blocks=[1-2]"], "no block is frozen together with all that is below it"),
        (["freeze=blocks", "freeze.blocks=[0-2]", "freeze.embeddings=false"], "the embeddings are trained"),
        (["freeze.depth=0"], "no block is frozen together with all that is below it"),
        (
            ["freeze.depth=2", "training.frozen_dropout=true"],
            "the frozen part drops out at random (training.frozen_dropout=true)",
        ),
        (["freeze.depth=2", "training.epochs=2", "runtime.cache.max_bytes=1000"], "runtime.cache.max_bytes is 1 kB"),
    ],
)
def test_where_it_cant_be_used_it_says_why_or_continues(frostline, in_tmp, home, tiny_overrides, overrides, why):
    mine = [o for o in tiny_overrides if o != "runtime.cache=off"]
    mine += ["tracking=off", *overrides]
    code, _, err = frostline("run", *mine, "runtime.cache.mode=require", "hydra.run.dir=a")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "runtime.cache=require: " in err
    assert why in err
    code, _, err = frostline("run", *mine, "runtime.cache.mode=auto", "hydra.run.dir=b")
    assert code == 0, err
    assert f"prefix cache: off: {why}" in Path("b/run.log").read_text().replace("it would take 228 kB, and ", "")
    assert not list(home.rglob("*.bin"))


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["padding", "probe", "empty"])
def test_a_model_that_cant_be_taken_apart_like_this_is_trained_as_ever(train, monkeypatch, broken):
    from dataclasses import replace

    from frostline.prefix_cache import attach

    PROCESS_CACHE.clear()  # else what another test compared would not be compared again
    if broken == "padding":  # what the whole model gives depends on the padding: as FNet's does
        real = Collator.__call__

        def shifted(self, numbers):
            batch = real(self, numbers)
            if "prefix_hidden" in batch:
                batch["prefix_hidden"][:, 0, :4] += 1.0
            return batch

        monkeypatch.setattr(Collator, "__call__", shifted)
        why = "rows of this model depend on their padding"
    elif broken == "probe":

        def refuse(anatomy, depth, *more):
            raise IndexError("index out of range in self")

        monkeypatch.setattr(attach, "Suffix", refuse)
        why = "the cache failed (IndexError: index out of range in self)"
    else:
        real = attach.open_prefix

        def emptied(request, depth):
            tables = copy.copy(request.tables.train)
            tables.lengths = tables.lengths * 0
            return real(replace(request, tables=replace(request.tables, train=tables)), depth)

        monkeypatch.setattr(attach, "open_prefix", emptied)
        why = "a row has no tokens"
    with pytest.raises(UserError, match=r"runtime\.cache=require") as error:
        train("freeze.depth=2", "runtime.cache=require")
    assert why in str(error.value)
    result, _ = train("freeze.depth=2", "runtime.cache=auto")
    assert (result.status, result.prefix_cache) == (Status.FINISHED, "off")


@pytest.mark.slow
def test_another_config_on_the_same_weights_is_another_key(train, fills, tiny_model, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(tiny_model, own)
    config = json.loads((own / "config.json").read_text())
    cached = ["freeze=head", "runtime.cache=require", f"model.location={own}"]
    train(*cached)
    (own / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    train(*cached)
    assert len(fills) == 4
    (own / "config.json").write_text(json.dumps({**config, "num_hidden_layers": config["num_hidden_layers"] - 1}))
    train(*cached)
    assert len(fills) == 6


def changed_file(name, change, tiny_model, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(tiny_model, own)
    (own / name).write_bytes(change((own / name).read_bytes()))
    return [f"model.location={own}"]


def flipped(data):
    return data[:-2] + bytes([data[-2] ^ 1, data[-1]])


@pytest.mark.slow
@pytest.mark.parametrize(
    "field",
    ["weights", "tokenizer", "max_tokens", "text", "precision", "depth", "attention", "version", "threads"],
)
def test_any_change_of_what_hidden_states_depend_on_is_a_miss(
    train, fills, field, tiny_model, tiny_csv, tmp_path, monkeypatch
):
    from frostline import provenance
    from frostline.train import setup

    cached = ["freeze.depth=2", "runtime.cache=require", "training.epochs=1"]
    train(*cached)
    train(*cached)
    assert len(fills) == 2  # training and held-out rows, once
    more, sharing = [], None
    if field == "weights":
        more = changed_file("model.safetensors", flipped, tiny_model, tmp_path)
    elif field == "tokenizer":
        more = changed_file("tokenizer.json", lambda data: data + b"\n", tiny_model, tmp_path)
    elif field == "max_tokens":
        more = ["training.max_tokens=31"]  # no row is cut: the rows are the same, the key is not
    elif field == "text":
        other = tmp_path / "other.csv"
        other.write_text(tiny_csv.read_text().replace(POSITIVE[0], POSITIVE[1]).replace(NEGATIVE[0], NEGATIVE[1]))
        assert other.read_text() != tiny_csv.read_text()
        more = [f"dataset.location={other}"]
    elif field == "precision":
        more = ["training.precision=bf16"]
    elif field == "depth":
        more = ["freeze.depth=3"]
    elif field == "attention":
        real = setup.loading.load_model

        def eager(*arguments, **named):
            loaded = real(*arguments, **named)
            loaded.model.set_attn_implementation("eager")
            return loaded

        monkeypatch.setattr(setup.loading, "load_model", eager)
    elif field == "version":
        versions = {**provenance.installed_versions(), "torch": "99.0"}
        monkeypatch.setattr(provenance, "installed_versions", lambda: versions)
    else:
        sharing = Sharing(threads=2)
    train(*cached, *more, sharing=sharing)
    assert len(fills) == 4, field


@pytest.mark.slow
def test_auto_waits_until_it_pays(train, fills, home):
    once = ["freeze.depth=2", "runtime.cache=auto", "training.epochs=1"]
    assert train(*once)[0].prefix_cache == "off"
    assert fills == []
    many = train(*once, sharing=Sharing(num_runs=20, depths=(0, 1, 2, 4)))[0]
    assert many.prefix_cache == "depth 2"
    assert {depths for _, depths in fills} == {(1, 2, 4)}  # one pass fills what the others will ask for
    assert train(*once)[0].prefix_cache == "off"  # whatever the cache holds: the same spec gives the same bits
    assert train("freeze=head", "runtime.cache=require")[0].prefix_cache.startswith("depth 4")
    assert len(fills) == 2


def test_a_run_says_for_how_many_passes_it_fills_the_cache(train, fills, caplog):
    caplog.set_level("INFO")
    result, _ = train("freeze.depth=2", "runtime.cache=auto", sharing=Sharing(num_runs=50, depths=(2,)))
    assert result.prefix_cache == "depth 2"
    assert " MB, computed once for 100 forward passes" in caplog.text


@pytest.mark.slow
def test_a_full_disk_means_no_cache_and_the_run_is_trained(train, monkeypatch, home, caplog):
    import errno

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    caplog.set_level("INFO")
    monkeypatch.setattr(os, "posix_fallocate", full)
    result, _ = train("freeze.depth=2", "runtime.cache=auto")
    assert result.status is Status.FINISHED
    assert result.prefix_cache == "off"
    assert "the disk is full" in caplog.text
    assert not list(home.rglob("*.tmp"))


@pytest.mark.slow
def test_damage_between_two_runs_is_mended(train, fills, home, caplog):
    _, one = train("freeze.depth=2", "runtime.cache=require")
    for path in home.rglob("depth-002.bin"):
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.unlink()
        path.write_bytes(data)
    _, other = train("freeze.depth=2", "runtime.cache=require")
    assert len(fills) == 4
    assert "is damaged (another checksum): it is computed again" in caplog.text
    assert (one / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()
