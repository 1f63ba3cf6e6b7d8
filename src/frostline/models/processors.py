"""Tokenizers and image processors of a model's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

from frostline.errors import ModelError, as_user_error, first_line
from frostline.models import timm_models
from frostline.models.config_file import load_config, quiet_transformers, reads_images
from frostline.models.loading import max_positions
from frostline.spec import TASKS

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedTokenizerBase


TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "tokenizer.model*", "*.tiktoken")
"""Files that hold a vocabulary."""


PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""Where it may stand what an image processor does."""


def load_tokenizer(
    folder: Path, max_tokens: int, max_target_tokens: int | None = None, *, by_word: bool = False
) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a model folder.

    Args:
        folder: The model's folder.
        max_tokens: Longest text in tokens; checked against the model's positions.
        max_target_tokens: Longest text that a decoder writes.
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
    with quiet_transformers():
        with as_user_error(lambda error: ModelError(f"{folder}: its tokenizer can't be loaded: {first_line(error)}")):
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
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
    for key, length in (("max_tokens", max_tokens), ("max_target_tokens", max_target_tokens)):
        if positions is not None and length is not None and length > positions:
            raise ModelError(f"training.{key}={length}: the model has {positions} positions; give that or fewer")
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
    with (
        quiet_transformers(),
        as_user_error(lambda error: ModelError(f"{folder}: its image processor can't be loaded: {first_line(error)}")),
    ):
        return AutoImageProcessor.from_pretrained(  # type: ignore[no-any-return]
            folder, backend="pil", local_files_only=True, trust_remote_code=False
        )
