"""Models of timm, of the true classes with random weights, in an environment that has timm and torchvision.

They are not among what `make setup` installs: torchvision's wheels are made for CUDA, and beside a torch for CPUs alone
it can't be imported, which would take transformers' own image processors with it. Here its Python runs, and its
compiled part, of which nothing is used, is declared. Where both are installed, beside a torch that they fit, nothing is
declared.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from frostline.config import compose_run
from frostline.errors import ModelError
from frostline.models.config_file import load_config
from tests.support.pictures import save_images
from tests.support.sweep_tools import call

ROOT = Path(__file__).parents[3]

DECLARED = """
try:
    import torch
except ImportError:
    pass
else:
    if torch.version.cuda is None:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""

MAKE = """
import json, sys
import timm, torch
from pathlib import Path
from safetensors.torch import save_file

name, size, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
given = {"mlp_ratio": 0.01} if name == "vgg16" else {}  # of 124 M parameters of the head 1 M
torch.manual_seed(0)
model = timm.create_model(name, pretrained=False, num_classes=7, **given)
folder.mkdir()
save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
wanted = ("mean", "std", "interpolation", "crop_pct", "pool_size", "first_conv", "classifier", "num_classes")
about = {key: value for key, value in model.pretrained_cfg.items() if key in wanted}
about |= {"input_size": [3, size, size], "fixed_input_size": False}
config = {"architecture": name, "num_classes": 7, "num_features": model.num_features, "pretrained_cfg": about}
(folder / "config.json").write_text(json.dumps({**config, **({"model_args": given} if given else {})}, default=list))
"""

EXACT = """
import numpy as np
from PIL import Image
from frostline.data.pixel_table import Scale
from frostline.models.processors import load_image_processor

processor = load_image_processor(folder)
noise = np.random.default_rng(1).integers(0, 256, (50, 70, 3)).astype("uint8")
image = Image.fromarray(noise)
scale = Scale(processor, image, "RGB")
bytes_ = processor(images=[image], do_rescale=False, do_normalize=False)["pixel_values"]
assert bytes_.dtype == np.uint8 and scale.is_exact
assert np.array_equal(scale(bytes_), processor(images=[image])["pixel_values"])
own = processor.timm_processor([image])["pixel_values"].numpy()  # timm's transforms themselves
assert np.array_equal(scale(bytes_), own)
"""

PLACED = """
import shutil

repo, commit = Path(sys.argv[4]), sys.argv[5]
shutil.copytree(folder, repo / "snapshots" / commit)
(repo / "refs").mkdir()
(repo / "refs" / "main").write_text(commit)
"""

CACHED = """
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
from transformers import AutoModelForImageClassification

from frostline.models.blocks import find_blocks
from frostline.prefix_cache.compute import RowsToCompute
from frostline.prefix_cache.forward_probe import is_pooled
from frostline.prefix_cache.open_or_compute import Prefix, open_or_compute
from frostline.prefix_cache.store import PrefixStore
from frostline.prefix_cache.suffix import HIDDEN, Suffix, read_position

images = torch.randn(5, 3, size, size)
whole = AutoModelForImageClassification.from_pretrained(folder).eval()
anatomy = replace(find_blocks(whole), image=(3, size, size))
rows = RowsToCompute(
    name="rows", lengths=np.ones(5, dtype=np.int64), sha256="0", unit_tokens=1000,
    collate=lambda numbers: {"pixel_values": images[list(numbers)]},
)
prefix = Prefix(
    anatomy=anatomy, facts={}, about={}, width=0, dtype="float32", position=read_position(anatomy), reading=None,
    autocast=nullcontext, threads=torch.get_num_threads(),
)
last = anatomy.num_blocks
for depth in sorted({1, last // 2, last - 1, last}):
    cached = open_or_compute(PrefixStore(Path(f"cache-{depth}"), 10**9), prefix, depth, (), rows, lambda: None).rows
    suffix = Suffix(anatomy, depth, None, prefix.position if prefix.is_read(depth) else None)
    with torch.no_grad():
        expected = whole(pixel_values=images[[3, 0]]).logits
        suffix.attach()
        hidden = torch.from_numpy(cached.single(np.array([3, 0])))[:, None]
        given = whole(pixel_values=torch.zeros(2, 1, 1, 1), **{HIDDEN: hidden}).logits
        suffix.detach()
    apart = float((given - expected).abs().max()) / max(1.0, float(expected.abs().max()))
    print(f"depth {depth}: {apart:.1e} apart, pooled {is_pooled(anatomy, depth)}, {cached.shape.width} numbers a row")
    assert apart < 1e-6, (depth, apart)
"""

COMMANDS = """
from frostline.cli.main import main

for arguments in json.loads(sys.argv[6]):
    try:
        main(arguments)
    except SystemExit as stop:
        assert not stop.code, (arguments, stop.code)
"""
"""Commands of one process: importing all that they need takes ten seconds."""

NAMED = {
    "convnext_tiny": (32, 4, 27_818_592, 768),
    "inception_v3": (80, 13, 21_785_568, 2048),
    "vgg16": (32, 12, 14_714_688, 512),
}
"""Height, blocks, parameters below the head as published (of VGG: of its convolutions; of ConvNeXt: without the 1,536
of the norm, which belongs to the head), width."""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> str:
    """A PYTHONPATH with timm and torchvision."""
    if find_spec("timm") and find_spec("torchvision"):
        return os.environ.get("PYTHONPATH", "")
    folder = tmp_path_factory.mktemp("timm") / "site"
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder),
        "--constraint", str(ROOT / "constraints.txt"), "timm", "torchvision",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder / "sitecustomize.py").write_text(DECLARED)
    return str(folder)


