"""Loads a classifier from a model folder, and refuses what cannot be right.

Safetensors only; no code from a model's folder is ever run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from frostline.errors import ModelError, as_user_error, first_line
from frostline.files import is_lfs_pointer
from frostline.hashes import unchanged_sha256
from frostline.models import head
from frostline.models.causal import check_causal
from frostline.models.config_file import load_config, quiet_transformers, reads_images
from frostline.process_cache import PROCESS_CACHE
from frostline.spec import TASKS, HeadChoice, Init, Task

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

    from frostline.spec import ModelSpec

_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
RANDOM_WEIGHTS = "random"
"""Stands where a weights file's hash would, of a model from scratch."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model ready to be trained.

    Attributes:
        model: With its head, in fp32, on the CPU.
        processor: The tokenizer, or image processor, that the model was pretrained with.
        weights_sha256: Of the weights file; of all file hashes in order if it is sharded; `RANDOM_WEIGHTS`.
        fresh: Names of the tensors that did not come from the weights file: the head.
        reordered: Names of the tensors of a kept head, whose rows were put into the order of the data set's classes.
    """

    model: PreTrainedModel
    processor: PreTrainedTokenizerBase | BaseImageProcessor
    weights_sha256: str
    fresh: tuple[str, ...]
    reordered: tuple[str, ...] = ()

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the tensors that are not as in the weights file."""
        return (*self.fresh, *self.reordered)


def load_model(
    spec: ModelSpec,
    folder: Path,
    *,
    task: Task,
    label_names: Sequence[str],
    processor: PreTrainedTokenizerBase | BaseImageProcessor,
) -> LoadedModel:
    """Loads pretrained weights under a head for the task; with `model.init=random`, all of it is fresh.

    The head is a fresh one, also where the folder holds a classifier; `model.head=keep` takes that one's, by the names
    of its classes. Fresh weights come from torch's global generator: seed it before.

    Args:
        spec: The model; its `weights_sha256` is checked when given.
        folder: The model's folder.
        task: Classification or regression.
        label_names: Class names in the order of their ids; saved with the model.
        processor: The model's tokenizer or image processor.

    Raises:
        ModelError: The weights are pickled, need remote code, are not what the spec says, or don't fit the model; or
            there is no head to keep, or one of other classes.
    """
    config = load_config(folder, task.head_config(label_names))
    if not reads_images(config):
        config.pad_token_id = processor.pad_token_id  # type: ignore[union-attr] # Trainer does so too, but late
    if spec.init is Init.RANDOM:
        return _from_scratch(config, folder, processor, task)
    weights_sha256 = check_weights(spec, folder)
    model, fresh, reordered = _pretrained(spec, folder, config, task, label_names)
    return LoadedModel(
        model=model, processor=processor, weights_sha256=weights_sha256, fresh=fresh, reordered=reordered
    )


