"""Owns: a run's frozen prefix from the cache - whether, which files, which batches. Must not know: Trainer."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from frostline import assets
from frostline.anatomy import Anatomy
from frostline.dataset import Tokenized
from frostline.errors import UserError
from frostline.prefix.provide import Prefix, Table, is_there, num_bytes, provide, rows_sha256
from frostline.prefix.store import PREFIX_FOLDER, CacheError, PrefixStore, Rows
from frostline.prefix.suffix import HIDDEN, Suffix, hidden_size, read_position
from frostline.record import Sharing
from frostline.spec import CacheMode, Every, Precision, RunSpec
from frostline.train.device import Machine

log = logging.getLogger(__name__)

OFF = "off"
"""What a run without the cache says of it."""

_ROW = "row"
_ALIKE = 1e-4
_ALIKE_HALF = 5e-2
"""How far logits may be apart, of their size: seen are 1e-7 in fp32 where padding is masked, 1e-1 where it is not."""

_PAYS_FROM = 1.5
"""Passes over the rows that one filling must save (assumed: filling also writes, and is sorted by length)."""


@dataclass(frozen=True, kw_only=True)
class Cached:
    """A run that begins at its frozen depth.

    Attributes:
        suffix: Attached: the model wants hidden states.
        tables: With the number of each row.
        collate: Rows to batches with hidden states.
        facts: For the run's provenance.
    """

    suffix: Suffix
    tables: Tokenized
    collate: Collator
    facts: str


class Collator:
    """Pads rows and adds their hidden states.

    Args:
        pad: Pads token ids.
        train: Hidden states of the training rows.
        evaluation: Of the held-out rows, whose numbers are -1, -2, ...
        position: `first` or `last` if only what the head reads is there: rows are cut to that one token.
    """

    def __init__(self, pad: DataCollatorWithPadding, train: Rows, evaluation: Rows, position: str | None) -> None:
        self._pad = pad
        self._train = train
        self._evaluation = evaluation
        self._position = position

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Returns a batch: the tokenizer's columns `[B, T]`, labels `[B]` and hidden states `[B, T, D]`."""
        hidden = [self._hidden(int(feature[_ROW])) for feature in features]
        batch: dict[str, Any] = dict(self._pad([self._inputs(feature) for feature in features]))
        size, length = batch["input_ids"].shape
        states = torch.zeros(size, length, hidden[0].shape[1])
        view = states.numpy()
        for index, rows in enumerate(hidden):
            view[index, : len(rows)] = rows
        batch[HIDDEN] = states
        return batch

    def _hidden(self, row: int) -> np.ndarray[Any, Any]:
        return self._train[row] if row >= 0 else self._evaluation[-1 - row]

    def _inputs(self, feature: Mapping[str, Any]) -> dict[str, Any]:
        inputs = {key: value for key, value in feature.items() if key != _ROW}
        if self._position is not None:
            keep = slice(0, 1) if self._position == "first" else slice(-1, None)
            inputs = {key: value[keep] if isinstance(value, list) else value for key, value in inputs.items()}
        return inputs


def open_cache(
    spec: RunSpec,
    machine: Machine,
    anatomy: Anatomy,
    depth: int | None,
    tokenizer: PreTrainedTokenizerBase,
    tables: Tokenized,
    facts: Mapping[str, Any],
    sharing: Sharing,
    begun: str | None,
    alive: Callable[[], None],
) -> Cached | None:
    """Lets a run begin at its frozen depth, if `runtime.cache` wants that and it can be had.

    Args:
        spec: The run.
        machine: Device and precision, decided.
        anatomy: The model, frozen, on the CPU.
        depth: How many blocks are frozen; None: nothing is.
        tokenizer: Of the model.
        tables: Tokenized rows.
        facts: Hashes of weights and tokenizer, versions: what the prefix depends on.
        sharing: Who else will want it.
        begun: What the run that is gone on with said of its prefix, `Cached.facts` or `OFF`: it goes on in the same
            bits. None: none is gone on with.
        alive: Called now and then while hidden states are computed or waited for.

    Raises:
        UserError: `runtime.cache=require`, and it can't be had.
    """
    mode = spec.runtime.cache.mode
    if begun is not None and begun.endswith(OFF) and mode is CacheMode.REQUIRE:
        log.warning("resume: the run began without a prefix cache and goes on without, whatever runtime.cache says")
    if mode is CacheMode.OFF if begun is None else begun.endswith(OFF):
        return None
    why_not = _cannot(anatomy, depth)
    if why_not is None:
        assert depth is not None
        try:
            return _open(spec, machine, anatomy, depth, tokenizer, tables, facts, sharing, begun, alive)
        except CacheError as error:
            why_not = str(error)
        except Exception as error:
            log.debug("prefix cache", exc_info=True)
            why_not = f"unsupported architecture ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    if mode is CacheMode.REQUIRE:
        raise UserError(f"runtime.cache=require: {why_not}")
    if begun is not None:
        log.warning("resume: the run began with a prefix cache and goes on without (%s): last bits may differ", why_not)
    else:
        log.info("prefix cache: off: %s", why_not)
    return None


