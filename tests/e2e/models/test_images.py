"""Images through the whole of frostline, on small models of their true classes."""

from __future__ import annotations

import json
import shutil

import datasets
import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoModelForImageClassification, Dinov2Config, Dinov2Model, SwinConfig, SwinModel
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from frostline.models.blocks import find_blocks
from frostline.models.processors import load_image_processor
from frostline.records.result import RunResult
from frostline.records.run_context import RunContext
from frostline.train.flops import flops_per_epoch
from tests.conftest import TINY
from tests.support.pictures import image_overrides, save_images, save_model

KINDS = ("vit", "resnet", "convnext")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_images(tmp_path_factory.mktemp("images") / "tones")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    home = tmp_path_factory.mktemp("image-models")
    return {kind: save_model(kind, home / kind) for kind in KINDS}


@pytest.fixture
def train(frostline, in_tmp, models, folder):
    def call(kind, *more):
        before = {path.parent for path in in_tmp.rglob("result.json")}
        code, out, err = frostline("run", *image_overrides(models[kind], folder, *more))
        assert code == 0, err
        [made] = {path.parent for path in in_tmp.rglob("result.json")} - before
        return made, RunResult.read(made)

    return call


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_depth(train, models, kind):
    """The lowest blocks of each architecture stay what they were, running means of a batch norm included."""
    made, result = train(kind, "freeze=depth", "freeze.depth=2", "training.epochs=2")
    assert result.audit.frozen_unchanged
    assert result.audit.absent_from_optimizer
    trained = AutoModelForImageClassification.from_pretrained(made / "model")
    before, after = AutoModel.from_pretrained(models[kind]).state_dict(), trained.state_dict()
    anatomy = find_blocks(trained)
    assert anatomy.num_blocks == 4
    frozen = tuple(f"{name}." for name, _ in anatomy.prefix(2))
    moved, kept = 0, 0
    for name, tensor in before.items():
        if f"{kind}.{name}" not in after:  # a pooler that the classifier has not
            continue
        same = torch.equal(tensor, after[f"{kind}.{name}"])
        if f"{kind}.{name}".startswith(frozen):
            kept += 1
            assert same, name
        else:
            moved += not same
    assert kept > 4
    assert moved > 4
    assert result.metrics["eval/accuracy"] >= 0.5


@pytest.mark.slow
def test_the_same_spec_gives_the_same_numbers(train):
    first, second = (train("resnet", "freeze=none")[1] for _ in range(2))
    assert first.weights_sha256 == second.weights_sha256
    assert first.metrics == second.metrics


@pytest.mark.slow
def test_folds_of_images_are_learned_alike_from_the_prefix_cache(train):
    found = {}
    for fold in (0, 1):
        for cache in ("require", "off"):
            own = ("freeze=depth", "freeze.depth=2", "dataset.folds=2", f"dataset.fold={fold}", "training.epochs=2")
            found[fold, cache] = train("vit", *own, f"runtime.cache.mode={cache}")[1]
        losses = [found[fold, cache].metrics["eval/loss"] for cache in ("require", "off")]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    rows = [found[fold, "off"].data for fold in (0, 1)]
    assert rows[0]["eval_rows"] == rows[1]["train_rows"]
    assert found[0, "off"].metrics["eval/loss"] != found[1, "off"].metrics["eval/loss"]


