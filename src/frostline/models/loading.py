"""Owns: a model folder -> a classifier and its tokenizer, refused when it can't be right. Must not know: training.

Safetensors only; no code from a model's folder is ever run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)
from transformers.utils import logging as transformers_logging

from frostline.errors import ModelError
from frostline.files import is_lfs_pointer
from frostline.hashes import unchanged_sha256
from frostline.models import head, timm_models
from frostline.spec import TASKS, HeadChoice, Init, Task

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

    from frostline.spec import ModelSpec

_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
RANDOM_WEIGHTS = "random"
"""Stands where a weights file's hash would, of a model from scratch."""

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "tokenizer.model*", "*.tiktoken")
"""Files that hold a vocabulary."""

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""Where it may stand what an image processor does."""


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


def load_tokenizer(folder: Path, max_tokens: int, *, by_word: bool = False) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a model folder.

    Args:
        folder: The model's folder.
        max_tokens: Longest text in tokens; checked against the model's positions.
        by_word: Whether it will be given words, and say which token is of which.

    Raises:
        ModelError: There is none, it has more tokens than the model has embeddings, or the model has fewer positions.
    """
    config = load_config(folder)
    if not any(path.is_file() for pattern in TOKENIZER_FILES for path in folder.glob(pattern)):
        if reads_images(config):
            raise ModelError(f"{folder}: the model ({config.model_type}) reads images, the data set holds texts")
        # Transformers would make one without a vocabulary, and every word would be unknown.
        raise ModelError(f"{folder}: no tokenizer there (tokenizer.json or a vocabulary): save it beside the model")
    with _quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise ModelError(f"{folder}: its tokenizer can't be loaded: {_first_line(error)}") from error
        if by_word and hasattr(tokenizer, "add_prefix_space") and not tokenizer.add_prefix_space:
            # Bytes of GPT-2's kind: a word alone has to be the one that stands behind a space.
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, add_prefix_space=True
            )
    if by_word and not tokenizer.is_fast:
        raise ModelError(f"{folder}: its tokenizer can't say which token is of which word: it has no tokenizer.json")
    # A head reads the first token, or the last that is no padding: on the left, the first would be padding.
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"{folder}: its tokenizer has neither a padding nor an end token: batches can't be padded")
        tokenizer.pad_token = tokenizer.eos_token
    embeddings = getattr(config, "vocab_size", None)
    if embeddings is not None and len(tokenizer) > embeddings:
        raise ModelError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model only {embeddings} embeddings: "
            f"they don't belong together"
        )
    positions = max_positions(folder, TASKS.get("token_classification" if by_word else "classification"))
    if positions is not None and max_tokens > positions:
        raise ModelError(f"training.max_tokens={max_tokens}: the model has {positions} positions; give that or fewer")
    return tokenizer


def load_image_processor(folder: Path) -> BaseImageProcessor:
    """Loads the image processor of a model folder, that of Pillow: another library's numbers differ.

    Raises:
        ModelError: There is none, or the model reads texts.
    """
    config = load_config(folder)
    if not reads_images(config):
        what = "reads texts, the data set holds images"
        if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
            what = "has no head in transformers that classifies images"
        raise ModelError(f"{folder}: the model ({config.model_type}) {what}")
    if config.model_type == timm_models.MODEL_TYPE:
        return timm_models.TimmProcessor(config)
    if not any((folder / name).is_file() for name in PROCESSOR_FILES):
        raise ModelError(f"{folder}: no image processor there ({PROCESSOR_FILES[0]}): save it beside the model")
    with _quiet():
        try:
            return AutoImageProcessor.from_pretrained(  # type: ignore[no-any-return]
                folder, backend="pil", local_files_only=True, trust_remote_code=False
            )
        except Exception as error:
            raise ModelError(f"{folder}: its image processor can't be loaded: {_first_line(error)}") from error


