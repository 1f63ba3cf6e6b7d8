"""`dataset.task=causal_lm`: each token is predicted from those before it.

Labels are shifted when rows are tokenized: the label of a position is the token that follows it. What an evaluation
keeps of a row are three numbers: the sum of the losses of its target tokens, how many they are, and how many of them
the model ranks first.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, ClassVar

from frostline.data.label_rule import LabelRule, NoRule
from frostline.errors import DataError, ModelError, SpecError
from frostline.spec import PLAIN_LOSS, TASKS, LossOptions, Task
from frostline.spec.task import Stack, Strata

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerBase

    from frostline.data.raw_table import RawTable
    from frostline.spec import DatasetSpec, TrainingSpec
    from frostline.spec.task import RowEncoder

    Array = np.ndarray[Any, Any]

_SHOWN = 60
"""Characters of a text in a message."""

Pieces = list[tuple[list[int], bool]]
"""Token ids, and whether they are to be predicted, one piece behind the other."""


class CausalLm(Task):
    """The next token of a text, of a completion after its prompt, or of the assistant's turns."""

    name = "causal_lm"
    has_labels = False
    has_classes = False
    one_class_a_row = False
    labels_tokens = True
    generates = True
    packs_rows = True
    smooths_labels = True
    trainer_counts = False
    stacks: ClassVar[tuple[Stack, ...]] = (Stack.DECODER,)
    strata = Strata.NONE

    def check_dataset(self, spec: DatasetSpec) -> None:
        """See `Task`."""
        if spec.pair_column is not None:
            raise SpecError(
                f"dataset.pair_column={spec.pair_column}: a prompt and its completion are dataset.text_column and "
                "dataset.target_column; set it to null"
            )
        if spec.is_image:
            raise SpecError("dataset.task=causal_lm: is for texts; set dataset.image_column to null")
        if spec.messages_column is not None and spec.target_column is not None:
            raise SpecError("dataset: give either dataset.messages_column or dataset.target_column, null for the other")

    def make_rule(self, spec: DatasetSpec, raw: RawTable) -> LabelRule:
        """See `Task`: there are no labels."""
        del spec, raw
        return NoRule(names=())

    def count_labels(self, labels: Array, names: Sequence[str]) -> dict[str, Any]:
        """See `Task`: nothing."""
        del labels, names
        return {}

    def row_encoder(self, tokenizer: PreTrainedTokenizerBase, training: TrainingSpec) -> RowEncoder:
        """See `Task`."""
        return CausalEncoder(tokenizer, training.max_tokens)

    def num_outputs(self, names: Sequence[str]) -> int:
        """See `Task`: what is kept of a row."""
        del names
        return 3

    def head_config(self, names: Sequence[str]) -> dict[str, Any]:
        """See `Task`: the head is the model's own."""
        del names
        return {}

    def auto_class(self, config: Any) -> Any:
        """See `Task`."""
        from transformers import AutoModelForCausalLM
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise ModelError(f"transformers has no causal language model of this architecture ({config.model_type})")
        return AutoModelForCausalLM

    def summed_loss(
        self, logits: torch.Tensor, labels: torch.Tensor, options: LossOptions = PLAIN_LOSS
    ) -> torch.Tensor:
        """See `Task`: cross entropy over all target tokens."""
        return TASKS.get("classification").summed_loss(logits.flatten(0, -2), labels.flatten(), options)

    def num_terms(self, labels: torch.Tensor) -> Any:
        """See `Task`: target tokens."""
        from frostline.data.fillers import is_row

        return is_row(labels).sum().clamp(min=1)

    def reduce(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See `Task`: `[B, 3]`, see this module."""
        import torch
        from torch.nn import functional

        from frostline.data.token_table import NO_LABEL

        losses = functional.cross_entropy(
            logits.float().flatten(0, -2), labels.flatten(), reduction="none", ignore_index=NO_LABEL
        ).view(labels.shape)
        is_target = labels != NO_LABEL
        right = (logits.argmax(-1) == labels) & is_target
        return torch.stack([part.float().sum(-1) for part in (losses, is_target, right)], dim=-1)

    def mean_loss(self, logits: Array, labels: Array) -> float:
        """See `Task`: over all target tokens."""
        del labels
        return float(logits[:, 0].sum() / max(1.0, logits[:, 1].sum()))

    def losses_of(self, logits: Array, labels: Array) -> Array:
        """See `Task`: of a row the mean over its target tokens."""
        import numpy as np

        del labels
        losses: Array = logits[:, 0] / np.maximum(logits[:, 1], 1)
        return losses

    def for_metrics(self, logits: Array, labels: Array) -> tuple[Array, Array, Array]:
        """See `Task`: predictions are sums of losses and right tokens, `[N, 2]`, references the target tokens `[N]`."""
        del labels
        return logits, logits[:, [0, 2]], logits[:, 1]

    def example(self, num_outputs: int) -> tuple[Array, Array]:
        """See `Task`."""
        import numpy as np

        del num_outputs
        return np.array([[2.0, 1.0, 0.0], [3.0, 2.0, 1.0]]), np.zeros((2, 2), dtype=np.int64)

    def prediction_columns(self, logits: Array, labels: Array) -> dict[str, Any]:
        """See `Task`: `label` is the number of target tokens, `predicted` how many of them the model ranks first."""
        import numpy as np

        return {
            "label": logits[:, 1].astype(np.int64),
            "predicted": logits[:, 2].astype(np.int64),
            "loss": self.losses_of(logits, labels).astype(np.float32),
        }

    def describe_label(self, value: Any, names: Sequence[str]) -> str:
        """See `Task`."""
        del names
        return f"{value} tokens"

    @property
    def pipeline(self) -> Mapping[str, Any] | None:
        """See `Task`: MLflow's classification pipeline can't ask it."""
        return None


class CausalEncoder:
    """Tokens of a text, of a prompt and its completion, or of a conversation by the tokenizer's chat template.

    The parts are tokenized apart, as they are when the model is asked for a completion. A text or completion ends in
    the tokenizer's end token, if it has one; a conversation ends as its template does.

    Args:
        tokenizer: The model's.
        max_tokens: Longer rows are cut.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        self._tokenizer: Any = tokenizer
        self._max_tokens = max_tokens

    @property
    def identity(self) -> str:
        """See `RowEncoder`."""
        template = hashlib.sha256(str(self._tokenizer.chat_template).encode()).hexdigest()[:16]
        return f"causal_lm 1, template {template}"

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """See `RowEncoder`."""
        out: dict[str, list[Any]] = {"input_ids": [], "labels": [], "truncated": []}
        for about, pieces in self._rows(batch):
            ids = [token for piece, _ in pieces for token in piece]
            is_target = [learned for piece, learned in pieces for _ in piece]
            out["truncated"].append(len(ids) > self._max_tokens)
            ids, is_target = ids[: self._max_tokens], is_target[: self._max_tokens]
            labels = self._shifted(ids, is_target)
            if all(label == _no_label() for label in labels):
                raise DataError(self._nothing_left(about, pieces))
            out["input_ids"].append(ids)
            out["labels"].append(labels)
        return out

    def _rows(self, batch: dict[str, list[Any]]) -> list[tuple[str, Pieces]]:
        if "messages" in batch:
            return [(text, self._of_messages(json.loads(text))) for text in batch["messages"]]
        prompts = self.prompt_ids(batch["text"])
        end = self._end()
        if "target" not in batch:
            return [(text, [(ids + end, True)]) for text, ids in zip(batch["text"], prompts, strict=True)]
        targets = self._tokenizer(batch["target"], add_special_tokens=False)["input_ids"]
        return [
            (text, [(prompt, False), (target + end, True)])
            for text, prompt, target in zip(batch["text"], prompts, targets, strict=True)
        ]

    def prompt_ids(self, texts: list[str]) -> list[list[int]]:
        """Returns the tokens of texts that something follows: with what the tokenizer begins with, without an end."""
        end = self._end()
        if not texts:
            return []
        encoded = self._tokenizer(texts, add_special_tokens=True)["input_ids"]
        return [ids[: -len(end)] if end and ids[-1:] == end else list(ids) for ids in encoded]

    def _end(self) -> list[int]:
        end = self._tokenizer.eos_token_id
        return [] if end is None else [int(end)]

    def _of_messages(self, messages: list[dict[str, str]]) -> Pieces:
        """Returns the pieces of a conversation: the assistant's turns, and what stands before each."""
        pieces: Pieces = []
        before = ""
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            asked = self.render(messages[:index], is_open=True)
            answered = self.render(messages[: index + 1], is_open=False)
            if not (asked.startswith(before) and answered.startswith(asked)):
                raise DataError(
                    "dataset.messages_column: the tokenizer's chat template writes a conversation otherwise when it "
                    f"goes on, so that the assistant's tokens can't be distinguished; in {_shown(json.dumps(messages))}"
                )
            for text, learned in ((asked[len(before) :], False), (answered[len(asked) :], True)):
                pieces.append((self._tokenizer(text, add_special_tokens=False)["input_ids"], learned))
            before = answered
        return pieces

    def render(self, messages: list[dict[str, str]], *, is_open: bool) -> str:
        """Returns a conversation as the chat template writes it.

        Args:
            messages: With `role` and `content`.
            is_open: Whether the assistant is to speak next.

        Raises:
            ModelError: The tokenizer has no template, or it can't write this.
        """
        if self._tokenizer.chat_template is None:
            raise ModelError(
                "dataset.messages_column: the model's tokenizer has no chat template (chat_template.jinja): take a "
                "model that was made for conversations, or dataset.text_column and dataset.target_column"
            )
        if not messages:
            return ""
        from jinja2 import TemplateError

        try:
            text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=is_open)
        except TemplateError as error:
            raise ModelError(
                f"the tokenizer's chat template can't write {_shown(json.dumps(messages))}: {error}"
            ) from error
        return text

    def _shifted(self, ids: list[int], is_target: list[bool]) -> list[int]:
        """Returns the label of each position: the next token, if that is a target."""
        following = zip(ids[1:], is_target[1:], strict=True)
        return [*(token if learned else _no_label() for token, learned in following), _no_label()][: len(ids)]

    def _nothing_left(self, about: str, pieces: Pieces) -> str:
        """Returns why a row has no target token."""
        first_target = next((index for index, (_, learned) in enumerate(pieces) if learned), len(pieces))
        prompt = sum(len(piece) for piece, _ in pieces[:first_target])
        if prompt >= self._max_tokens:
            return (
                f"a prompt of {prompt} tokens leaves none of training.max_tokens={self._max_tokens} for what is to be "
                f"written: give more, or shorten or remove the row: {_shown(about)}"
            )
        return f"a row has no token to predict from another: remove it: {_shown(about)}"


def _no_label() -> int:
    from frostline.data.token_table import NO_LABEL

    return NO_LABEL


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


TASKS.register(CausalLm.name)(CausalLm())
