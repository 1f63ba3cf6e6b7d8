"""Predictions of a trained run's model, with label names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)
from transformers.utils import logging as transformers_logging

from frostline.data.pixel_table import MODES, in_mode
from frostline.errors import ModelError, UserError, as_user_error, first_line
from frostline.models.config_file import load_config, reads_images
from frostline.models.processors import load_image_processor

NO_CLASS = "-"
"""Stands for the label of a text that may have several classes and has none."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model says of a text, or an image.

    Attributes:
        text: The text, or the image's path.
        label: Name of the likeliest class; of all that are likelier than not where there may be several, or `NO_CLASS`;
            None for regression; where each word has a class, those of the words.
        score: Its probability, of several the least; for regression the predicted number.
        scores: Probability of every class by name; for regression the number under `score`.
        words: Where each word has a class: the words, their classes and their probabilities.
    """

    text: str
    label: str | None
    score: float
    scores: dict[str, float]
    words: tuple[tuple[str, str, float], ...] = ()


@contextmanager
def loading(model_folder: Path) -> Iterator[None]:
    """Loads the model of a run's folder within a context, without messages of transformers.

    Args:
        model_folder: `model/` of a run's folder.

    Raises:
        ModelError: There is no model, or it can't be loaded.
    """
    if not (model_folder / "config.json").is_file():
        raise ModelError(
            f"{model_folder}: no trained model there (did the run finish? frostline prune removes models, too)"
        )
    verbosity, has_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with as_user_error(lambda error: ModelError(f"{model_folder}: can't be loaded: {first_line(error)}")):
            yield
    finally:  # a notebook keeps its own
        transformers_logging.set_verbosity(verbosity)
        if has_bars:
            transformers_logging.enable_progress_bar()


class Predictor:
    """A trained model, ready to be asked.

    Args:
        model_folder: `model/` of a run's folder.
        max_tokens: Longer texts are cut to this, as in training. Without a meaning for images.
        kind: The class that it is loaded as; None: a classifier, by its config.

    Attributes:
        model: The model, in eval mode.
        processor: Its tokenizer or image processor.

    Raises:
        ModelError: There is no model, or it can't be loaded.
    """

    def __init__(self, model_folder: Path, max_tokens: int, kind: Any = None) -> None:
        with loading(model_folder):
            config = load_config(model_folder)
            self.reads_images = reads_images(config)
            self.by_word = any("TokenClassification" in name for name in config.architectures or ())
            if kind is None:
                kind = AutoModelForImageClassification if self.reads_images else AutoModelForSequenceClassification
                kind = AutoModelForTokenClassification if self.by_word else kind
            if self.reads_images:
                self.processor: Any = load_image_processor(model_folder)
            else:
                self.processor = AutoTokenizer.from_pretrained(model_folder, local_files_only=True)
                self.processor.padding_side = "right"  # as in training
            self.model = kind.from_pretrained(
                model_folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
        self.model.eval()
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model.to(self._device)
        self._max_tokens = max_tokens

    def predict(self, texts: Iterable[tuple[str, str | None]], batch_size: int = 32) -> Iterator[Prediction]:
        """Yields a prediction for each text, in order, reading ahead no further than a batch.

        Args:
            texts: Texts, each with the second text of a pair or None; or paths of images.
            batch_size: Texts per forward pass.

        Raises:
            UserError: An image can't be read.
        """
        source = iter(texts)
        while batch := list(islice(source, batch_size)):
            yield from self._batch(batch)

    def logits(self, texts: Iterable[tuple[str, str | None]], batch_size: int = 32) -> np.ndarray[Any, Any]:
        """Returns the logits of texts, `[N, C]`, in double precision.

        Args:
            texts: As for `predict`.
            batch_size: Texts per forward pass.
        """
        source, parts = iter(texts), []
        while batch := list(islice(source, batch_size)):
            parts.append(self._logits(batch).double().numpy())
        return np.concatenate(parts)

    def _batch(self, batch: list[tuple[str, str | None]]) -> Iterator[Prediction]:
        if self.by_word:
            yield from self._of_words([text for text, _ in batch])
            return
        if self.reads_images:
            inputs = {"pixel_values": torch.from_numpy(np.stack([self._pixels(path) for path, _ in batch]))}
            logits = self.of_inputs(inputs)
        else:
            logits = self._logits(batch)
        names = self.model.config.id2label
        for (text, _), row in zip(batch, logits, strict=True):
            if self.model.config.problem_type == "regression":
                value = row.item()
                yield Prediction(text=text, label=None, score=value, scores={"score": value})
                continue
            if self.model.config.problem_type == "multi_label_classification":
                scores = {names[index]: float(value) for index, value in enumerate(row.sigmoid())}
                chosen = [name for name, value in scores.items() if value > 0.5]
                least = min((scores[name] for name in chosen), default=1 - max(scores.values()))
                yield Prediction(text=text, label=",".join(chosen) or NO_CLASS, score=least, scores=scores)
                continue
            probabilities = row.softmax(-1)
            best = int(probabilities.argmax())
            scores = {names[index]: float(value) for index, value in enumerate(probabilities)}
            yield Prediction(text=text, label=names[best], score=float(probabilities[best]), scores=scores)

    def _of_words(self, texts: list[str]) -> Iterator[Prediction]:
        sentences = [words for text in texts if (words := text.split())]
        if sentences:
            encoded = self.processor(
                sentences, is_split_into_words=True, truncation=True, max_length=self._max_tokens, padding=True,
                return_tensors="pt",
            )  # fmt: skip
            rows = zip(sentences, map(encoded.word_ids, range(len(sentences))), self.of_inputs(encoded), strict=True)
        for text in texts:
            if text.split():
                yield self._of_sentence(text, *next(rows))
            else:
                yield Prediction(text=text, label="", score=1.0, scores={})

    def _of_sentence(self, text: str, words: list[str], word_ids: list[int | None], logits: torch.Tensor) -> Prediction:
        probabilities = logits.softmax(-1)
        names = self.model.config.id2label
        tagged = [(word, NO_CLASS, 0.0) for word in words]
        for position, index in reversed(list(enumerate(word_ids))):  # a word's first token comes last
            if index is not None:
                best = int(probabilities[position].argmax())
                tagged[index] = (words[index], names[best], float(probabilities[position, best]))
        return Prediction(
            text=text, label=" ".join(label for _, label, _ in tagged), score=min(score for *_, score in tagged),
            scores={}, words=tuple(tagged),
        )  # fmt: skip

    def _logits(self, batch: list[tuple[str, str | None]]) -> torch.Tensor:
        pairs = [pair for _, pair in batch if pair is not None]
        encoded = self.processor(
            [text for text, _ in batch],
            pairs if len(pairs) == len(batch) else None,
            truncation=True,
            max_length=self._max_tokens,
            padding=True,
            return_tensors="pt",
        )
        return self.of_inputs(encoded)

    def _pixels(self, path: str) -> np.ndarray[Any, Any]:
        def unreadable(error: BaseException) -> UserError:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else f"is no image ({error})"
            return UserError(f"{path}: {reason}")

        with as_user_error(unreadable), Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
        image = in_mode(image, MODES[getattr(self.model.config, "num_channels", 3)], path)
        return np.asarray(self.processor(images=[image])["pixel_values"][0], dtype=np.float32)

    @torch.inference_mode()
    def of_inputs(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Returns the logits of a batch as the model takes it, `[B, C]`, on the CPU."""
        on_device = {name: tensor.to(self._device) for name, tensor in inputs.items()}
        logits: torch.Tensor = self.model(**on_device).logits.float().cpu()
        return logits
