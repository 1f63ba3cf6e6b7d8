"""Computes the last block only at the position that the head reads.

Of the last block's output a classifier reads one vector for each row. For it a single query is enough, and then keys
and values of the other positions need not be made either: for one head, with x the block's input `[T, D]`, q its query
and p its weights, q K^T = (q W_k) x^T and p V = (p x) W_v. That is the same function of the same parameters, associated
otherwise: with h heads some 2 h T D + 12 D^2 multiplications a row instead of 12 T D^2.

Which modules of a block do what is written in no config: blocks are known by the names of their parts. What is put in
place of a block is compared with the block before it is used, so an unknown variant is refused, not trusted.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from frostline.errors import best_effort, in_one_line
from frostline.models.blocks import Anatomy
from frostline.prefix_cache.forward_probe import probe_forward
from frostline.prefix_cache.suffix import read_position, replaced

log = logging.getLogger(__name__)

_ALIKE = 1e-4
"""How far logits may be apart, of their size, on a row of other padding: seen are 1e-7 in fp32."""

_PROBE_TOKENS = 8

Weights = tuple[torch.Tensor, torch.Tensor | None]
"""Of a projection: `[out, in]` and a bias `[out]`."""


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What a block does, by role.

    Attributes:
        num_heads: Of its attention.
        scaling: What scores are multiplied by.
        before: What is done to hidden states before attention: a norm, or nothing.
        projections: Weights of query, key and value, as they are now.
        dropout: Of the attention's weights.
        after: What becomes of the heads' output and of the block's input, at one position each: `[B, D]`.
    """

    num_heads: int
    scaling: float
    before: Callable[[torch.Tensor], torch.Tensor]
    projections: Callable[[], tuple[Weights, Weights, Weights]]
    dropout: nn.Module
    after: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class LastBlockAtPosition:
    """Takes the place of a model's last block.

    Args:
        anatomy: The model taken apart.
        position: Which position the head reads, `first` or `last`.

    Raises:
        LookupError: The block's parts aren't known.
    """

    def __init__(self, anatomy: Anatomy, position: str) -> None:
        self._block = anatomy.blocks[-1][1]
        self._position = position
        self._parts = _take_apart(self._block)
        self._output = probe_forward(anatomy).outputs[anatomy.blocks[-1][0]]
        names = list(inspect.signature(type(self._block).forward).parameters)[2:]  # after self and the hidden states
        if "attention_mask" not in names:
            raise LookupError(f"{type(self._block).__name__} takes no attention_mask")
        self._mask_at = names.index("attention_mask")

    def attach(self) -> None:
        """From now on the block gives the one vector: `[B, 1, D]`, or at its place among zeros if it is the last."""
        self._block.forward = MethodType(self._forward, self._block)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The same within a context."""
        with replaced(self._block, MethodType(self._forward, self._block)):
            yield

    def _forward(self, block: nn.Module, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        del block
        mask = args[self._mask_at] if self._mask_at < len(args) else kwargs.get("attention_mask")
        parts, is_first = self._parts, self._position == "first"
        visible = None if mask is None else _kept(mask, is_first)
        where = None if is_first or visible is None else visible.sum(-1) - 1
        rows = torch.arange(len(hidden_states), device=hidden_states.device)
        query_states = hidden_states[:, 0 if is_first else -1] if where is None else hidden_states[rows, where]
        heads = _attend(parts, parts.before(query_states), parts.before(hidden_states), visible)
        output = parts.after(heads, query_states)
        if is_first:
            read = output[:, None]
        else:
            read = torch.zeros_like(hidden_states, dtype=output.dtype)
            read = read.index_put((rows, torch.full_like(rows, -1) if where is None else where), output)
        return self._output.of(read)


def read_block(anatomy: Anatomy, position: str | None, *, is_checked: bool = False) -> LastBlockAtPosition | None:
    """Returns what gives the last block's output at the position that the head reads; None, and a line why, if nothing.

    Args:
        anatomy: The model taken apart, in fp32, on its device.
        position: From `read_position`.
        is_checked: A model of the same class and config was compared before.
    """
    try:
        if position is None:
            raise LookupError("its head does not read one position of every row")
        block = LastBlockAtPosition(anatomy, position)
        if not is_checked:
            _check(anatomy, block, position)
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        log.info("the last block is computed whole: %s", in_one_line(error))
        return None
    return block


def position_of(anatomy: Anatomy) -> str | None:
    """Returns the position that the head reads, or None where the model can't be asked."""
    if anatomy.blocks and anatomy.num_encoder_blocks is None:
        # A foreign model's forward may fail in any way: it is then trained as ever.
        with best_effort("the position that the head reads"):
            return read_position(anatomy)
    return None