@pytest.mark.slow
def test_brightness_is_learned(train, frostline, in_tmp):
    """The saved model is asked for files; test rows are scored by the same pixels."""
    made, result = train(
        "vit", "freeze=none", "training.epochs=6", "dataset.test_fraction=0.2", "optimizer.lr=3e-3",
        "dataset.also_evaluate=[]",
    )  # fmt: skip
    assert result.metrics["eval/accuracy"] == 1.0
    for brightness, name in ((40, "dark"), (220, "light")):
        Image.fromarray(np.full((40, 40, 3), brightness, dtype=np.uint8)).save(in_tmp / f"{name}.png")
    code, out, err = frostline("predict", "--json", str(made), str(in_tmp / "dark.png"), str(in_tmp / "light.png"))
    assert code == 0, err
    said = [json.loads(line) for line in out.splitlines()]
    assert [each["label"] for each in said] == ["dark", "light"]
    processor = load_image_processor(made / "model")
    model = AutoModelForImageClassification.from_pretrained(made / "model").eval()
    with torch.no_grad(), Image.open(in_tmp / "dark.png") as image:
        logits = model(**processor(images=[image.convert("RGB")], return_tensors="pt")).logits
    assert said[0]["scores"]["dark"] == pytest.approx(float(logits.softmax(-1)[0, 0]), rel=1e-4)
    code, _, err = frostline("predict", str(made), str(in_tmp / "none.png"))
    assert (code, "none.png: No such file" in err) == (2, True)
    code, out, err = frostline("show", "--test", str(made))
    assert code == 0, err
    assert "accuracy 1.0000" in out
    assert "(8 rows)" in out


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["first", "mean"])
def test_vectors_of_images(frostline, in_tmp, models, folder, pool):
    out = in_tmp / "vectors.parquet"
    code, _, err = frostline(
        "predict", "--vectors", "model=path", f"model.location={models['vit']}", "dataset=image_folder",
        f"dataset.location={folder}", "--pool", pool, "--out", str(out),
    )  # fmt: skip
    assert code == 0, err
    table = pq.read_table(out)
    assert table.num_rows == 40
    assert set(table["label"].to_pylist()) == {"dark", "light"}
    assert len(table["embedding"][0].as_py()) == 32


@pytest.mark.slow
def test_vectors_of_a_stage(frostline, in_tmp, models, folder):
    out = in_tmp / "vectors.parquet"
    given = ["predict", "--vectors", "model=path", f"model.location={models['resnet']}", "dataset=image_folder"]
    given += [f"dataset.location={folder}", "--out", str(out)]
    code, _, err = frostline(*given, "--block", "1")
    assert code == 0, err
    assert len(pq.read_table(out)["embedding"][0].as_py()) == 16
    code, _, err = frostline(*given, "--block", "0")
    assert (code, "has no embeddings; give 1 to 4" in err) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "freeze"),
    [
        ("vit", ["freeze=head"]),
        ("vit", ["freeze=lora", "freeze.depth=2"]),
        ("vit", ["freeze=gradual", "training.epochs=3"]),
        ("vit", ["freeze=bias_only"]),
        ("resnet", ["freeze=norm_only"]),
        ("resnet", ["freeze=lp_ft", "freeze.depth=2", "training.epochs=2"]),
        ("convnext", ["freeze=blocks", "freeze.blocks=[1,3]"]),
        ("resnet", ["freeze=pattern", "freeze.pattern=[embedder]"]),
        ("vit", ["freeze=depth", "freeze.depth=2", "training.last_block=read_position", "runtime.cache=auto"]),
        ("resnet", ["freeze=none", "dataset.balance=weights", "training.accumulation_steps=2"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0].partition("=")[2],
)
def test_ways_of_freezing(train, kind, freeze):
    _, result = train(kind, *freeze)
    assert result.audit.frozen_unchanged
    assert result.cost.flops > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit", "dinov2"])
@pytest.mark.parametrize("depth", [1, 3, 4])
def test_from_the_prefix_cache_it_is_the_same(kind, depth, train, models, tmp_path):
    """What a run begins with comes from files: at the head one vector for each image."""
    if kind == "dinov2":
        models = {kind: tmp_path / "dinov2"}
        config = Dinov2Config(
            hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=32, patch_size=8, mlp_ratio=2
        )
        Dinov2Model(config).save_pretrained(models[kind])
        ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(models[kind])
    given = [f"model.location={models[kind]}", f"freeze.depth={depth}", "training.epochs=2", "optimizer.lr=2e-3"]
    _, plain = train("vit", *given)
    _, cached = train("vit", *given, "runtime.cache=require")
    _, again = train("vit", *given, "runtime.cache=require")
    facts = cached.prefix_cache
    # ViT's head reads the first vector, DINOv2's that and the mean of the others.
    assert facts == f"depth {depth}" + (", first position" if (depth, kind) == (4, "vit") else "")
    assert cached.metrics["eval/loss"] == pytest.approx(plain.metrics["eval/loss"], rel=1e-4)
    assert again.weights_sha256 == cached.weights_sha256
    assert again.cost.fill_s == 0


@pytest.mark.slow
def test_a_hierarchy_of_maps_is_trained_without_the_cache(train, tmp_path):
    """Swin's stages give ever fewer and wider vectors: what is kept has one width, so that nothing is."""
    torch.manual_seed(0)
    config = SwinConfig(
        embed_dim=8, depths=[1, 1, 1], num_heads=[1, 1, 2], window_size=4, image_size=64, patch_size=4
    )  # fmt: skip
    SwinModel(config, add_pooling_layer=True).save_pretrained(tmp_path / "swin")
    ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "swin")
    _, result = train("vit", f"model.location={tmp_path / 'swin'}", "freeze.depth=1", "runtime.cache=auto")
    assert result.prefix_cache == "off"
    assert result.freeze.num_blocks == 3
    assert result.audit.frozen_unchanged


