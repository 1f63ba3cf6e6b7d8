"""Small language models of their true classes, with tokenizers of their own, as tests make them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

END = "<|endoftext|>"
VOCABULARY = 400

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

TEXTS = (
    "the film was good and the actors were good too", "a bad film with a bad story and worse actors",
    "what a wonderful story , full of heart", "the story is long and the end is bad",
)  # fmt: skip


def save_language_model(
    kind: str,
    folder: Path,
    texts: Iterable[str] = TEXTS,
    *,
    template: bool = True,
    num_blocks: int = 4,
    width: int = 32,
) -> Path:
    """A folder as save_pretrained writes it, head included.

    Args:
        kind: `gpt2`, whose output embeddings are tied to its token embeddings, or `llama`, whose are not.
        folder: Where to.
        texts: What the tokenizer is trained on.
        template: Whether it has a chat template.
        num_blocks: Of the model.
        width: Of its hidden states.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END)
    if template:
        fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    common = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
    model = (
        GPT2LMHeadModel(GPT2Config(n_embd=width, n_layer=num_blocks, n_head=4, n_positions=128, **common))
        if kind == "gpt2"
        else LlamaForCausalLM(
            LlamaConfig(
                hidden_size=width,
                num_hidden_layers=num_blocks,
                num_attention_heads=4,
                num_key_value_heads=2,
                intermediate_size=2 * width,
                max_position_embeddings=128,
                tie_word_embeddings=False,
                **common,
            )
        )
    )
    model.save_pretrained(folder)
    return folder


def save_encoder_decoder(
    kind: str, folder: Path, texts: Iterable[str] = TEXTS, *, num_blocks: tuple[int, int] = (2, 2), width: int = 32
) -> Path:
    """A folder as save_pretrained writes it, of a model with an encoder and a decoder.

    Args:
        kind: `t5`, whose lowest blocks hold the bias of positions, or `bart`.
        folder: Where to.
        texts: What the tokenizer is trained on.
        num_blocks: Of the encoder and of the decoder.
        width: Of the hidden states.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<pad>", "</s>", "<s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(texts, trainer)
    frame = "$A </s>" if kind == "t5" else "<s> $A </s>"
    tokenizer.post_processor = processors.TemplateProcessing(single=frame, special_tokens=[("</s>", 1), ("<s>", 2)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>")
    fast.model_input_names = ["input_ids", "attention_mask"]
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    encoder, decoder = num_blocks
    common = {"vocab_size": VOCABULARY, "d_model": width, "pad_token_id": 0, "eos_token_id": 1}
    model = (
        T5ForConditionalGeneration(
            T5Config(
                num_layers=encoder,
                num_decoder_layers=decoder,
                num_heads=4,
                d_kv=width // 4,
                d_ff=2 * width,
                decoder_start_token_id=0,
                **common,
            )
        )
        if kind == "t5"
        else BartForConditionalGeneration(
            BartConfig(
                encoder_layers=encoder,
                decoder_layers=decoder,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=2 * width,
                decoder_ffn_dim=2 * width,
                max_position_embeddings=128,
                bos_token_id=2,
                decoder_start_token_id=1,
                forced_eos_token_id=None,
                **common,
            )
        )
    )
    model.save_pretrained(folder)
    return folder