def told(cached: Cached | None, begun: str | None) -> str:
    """Returns what a run says of its prefix: also that it began with a cache and went on without."""
    facts = cached.facts if cached is not None else OFF
    if facts != OFF or begun is None:
        return facts
    return begun if begun.endswith(OFF) else f"{begun}, then {OFF}"


def _cannot(anatomy: Anatomy, depth: int | None) -> str | None:
    if depth is None:
        return "nothing is frozen"
    if depth == 0:
        return "only the embeddings are frozen"
    if getattr(anatomy.model.config, "layerdrop", 0.0):
        return "the model drops whole blocks at random (layerdrop)"
    if not hasattr(anatomy.model.config, "hidden_size"):
        return "the config names no hidden_size: unsupported architecture"
    return None


def _open(
    spec: RunSpec,
    machine: Machine,
    anatomy: Anatomy,
    depth: int,
    tokenizer: PreTrainedTokenizerBase,
    tables: Tokenized,
    facts: Mapping[str, Any],
    sharing: Sharing,
    begun: str | None,
    alive: Callable[[], None],
) -> Cached:
    model = anatomy.model
    pad = DataCollatorWithPadding(tokenizer)
    two = [_table(name, rows, pad) for name, rows in (("training", tables.train), ("held-out", tables.evaluation))]
    if any((table.lengths == 0).any() for table in two):
        raise CacheError("a row has no tokens")
    prefix = Prefix(
        anatomy=anatomy,
        facts={
            **facts,
            "architecture": type(model).__name__,
            "config": _config_sha256(model.config),
            "attention": str(getattr(model.config, "_attn_implementation", None)),
            "max_tokens": spec.training.max_tokens,
            **{
                key: machine.describe()[key]
                for key in ("device", "device_name", "precision", "threads", "cpu_capability")
            },
        },
        about={"model": spec.model_name, "dataset": spec.dataset_name},
        width=hidden_size(model),
        dtype="float32",
        position=_position(anatomy, tables),
        autocast=partial(_autocast, machine),
    )
    store = PrefixStore(assets.home() / PREFIX_FOLDER, int(spec.runtime.cache.max_bytes))
    depths = sorted({depth, *(each for each in sharing.depths if 1 <= each <= anatomy.num_blocks)})
    there = is_there(store, prefix, depth, two)
    size = num_bytes(prefix, [depth], two)
    if not there:
        if (trouble := store.room_for(size)) is not None:
            raise CacheError(trouble)
        passes = _passes(spec, sharing, two)
        if spec.runtime.cache.mode is CacheMode.AUTO and begun is None and passes < _PAYS_FROM:
            raise CacheError(f"it would save {passes:.1f} passes over the rows, and filling takes one")
        also = [each for each in depths if each != depth]
        if also and store.room_for(num_bytes(prefix, depths, two)) is not None:
            also = []
    else:
        also = []
    log.info(
        "prefix cache: on: blocks 1 to %d of %d, %.0f MB, %s",
        depth, anatomy.num_blocks, size / 1e6, "there already" if there else "to be computed once",
    )  # fmt: skip
    model.to(machine.device)
    rows = [provide(store, prefix, depth, also, table, alive, two) for table in two]
    position = prefix.position if prefix.is_read(depth) else None
    numbered = Tokenized(
        train=_numbered(tables.train, range(len(tables.train))),
        evaluation=_numbered(tables.evaluation, range(-1, -1 - len(tables.evaluation), -1)),
        truncated=tables.truncated,
    )
    suffix, collate = Suffix(anatomy, depth), Collator(pad, rows[0], rows[1], position)
    _check(anatomy, suffix, collate, pad, numbered.train, two[0].lengths, machine)
    suffix.attach()
    return Cached(
        suffix=suffix,
        tables=numbered,
        collate=collate,
        facts=f"depth {depth}" + (f", {position} position" if position else ""),
    )