@pytest.mark.slow
def test_images_smaller_than_the_model_was_pretrained_on(train, tmp_path):
    """DINOv2 takes any size: what is kept has as many vectors as the images that it is given make."""
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=64, patch_size=8, mlp_ratio=2
    )
    Dinov2Model(config).save_pretrained(tmp_path / "model")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    given = [f"model.location={tmp_path / 'model'}", "freeze.depth=2", "training.epochs=2"]
    _, plain = train("vit", *given)
    _, cached = train("vit", *given, "runtime.cache=require")
    assert cached.metrics["eval/loss"] == pytest.approx(plain.metrics["eval/loss"], rel=1e-4)


@pytest.mark.slow
def test_a_folder_held_out_and_depths_of_a_network_in_stages(frostline, in_tmp, models, folder):
    held_out = save_images(in_tmp / "held-out", each=8, seed=3)
    given = image_overrides(models["resnet"], folder, f"dataset.eval_from={held_out}")
    code, out, err = frostline("run", *given)
    assert code == 0, err
    assert "40 rows trained on, 16 held out" in out
    given = [each for each in given if not each.startswith("optimizer.lr")]
    code, out, err = frostline("sweep", "depth_only", *given, "sweep.n_trials=2", "optimizer.lr=1e-3")
    assert code == 0, err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CLIP", "Siglip"])
def test_a_model_whose_vision_is_a_part_of_its_config(name, train, tmp_path):
    import transformers

    vision = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    config = getattr(transformers, f"{name}Config")(vision_config={**vision, "image_size": 32, "patch_size": 8})
    config.architectures = [f"{name}ForImageClassification"]
    torch.manual_seed(0)
    getattr(transformers, f"{name}ForImageClassification")(config).save_pretrained(tmp_path / "model")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    _, result = train("vit", f"model.location={tmp_path / 'model'}", "freeze.depth=2", "runtime.cache=auto")
    assert (result.freeze.num_blocks, result.freeze.depth) == (3, 2)
    assert result.audit.frozen_unchanged