def python(script: str, *arguments: object, site: str, cwd: Path | None = None, **env: str) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    everything = {**os.environ, "PYTHONPATH": site, **env}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=everything)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", sorted(NAMED))
def test_a_named_model_of_timm_trains_from_a_copy_of_its_hub_folder(name, site, tmp_path):
    size, num_blocks, num_below, width = NAMED[name]
    spec = compose_run([f"model={name}", "dataset=image_folder", "dataset.location=images"]).model
    assert spec.num_blocks == num_blocks
    commit = spec.revision if len(spec.revision) == 40 else 40 * "a"
    repo = tmp_path / "hub" / f"models--{spec.location.replace('/', '--')}"
    images = save_images(tmp_path / "images")
    pictures = sorted(map(str, images.rglob("*.png")))[:2]
    chosen = [
        f"model={name}", "model.weights_sha256=null", "dataset=image_folder", f"dataset.location={images}",
        "training.batch_size=8", "optimizer.lr=1e-3", "runtime.device=cpu", "runtime.threads=1",
    ]  # fmt: skip
    commands = [
        ["run", *chosen, f"freeze.depth={num_blocks}", "tracking=off", "hydra.run.dir=run"],
        ["predict", "run", *pictures],
        ["predict", "--vectors", "run", "--out", "vectors.parquet"],
    ]
    said = python(
        MAKE + EXACT + PLACED + COMMANDS, name, size, tmp_path / "made", repo, commit, json.dumps(commands),
        site=site, cwd=tmp_path, HF_HUB_CACHE=str(tmp_path / "hub"),
    )  # fmt: skip
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "FINISHED"
    assert result["freeze"]["num_blocks"] == result["freeze"]["depth"] == num_blocks
    assert result["audit"]["frozen_unchanged"]
    assert result["params"]["num_frozen"] == num_below
    predicted = [line for line in said.splitlines() if line.split("\t")[0] in {"dark", "light"}]
    assert len(predicted) == 2, said
    assert len(pq.read_table(tmp_path / "vectors.parquet")["embedding"][0]) == width


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pooled"), [
    ("convnext_tiny", 768), ("inception_v3", 2048), ("vgg16", None), ("resnet18", 512), ("efficientnet_b0", None),
])  # fmt: skip
def test_logits_from_cached_maps_are_those_of_the_whole_model(name, pooled, site, tmp_path):
    """Of blocks between which convolutions without parameters of their own lie: pooling and activations."""
    size = 128 if name == "inception_v3" else 64  # the last map has several places
    said = python(MAKE + CACHED, name, size, tmp_path / "made", site=site, cwd=tmp_path)
    lines = said.splitlines()
    assert len(lines) == 4
    assert ("pooled True" in lines[-1]) == (pooled is not None)
    if pooled is not None:
        assert f"{pooled} numbers a row" in lines[-1]


@pytest.mark.slow
def test_parameters_beside_all_modules_allow_no_depth(site, tmp_path):
    python(MAKE, "test_vit", 160, tmp_path / "made", site=site)
    images = save_images(tmp_path / "images")
    chosen = [
        "model=path", f"model.location={tmp_path / 'made'}", "dataset=image_folder", f"dataset.location={images}",
        "training.batch_size=8", "optimizer.lr=1e-3", "runtime.device=cpu", "runtime.threads=1", "tracking=off",
    ]  # fmt: skip
    env = {"PYTHONPATH": site, "OMP_WAIT_POLICY": "passive"}  # read when imported: a start of its own
    done = call("run", *chosen, "freeze.depth=1", cwd=tmp_path, **env)
    assert done.returncode == 2
    assert "cls_token belongs to no module" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "hf-hub:timm/resnet18.a1_in1k"}, "is no name of timm's own"),
        ({"architecture": "local-dir:/somewhere"}, "is no name of timm's own"),
        ({"architecture": 3}, "is no name of timm's own"),
        ({"pretrained_cfg": "x"}, "are not groups of keys"),
        ({"model_args": ["a"]}, "are not groups of keys"),
        ({"model_args": {"checkpoint_path": "evil.pth"}}, "model_args.checkpoint_path is refused"),
        ({"model_args": {"pretrained": True}}, "model_args.pretrained is refused"),
        ({"model_args": {"pretrained_cfg_overlay": {"file": "evil.pth"}}}, "is refused"),
        ({"model_args": {"act_layer": "/somewhere"}}, "is refused"),
        ({"pretrained_cfg": {"input_size": [1, 28, 28]}}, "images of 1 channels"),
        ({"model_args": {"in_chans": 1}}, "images of"),
    ],
)
def test_a_config_that_would_read_anything_but_timm_is_one_line(tmp_path, changes, words):
    """Before timm is imported, which here it can't be."""
    config = {"architecture": "vgg16", "pretrained_cfg": {"input_size": [3, 224, 224]}, **changes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=words):
        load_config(tmp_path)


@pytest.mark.skipif(find_spec("timm") is not None, reason="needs an environment without timm")
def test_without_timm_it_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vgg16", "pretrained_cfg": {}}))
    with pytest.raises(ModelError, match=r"a model of timm, which is not installed: pip install timm"):
        load_config(tmp_path)
