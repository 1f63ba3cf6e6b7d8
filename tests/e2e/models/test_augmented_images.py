"""Augmented images and cached maps through the whole of frostline."""

from __future__ import annotations

import pytest

from frostline.records.result import RunResult
from tests.support.pictures import image_overrides, save_images, save_model
from tests.support.tiny_runs import stop_and_resume, train

VIEWS = ("dataset.augment=flip_crop", "dataset.views=2", "training.epochs=3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_images(tmp_path_factory.mktemp("images") / "tones")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    home = tmp_path_factory.mktemp("image-models")
    return {kind: save_model(kind, home / kind) for kind in ("vit", "resnet", "convnext")}


def arguments(model, folder, *more):
    return image_overrides(model, folder, "freeze=depth", *more)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "depth"), [("resnet", 1), ("resnet", 4), ("convnext", 3), ("vit", 2)])
def test_views_are_learned_alike_from_the_prefix_cache(tmp_path, models, folder, kind, depth):
    given = arguments(models[kind], folder, f"freeze.depth={depth}", *VIEWS)
    cached, plain = (train([*given, f"runtime.cache={mode}"], tmp_path / mode) for mode in ("require", "off"))
    assert cached.audit.frozen_unchanged
    assert cached.metrics["eval/loss"] == pytest.approx(plain.metrics["eval/loss"], abs=1e-5)
    unchanged = train([*given, "runtime.cache=off", "dataset.augment=none"], tmp_path / "none")
    assert unchanged.metrics["eval/loss"] != plain.metrics["eval/loss"]


@pytest.mark.slow
@pytest.mark.parametrize("more", [VIEWS, ("dataset.augment=trivial", "dataset.views=null", "training.epochs=3"),
                                  (*VIEWS, "training.mixup=0.3", "training.sampling=random")])  # fmt: skip
def test_a_killed_run_takes_the_views_of_its_epoch_when_it_is_resumed(tmp_path, models, folder, more):
    given = arguments(models["resnet"], folder, "freeze.depth=2", *more)
    whole = train(given, tmp_path / "whole")
    later = stop_and_resume(given, tmp_path / "part", 7)
    assert later.weights_sha256 == whole.weights_sha256


@pytest.mark.slow
def test_an_augmented_run_is_reproduced_bit_for_bit(frostline, in_tmp, models, folder):
    code, _, err = frostline(
        "run", *arguments(models["resnet"], folder, "freeze.depth=3", *VIEWS, "runtime.cache=require")
    )
    assert code == 0, err
    [made] = {path.parent for path in in_tmp.rglob("result.json")}
    code, out, err = frostline("reproduce", str(made))
    assert code == 0, (out, err)
    assert "verdict: identical: every number is bit-equal, the trained weights too" in out


@pytest.mark.slow
def test_halves_are_recorded_with_the_run(tmp_path, models, folder):
    given = arguments(models["resnet"], folder, "freeze.depth=1", "runtime.cache.mode=require")
    half, full = (train([*given, f"runtime.cache.dtype={kind}"], tmp_path / kind) for kind in ("float16", "float32"))
    assert half.cache_uses[0].dtype == "float16"
    assert str(half.cache_uses[0]) == "depth 1, float16"
    assert half.weights_sha256 != full.weights_sha256
    assert half.metrics["eval/loss"] == pytest.approx(full.metrics["eval/loss"], rel=1e-2)
    assert half.spec_digest == full.spec_digest


@pytest.mark.slow
def test_phases_of_a_convolutional_network_come_from_the_cache(tmp_path, models, folder):
    given = arguments(models["convnext"], folder, "training.epochs=4")
    given[given.index("freeze=depth")] = "freeze=gradual"
    cached, plain = (train([*given, f"runtime.cache={mode}"], tmp_path / mode) for mode in ("auto", "off"))
    assert any(use.is_on for use in cached.cache_uses)
    assert cached.metrics["eval/loss"] == pytest.approx(plain.metrics["eval/loss"], abs=1e-5)


@pytest.mark.slow
def test_folds_with_views(tmp_path, models, folder):
    given = arguments(models["resnet"], folder, "freeze.depth=3", *VIEWS, "dataset.folds=2", "dataset.fold=1")
    cached, plain = (train([*given, f"runtime.cache={mode}"], tmp_path / mode) for mode in ("require", "off"))
    assert cached.metrics["eval/loss"] == pytest.approx(plain.metrics["eval/loss"], abs=1e-5)


def test_why_the_cache_is_off_is_said(frostline, in_tmp, models, folder):
    for more, reason in (
        (("dataset.augment=trivial", "dataset.views=null"), "each epoch draws new views of the images"),
        (("training.mixup=0.2",), "images are mixed (training.mixup)"),
    ):
        code, _, err = frostline(
            "run", *arguments(models["resnet"], folder, "freeze.depth=2", *more, "runtime.cache=require")
        )
        assert (code, f"runtime.cache=require: {reason}" in err) == (2, True), err
    assert not [RunResult.read(path.parent) for path in in_tmp.rglob("result.json") if "FINISHED" in path.read_text()]