def _position(anatomy: Anatomy, tables: Tokenized) -> str | None:
    """Returns the one position that the head reads of every row, if there is such a one."""
    position = read_position(anatomy)
    if position == "last":
        # A decoder's head looks for the last id that isn't the padding's: a row may end in just that one.
        config: Any = anatomy.model.config
        for rows in (tables.train, tables.evaluation):
            lengths, values = _ragged(rows.with_format("arrow")["input_ids"])
            if bool((values[np.cumsum(lengths) - 1] == config.pad_token_id).any()):
                return None
    return position


@torch.no_grad()
def _check(
    anatomy: Anatomy,
    suffix: Suffix,
    collate: Collator,
    pad: DataCollatorWithPadding,
    rows: Dataset,
    lengths: np.ndarray[Any, Any],
    machine: Machine,
) -> None:
    """Compares the suffix with the whole model on the shortest and the longest row, padded to one length.

    Raises:
        CacheError: They differ by more than other padding explains: rows of this model depend on their padding.
    """
    model: Any = anatomy.model
    two = [dict(rows[int(index)]) for index in (lengths.argmin(), lengths.argmax())]
    plain = pad([{key: value for key, value in row.items() if key not in {_ROW, "labels"}} for row in two])
    short = collate(two)
    short.pop("labels", None)
    was_training = model.training
    model.eval()
    try:
        with _autocast(machine):
            whole = model(**{key: value.to(machine.device) for key, value in plain.items()}).logits.float()
            suffix.attach()
            part = model(**{key: value.to(machine.device) for key, value in short.items()}).logits.float()
    finally:
        suffix.detach()
        model.train(was_training)
    apart, scale = float((whole - part).abs().max()), float(whole.abs().max())
    allowed = _ALIKE if machine.precision is Precision.FP32 else _ALIKE_HALF
    if not apart <= allowed * scale + 1e-7:
        raise CacheError(f"rows of this model depend on their padding (logits {apart:.1e} apart, of {scale:.1e})")


def _config_sha256(config: Any) -> str:
    """Returns a sha256 of what the config says of the computation; label names are the head's."""
    own = {
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "_name_or_path",
        "transformers_version",
        "architectures",
    }
    data = {key: value for key, value in config.to_dict().items() if key not in own}
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()


def _passes(spec: RunSpec, sharing: Sharing, two: Sequence[Table]) -> float:
    """Returns how often the rows will be run through the frozen blocks, if they aren't kept: 1 is once each."""
    train, evaluation = (int(table.lengths.sum()) for table in two)
    training = spec.training
    steps_per_epoch = max(1, -(-len(two[0].lengths) // (training.batch_size * training.accumulation_steps)))
    epochs = training.epochs if training.epochs is not None else (training.max_steps or 0) / steps_per_epoch
    evaluations = max(1.0, epochs) if training.evaluate is Every.EPOCH else 1.0
    return sharing.num_runs * (epochs * train + evaluations * evaluation) / max(1, train + evaluation)


def _table(name: str, rows: Dataset, pad: DataCollatorWithPadding) -> Table:
    columns = [column for column in rows.column_names if column != "labels"]
    plain = rows.with_format("arrow")
    content = {column: _ragged(plain[column]) for column in columns if column != "attention_mask"}
    inputs = rows.select_columns(columns)

    def collate(numbers: Sequence[int]) -> Mapping[str, torch.Tensor]:
        batch = inputs[list(numbers)]
        padded: Mapping[str, torch.Tensor] = pad([{key: batch[key][i] for key in columns} for i in range(len(numbers))])
        return padded

    return Table(name=name, lengths=content["input_ids"][0], sha256=rows_sha256(content), collate=collate)


def _ragged(column: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Returns lengths and values of a column of lists, without a Python object for each number."""
    chunks = column[:] if not hasattr(column, "combine_chunks") else column
    lengths, values = pc.list_value_length(chunks), pc.list_flatten(chunks)
    return lengths.to_numpy().astype(np.int64), values.to_numpy().astype(np.int64)


def _numbered(rows: Dataset, numbers: range) -> Dataset:
    return rows.add_column(_ROW, np.fromiter(numbers, dtype=np.int64, count=len(numbers)))


def _autocast(machine: Machine) -> AbstractContextManager[Any]:
    dtypes = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
    if machine.precision not in dtypes:
        return nullcontext()
    return torch.autocast(machine.device, dtype=dtypes[machine.precision])
