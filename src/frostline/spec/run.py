"""The spec of a run: rules across groups, name, digest and JSON."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from frostline.errors import SpecError
from frostline.spec.checks import require
from frostline.spec.data import Augment, DatasetSpec, last_part
from frostline.spec.decode import decode
from frostline.spec.freeze import FreezeMethod
from frostline.spec.model import Init, ModelSpec
from frostline.spec.optimizer import OptimizerSpec
from frostline.spec.runtime import CacheMode, RuntimeSpec
from frostline.spec.source import Source
from frostline.spec.task import Stack, Task
from frostline.spec.training import TrainingSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Scalar = str | int | float | bool | None

SCHEMA_VERSION = 1
"""Version of the recorded form of a `RunSpec`. Records of every release are opened for ever: `tests/assets`."""


def check_schema(version: object) -> None:
    """Checks the version of a recorded spec.

    Raises:
        SpecError: This frostline does not read it.
    """
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise SpecError(f"the recorded spec has schema {version}, this frostline reads {SCHEMA_VERSION}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSpec:
    """Everything that determines a run.

    Equal specs on like hardware give equal numbers, on as many threads and processes and with the prefix cache or
    without: these are part of `runtime`, may be left to the machine, and are recorded in the result.
    """

    model: ModelSpec
    dataset: DatasetSpec
    freeze: FreezeMethod
    optimizer: OptimizerSpec
    training: TrainingSpec
    runtime: RuntimeSpec
    seed: int

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "seed", self.seed, "0 or more and below 2**32")
        self.check_depth(self.model.num_blocks)
        if self.model.init is Init.RANDOM and self.freeze.name != "none":
            raise SpecError("model.init=random: what is frozen would stay random; give freeze=none")
        self._check_phases()
        self._check_quantize()
        self._check_loss()
        batch_size, processes = self.training.batch_size, self.runtime.num_processes
        if batch_size % processes:
            raise SpecError(
                f"training.batch_size={batch_size}: {processes} processes (runtime.num_processes) can't share it "
                f"evenly; give a multiple of {processes}"
            )

    def _check_quantize(self) -> None:
        kind = self.model.quantize
        if kind is None:
            return
        where = f"model.quantize={kind.value}"
        if self.dataset.is_image:
            raise SpecError(f"{where}: is for models of texts")
        if self.freeze.first_phase is not None:
            raise SpecError(f"{where}: with freeze={self.freeze.name} what is frozen changes; give freeze=depth")
        if self.runtime.cache.mode is CacheMode.OFF:
            raise SpecError(f"{where}: computes the hidden states of frozen blocks once; give runtime.cache=auto")
        if self.runtime.num_processes > 1:
            raise SpecError(f"{where}: is for one process; give runtime.num_processes=1")

    def _check_loss(self) -> None:
        if self.training.mixup and not self.dataset.is_image:
            raise SpecError(f"training.mixup={self.training.mixup:g}: is for images; the rows are texts")
        if self.training.packing and not self.dataset.task.packs_rows:
            raise SpecError(f"training.packing=true: is for dataset.task=causal_lm, not {self.dataset.task.name}")
        target, task = self.training.max_target_tokens, self.dataset.task
        if target is not None and not (task.generates and Stack.ENCODER in task.stacks):
            raise SpecError(f"training.max_target_tokens={target}: is for dataset.task=seq2seq, not {task.name}")
        if self.training.generate_rows is not None and self.dataset.target_column is None:
            raise SpecError(
                f"training.generate_rows={self.training.generate_rows}: what is written is compared with "
                "dataset.target_column, which is null"
            )
        if self.training.label_smoothing and not self.dataset.task.smooths_labels:
            raise SpecError(
                f"training.label_smoothing={self.training.label_smoothing:g}: dataset.task={self.dataset.task.name} "
                "has no one class that could be smoothed; give 0"
            )

    def check_depth(self, num_blocks: int | None) -> None:
        """Checks what `freeze` counts against the number of blocks of the model.

        Raises:
            SpecError: There are fewer.
        """
        if num_blocks is not None:
            self.freeze.check(num_blocks, self.model_name)

    def _check_phases(self) -> None:
        if self.freeze.first_phase is None:
            return
        name, (key, epochs) = self.freeze.name, self.freeze.first_phase
        if self.runtime.num_processes > 1:
            raise SpecError(f"freeze={name}: what is trained changes, which several processes can't follow yet; "
                            "give runtime.num_processes=1")  # fmt: skip
        if self.training.frozen_dropout:
            raise SpecError(f"freeze={name}: with training.frozen_dropout=true it is not defined; give false")
        if self.training.epochs is not None and self.training.epochs <= epochs:
            raise SpecError(
                f"training.epochs={self.training.epochs:g}: with freeze={name} the head alone takes the first {epochs} "
                f"(freeze.{key}); give more epochs"
            )

    @property
    def model_name(self) -> str:
        """The model's name, or the last part of its location."""
        return self.model.name or last_part(self.model.location)

    @property
    def dataset_name(self) -> str:
        """The dataset's name, or the last part of its location."""
        return self.dataset.short_name

    def name(self) -> str:
        """Returns the run's name: its coordinates, for example `d4-lr1e-04-s0-minilm-movie_reviews`."""
        parts = (
            self.freeze.label(),
            f"lr{short_number(self.optimizer.lr)}",
            f"s{self.seed}",
            self.model_name,
            self.dataset_name,
        )
        return "-".join(re.sub(r"[^\w.+-]+", "_", part) for part in parts)

    def to_dict(self) -> dict[str, Any]:
        """Returns the spec as nested dicts of JSON values."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    def to_json(self) -> str:
        """Returns the recorded form: JSON with the schema version."""
        return json.dumps({"schema": SCHEMA_VERSION, **self.to_dict()}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunSpec:
        """Builds a spec from nested dicts, as `to_dict` and a composed config hold them.

        Raises:
            SpecError: A key is unknown or missing, a type is wrong, a value is out of range.
        """
        return decode(cls, data)

    def flat(self) -> dict[str, Scalar]:
        """Returns dotted coordinates, for example `{'freeze.depth': 4}`: the names that trackers and reports use."""
        return dict(_flatten("", self))

    def without_places(self) -> RunSpec:
        """Returns the spec without the paths of local files and folders: content distinguishes runs, not location.

        Hashes of the content are compared beside it (`record.INPUTS`).
        """
        model = replace(self.model, location=_HERE) if self.model.source is Source.PATH else self.model
        return replace(self, model=model, dataset=_without_places(self.dataset))

    def digest(self) -> str:
        """Returns the sha256 of everything but `runtime` and local paths: where it ran is not what it was."""
        data = {key: value for key, value in self.without_places().to_dict().items() if key != "runtime"}
        data["model"] = _added(data["model"], _MODEL)
        data = {**data, "dataset": _as_first_recorded(data["dataset"]), "training": _added(data["training"], _TRAINING)}
        text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


_TRAINING: dict[str, Any] = {
    "eval_steps": None, "patience": None, "gradient_checkpointing": False, "label_smoothing": 0.0, "mixup": 0.0,
    "packing": False, "max_target_tokens": None, "generate_rows": None,
}  # fmt: skip
"""Keys that records of 0.1 have not, and the values by which a run is what it was without them."""

_MODEL: dict[str, Any] = {"quantize": None}
_DATASET: dict[str, Any] = {"target_column": None, "messages_column": None}
_AUGMENT = (
    "augment", "views", "crop_scale", "flip_probability", "randaugment_ops", "randaugment_magnitude",
)  # fmt: skip
"""Keys of augmentation, which decide nothing without any."""


def is_as_before(key: str, values: Mapping[str, Any]) -> bool:
    """Returns whether a key that records of 0.1 have not has a value by which a run is what it was without it.

    Args:
        key: Dotted.
        values: Of all keys, by their dotted names.
    """
    group, _, name = key.partition(".")
    if group == "dataset" and name in _AUGMENT:
        return bool(values.get("dataset.augment") == Augment.NONE.value)
    added: dict[str, dict[str, Any]] = {"training": _TRAINING, "dataset": _DATASET, "model": _MODEL}
    neutral = added.get(group, {})
    return name in neutral and values.get(key) == neutral[name]


def _added(data: dict[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out keys that were added later where they change nothing: a run's digest stays what it was."""
    return {key: value for key, value in data.items() if key not in keys or value != keys[key]}


