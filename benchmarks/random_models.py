"""Qwen2-shaped models with random weights and a vocabulary of words, for benchmarks that measure work, not answers.

A word, a space and some letters, is one token to proposer and PRM alike, and the proposer can say nothing else: no end
of text and no separator, so its steps are as long as the limits say.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

MARK = "<extra_0>"
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
             "num_key_value_heads": 2, "letters": "abcdefghij", "length": 3},
    # large enough that a step on a CPU is not all overhead
    "small": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
              "num_key_value_heads": 4, "letters": "abcdefghij", "length": 3},
    # config.json of Qwen2.5-0.5B; 160,000 words instead of its 151,936 tokens
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
             "num_key_value_heads": 2, "letters": "abcdefghijklmnopqrst", "length": 4},
    # that of Qwen2.5-1.5B
    "1.5B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
             "num_key_value_heads": 2, "letters": "abcdefghijklmnopqrst", "length": 4},
}  # fmt: skip


def make(folder: Path, shape: str, kind: str, context: int = 4096) -> Path:
    """Write a model (`causal` or `prm`) with its tokenizer into `folder`, in bfloat16."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from treesearch.models.qwen2_prm import Qwen2ForProcessRewardModel

    torch.manual_seed(0)
    given = dict(SHAPES[shape])
    known = words(given.pop("letters"), given.pop("length"))
    tokenizer = tokenizer_of(known)
    config = Qwen2Config(
        **given, vocab_size=len(known) if kind == "causal" else len(tokenizer), max_position_embeddings=context,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = (Qwen2ForCausalLM if kind == "causal" else Qwen2ForProcessRewardModel)(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def words(letters: str, length: int) -> list[str]:
    """All words of so many letters; word k has the token id k."""
    return ["".join(word) for word in itertools.product(letters, repeat=length)]


def tokenizer_of(known: list[str]) -> Any:
    """A byte-pair tokenizer with the words as its first tokens, then what they are merged from, bytes, and the mark."""
    from tokenizers import AddedToken, pre_tokenizers
    from transformers import Qwen2Tokenizer

    space = "Ġ"  # as byte-level vocabularies write it
    starts = sorted({word[:k] for word in known for k in range(1, len(word))}, key=lambda start: (len(start), start))
    pieces = [space + text for text in (*known, *starts)]
    vocab = {piece: k for k, piece in enumerate([*pieces, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    merges = [(space + text[:-1], text[-1]) for text in (*starts, *known)]
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges)
    tokenizer.add_tokens([AddedToken(MARK, special=True, normalized=False)])
    return tokenizer


def question(number: int, tokens: int, shape: str = "tiny") -> str:
    """As many words; questions of different numbers part at their first word."""
    some = words(SHAPES[shape]["letters"], SHAPES[shape]["length"])[:997]
    return "".join(f" {some[(number * 7 + k * 31) % 997]}" for k in range(tokens))