def reads_images(config: Any) -> bool:
    """Returns whether a config is of a model that classifies images, and not texts."""
    kind = type(config)
    return kind in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING and kind not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING


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
    found, held = _head_in(folder, task)
    keeps = spec.head is HeadChoice.KEEP
    order = _kept_order(folder, task, label_names, held) if keeps else []
    with _quiet():
        try:
            # `key_mapping` leaves nothing out: a name that it would make one of no tensor stays what it was.
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
        except Exception as error:
            raise ModelError(f"{folder}: the model can't be loaded: {_first_line(error)}") from error
    mismatched = {str(item[0] if isinstance(item, (tuple, list)) else item) for item in info["mismatched_keys"]}
    fresh = tuple(sorted({*info["missing_keys"], *mismatched}))
    reordered: tuple[str, ...] = ()
    if keeps:
        if lost := sorted(set(fresh) & (found.output | found.other)):
            raise ModelError(f"model.head=keep: the head in {folder} lacks {lost[0]}, or it has another shape")
        head.reorder(model, found, order)
        reordered = tuple(sorted(found.output))
    return model, fresh, reordered


def _head_in(folder: Path, task: Task) -> tuple[head.Head, dict[str, str]]:
    """Returns the head of a folder's model, and which tensors of it the folder's weights hold (see `head.in_file`)."""
    kind = task if task.labels_words else TASKS.get("classification")
    changed = tuple(path.stat().st_mtime_ns for path in (folder / "config.json", *sorted(folder.glob("*.safetensors"))))
    return _head_found(folder, kind, changed)


@lru_cache(maxsize=8)
def _head_found(folder: Path, task: Task, changed: tuple[int, ...]) -> tuple[head.Head, dict[str, str]]:
    del changed  # part of the cache key
    with torch.random.fork_rng(devices=[]):  # the next draws are the head's, whether this was cached or not
        two, three = (skeleton(folder, task=task, label_names=[str(n) for n in range(count)]) for count in (2, 3))
    found = head.head_of(two, three)
    return found, head.in_file(found, folder, two.base_model_prefix)


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
    with _quiet():
        try:
            model = classifier.from_config(config, dtype=torch.float32, trust_remote_code=False)
        except Exception as error:
            raise ModelError(f"{folder}: no model can be made of its config: {_first_line(error)}") from error
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
            f"{folder}: the weights file lacks {len(random)} tensors of the pretrained part, as {random[0]}"
        )


def skeleton(folder: Path, *, task: Task, label_names: Sequence[str]) -> PreTrainedModel:
    """Builds a model from its config alone, without weights, on the meta device: for counting and names.

    Raises:
        ModelError: The config can't be read or needs remote code.
    """
    config = load_config(folder, task.head_config(label_names))
    classifier = task.auto_class(config)
    with _quiet(), torch.device("meta"):
        try:
            model: PreTrainedModel = classifier.from_config(config)
        except Exception as error:  # whatever foreign code raises
            raise ModelError(f"{folder}: {_first_line(error)}") from error
    return model


def load_config(folder: Path, settings: dict[str, Any] | None = None) -> Any:
    """Reads a model folder's config.json.

    Raises:
        ModelError: It isn't valid, or names code of its own.
    """
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = raw.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder / 'config.json'}: can't be read: {_first_line(error)}") from error
    if timm_models.is_of_timm(raw):
        timm_models.check_config(raw, folder / "config.json")
        timm_models.check_installed(folder)
        if settings is not None:  # of the number of classes its own config has the last word
            settings = {**settings, "num_labels": len(settings["id2label"])}
    try:
        with _quiet():
            return AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, **(settings or {})
            )
    except Exception as error:
        if "auto_map" in raw:
            raise ModelError(
                f"{folder}: the model ({kind}) brings code of its own, which frostline doesn't run"
            ) from error
        raise ModelError(f"{folder}: model_type {kind!r}: {_first_line(error)}") from error


def config_sha256(config: Any) -> str:
    """Returns a sha256 of what the config says of the computation; label names are the head's."""
    own = {
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "_name_or_path",
        "transformers_version",
        "architectures",
        "num_classes",
        "label_names",
    }
    data = {key: value for key, value in config.to_dict().items() if key not in own}
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()


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


@lru_cache(maxsize=8)
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


class _quiet:  # noqa: N801 - reads as a statement
    """Silences transformers while loading: what it warns of is checked here and told in one line."""

    def __enter__(self) -> None:
        self._verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *exc_info: object) -> None:
        transformers_logging.set_verbosity(self._verbosity)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
