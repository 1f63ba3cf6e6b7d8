"""The config group `dataset`: which rows a run trains on and is evaluated on."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath

from frostline.errors import SpecError, listing
from frostline.spec.checks import finite, require
from frostline.spec.source import Source, check_source
from frostline.spec.task import Task

EVAL_SET, TEST_SET = "eval", "test"
"""What a run's own held-out rows are called where numbers are recorded: `eval/accuracy`, `test/accuracy`."""

RESERVED_SETS = frozenset(
    {EVAL_SET, TEST_SET, "train", "best", "by_depth", "cost", "trials", "drift", "params", "system"}
)
"""First parts of the names of other recorded numbers."""

_DATA_SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet"})


class Balance(StrEnum):
    """What is done about classes of unequal size, in the training rows alone."""

    NONE = "none"
    UNDERSAMPLE = "undersample"  # as many rows of each class
    WEIGHTS = "weights"  # all rows, each class with the same weight in the training loss


class Augment(StrEnum):
    """What is done to training images, at random."""

    NONE = "none"
    FLIP_CROP = "flip_crop"  # a crop of random place and size, resized; mirrored or not
    TRIVIAL = "trivial"  # TrivialAugment (Mueller & Hutter, ICCV 2021): one operation of random strength
    RANDAUGMENT = "randaugment"  # RandAugment (Cubuk et al. 2020): several operations of one strength


class MissingLabels(StrEnum):
    """What is done about rows without a label."""

    REFUSE = "refuse"
    DROP = "drop"
    NO_CLASS = "no_class"