@pytest.mark.slow
def test_stages_and_test_rows_from_the_prefix_cache(train):
    given = ["freeze=gradual", "training.epochs=4", "dataset.test_fraction=0.2", "dataset.test_at_end=true"]
    _, plain = train("vit", *given)
    _, cached = train("vit", *given, "runtime.cache=require")
    assert cached.metrics["eval/loss"] == pytest.approx(plain.metrics["eval/loss"], rel=1e-3)
    assert cached.metrics["test/loss"] == pytest.approx(plain.metrics["test/loss"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_resumes_in_the_same_bits(train, frostline, in_tmp, models, folder, kind):
    """Of ViT, too, whose files have other names for its parameters than the model has (transformers 5)."""
    from frostline.config import compose_job
    from frostline.records.recorder import NullRecorder
    from frostline.train.run import run

    given = image_overrides(models[kind], folder, "freeze=depth", "freeze.depth=1", "training.epochs=3")
    _, whole = train(kind, "freeze=depth", "freeze.depth=1", "training.epochs=3")
    spec = compose_job(given).run
    part = in_tmp / "part"
    part.mkdir()
    run(spec, RunContext(NullRecorder(), part, until_step=4))
    later = run(spec, RunContext(NullRecorder(), part, resume_from=part))
    assert later.weights_sha256 == whole.weights_sha256


def test_what_does_not_belong_together_is_one_line(frostline, in_tmp, models, folder, tiny_model, tiny_csv):
    code, _, err = frostline("run", *image_overrides(tiny_model, folder))
    assert (code, "the model (bert) reads texts, the data set holds images" in err) == (2, True)
    texts = ["model=path", f"model.location={models['vit']}", "dataset=csv", f"dataset.location={tiny_csv}", *TINY]
    code, _, err = frostline("run", *texts)
    assert (code, "the model (vit) reads images, the data set holds texts" in err) == (2, True)
    small = ("runtime.cache=require", "runtime.cache.max_bytes=1e5", "freeze.depth=1")
    code, _, err = frostline("run", *image_overrides(models["resnet"], folder, *small))
    assert (code, "kB, and runtime.cache.max_bytes is 100 kB" in err) == (2, True)
    big = shutil.copytree(models["vit"], in_tmp / "big")
    ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(big)
    code, _, err = frostline("run", *image_overrides(big, folder))
    assert (code, "can't take what its image processor makes, (3, 64, 64): Input image size" in err) == (2, True)
    (models["vit"] / "preprocessor_config.json").rename(in_tmp / "aside.json")
    try:
        code, _, err = frostline("run", *image_overrides(models["vit"], folder))
        assert (code, "no image processor there (preprocessor_config.json)" in err) == (2, True)
    finally:
        (in_tmp / "aside.json").rename(models["vit"] / "preprocessor_config.json")


def test_inspect(frostline, in_tmp, models):
    code, out, err = frostline(
        "show", "--blocks", "--json", "model=path", f"model.location={models['resnet']}", "dataset=mnist_5k"
    )
    assert code == 0, err
    facts = json.loads(out)
    assert (facts["class"], facts["num_blocks"]) == ("ResNetForImageClassification", 4)
    assert [part["part"] for part in facts["parts"]] == [
        "embeddings", "block 0", "block 1", "block 2", "block 3", "head",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_operations_are_counted(models, kind):
    """With all trained, backward is twice forward; with all but the head frozen, hardly anything besides forward."""
    from torch.utils.flop_counter import FlopCounterMode

    model = AutoModelForImageClassification.from_pretrained(models[kind]).train()
    if kind == "vit":
        model.set_attn_implementation("eager")  # what a CPU's fused attention does is counted by nobody
    sample = {"pixel_values": torch.rand(1, 3, 32, 32)}
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model.eval()(**sample)
    once = forward.get_total_flops()
    model.train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert flops_per_epoch(model, 1, sample=sample) == pytest.approx(3 * once)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert model.training
    if kind == "vit":  # of a convolution's backward torch counts other numbers with groups and strides
        with FlopCounterMode(display=False) as real:
            model(**sample, labels=torch.tensor([0])).loss.backward()
        assert 3 * once == pytest.approx(real.get_total_flops(), rel=0.1)
    anatomy = find_blocks(model)
    for _, module in anatomy.prefix(4):
        module.requires_grad_(False)
    assert flops_per_epoch(model, 3, anatomy.prefix(4), sample) == pytest.approx(3 * once, rel=0.05)


@pytest.mark.slow
def test_a_data_set_of_the_hub_and_a_parquet_file(frostline, in_tmp, models, folder):
    """Images inside of Parquet files, as the hub's sets have them: in a local copy of its layout, and alone."""
    paths = sorted(folder.rglob("*.png"))
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["dark", "light"])})
    copy = in_tmp / "copy" / "data"
    copy.mkdir(parents=True)
    for split, chosen in (("train", paths[::2]), ("test", paths[1::2])):
        rows = {
            "img": [{"bytes": path.read_bytes(), "path": path.name} for path in chosen],
            "label": [path.parent.name for path in chosen],
        }
        datasets.Dataset.from_dict(rows, features=features).to_parquet(copy / f"{split}-00000-of-00001.parquet")
    given = ["model=path", f"model.location={models['vit']}", "dataset.image_column=img", *TINY, "tracking=off"]
    code, out, err = frostline(
        "run", *given, "dataset=hub", f"dataset.location={copy.parent}", "dataset.eval_from=test"
    )
    assert code == 0, err
    assert "20 rows trained on, 20 held out" in out
    code, out, err = frostline(
        "run", *given, "dataset=parquet", f"dataset.location={copy / 'train-00000-of-00001.parquet'}"
    )
    assert code == 0, err
    assert "16 rows trained on, 4 held out" in out