def _as_first_recorded(data: dict[str, Any]) -> dict[str, Any]:
    """Returns a data set's keys as its digest takes them."""
    data = _added(data, _DATASET)
    if data["augment"] == Augment.NONE.value:
        data = {key: value for key, value in data.items() if key not in _AUGMENT}
    return {**data, "also_evaluate": [_as_first_recorded(each) for each in data["also_evaluate"]]}


_HERE = "."
"""Stands for a local path."""


def _without_places(spec: DatasetSpec) -> DatasetSpec:
    if spec.source is Source.HUB:
        return spec
    return replace(
        spec,
        location=_HERE if spec.source is Source.PATH else spec.location,
        eval_from=None if spec.eval_from is None else _HERE,
        test_from=None if spec.test_from is None else _HERE,
        also_evaluate=tuple(replace(_without_places(each), name=each.short_name) for each in spec.also_evaluate),
    )


def short_number(value: float) -> str:
    """Returns a number in the short scientific form of run names: `1e-04`, `3.2e-04`."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{exponent}"


def spec_diff(old: RunSpec, new: RunSpec) -> list[str]:
    """Returns `key: old -> new` for each coordinate that differs, `runtime` and local paths left out."""
    before, after = old.without_places().flat(), new.without_places().flat()
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if not key.startswith("runtime.") and before.get(key) != after.get(key)
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return _by_name(value)


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, Scalar]]:
    if is_dataclass(value):
        for field in fields(value):
            yield from _flatten(f"{prefix}.{field.name}" if prefix else field.name, getattr(value, field.name))
    elif isinstance(value, tuple):
        yield prefix, ",".join(each.short_name if isinstance(each, DatasetSpec) else str(each) for each in value)
    else:
        yield prefix, _by_name(value)


def _by_name(value: Any) -> Any:
    """Returns a choice as a config names it; any other value as it is."""
    if isinstance(value, Task):
        return value.name
    return value.value if isinstance(value, StrEnum) else value
