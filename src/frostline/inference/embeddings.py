"""Computes one vector per text or image and writes them to files of any size.

`first` and `last` are the hidden state of a row's first ([CLS]) and last token, `mean` that of all its tokens, `pooler`
what the model's own pooler makes of the first: BERT's is tanh(W h_cls + b).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from frostline.data.row_table import RowTable
from frostline.data.token_table import Padding
from frostline.errors import ModelError, SpecError, as_user_error, first_line
from frostline.models import timm_models
from frostline.models.blocks import NamedModule, find_blocks, num_blocks_of
from frostline.models.encoder_decoder import is_encoder_decoder

CHUNK_BATCHES = 64
"""Batches whose rows are sorted by length before they are cut: little padding, and few rows in memory (assumed)."""

Vectors = np.ndarray[Any, np.dtype[np.float32]]


class Pooling(StrEnum):
    """How the hidden states of a row become one vector."""

    FIRST = "first"
    MEAN = "mean"
    LAST = "last"
    POOLER = "pooler"


@dataclass(frozen=True, kw_only=True)
class EmbeddedRows:
    """Some rows of a set, embedded.

    Attributes:
        name: Of the set.
        first: Number of the first of them.
        vectors: `[n, D]`.
    """

    name: str
    first: int
    vectors: Vectors


_OF_MAPS = 4
"""Dimensions of what a convolution gives: `[B, C, H, W]`."""


class Encoder:
    """A model without its head, ready to be asked; of an encoder and a decoder the encoder.

    Args:
        folder: As `save_pretrained` writes it: of a run, or a pretrained one.
        pool: How a row becomes one vector.
        block: After which block, counted from 1; 0: the embeddings; None: the model's last hidden state, behind a final
            norm if it has one.
        device: Where to compute; None: a GPU if there is one.

    Raises:
        ModelError: The model can't be loaded, or has no pooler.
        SpecError: It has no such block.
    """

    def __init__(self, folder: Path, pool: Pooling, block: int | None = None, device: str | None = None) -> None:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        with as_user_error(lambda error: ModelError(f"{folder}: can't be loaded: {first_line(error)}")):
            self.model, info = AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, trust_remote_code=False,
                output_loading_info=True,
            )  # fmt: skip
        fresh = [name for name in info["missing_keys"] if "pooler" not in name]
        if fresh:
            raise ModelError(f"{folder}: the weights file lacks {len(fresh)} tensors, for example {fresh[0]}")
        if pool is Pooling.POOLER:
            if block is not None:
                raise SpecError("--pool=pooler: is made of the last hidden state; it takes no --block")
            if not hasattr(self.model, "pooler") or self.model.pooler is None or len(info["missing_keys"]):
                raise ModelError(f"--pool=pooler: {type(self.model).__name__} in {folder} has no trained pooler")
        if block is not None and self._of_timm:
            raise SpecError("--block: of a model of timm only what its last layer gives can be asked for")
        layers = num_blocks_of(self.model.config) or 0
        blocks: tuple[NamedModule, ...] = ()
        if is_encoder_decoder(self.model):
            anatomy = find_blocks(self.model)
            layers, blocks = anatomy.num_encoder_blocks or 0, anatomy.blocks
            self.model = self.model.get_encoder()
        if block is not None and not 0 <= block <= layers:
            raise SpecError(f"--block={block}: the model has {layers} blocks, so give 0 (the embeddings) to {layers}")
        if block == 0 and hasattr(self.model.config, "hidden_sizes"):
            raise SpecError(f"--block=0: a convolutional network has no embeddings; give 1 to {layers}")
        self._pool, self._block = pool, block
        self._after: list[torch.Tensor] = []
        if block:
            # Not from `hidden_states`: the last of them is behind a final norm, if the model has one.
            (blocks or find_blocks(self.model).blocks)[block - 1][1].register_forward_hook(self._keep)
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(self._device).eval()

    @property
    def _of_timm(self) -> bool:
        return bool(self.model.config.model_type == timm_models.MODEL_TYPE)

    @property
    def width(self) -> int:
        """Numbers of a vector, D."""
        config = self.model.config
        if self._of_timm:
            return int(self.model.timm_model.num_features)
        if (sizes := getattr(config, "hidden_sizes", None)) is not None:  # of the stages of a convolutional network
            return int(sizes[self._block - 1 if self._block else -1])
        return int(config.hidden_size)

    @torch.inference_mode()
    def encode(self, inputs: Mapping[str, torch.Tensor]) -> Vectors:
        """Returns the vectors of a batch, `[B, D]`.

        Args:
            inputs: The tokenizer's columns, `[B, T]`, padded on the right; or pixels, `[B, C, H, W]`.
        """
        batch = {name: tensor.to(self._device) for name, tensor in inputs.items()}
        self._after.clear()
        output = self.model(**batch, output_hidden_states=self._block == 0)
        if self._pool is Pooling.POOLER:
            return self._numbers(output.pooler_output.flatten(1))
        hidden = output.last_hidden_state
        if self._block is not None:
            hidden = self._after.pop() if self._block else output.hidden_states[0]
        if hidden.dim() == _OF_MAPS:
            hidden = hidden.flatten(2).transpose(1, 2)
        mask = batch.get("attention_mask")
        if mask is None:
            mask = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
        if self._pool is Pooling.FIRST:
            return self._numbers(hidden[:, 0])
        lengths = mask.sum(1)
        if self._pool is Pooling.LAST:
            return self._numbers(hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1])
        return self._numbers((hidden * mask[..., None]).sum(1) / lengths[:, None])

    def _keep(self, module: Any, inputs: Any, output: Any) -> None:
        del module, inputs
        self._after.append(output[0] if isinstance(output, tuple) else output)

    def embed(self, name: str, table: RowTable, padding: Padding, batch_size: int) -> Iterator[EmbeddedRows]:
        """Yields the vectors of a table in order, some batches at a time.

        Args:
            name: Of the set.
            table: Its rows.
            padding: How a batch is filled up.
            batch_size: Rows of a forward pass.
        """
        for first in range(0, len(table), batch_size * CHUNK_BATCHES):
            rows = np.arange(first, min(first + batch_size * CHUNK_BATCHES, len(table)))
            order = rows[np.argsort(-table.lengths[rows], kind="stable")]
            vectors = np.empty((len(rows), self.width), dtype=np.float32)
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                encoded = self.encode(table.inputs(batch, padding))
                if encoded.shape[1] != self.width:
                    raise SpecError(
                        f"--block={self._block}: a vector has {encoded.shape[1]} numbers there and {self.width} at the "
                        "end: blocks of different widths can't be asked for"
                    )
                vectors[batch - first] = encoded
            yield EmbeddedRows(name=name, first=first, vectors=vectors)

    @staticmethod
    def _numbers(tensor: torch.Tensor) -> Vectors:
        return tensor.float().cpu().numpy()


class VectorWriter(Protocol):
    """Takes vectors one part after the other."""

    def write(self, part: EmbeddedRows, labels: Sequence[Any], texts: Sequence[str] | None) -> None:
        """Writes some rows."""

    def close(self) -> None:
        """Writes what is left to be written."""


class ParquetWriter:
    """Columns `set`, `row`, `label`, `text` if asked for, and `embedding`, a list of D numbers.

    Args:
        path: Of the file.
        width: D.
        about: Recorded in the file's metadata.
        named: Whether labels are names of classes; else they are numbers.
        with_text: Whether there is a column of texts.
    """

    def __init__(self, path: Path, width: int, about: Mapping[str, Any], *, named: bool, with_text: bool) -> None:
        fields = [("set", pa.string()), ("row", pa.int32()), ("label", pa.string() if named else pa.float64())]
        fields += [("text", pa.string())] if with_text else []
        metadata = {"frostline": json.dumps(about, ensure_ascii=False)}
        self._schema = pa.schema([*fields, ("embedding", pa.list_(pa.float32(), width))], metadata=metadata)
        self._width = width
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, part: EmbeddedRows, labels: Sequence[Any], texts: Sequence[str] | None) -> None:
        """Writes some rows as a row group."""
        count = len(part.vectors)
        columns = [[part.name] * count, list(range(part.first, part.first + count)), list(labels)]
        columns += [list(texts)] if texts is not None else []
        flat = pa.array(part.vectors.ravel(), pa.float32())
        arrays = [pa.array(values, field.type) for values, field in zip(columns, self._schema, strict=False)]
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, self._width))
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        """Writes the file's end."""
        self._writer.close()