def fresh_tensors(spec: ModelSpec, folder: Path, *, task: Task, label_names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the tensors that `load_model` would draw.

    Raises:
        ModelError: As `load_model` does.
    """
    config = load_config(folder, task.head_config(label_names))
    if spec.init is Init.RANDOM:
        return tuple(sorted(skeleton(folder, task=task, label_names=label_names).state_dict()))
    check_weights(spec, folder)
    return _pretrained(spec, folder, config, task, label_names)[1]


def _pretrained(
    spec: ModelSpec, folder: Path, config: Any, task: Task, label_names: Sequence[str]
) -> tuple[PreTrainedModel, tuple[str, ...], tuple[str, ...]]:
    """Returns a model with the weights of a folder, the names of its fresh tensors and those of its reordered ones."""
    classifier = task.auto_class(config)
    if task.generates:
        return _language_model(folder, config, classifier)
    file_head, held = _head_in(folder, task)
    keeps = spec.head is HeadChoice.KEEP
    order = _kept_order(folder, task, label_names, held) if keeps else []
    foreign = as_user_error(lambda error: ModelError(f"{folder}: the model can't be loaded: {first_line(error)}"))
    with foreign, quiet_transformers():
        drops = held and not keeps
        model, info = (classifier._model_mapping[type(config)] if drops else classifier).from_pretrained(
            None if drops else folder,
            state_dict=head.without(folder, held) if drops else None,
            config=config,
            dtype=torch.float32,  # the default is the file's dtype: training in fp16 by accident
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, but for a head's
        )
        model.name_or_path = str(folder)
    mismatched = {str(item[0] if isinstance(item, (tuple, list)) else item) for item in info["mismatched_keys"]}
    fresh = tuple(sorted({*info["missing_keys"], *mismatched}))
    reordered: tuple[str, ...] = ()
    if keeps:
        if unread := sorted(set(fresh) & (file_head.output | file_head.other)):
            raise ModelError(f"model.head=keep: the head in {folder} lacks {unread[0]}, or it has another shape")
        head.reorder(model, file_head, order)
        reordered = tuple(sorted(file_head.output))
    return model, fresh, reordered


def _language_model(folder: Path, config: Any, kind: Any) -> tuple[PreTrainedModel, tuple[str, ...], tuple[str, ...]]:
    """Returns a language model, whose head is the folder's own, as `_pretrained` does.

    Raises:
        ModelError: The folder holds none, or it sees the tokens that it should predict.
    """
    foreign = as_user_error(lambda error: ModelError(f"{folder}: the model can't be loaded: {first_line(error)}"))
    with foreign, quiet_transformers():
        model, info = kind.from_pretrained(
            folder, config=config, dtype=torch.float32, use_safetensors=True, local_files_only=True,
            trust_remote_code=False, output_loading_info=True,
        )  # fmt: skip
    if model.generation_config is not None:
        model.generation_config.pad_token_id = config.pad_token_id  # Trainer does so too, with a warning
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{folder}: its weights lack {missing[0]}: they are not those of a language model with its head"
        )
    if not getattr(config, "is_encoder_decoder", False):
        check_causal(model, folder)
    return model, (), ()


def _head_in(folder: Path, task: Task) -> tuple[head.Head, dict[str, str]]:
    """Returns the head of a folder's model, and which tensors of it the folder's weights hold (see `head.in_file`)."""
    kind = task if task.labels_words else TASKS.get("classification")
    changed = tuple(path.stat().st_mtime_ns for path in (folder / "config.json", *sorted(folder.glob("*.safetensors"))))
    return _head_found(folder, kind, changed)


@PROCESS_CACHE.function
def _head_found(folder: Path, task: Task, changed: tuple[int, ...]) -> tuple[head.Head, dict[str, str]]:
    del changed  # part of the cache key
    with torch.random.fork_rng(devices=[]):  # the next draws are the head's, whether this was cached or not
        of_two, of_three = (skeleton(folder, task=task, label_names=[str(n) for n in range(count)]) for count in (2, 3))
    head_of_file = head.head_of(of_two, of_three)
    return head_of_file, head.in_file(head_of_file, folder, of_two.base_model_prefix)


def _kept_order(folder: Path, task: Task, label_names: Sequence[str], held: Mapping[str, str]) -> list[int]:
    if not held:
        raise ModelError(f"model.head=keep: {folder} holds no classifier's head; take model.head=fresh")
    own = load_config(folder)
    if not task.has_classes:
        if own.num_labels != 1:
            raise ModelError(f"model.head=keep: the head in {folder} is one of {own.num_labels} classes")
        return [0]
    return head.order_of(own.id2label, label_names, folder)


def _from_scratch(
    config: Any, folder: Path, processor: PreTrainedTokenizerBase | BaseImageProcessor, task: Task
) -> LoadedModel:
    classifier = task.auto_class(config)
    with (
        quiet_transformers(),
        as_user_error(lambda error: ModelError(f"{folder}: no model can be made of its config: {first_line(error)}")),
    ):
        model = classifier.from_config(config, dtype=torch.float32, trust_remote_code=False)
    return LoadedModel(
        model=model, processor=processor, weights_sha256=RANDOM_WEIGHTS, fresh=tuple(sorted(model.state_dict()))
    )


def check_fresh(fresh: Sequence[str], pretrained: Sequence[str], folder: Path) -> None:
    """Refuses a model whose embeddings or blocks did not come from its weights file.

    Args:
        fresh: Tensors that were not in the file.
        pretrained: Names of modules that must have been: embeddings and blocks.
        folder: For the message.

    Raises:
        ModelError: Some of the pretrained part would be random.
    """
    random = [name for name in fresh if any(name.startswith(f"{prefix}.") for prefix in pretrained)]
    if random:
        raise ModelError(
            f"{folder}: the weights file lacks {len(random)} tensors of the pretrained part, for example {random[0]}"
        )


def skeleton(folder: Path, *, task: Task, label_names: Sequence[str]) -> PreTrainedModel:
    """Builds a model from its config alone, without weights, on the meta device: for counting and names.

    Raises:
        ModelError: The config can't be read or needs remote code.
    """
    config = load_config(folder, task.head_config(label_names))
    classifier = task.auto_class(config)
    foreign = as_user_error(lambda error: ModelError(f"{folder}: {first_line(error)}"))
    with foreign, quiet_transformers(), torch.device("meta"):
        model: PreTrainedModel = classifier.from_config(config)
    return model


def check_weights(spec: ModelSpec, folder: Path) -> str:
    """Returns the sha256 of the weights of a model folder.

    Raises:
        ModelError: There are none, they are pickled, or they are not what the spec says.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise ModelError(
                f"{folder}: only pickled weights ({pickles[0]}), which can run code when loaded; convert them to "
                f"safetensors: load them where you trust them and call save_pretrained, or try `frostline fetch "
                f"model=path model.location={folder} --convert-pickle`, which reads tensors alone"
            )
        if other := next((path.name for path in folder.glob("*") if path.suffix in {".h5", ".msgpack"}), None):
            what = "TensorFlow" if other.endswith(".h5") else "Flax"
            raise ModelError(
                f"{folder}: weights of {what} alone ({other}); transformers before 5 converts them: "
                f"AutoModel.from_pretrained(folder, from_{'tf' if other.endswith('.h5') else 'flax'}=True)"
                ".save_pretrained(folder)"
            )
        raise ModelError(f"{folder}: no weights there (model.safetensors)")
    if pointer := next(filter(is_lfs_pointer, files), None):
        raise ModelError(f"{pointer}: is a git-lfs pointer, not the weights: git lfs pull fetches them")
    hashes = [unchanged_sha256(path) for path in files]
    total = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    if spec.weights_sha256 is not None and total != spec.weights_sha256:
        raise ModelError(
            f"{folder}: weights have sha256 {total[:12]}..., model.weights_sha256 says {spec.weights_sha256[:12]}..."
        )
    return total


def max_positions(folder: Path, task: Task) -> int | None:
    """Returns how many tokens a model with learned positions can take, or None if it has no such limit.

    Args:
        folder: The model's.
        task: What it is used for.

    Raises:
        ModelError: Its config can't be read.
    """
    config = load_config(folder)
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    return positions - _positions_before(folder, task, positions, (folder / "config.json").stat().st_mtime_ns)


@PROCESS_CACHE.function
def _positions_before(folder: Path, task: Task, positions: int, changed: int) -> int:
    """Returns how many rows of the table of positions stand before the first token's."""
    del changed  # part of the cache key
    try:
        with torch.random.fork_rng(devices=[]):
            model = skeleton(folder, task=task, label_names=("0", "1"))
    except ModelError:  # load_model raises it again
        return 0
    # RoBERTa and its kin count positions from behind the padding's on: it is a row of the table that is no position.
    offsets = [
        module.padding_idx + 1
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Embedding)
        and module.padding_idx is not None
        and module.num_embeddings == positions
        and "position" in name.rpartition(".")[2]
    ]
    return max(offsets, default=0)
