"""Texts that a trained run's language model writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from frostline.errors import UserError
from frostline.inference.predict import loading
from frostline.models.config_file import load_config
from frostline.tasks.causal_lm import CausalEncoder


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


class Writer:
    """A trained language model, ready to continue texts.

    Args:
        model_folder: `model/` of a run's folder.
        is_chat: Whether it was trained on conversations: a text is then what the user says.

    Raises:
        ModelError: There is no model, or it can't be loaded.
    """

    def __init__(self, model_folder: Path, *, is_chat: bool) -> None:
        with loading(model_folder):
            config = load_config(model_folder)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model_folder, local_files_only=True)
            kind: Any = AutoModelForCausalLM
            self._model: Any = kind.from_pretrained(
                model_folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
        # What the model's own file asks for (penalties, sampling) is not what the command line says.
        self._model.generation_config = GenerationConfig()
        self._model.eval()
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = self._model.to(self._device)
        positions = getattr(config, "max_position_embeddings", None)
        self._positions = positions if isinstance(positions, int) and positions > 0 else None
        self._encoder = CausalEncoder(self._tokenizer, self._positions or 1 << 30)
        self._is_chat = is_chat

    def write(self, texts: Iterable[str], how: Generation) -> Iterator[tuple[str, str]]:
        """Yields each text and what follows it, in order.

        Args:
            texts: Prompts, or what a user says.
            how: How they are continued.

        Raises:
            UserError: A text has no token, or leaves no room for another.
        """
        for text in texts:
            yield text, self._written(text, how)

    def _prompt(self, text: str) -> list[int]:
        if not self._is_chat:
            return self._encoder.prompt_ids([text])[0]
        asked = self._encoder.render([{"role": "user", "content": text}], is_open=True)
        ids: list[int] = self._tokenizer(asked, add_special_tokens=False)["input_ids"]
        return ids

    @torch.inference_mode()
    def _written(self, text: str, how: Generation) -> str:
        prompt = self._prompt(text)
        if not prompt:
            raise UserError("a text without a token can't be continued: give some words")
        room = how.max_new_tokens if self._positions is None else self._positions - len(prompt)
        if room < 1:
            raise UserError(
                f"a text of {len(prompt)} tokens leaves no room: the model has {self._positions} positions: shorten it"
            )
        ids = torch.tensor([prompt], device=self._device)
        config = GenerationConfig(
            max_new_tokens=min(room, how.max_new_tokens),
            do_sample=how.temperature > 0,
            eos_token_id=self._tokenizer.eos_token_id,
            pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
            **({"temperature": how.temperature, "top_k": 0} if how.temperature > 0 else {}),
        )
        torch.manual_seed(how.seed)
        output = self._model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config
        )  # fmt: skip
        written: str = self._tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True)
        return written
