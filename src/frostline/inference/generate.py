"""Texts that a trained run's language model writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from frostline.errors import UserError
from frostline.inference.predict import loading
from frostline.models.config_file import load_config
from frostline.tasks.causal_lm import CausalEncoder

LEAST_TEMPERATURE = 0.01
"""Logits over a smaller one are beyond float32."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How a text is continued.

    Attributes:
        max_new_tokens: Written at most.
        temperature: 0 takes the likeliest token each time; above, tokens are drawn from the logits over it.
        seed: Of the draws; each text is written as if it were the only one.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses what can't be written with.

        Raises:
            UserError: A value is out of range.
        """
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens {self.max_new_tokens}: must be 1 or more")
        if not (self.temperature == 0 or LEAST_TEMPERATURE <= self.temperature < float("inf")):
            raise UserError(f"temperature {self.temperature}: must be 0, or {LEAST_TEMPERATURE} or more")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed {self.seed}: must be 0 or more and below 2**32")


class Writer:
    """A trained language model, ready to continue texts; with an encoder and a decoder, to write others from them.

    Args:
        model_folder: `model/` of a run's folder.
        is_chat: Whether it was trained on conversations: a text is then what the user says.
        max_tokens: What an encoder reads of a text, as in training; a decoder alone continues all of it.

    Raises:
        ModelError: There is no model, or it can't be loaded.
    """

    def __init__(self, model_folder: Path, *, is_chat: bool, max_tokens: int) -> None:
        with loading(model_folder):
            config = load_config(model_folder)
            self.processor: Any = AutoTokenizer.from_pretrained(model_folder, local_files_only=True)
            self._has_encoder = bool(getattr(config, "is_encoder_decoder", False))
            kind: Any = AutoModelForSeq2SeqLM if self._has_encoder else AutoModelForCausalLM
            self.model: Any = kind.from_pretrained(
                model_folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
        # What the model's own file asks for (penalties, sampling) is not what the command line says.
        self.model.generation_config = GenerationConfig()
        self._start = config.decoder_start_token_id if self._has_encoder else None
        self._max_tokens = max_tokens
        self.model.eval()
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = self.model.to(self._device)
        positions = getattr(config, "max_position_embeddings", None)
        self._positions = positions if isinstance(positions, int) and positions > 0 else None
        self._encoder = CausalEncoder(self.processor, self._positions or 1 << 30)
        self._is_chat = is_chat

    def write(self, texts: Iterable[str], how: Generation) -> Iterator[tuple[str, str]]:
        """Yields each text and what follows it, or is made of it, in order.

        Args:
            texts: Prompts, what a user says, or what an encoder reads.
            how: How they are continued.

        Raises:
            UserError: A text has no token, or leaves no room for another.
        """
        for text in texts:
            yield text, self._written(text, how)

    def _prompt(self, text: str) -> list[int]:
        if self._has_encoder:
            read: list[int] = self.processor(text, truncation=True, max_length=self._max_tokens)["input_ids"]
            return read
        if not self._is_chat:
            return self._encoder.prompt_ids([text])[0]
        asked = self._encoder.render([{"role": "user", "content": text}], is_open=True)
        ids: list[int] = self.processor(asked, add_special_tokens=False)["input_ids"]
        return ids

    @torch.inference_mode()
    def _written(self, text: str, how: Generation) -> str:
        prompt = self._prompt(text)
        if not prompt:
            raise UserError("a text without a token can't be continued: give some words")
        room = how.max_new_tokens
        if self._positions is not None:
            room = self._positions - (1 if self._has_encoder else len(prompt))
        if room < 1:
            raise UserError(
                f"a text of {len(prompt)} tokens leaves no room: the model has {self._positions} positions: shorten it"
            )
        ids = torch.tensor([prompt], device=self._device)
        config = GenerationConfig(
            max_new_tokens=min(room, how.max_new_tokens),
            do_sample=how.temperature > 0,
            eos_token_id=self.processor.eos_token_id,
            pad_token_id=self._padding(),
            decoder_start_token_id=self._start,
            **({"temperature": how.temperature, "top_k": 0} if how.temperature > 0 else {}),
        )
        with torch.random.fork_rng():  # the caller's draws stay as they were
            torch.manual_seed(how.seed)
            output = self.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config
            )  # fmt: skip
        new = output[0] if self._has_encoder else output[0, len(prompt) :]
        written: str = self.processor.decode(new, skip_special_tokens=True)
        return written

    def _padding(self) -> int | None:
        own: int | None = self.processor.pad_token_id
        return self.processor.eos_token_id if own is None else own