class SafetensorsWriter:
    """A tensor `SET` `[N, D]` of each set, and `SET.labels` `[N]`: class ids (int64) or numbers (float64).

    safetensors itself writes what is in memory. The format allows more (a header with names, shapes and offsets, then
    the bytes): the sizes are known beforehand, so that rows are written as they come.

    Args:
        path: Of the file.
        sizes: Rows by set, in the order in which they will come.
        width: D.
        about: Recorded in the file's metadata.
        named: Whether labels are class ids; else they are numbers.
    """

    def __init__(
        self, path: Path, sizes: Mapping[str, int], width: int, about: Mapping[str, Any], *, named: bool
    ) -> None:
        entries: dict[str, Any] = {"__metadata__": {"frostline": json.dumps(about, ensure_ascii=False)}}
        offset = 0
        for name, count in sizes.items():
            for key, dtype, shape, size in (
                (name, "F32", [count, width], 4 * count * width),
                (f"{name}.labels", "I64" if named else "F64", [count], 8 * count),
            ):
                offset += -offset % 8  # int64 after an odd number of float32
                entries[key] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
                offset += size
        self._entries, self._dtype = entries, np.dtype("<i8" if named else "<f8")
        header = json.dumps(entries).encode()
        header += b" " * (-len(header) % 8)
        self._file: IO[bytes] = path.open("wb")
        self._file.write(struct.pack("<Q", len(header)) + header)
        self._start = self._file.tell()
        self._file.truncate(self._start + offset)

    def write(self, part: EmbeddedRows, labels: Sequence[Any], texts: Sequence[str] | None) -> None:
        """Writes some rows to their places."""
        del texts
        row_bytes = part.vectors.shape[1] * 4
        self._put(part.name, part.first * row_bytes, np.ascontiguousarray(part.vectors, dtype="<f4"))
        self._put(f"{part.name}.labels", part.first * 8, np.asarray(labels, dtype=self._dtype))

    def _put(self, key: str, offset: int, values: np.ndarray[Any, Any]) -> None:
        self._file.seek(self._start + self._entries[key]["data_offsets"][0] + offset)
        self._file.write(values.tobytes())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