def _attend(parts: _Parts, asking: torch.Tensor, hidden: torch.Tensor, visible: torch.Tensor | None) -> torch.Tensor:
    """Returns what the heads give for one query a row, `[B, D]`.

    Args:
        parts: Of the block.
        asking: Hidden state of the position that asks, `[B, D]`.
        hidden: All positions, `[B, T, D]`.
        visible: Which of them may be attended to, `[B, T]`; None: all.
    """
    (w_q, b_q), (w_k, b_k), (w_v, b_v) = parts.projections()
    size, width, num_heads = len(asking), hidden.shape[-1], parts.num_heads
    query = functional.linear(asking, w_q, b_q).view(size, num_heads, -1) * parts.scaling
    per_head = query.shape[-1]
    probes = torch.bmm(query.transpose(0, 1), w_k.view(num_heads, per_head, width)).transpose(0, 1)
    scores = torch.matmul(probes, hidden.transpose(1, 2))
    if b_k is not None:
        # q b_k is the same for all positions, so softmax takes it out and its gradient is 0. Computed, that would be
        # rounding errors, which Adam scales up to the learning rate; here it is 0, and not absent.
        scores = scores + 0.0 * b_k.sum()
    if visible is not None:
        scores = scores.masked_fill(~visible[:, None], float("-inf"))
    weights = functional.dropout(scores.softmax(-1), parts.dropout.p, parts.dropout.training)  # type: ignore[arg-type]
    mixed = torch.matmul(weights, hidden)
    heads = torch.bmm(mixed.transpose(0, 1), w_v.view(num_heads, per_head, width).transpose(1, 2)).transpose(0, 1)
    if b_v is not None:  # dropped weights need not add up to 1
        heads = heads + weights.sum(-1, keepdim=True) * b_v.view(num_heads, per_head)
    return heads.reshape(size, -1)


def _kept(mask: torch.Tensor, is_first: bool) -> torch.Tensor:
    """Returns which positions the one query may look at, `[B, T]`, from a mask in any of transformers' forms.

    Raises:
        TypeError, ValueError: It is in none of them that is known.
    """
    if not isinstance(mask, torch.Tensor):
        raise TypeError(f"an attention mask of type {type(mask).__name__}")
    if mask.dim() == 4:  # [B, 1, queries, T]: True or 0 where it may look
        mask = mask[:, 0, 0 if is_first else -1]
        return mask if mask.dtype == torch.bool else mask > -1
    if mask.dim() == 2:
        return mask.bool()
    raise ValueError(f"an attention mask of {mask.dim()} dimensions")


