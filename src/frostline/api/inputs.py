"""Models and rows that a program holds, as the overrides of a config that names them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from frostline import paths
from frostline.api.models import store_model
from frostline.api.tables import StoredTable, store
from frostline.config.own_files import is_file, own_folder
from frostline.errors import DataError, SpecError, listing, nearest
from frostline.spec import TASKS
from frostline.sweeps.params import encode

_COLUMNS = ("text", "pair", "image", "label")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows and their columns, as a caller names them.

    Attributes:
        train: To train on: see `frostline.run`.
        evaluate: To be evaluated on; None: a part of `train` is held out.
        text: Column of the text.
        pair: Column of the second text of a pair.
        image: Column of the image.
        label: Column of the label.
        task: What the label is.
    """

    train: Any = None
    evaluate: Any = None
    text: str | None = None
    pair: str | None = None
    image: str | None = None
    label: str | None = None
    task: str | None = None

    def overrides(self, others: Sequence[str] = ()) -> list[str]:
        """Returns the overrides that name them.

        Args:
            others: The caller's own, which may name columns, too.

        Raises:
            DataError: They are no table, or have no such column.
        """
        for argument in (*_COLUMNS, "task"):
            if not isinstance(getattr(self, argument), (str, NoneType)):
                raise DataError(f"{argument}: give one name, not {getattr(self, argument)!r}")
        values: dict[str, Any] = {}
        words: list[str] = []
        classes: Mapping[str, Sequence[str]] = {}
        if self.train is None and self.evaluate is not None:
            raise DataError("evaluate: give train, too: the rows to train on")
        if self.train is None and (key := next((key for key in _COLUMNS if getattr(self, key) is not None), None)):
            raise DataError(f"{key}: names a column of train, which is not given; give train=, the rows to train on")
        if self.train is not None:
            group, location, table = self._source(self.train, "train")
            words.append(f"dataset={group}")
            if location is not None:
                values["dataset.location"] = location
            if table is not None:
                classes = table.class_names
                self._check_label(table.columns, others)
        if self.evaluate is not None:
            _, location, _ = self._source(self.evaluate, "evaluate")
            if location is None:
                raise DataError(f"evaluate={self.evaluate}: no such file; give a file or a table")
            values["dataset.eval_from"] = location
        names = {"text_column": self.text, "pair_column": self.pair, "image_column": self.image}
        values |= {f"dataset.{key}": name for key, name in names.items() if name is not None}
        if self.label is not None:
            values["dataset.label_column"] = self.label
        if self.task is not None:
            values["dataset.task"] = self.task
            if (paths.conf_dir() / "training" / f"{self.task}.yaml").is_file():
                words.append(f"training={self.task}")
        words += encode(values)
        if names_of_classes := classes.get(self.label or "label"):
            words.append(f"dataset.label_names=[{','.join(_quoted(name) for name in names_of_classes)}]")
        return words

    def _check_label(self, columns: Sequence[str], others: Sequence[str]) -> None:
        """Refuses a table in memory in which nobody says where the label is.

        Raises:
            DataError: It has no column `label`.
        """
        is_named = self.label is not None or any(word.startswith("dataset.label_column=") for word in others)
        named = [self.task, *(word.partition("=")[2] for word in others if word.startswith("dataset.task="))]
        has_labels = all(TASKS.get(name).has_labels for name in named if name and name in TASKS)
        if has_labels and not is_named and "label" not in columns:
            raise DataError(f"label: name the column of the label; train has {listing(columns)}")

    def _source(self, rows: Any, argument: str) -> tuple[str, str | None, StoredTable | None]:
        """Returns the dataset's group, its location if it has one of its own, and the table, if the rows are one."""
        if isinstance(rows, (str, os.PathLike)):
            return (*_named(rows, argument), None)
        table = store(rows, argument)
        for key in _COLUMNS:
            name = getattr(self, key)
            if name is not None and name not in table.columns:
                raise DataError(
                    f"{key}={name}: {argument} has no such column{nearest(name, table.columns)}; it has "
                    f"{listing(table.columns)}"
                )
        return "parquet", str(table.path), table


def _named(source: str | os.PathLike[str], argument: str) -> tuple[str, str | None]:
    """Returns the dataset's group and location of a file, a folder of images, or a ready-made data set."""
    path = Path(source).expanduser()
    if is_file(str(source)):
        return str(source), None
    if path.is_dir():
        return "image_folder", str(source)
    if path.suffix or path.exists():
        group = {".tsv": "tsv", ".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet"}.get(path.suffix, "csv")
        return group, str(source)
    known = _choices("dataset")
    if str(source) in known:
        return str(source), None
    raise DataError(
        f"{argument}={source}: no such file, and no ready-made data set{nearest(str(source), known)}; "
        f"there are {listing(known)}"
    )


def _choices(group: str) -> list[str]:
    """Returns the choices of a group: frostline's, and those in the folder that FROSTLINE_CONFIG_DIR names."""
    own = own_folder()
    folders = [paths.conf_dir(), *([] if own is None else [own])]
    return sorted({each.stem for folder in folders for each in (folder / group).glob("*.yaml")})


def list_of(overrides: Any) -> list[str]:
    """Returns overrides as a list.

    Raises:
        SpecError: They are one text, or no texts.
    """
    if isinstance(overrides, (str, Mapping)) or not all(isinstance(word, str) for word in overrides):
        raise SpecError("overrides: give a list of texts, for example ['training.epochs=2', 'freeze.depth=3']")
    return list(overrides)


def model_overrides(model: Any, tokenizer: Any = None) -> list[str]:
    """Returns the overrides that name a model.

    Args:
        model: The name of a ready-made one, a config file, a folder, `OWNER/NAME` on the hub, or a model of
            transformers; None: the config's default.
        tokenizer: Of a model of transformers, its tokenizer or image processor; None: that of the folder or repository
            it was loaded from.

    Raises:
        SpecError: No model has this name.
        ModelError: It is no model of transformers, or it can't be saved.
    """
    if model is None:
        return []
    if not isinstance(model, (str, os.PathLike)):
        return ["model=path", *encode({"model.location": str(store_model(model, tokenizer))})]
    if tokenizer is not None:
        raise SpecError(f"tokenizer: is for a model in memory; {model} brings its own")
    path = Path(model).expanduser()
    if is_file(str(model)):
        return [f"model={model}"]
    if path.is_dir() or isinstance(model, os.PathLike):
        return ["model=path", *encode({"model.location": str(model)})]
    known = _choices("model")
    if model in known:
        return [f"model={model}"]
    if model.count("/") == 1 and model[0] not in "./~":
        return ["model=hub", *encode({"model.location": model})]
    raise SpecError(
        f"model={model}: no such folder, and no ready-made model{nearest(model, known)}; there are {listing(known)}"
    )


def _quoted(text: str) -> str:
    return encode({"": text})[0].removeprefix("=")
