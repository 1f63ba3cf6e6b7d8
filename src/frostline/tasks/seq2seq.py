"""`dataset.task=seq2seq`: an encoder reads a text, and a decoder writes another: a summary, a translation.

What an evaluation keeps of a row is what `causal_lm` keeps: loss, target tokens and right ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from frostline.errors import ModelError, SpecError
from frostline.spec import TASKS, Stack
from frostline.tasks.causal_lm import CausalLm

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from frostline.spec import DatasetSpec, TrainingSpec
    from frostline.spec.task import RowEncoder


class Seq2Seq(CausalLm):
    """The text of `dataset.target_column`, from that of `dataset.text_column`."""

    name = "seq2seq"
    packs_rows = False
    metrics_of = "causal_lm"
    stacks = (Stack.ENCODER, Stack.DECODER)

    def check_dataset(self, spec: DatasetSpec) -> None:
        """See `Task`."""
        super().check_dataset(spec)
        if spec.messages_column is not None:
            raise SpecError(f"dataset.messages_column={spec.messages_column}: is for dataset.task=causal_lm")
        if spec.target_column is None:
            raise SpecError("dataset.task=seq2seq: name the column of the texts to be written: dataset.target_column")

    def row_encoder(self, tokenizer: PreTrainedTokenizerBase, training: TrainingSpec) -> RowEncoder:
        """See `Task`."""
        return Seq2SeqEncoder(tokenizer, training.max_tokens, training.max_target_tokens or training.max_tokens)

    def auto_class(self, config: Any) -> Any:
        """See `Task`."""
        from transformers import AutoModelForSeq2SeqLM
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

        if type(config) not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
            raise ModelError(
                f"dataset.task=seq2seq: needs an encoder and a decoder, as T5 and BART have; {config.model_type} has "
                "not both (dataset.task=causal_lm trains a decoder)"
            )
        if config.decoder_start_token_id is None:
            raise ModelError(
                f"dataset.task=seq2seq: the config of this {config.model_type} names no decoder_start_token_id, the "
                "token that a decoder begins with: add it to config.json"
            )
        return AutoModelForSeq2SeqLM


class Seq2SeqEncoder:
    """Tokens of a text, and those of its target as labels, each with what the tokenizer puts around it.

    A target ends in the tokenizer's end token, if it has one, also where it is cut.

    Args:
        tokenizer: The model's.
        max_tokens: Longer texts are cut.
        max_target_tokens: Longer targets are cut.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int, max_target_tokens: int) -> None:
        self._tokenizer: Any = tokenizer
        self._max_tokens, self._max_target_tokens = max_tokens, max_target_tokens

    @property
    def identity(self) -> str:
        """See `RowEncoder`."""
        return f"seq2seq 1, targets of {self._max_target_tokens}"

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """See `RowEncoder`."""
        from frostline.data.tokenize import were_cut

        texts = self._tokenizer(batch["text"], truncation=True, max_length=self._max_tokens)
        targets = [self._ended(ids) for ids in self._tokenizer(text_target=batch["target"])["input_ids"]]
        limit = self._max_target_tokens
        is_cut = zip(were_cut(texts, self._max_tokens), targets, strict=True)
        return {
            **texts,
            "labels": [ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]] for ids in targets],
            "truncated": [text_is_cut or len(target) > limit for text_is_cut, target in is_cut],
        }

    def _ended(self, ids: list[int]) -> list[int]:
        end = self._tokenizer.eos_token_id
        return ids if end is None or ids[-1:] == [end] else [*ids, int(end)]


TASKS.register(Seq2Seq.name)(Seq2Seq())
