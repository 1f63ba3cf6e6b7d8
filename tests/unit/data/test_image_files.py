"""Images: read, split, made into pixels; what is wrong with them is said in one line."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from frostline import assets
from frostline.config import compose_run
from frostline.data.image_files import read_images, read_pixels
from frostline.data.load import load_rows
from frostline.data.pixel_table import ImageInput, pixel_tables
from frostline.errors import DataError, SpecError
from frostline.models.processors import load_image_processor
from frostline.train.inputs import load_processor
from tests.support.pictures import save_images, save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_images(tmp_path_factory.mktemp("images") / "tones")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    home = tmp_path_factory.mktemp("image-models")
    return {kind: save_model(kind, home / kind) for kind in ("vit", "resnet", "convnext")}


def spec_of(location, *overrides):
    return compose_run(["dataset=image_folder", f"dataset.location={location}", *overrides]).dataset


def rows_of(location, cache, *overrides):
    spec = spec_of(location, *overrides)
    return load_rows(spec, lambda other: Path(other or spec.location), cache)


def test_a_folder_of_images(folder):
    raw = read_images(folder)
    assert raw.table.features["label"].names == ["dark", "light"]
    assert len(raw.table) == 40
    again = read_images(folder)
    assert again.fingerprint == raw.fingerprint


def test_what_images_are_counts_not_where_they_lie_or_their_times(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    rows, same = rows_of(folder, tmp_path), rows_of(copy, tmp_path)
    assert rows.fingerprint == same.fingerprint
    assert rows.label_names == ("dark", "light")
    assert (len(rows.train), len(rows.evaluation)) == (32, 8)
    Image.new("RGB", (30, 30), (9, 9, 9)).save(copy / "dark" / "000.png")
    assert rows_of(copy, tmp_path).fingerprint != rows.fingerprint


def test_the_same_image_twice_stays_on_one_side(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    for number in range(20):
        shutil.copyfile(copy / "dark" / f"{number:03d}.png", copy / "dark" / f"again-{number:03d}.png")
    rows = rows_of(copy, tmp_path)
    assert rows.report["overlap"] == 0
    assert rows.report["duplicates"]["train"] > 0
    assert any("repeat another's image" in warning for warning in rows.warnings)


def test_a_table_that_names_files(folder, tmp_path):
    lines = [f"{path.relative_to(folder).as_posix()},{path.parent.name}" for path in sorted(folder.rglob("*.png"))]
    shutil.copytree(folder, tmp_path / "set")
    table = tmp_path / "set" / "labels.csv"
    table.write_text("file,kind\n" + "\n".join(lines), encoding="utf-8")
    chosen = ("dataset=csv", f"dataset.location={table}", "dataset.image_column=file", "dataset.label_column=kind")
    spec = compose_run(list(chosen)).dataset
    rows = load_rows(spec, lambda other: table, tmp_path / "cache")
    assert len(rows.train) == 32
    (tmp_path / "set" / "dark" / "001.png").unlink()
    with pytest.raises(DataError, match=r"row 2: the image can't be read: .*001.png: No such file"):
        load_rows(spec, lambda other: table, tmp_path / "cache")


@pytest.mark.parametrize("kind", ["vit", "resnet", "convnext"])
def test_pixels_are_the_image_processors_to_the_bit(folder, models, tmp_path, kind):
    rows = rows_of(folder, tmp_path)
    processor = load_image_processor(models[kind])
    images = ImageInput(processor=processor, sha256="x", channels=3)
    table = pixel_tables({"eval": (rows.evaluation, "y")}, images, tmp_path)["eval"]
    decoded = rows.evaluation.cast_column("image", datasets.Image())
    numbers = [3, 0, 7]
    expected = processor(images=[decoded[n]["image"].convert("RGB") for n in numbers])["pixel_values"]
    found = table.inputs(numbers)["pixel_values"].numpy()
    assert found.dtype == np.float32
    assert np.array_equal(found, np.stack(expected).astype(np.float32))
    assert table.labels.tolist() == rows.evaluation["labels"]
    assert table.scale is not None, "bytes are enough for it"
    [kept] = tmp_path.glob("*.arrow")
    inode = kept.stat().st_ino
    again = pixel_tables({"eval": (rows.evaluation, "y")}, images, tmp_path)["eval"]
    assert kept.stat().st_ino == inode, "made once"
    assert np.array_equal(again.inputs(numbers)["pixel_values"].numpy(), found)


def test_a_processor_that_does_more_than_scale_is_kept_in_floats(folder, models, tmp_path):
    rows = rows_of(folder, tmp_path)
    processor = load_image_processor(models["vit"])

    class Odd(type(processor)):
        def rescale(self, image, scale, **kwargs):
            return super().rescale(image, scale, **kwargs) - 0.25

    odd = Odd(**{key: value for key, value in processor.to_dict().items() if key != "image_processor_type"})
    images = ImageInput(processor=odd, sha256="odd", channels=3)
    table = pixel_tables({"eval": (rows.evaluation, "y")}, images, tmp_path)["eval"]
    decoded = rows.evaluation.cast_column("image", datasets.Image())
    expected = odd(images=[decoded[1]["image"].convert("RGB")])["pixel_values"][0]
    assert table.scale is None
    assert np.array_equal(table.inputs([1])["pixel_values"][0].numpy(), np.asarray(expected, dtype=np.float32))


def test_grey_for_a_model_of_one_channel(folder, models, tmp_path):
    rows = rows_of(folder, tmp_path)
    processor = load_image_processor(models["vit"])
    processor.image_mean, processor.image_std = [0.5], [0.5]
    images = ImageInput(processor=processor, sha256="x", channels=1)
    table = pixel_tables({"eval": (rows.evaluation, "y")}, images, tmp_path)["eval"]
    assert table.inputs([0])["pixel_values"].shape == (1, 1, 32, 32)


def test_trouble_with_images_is_one_line(folder, models, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "dark" / "notes.txt").write_text("no image")
    assert read_images(copy).notes == ("files that are no images, which were left out: 1",)
    (copy / "dark" / "000.png").write_bytes(b"\x89PNG broken")
    rows = rows_of(copy, tmp_path)
    images = ImageInput(processor=load_image_processor(models["vit"]), sha256="x", channels=3)
    part = {name: (table, name) for name, table in (("train", rows.train), ("eval", rows.evaluation))}
    with pytest.raises(DataError, match=r"dark/000\.png: is no image that can be read"):
        pixel_tables(part, images, tmp_path)
    Image.new("RGB", (9, 9)).save(copy / "loose.png")
    with pytest.raises(DataError, match=r"loose\.png: lies outside of its class's folder"):
        read_images(copy)
    (copy / "loose.png").unlink()
    (copy / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no images"):
        read_images(copy)
    splits = tmp_path / "splits"
    shutil.copytree(folder, splits / "train")
    shutil.copytree(folder, splits / "test")
    with pytest.raises(DataError, match=r"holds splits.*dataset.location=.*train dataset.eval_from=.*test"):
        read_images(splits)
    with pytest.raises(DataError, match="holds no folders"):
        read_images(folder / "dark")


def test_pixels_of_text(tmp_path):
    good = "0,255,7,9,one\n1,2,3,4,two\n"
    path = tmp_path / "small.csv.gz"
    path.write_bytes(gzip.compress(good.encode()))
    raw = read_pixels(path)
    image = raw.table.cast_column("image", datasets.Image())[0]["image"]
    assert np.asarray(image).tolist() == [[0, 255], [7, 9]]
    assert raw.table["label"][:] == ["one", "two"]
    plain = tmp_path / "small.csv"
    for text, message in (
        ("0,255,7,9,one\n1,2,3,two\n", "line 2: has 4 fields, not 5 of the first line"),
        ("0,255,7\n", "line 1: has 3 fields, not n x n pixels and a label"),
        ("0,256,7,9,one\n", "line 1: a pixel is no whole number from 0 to 255"),
        ("0,x,7,9,one\n", "line 1: could not convert"),
        ("", "holds no rows"),
    ):
        plain.write_text(text)
        with pytest.raises(DataError, match=message):
            read_pixels(plain)


def test_images_and_texts_do_not_mix():
    with pytest.raises(SpecError, match="images come alone"):
        spec_of("x", "dataset.pair_column=b")
    with pytest.raises(SpecError, match="holds images; give dataset.image_column"):
        spec_of("x", "dataset.image_column=null")
    with pytest.raises(SpecError, match="also_evaluate.*holds images, movie_reviews holds texts"):
        compose_run(["dataset=movie_reviews", "dataset.also_evaluate=[mnist_5k]"])


def test_pixels_that_were_used_longest_ago_go_first(folder, models, tmp_path, frostline):
    rows = rows_of(folder, tmp_path / "rows")
    images = ImageInput(processor=load_image_processor(models["vit"]), sha256="x", channels=3)
    kept = assets.pixels_folder()
    kept.mkdir(parents=True)
    old, new = (pixel_tables({"eval": (rows.evaluation, name)}, images, kept)["eval"] for name in ("old", "new"))
    os.utime(old.path, (1, 1))
    size = assets.pixels_bytes()
    assert assets.trim_pixels(size) == 0
    assert assets.trim_pixels(size - 1) == size // 2
    assert (old.path.exists(), new.path.exists()) == (False, True)
    assert old.inputs([0])["pixel_values"].shape == (1, 3, 32, 32), "open readers are not disturbed"
    assert assets.trim_pixels(0, {new.path}) == 0
    assert "MB of images, decoded and resized" in frostline("list", "cache")[1]
    assert "MB of images from" in frostline("prune", "--cache")[1]
    assert not new.path.exists()


def test_what_pillow_would_clip_without_a_word_is_refused(folder, models, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    deep = Image.fromarray((np.arange(40 * 40, dtype=np.uint16) * 40).reshape(40, 40))
    deep.save(copy / "dark" / "000.png")
    rows = rows_of(copy, tmp_path)
    images = ImageInput(processor=load_image_processor(models["vit"]), sha256="x", channels=3)
    part = {name: (table, name) for name, table in (("train", rows.train), ("eval", rows.evaluation))}
    with pytest.raises(DataError, match=r"dark/000\.png: has more than 8 bits a channel \(Pillow's mode I;16\)"):
        pixel_tables(part, images, tmp_path)


def test_ratings_of_images_in_a_table_may_drop_rows(folder, tmp_path):
    """Images inside of the table are not copied; rows within the dead zone go with their images."""
    paths = sorted(folder.rglob("*.png"))[:30]
    features = datasets.Features({"img": datasets.Image(), "stars": datasets.Value("float32")})
    rows = {
        "img": [{"bytes": path.read_bytes(), "path": path.name} for path in paths],
        "stars": [float(index % 5) for index in range(30)],
    }
    file = tmp_path / "rated.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
    given = ["dataset.image_column=img", "dataset.label_column=stars", "dataset.threshold=2", "dataset.dead_zone=0.5"]
    given += ["dataset.label_names=[bad,good]", "dataset=parquet", f"dataset.location={file}"]
    found = load_rows(compose_run(given).dataset, lambda other: file, tmp_path / "cache")
    assert found.report["rows_dropped"] == 6
    kept = {bytes(row["image"]["bytes"]): row["labels"] for part in (found.train, found.evaluation) for row in part}
    assert kept == {path.read_bytes(): int(n % 5 > 2) for n, path in enumerate(paths) if n % 5 != 2}


def classes(rows):
    """Folder and recorded class of every image."""
    return {
        (Path(row["image"]["path"]).parent.name, rows.label_names[row["labels"]])
        for part in (rows.train, rows.evaluation)
        for row in part
    }


def test_folders_that_are_called_by_numbers(tmp_path):
    """In the order of texts `10` comes before `2`: an id is no name."""
    folder = save_images(tmp_path / "digits", each=6, classes=tuple(map(str, range(11))))
    found = rows_of(folder, tmp_path / "cache")
    assert classes(found) == {(name, name) for name in map(str, range(11))}


def test_classes_are_found_by_name_in_every_folder(tmp_path):
    """A held-out folder that lacks a class, and names in another order."""
    train = save_images(tmp_path / "train", each=8, classes=("cat", "dog", "fox"))
    test = save_images(tmp_path / "test", each=8, classes=("dog", "fox"), seed=1)
    for more in ([], ["dataset.label_names=[fox,dog,cat]"]):
        found = rows_of(train, tmp_path / "cache", f"dataset.eval_from={test}", *more)
        assert classes(found) == {(name, name) for name in ("cat", "dog", "fox")}


def test_class_labels_of_two_files_may_count_otherwise(tmp_path):
    rows, files = {"text": [f"{name} {n}" for name in ("cat", "dog", "fox") for n in range(8)]}, []
    for names in (["cat", "dog", "fox"], ["fox", "cat", "dog"]):
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
        labels = [text.split()[0] for text in rows["text"]]
        path = tmp_path / f"{names[0]}.parquet"
        datasets.Dataset.from_dict({**rows, "label": labels}, features=features).to_parquet(path)
        files.append(path)
    spec = compose_run(["dataset=parquet", f"dataset.location={files[0]}", f"dataset.eval_from={files[1]}"]).dataset
    found = load_rows(spec, lambda other: Path(other or spec.location), tmp_path / "cache")
    assert found.label_names == ("cat", "dog", "fox")
    for part in (found.train, found.evaluation):
        assert all(found.label_names[row["labels"]] == row["text"].split()[0] for row in part)


def test_links_to_folders_are_followed_and_names_may_be_any(tmp_path):
    folder = save_images(tmp_path / "set", each=6)
    (tmp_path / "elsewhere").mkdir()
    for number in range(4):
        source = folder / "dark" / f"{number:03d}.png"
        shutil.copyfile(source, tmp_path / "elsewhere" / f"x{number}.png")
    (folder / "dark" / "part").symlink_to(tmp_path / "elsewhere")
    assert len(read_images(folder).table) == 16
    odd = os.fsencode(folder / "dark") + b"/caf\xe9.png"
    shutil.copyfile(folder / "dark" / "000.png", odd)
    with pytest.raises(DataError, match="the name of a file in it is not UTF-8"):
        read_images(folder)


@pytest.mark.slow
def test_what_the_processor_does_counts_not_the_file_that_says_so(folder, models, tmp_path):
    """transformers lets processor_config.json override the other file: pixels of before are not those of now."""
    model = shutil.copytree(models["vit"], tmp_path / "model")
    spec = compose_run(
        ["model=path", f"model.location={model}", "dataset=image_folder", f"dataset.location={folder}", "freeze=none"]
    )
    first, one = load_processor(spec, model)
    own = json.loads((model / "preprocessor_config.json").read_text())
    (model / "processor_config.json").write_text(json.dumps({"image_processor": {**own, "resample": 0}}))
    second, two = load_processor(spec, model)
    assert second.processor.resample == 0
    assert one != two
    (model / "preprocessor_config.json").unlink()
    assert load_processor(spec, model)[1] == two


def test_a_processor_that_can_not_take_the_images_is_one_line(folder, models, tmp_path):
    processor = load_image_processor(models["vit"])
    images = ImageInput(processor=processor, sha256="x", channels=1)  # its mean is of three channels
    rows = rows_of(folder, tmp_path)
    with pytest.raises(DataError, match="image processor can't take the images: mean must have 1 elements"):
        pixel_tables({"eval": (rows.evaluation, "y")}, images, tmp_path)


def test_the_same_held_out_images_are_kept_once(folder, tmp_path):
    few, many = (rows_of(folder, tmp_path, f"dataset.train_rows={count}") for count in (10, 20))
    assert few.identities["eval"] == many.identities["eval"]
    assert few.identities["train"] != many.identities["train"]