def test_a_number_of_an_image(frostline, in_tmp, models):
    """Regression: a table of paths and numbers."""
    lines = ["file,brightness"]
    for index, value in enumerate(range(0, 250, 5)):
        Image.fromarray(np.full((32, 32), value, dtype=np.uint8)).save(in_tmp / f"{index}.png")
        lines.append(f"{index}.png,{value / 250}")
    (in_tmp / "table.csv").write_text("\n".join(lines))
    code, out, err = frostline(
        "run", *image_overrides(models["convnext"], "table.csv", "dataset=csv", "dataset.image_column=file"),
        "dataset.label_column=brightness", "dataset.task=regression", "training=regression", "freeze=none",
    )  # fmt: skip
    assert code == 0, err
    [made] = {path.parent for path in in_tmp.rglob("result.json")}
    code, out, err = frostline("predict", str(made), str(in_tmp / "3.png"))
    assert code == 0, err
    assert out.strip().endswith("3.png")


@pytest.mark.slow
def test_the_model_in_mlflow_is_files_of_the_run(frostline, in_tmp, models, folder):
    given = [each for each in image_overrides(models["vit"], folder) if each != "tracking=off"]
    code, _, err = frostline("run", *given)
    assert code == 0, err
    store = mlflow.MlflowClient("sqlite:///mlflow.db")
    [run] = store.search_runs([each.experiment_id for each in store.search_experiments()])
    assert {item.path for item in store.list_artifacts(run.info.run_id, "model")} >= {
        "model/model.safetensors", "model/preprocessor_config.json", "model/config.json",
    }  # fmt: skip
    [made] = {path.parent for path in (in_tmp / "runs").rglob("result.json")}
    made.rename(in_tmp / "elsewhere")
    code, out, err = frostline("predict", run.info.run_id, str(folder / "dark" / "001.png"))
    assert code == 0, err
    assert out.startswith(("dark\t", "light\t"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_real_digits(real_home, frostline, in_tmp, models):
    """The 5,000 real digits of the package index, a small ResNet from scratch: far better than the 0.1 of a guess."""
    code, out, err = frostline(
        "run", "model=path", f"model.location={models['resnet']}", "model.init=random", "freeze=none",
        "dataset=mnist_5k", "dataset.train_rows=2000", "training.epochs=3", "training.batch_size=32",
        "optimizer.lr=1e-2", "runtime.progress=off", "tracking=off",
    )  # fmt: skip
    assert code == 0, err
    [made] = {path.parent for path in in_tmp.rglob("result.json")}
    result = RunResult.read(made)
    assert result.data["label_names"] == [str(digit) for digit in range(10)]
    assert result.data["rows_read"] == 5000
    assert result.metrics["eval/accuracy"] > 0.7
