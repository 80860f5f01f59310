"""Qwen2-shaped models with random weights and a vocabulary of words, for benchmarks that measure work, not answers.

A word is a token in every position, so texts and ids are as long as each other to proposer and PRM alike; nothing ends a
text and no word holds a separator, so steps are as long as the limits say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

MARK = "<extra_0>"
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
             "num_key_value_heads": 2, "words": 1000},
    # Qwen2.5-0.5B's config.json, its vocabulary rounded to 150,000 words
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
             "num_key_value_heads": 2, "words": 150_000},
}  # fmt: skip


def make(folder: Path, shape: str, kind: str, context: int = 4096) -> Path:
    """Write a model (`causal` or `prm`) with its tokenizer into `folder`, in bfloat16."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from treesearch.models.qwen2_prm import Qwen2ForProcessRewardModel

    torch.manual_seed(0)
    given: dict[str, Any] = dict(SHAPES[shape])
    tokenizer = words(given.pop("words"))
    config = Qwen2Config(
        **given, vocab_size=(len(tokenizer) + 63) // 64 * 64, max_position_embeddings=context, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = (Qwen2ForCausalLM if kind == "causal" else Qwen2ForProcessRewardModel)(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def words(count: int) -> Any:
    """A tokenizer whose tokens are the words w0, w1, ... and the mark of a step; it ends no text."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel({f"w{k}": k for k in range(count)}, unk_token="w0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(MARK, normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def question(number: int, tokens: int) -> str:
    """As many words; questions of different numbers part at their first word."""
    return " ".join(f"w{(number * 7919 + k * 31) % 997}" for k in range(tokens))
