"""Tokenizers and small random models in the styles that chat models come in, saved as a user's folder would be.

The classes, special tokens and decoders are those of the real models; the vocabularies are trained on a few lines.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

TEXT = [
    "Let's think step by step: 4 + 5 is 9, so the answer is 24. Wait, what if we don't?",
    "First add 10 and 14; then it's done. The price is 3 euros, isn't it? Yes.",
    "Step 1: multiply 3 by 8 = 24. Step 2: check. Hmm, no: 3 * 8 = 24, so the answer is 24.",
]
LINES = ["One step.\nAnother step.\n\nThe last step.\n", "a = 1;\n\nb = 2;\nc\n\n\nd.\n\n"]

CHATML = """{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
QWEN3 = CHATML.removesuffix("{% endif %}") + (
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
R1 = CHATML.removesuffix("{% endif %}") + "<think>\n{% endif %}"
LLAMA3 = (
    "{{- bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
DEAF = CHATML.replace("messages %}", "messages if m.role != 'system' %}")  # leaves the system prompt out


def _trained(model: Any, pre: Any, text: list[str], trainer: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    import json

    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre
    tokenizer.train_from_iterator(text, trainer)
    state = json.loads(tokenizer.to_str())["model"]
    return state["vocab"], [tuple(pair) for pair in state["merges"]]


def _bytes() -> tuple[dict[str, int], list[tuple[str, str]]]:
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return _trained(models.BPE(), pre, TEXT * 4 + LINES * 4, trainer)


def qwen(template: str = CHATML, thinking: bool = False) -> Qwen2Tokenizer:
    """Byte-level BPE; as in the real ones <think> and </think>, where there are any, are added but not special."""
    vocab, merges = _bytes()
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges)
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in ("<|im_start|>", "<|im_end|>")])
    if thinking:
        tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in ("<think>", "</think>")])
    tokenizer.chat_template = template
    return tokenizer


def llama3() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose post-processor puts BOS first, and whose config asks for cleaned-up spaces."""
    vocab, merges = _bytes()
    inner = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    inner.add_special_tokens(special)
    begin = special[0]
    inner.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, inner.token_to_id(begin))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=begin, eos_token="<|end_of_text|>", clean_up_tokenization_spaces=True,
        chat_template=LLAMA3,
    )  # fmt: skip


def mistral(template: str = MISTRAL) -> LlamaTokenizer:
    """SentencePiece-like BPE: ▁ for spaces, one put before a text; bytes for what it does not know, such as a line end."""
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False)
    learned, merges = _trained(
        models.BPE(), pre_tokenizers.Metaspace(prepend_scheme="first", split=False), TEXT * 4, trainer
    )
    names = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *sorted(learned, key=learned.__getitem__)]
    tokenizer = LlamaTokenizer(vocab={name: k for k, name in enumerate(names)}, merges=merges, add_bos_token=True)
    tokenizer.chat_template = template
    return tokenizer


SHAPE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 512,
}  # fmt: skip
STYLES: dict[str, tuple[Any, Any, Any]] = {
    "qwen2": (qwen, Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (lambda: qwen(QWEN3, thinking=True), Qwen3Config, Qwen3ForCausalLM),
    "llama3": (llama3, LlamaConfig, LlamaForCausalLM),
    "mistral": (mistral, MistralConfig, MistralForCausalLM),
}
TURN_ENDS = {"qwen2": "<|im_end|>", "qwen3": "<|im_end|>", "llama3": "<|eot_id|>", "mistral": "</s>"}


@cache
def tokenizer_of(style: str) -> Any:
    return STYLES[style][0]()


def save(folder: Path, style: str, **config: Any) -> Path:
    """A random model of this style; its generation config knows no end of turn. Sharp logits, as in `models.save`."""
    torch.manual_seed(5)
    tokenizer = tokenizer_of(style)
    _, config_class, model_class = STYLES[style]
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    given = SHAPE | ids | {"vocab_size": len(tokenizer), "tie_word_embeddings": False} | config
    model = model_class(config_class(**given))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.mul_(6)
        if style == "mistral":  # single bytes of longer characters, at random, are no text that a model writes
            model.lm_head.weight[
                tokenizer.convert_tokens_to_ids("<0x80>") : tokenizer.convert_tokens_to_ids("<0xFF>") + 1
            ] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