class Format(StrEnum):
    """The form of a local data file; `auto` goes by its extension."""

    AUTO = "auto"
    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    CONLL = "conll"  # a word and its tag on a line, an empty line behind each sentence
    FOLDER = "folder"  # images: a folder of files for each class
    PIXELS = "pixels"  # small square grey images: a line of n x n values from 0 to 255, then the label


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetSpec:
    """Rows of text, or images, with a label, and how they are split. `conf/dataset/`.

    Attributes:
        name: Its name in run names and reports; None takes the last part of `location`.
        source: Where it comes from.
        location: `package`: the requirement; `path`: a file, or of images the folder; `hub`: the repository or a local
            folder of its layout.
        member: `package` only: the file inside; `a.tar.gz!b.txt` reaches into a nested archive.
        sha256: `package` only: of the whole file, as downloaded.
        revision: `hub` only.
        subset: `hub` only: the configuration name, for example `sst2` of `glue`.
        split: `hub` only: the split to train on.
        format: Form of the file.
        columns: Column names of a file without a header line; None: the first line holds them.
        separator: One character between the fields of CSV and TSV; None: a comma, or in TSV a tab.
        quoted: Whether `"` quotes fields of CSV and TSV; False takes it literally.
        escape: One character that takes its meaning from the one behind it, a backslash in CSV of MySQL and Spark;
            None: there is none, and a quote within quotes is doubled.
        text_column: Column of the text; with a class for each word, of the list of words (a text is cut at its spaces).
        pair_column: Column of the second text of a pair, or None.
        target_column: Tasks that generate: column of the text to be written, of which alone the loss is taken;
            `text_column` is then the prompt, or what is to be transformed. None: all of the text.
        messages_column: `causal_lm`: column of a conversation, a list of `role` and `content`; the loss is taken of the
            assistant's turns. None: rows are texts.
        image_column: Column of the image, or None: rows are texts. An image, or in a file of texts a path to one,
            relative to that file.
        label_column: Column of the label, or of the list of labels.
        task: What the label is.
        balance: Whether classes of unequal size are made equal in training: by leaving rows out, or by weights
            (rows / (classes x rows of the class)). The evaluation is as it is.
        label_separator: `multi_label` only: what stands between class names in a column of texts; columns of lists need
            none.
        missing_labels: Whether rows without a label (nothing, an empty text, NaN) are refused or left out, or with
            `multi_label` taken for rows of no class.
        label_names: Class names in the order of their ids; None derives them from the labels.
        threshold: Makes two classes of a rating: above it the second of `label_names`, else the first. None: no rule.
        dead_zone: Drops ratings whose distance to `threshold` is less than this.
        eval_from: The evaluation rows: a file (`path`) or a split (`hub`); None cuts `eval_fraction` off the rows.
        eval_fraction: Share of the rows that is held out, 0 < x < 1; ignored with `eval_from`.
        folds: Cross-validation: the rows that would train and evaluate are dealt into so many folds, stratified by
            class, equal texts into one; `fold` evaluates and the others train. None: no folds.
        fold: Which of them is held out, counted from 0.
        train_rows: How many rows of the seeded order to train on; None: all.
        eval_rows: How many rows of the seeded order to evaluate on; None: all.
        test_from: Test rows, apart from those that choices are made by: a file (`path`) or a split (`hub`).
        test_fraction: Share of the rows that is put aside as test rows, 0 < x < 1; the evaluation rows are the same
            with it and without. None with `test_from`, or without test rows.
        test_rows: How many test rows of the seeded order; None: all.
        test_at_end: Whether every run is scored on the test rows when it has ended; else only those that
            `frostline show --test` names.
        augment: What is done to training images, at random; images that a run is evaluated on stay as they are.
        views: How many fixed views each training image has, drawn from `seed` of this group; epoch e trains on view
            e mod `views`. None: each epoch has views of its own, drawn from the run's seed, and what frozen blocks
            compute can't be cached.
        crop_scale: `flip_crop`: least share of an image's area that a crop keeps, 0 < x <= 1.
        flip_probability: `flip_crop`: how often an image is mirrored, left to right.
        randaugment_ops: `randaugment`: how many operations an image goes through.
        randaugment_magnitude: `randaugment`: their strength, 0 < x < 30.
        also_evaluate: Other data sets, on whose evaluation rows a run is scored when it has ended.
        seed: Seeds the split and the row order. Apart from the run's `seed`, so that replicates over seeds see the
            same rows.
    """

    name: str | None
    source: Source
    location: str
    member: str | None
    sha256: str | None
    revision: str | None
    subset: str | None
    split: str
    format: Format
    columns: tuple[str, ...] | None
    quoted: bool
    text_column: str
    pair_column: str | None
    label_column: str
    task: Task
    label_names: tuple[str, ...] | None
    threshold: float | None
    dead_zone: float
    eval_from: str | None
    eval_fraction: float
    train_rows: int | None
    eval_rows: int | None
    seed: int
    test_from: str | None = None
    test_fraction: float | None = None
    test_rows: int | None = None
    test_at_end: bool = False
    also_evaluate: tuple[DatasetSpec, ...] = ()
    label_separator: str = ";"
    balance: Balance = Balance.NONE
    image_column: str | None = None
    folds: int | None = None
    fold: int = 0
    separator: str | None = None
    escape: str | None = None
    missing_labels: MissingLabels = MissingLabels.REFUSE
    target_column: str | None = None
    messages_column: str | None = None
    augment: Augment = Augment.NONE
    views: int | None = 8
    crop_scale: float = 0.5
    flip_probability: float = 0.5
    randaugment_ops: int = 2
    randaugment_magnitude: int = 9

    def __post_init__(self) -> None:
        check_source("dataset", self.source, self.location, self.sha256, self.member)
        require(0 < self.eval_fraction < 1, "dataset.eval_fraction", self.eval_fraction, "between 0 and 1")
        require(0 <= self.seed < 2**32, "dataset.seed", self.seed, "0 or more and below 2**32")
        for key, rows in (
            ("train_rows", self.train_rows), ("eval_rows", self.eval_rows), ("test_rows", self.test_rows),
        ):  # fmt: skip
            require(rows is None or rows >= 1, f"dataset.{key}", rows, "1 or more, or null for all rows")
        for key, sign in (("separator", self.separator), ("escape", self.escape)):
            fits = sign is None or (len(sign) == 1 and sign not in '"\r\n')
            require(fits, f"dataset.{key}", sign, "one character, no quote or line end, or null")
        require(finite(self.dead_zone) and self.dead_zone >= 0, "dataset.dead_zone", self.dead_zone, "0 or more")
        if self.threshold is not None:
            require(finite(self.threshold), "dataset.threshold", self.threshold, "a finite number, or null")
            if self.task.has_labels and not self.task.one_class_a_row:
                raise SpecError(
                    f"dataset.threshold makes two classes: set it to null with dataset.task={self.task.name}"
                )
        if self.label_names is not None:
            repeated = {name for name in self.label_names if self.label_names.count(name) > 1}
            if repeated:
                raise SpecError(f"dataset.label_names: {listing(repeated)} stands there more than once")
            if self.task.has_classes and len(self.label_names) < 2:
                raise SpecError("dataset.label_names: a classification needs two classes or more")
        if self.missing_labels is MissingLabels.NO_CLASS and not self.task.may_have_no_class:
            raise SpecError("dataset.missing_labels=no_class: is for dataset.task=multi_label")
        require(self.label_separator != "", "dataset.label_separator", "''", "a text, for example ';'")
        if self.balance is not Balance.NONE and not self.task.one_class_a_row:
            raise SpecError(f"dataset.balance={self.balance.value}: is for dataset.task=classification")
        self.task.check_dataset(self)
        self._check_images()
        self._check_augment()
        self._check_test()
        self._check_folds()
        self._check_others()

    @property
    def is_image(self) -> bool:
        """Whether rows are images."""
        return self.image_column is not None

    @property
    def content_columns(self) -> dict[str, str]:
        """The columns that a row's content is read from, by their key."""
        keys = ["image_column"] if self.is_image else ["text_column", "pair_column", "target_column"]
        keys = ["messages_column"] if self.messages_column is not None else keys
        return {key: getattr(self, key) for key in keys if getattr(self, key) is not None}

    @property
    def read_columns(self) -> dict[str, str]:
        """The columns that rows are read from, by their key: the content, and the label where rows have one."""
        return {**self.content_columns, **({"label_column": self.label_column} if self.task.has_labels else {})}

    @property
    def unit(self) -> str:
        """What a row holds, in a word."""
        return "image" if self.is_image else "text"

    @property
    def has_test(self) -> bool:
        """Whether some rows are put aside as test rows."""
        return self.test_from is not None or self.test_fraction is not None

    @property
    def short_name(self) -> str:
        """The name, or the last part of the location."""
        return self.name or last_part(self.location)

    def other_files(self) -> dict[str, str]:
        """Returns the files besides the data set's own, by the key that names them."""
        files = {"dataset.eval_from": self.eval_from, "dataset.test_from": self.test_from}
        return {key: path for key, path in files.items() if path is not None and self.source is not Source.HUB}

    def _check_images(self) -> None:
        for (key, column), (other, other_column) in itertools.combinations(self.read_columns.items(), 2):
            if column == other_column:
                raise SpecError(f"dataset.{key}={column}: dataset.{other} names the same column")
        if not self.task.generates and (self.target_column is not None or self.messages_column is not None):
            key = "target_column" if self.target_column is not None else "messages_column"
            raise SpecError(f"dataset.{key}: is for tasks that generate texts; dataset.task={self.task.name} does not")
        by_word = self.task.labels_words
        if (self.is_image or by_word) and self.pair_column is not None:
            what = "images" if self.is_image else "words with a class each"
            raise SpecError(f"dataset.pair_column={self.pair_column}: {what} come alone; set it to null")
        if self.is_image and by_word:
            raise SpecError(f"dataset.task={self.task.name}: an image has no words")
        if self.format is Format.CONLL and not by_word:
            raise SpecError("dataset.format=conll: has a class for each word; give dataset.task=token_classification")
        if self.format in {Format.FOLDER, Format.PIXELS} and not self.is_image:
            raise SpecError(f"dataset.format={self.format.value}: holds images; give dataset.image_column=image")

    def _check_augment(self) -> None:
        if self.augment is not Augment.NONE and not self.is_image:
            raise SpecError(f"dataset.augment={self.augment.value}: is for images; the rows are texts")
        views, scale, flip = self.views, self.crop_scale, self.flip_probability
        require(views is None or views >= 1, "dataset.views", views, "1 or more, or null for new ones each epoch")
        require(finite(scale) and 0 < scale <= 1, "dataset.crop_scale", scale, "above 0 and at most 1")
        require(finite(flip) and 0 <= flip <= 1, "dataset.flip_probability", flip, "0 to 1")
        require(1 <= self.randaugment_ops <= 10, "dataset.randaugment_ops", self.randaugment_ops, "1 to 10")
        magnitude = self.randaugment_magnitude
        require(0 < magnitude < 30, "dataset.randaugment_magnitude", magnitude, "above 0 and below 30")

    def _check_test(self) -> None:
        if self.test_fraction is not None:
            if self.test_from is not None:
                raise SpecError("dataset: give either dataset.test_from or dataset.test_fraction, null for the other")
            require(0 < self.test_fraction < 1, "dataset.test_fraction", self.test_fraction, "between 0 and 1, or null")
            held_out = self.test_fraction + (self.eval_fraction if self.eval_from is None else 0)
            if held_out >= 1:
                raise SpecError(
                    f"dataset.test_fraction={self.test_fraction} and dataset.eval_fraction={self.eval_fraction} leave "
                    "no rows to train on"
                )
        elif self.test_from is None and (self.test_at_end or self.test_rows is not None):
            key = "test_at_end" if self.test_at_end else "test_rows"
            raise SpecError(f"dataset.{key}: there are no test rows; give dataset.test_fraction or dataset.test_from")

    def _check_folds(self) -> None:
        if self.folds is None:
            require(self.fold == 0, "dataset.fold", self.fold, "0 where dataset.folds is null")
            return
        require(self.folds >= 2, "dataset.folds", self.folds, "2 or more, or null")
        require(0 <= self.fold < self.folds, "dataset.fold", self.fold, f"0 to {self.folds - 1}")
        if self.eval_from is not None:
            raise SpecError(
                f"dataset.folds={self.folds}: folds are dealt from the training rows, but dataset.eval_from="
                f"{self.eval_from} names rows to evaluate on; set dataset.eval_from=null"
            )

    def _check_others(self) -> None:
        names = [other.short_name for other in self.also_evaluate]
        for index, (name, other) in enumerate(zip(names, self.also_evaluate, strict=True)):
            where = f"dataset.also_evaluate[{index}]={name}"
            if name in RESERVED_SETS or not re.fullmatch(r"[\w.-]+", name):
                raise SpecError(
                    f"{where}: is no name to record numbers under; give it another dataset.name (letters, digits, "
                    f"_, -; not {listing(sorted(RESERVED_SETS))})"
                )
            if names.index(name) != index:
                raise SpecError(f"{where}: stands there more than once")
            if other.task is not self.task:
                raise SpecError(f"{where}: is a {other.task.name}, {self.short_name} a {self.task.name}")
            if other.is_image != self.is_image:
                raise SpecError(f"{where}: holds {other.unit}s, {self.short_name} holds {self.unit}s")
            if other.also_evaluate:
                raise SpecError(f"{where}: evaluates on others itself")


def last_part(location: str) -> str:
    """Returns what a location is called: a folder's or repository's last part, a file's name without its ending."""
    path = PurePath(location)
    return (path.stem if path.suffix in _DATA_SUFFIXES else path.name) or location