@torch.no_grad()
def _check(anatomy: Anatomy, block: LastBlockAtPosition, position: str) -> None:
    """Compares logits with and without, on rows with padding and, since then there may be no mask at all, without.

    Raises:
        ValueError: They differ.
    """
    model: Any = anatomy.model
    device = next(model.parameters()).device
    pad = getattr(model.config, "pad_token_id", None)
    row = [token for token in range(_PROBE_TOKENS + 6) if token != pad][5 : _PROBE_TOKENS + 5]
    ids = torch.tensor([row, row[::-1], row], device=device)
    padded = torch.ones_like(ids)
    padded[1, 3:] = padded[2, -1:] = 0
    was_training = model.training
    model.eval()
    try:
        for mask in (padded, torch.ones_like(ids)):
            batch = {"input_ids": ids.masked_fill(mask == 0, 0 if pad is None else pad), "attention_mask": mask}
            expected = model(**batch).logits.float()
            with block.attached():
                read = model(**batch).logits.float()
            apart, scale = float((expected - read).abs().max()), float(expected.abs().max())
            if not apart <= _ALIKE * scale + 1e-7:
                where = f"at the {position} position alone it gives other logits"
                raise ValueError(f"{where} ({apart:.1e} apart, of {scale:.1e})")
    finally:
        model.train(was_training)


def _take_apart(block: nn.Module) -> _Parts:
    for layout in (_like_bert, _like_distilbert, _like_gpt2):
        try:
            return layout(block)
        except AttributeError:
            continue
    raise LookupError(f"the parts of {type(block).__name__} are not known")


def _same(hidden: torch.Tensor) -> torch.Tensor:
    return hidden


def _linear(*modules: nn.Module) -> Callable[[], tuple[Weights, Weights, Weights]]:
    def weights() -> tuple[Weights, Weights, Weights]:
        q, k, v = ((module.weight, module.bias) for module in modules)
        return q, k, v  # type: ignore[return-value]

    if not all(isinstance(module, nn.Linear) for module in modules):
        raise LookupError("query, key and value are not linear layers")
    return weights


def _like_bert(block: Any) -> _Parts:
    """BERT, RoBERTa, ELECTRA, and what else has their parts: norms after the sums."""
    own, output = block.attention.self, block.attention.output

    def after(heads: torch.Tensor, block_input: torch.Tensor) -> torch.Tensor:
        attended = output(heads, block_input)
        result: torch.Tensor = block.output(block.intermediate(attended), attended)
        return result

    return _Parts(
        num_heads=int(own.num_attention_heads), scaling=float(own.attention_head_size) ** -0.5, before=_same,
        projections=_linear(own.query, own.key, own.value), dropout=own.dropout, after=after,
    )  # fmt: skip


def _like_distilbert(block: Any) -> _Parts:
    own = block.attention

    def after(heads: torch.Tensor, block_input: torch.Tensor) -> torch.Tensor:
        attended = block.sa_layer_norm(own.out_lin(heads) + block_input)
        # The feed-forward layer cuts along dimension 1, which is there for nothing but that.
        result: torch.Tensor = block.output_layer_norm(block.ffn(attended[:, None])[:, 0] + attended)
        return result

    return _Parts(
        num_heads=int(own.n_heads), scaling=float(own.attention_head_size) ** -0.5, before=_same,
        projections=_linear(own.q_lin, own.k_lin, own.v_lin), dropout=own.dropout, after=after,
    )  # fmt: skip


def _like_gpt2(block: Any) -> _Parts:
    """GPT-2: norms before, and one layer, its weight `[in, 3 out]`, for query, key and value."""
    own = block.attn

    def weights() -> tuple[Weights, Weights, Weights]:
        (w_q, w_k, w_v), (b_q, b_k, b_v) = own.c_attn.weight.t().chunk(3), own.c_attn.bias.chunk(3)
        return (w_q, b_q), (w_k.contiguous(), b_k), (w_v.contiguous(), b_v)

    def after(heads: torch.Tensor, block_input: torch.Tensor) -> torch.Tensor:
        attended = own.resid_dropout(own.c_proj(heads)) + block_input
        result: torch.Tensor = attended + block.mlp(block.ln_2(attended))
        return result

    return _Parts(
        num_heads=int(own.num_heads), scaling=float(own.scaling), before=block.ln_1, projections=weights,
        dropout=own.attn_dropout, after=after,
    )  # fmt: skip
