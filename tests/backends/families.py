"""Each published family of reward models in small: the real class with random weights, a tokenizer of the real kind with the
real special tokens, and what the model card computes, written again from the card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForTokenClassification,
)

from treesearch.models.qwen2_prm import Qwen2ForPrmModel, Qwen2ForProcessRewardModel, Qwen2ForRewardModel

QUESTION = "What is 6 + 4 - 5?"
STEPS = ("First, 6 + 4 = 10.", "Then (10 - 5) = 5.\nSo it is 5.", "The answer is 5.")
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."

# Tokenizers

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
CORPUS = [
    QUESTION,
    *STEPS,
    SYSTEM,
    "Step 1: a.\n Step 2: b).\n\n",
    "x ки",
    " ки",
    "+ -",
    " + -",
    " \n\n\n\n",
    " \n\n\n\n\n",
]
CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helper.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3_CHAT = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL_CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


def _byte_level(pattern: str, special: Sequence[str], bos: str | None, **given: Any) -> PreTrainedTokenizerFast:
    """Byte-level BPE behind a pre-tokenizer, its merges learnt from a few texts (".\\n" is one token, as in the real ones)."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        CORPUS * 4, trainers.BpeTrainer(vocab_size=480, initial_alphabet=alphabet, show_progress=False)
    )
    inner.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    if bos is not None:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, inner.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=inner, **given)


@cache
def qwen() -> PreTrainedTokenizerFast:
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra_0>")
    return _byte_level(QWEN, special, None, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML)


@cache
def skywork() -> PreTrainedTokenizerFast:
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return _byte_level(QWEN, special, None, chat_template=CHATML, **names)


@cache
def llama3() -> PreTrainedTokenizerFast:
    bos, end = "<|begin_of_text|>", "<|eot_id|>"
    special = (bos, "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", end)
    return _byte_level(LLAMA3, special, bos, bos_token=bos, eos_token=end, chat_template=LLAMA3_CHAT)


@cache
def mistral() -> PreTrainedTokenizerFast:
    """As sentencepiece: a space before every text that stands alone, bytes for what has no piece (line ends)."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{k:02X}>" for k in range(256)), *"▁ки", *(chr(k) for k in range(33, 127))]
    merges = [("к", "и"), ("▁", "ки"), ("▁", "+"), ("▁", "-"), ("S", "o"), ("▁", "So"), ("T", "h"), ("Th", "e"),
              ("▁", "The"), ("▁", "1"), ("1", "0"), ("▁", "10"), ("▁", "="), ("▁", "[")]  # fmt: skip
    vocab = {piece: k for k, piece in enumerate([*pieces, *(a + b for a, b in merges)])}
    inner = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in ("<s>", "</s>")])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, chat_template=MISTRAL_CHAT, **names)


# What the cards compute: scores of all steps of a solution, in float32


def _at(logits: torch.Tensor, ids: Sequence[int], tag: int) -> torch.Tensor:
    return logits[[k for k, i in enumerate(ids) if i == tag]]


def _logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Logits [tokens, classes] of a plain forward."""
    with torch.inference_mode():
        out = model(torch.tensor([list(ids)]))
    return (out if isinstance(out, torch.Tensor) else out.logits)[0].float()


def _chat(tokenizer: Any, conversation: list[dict[str, str]]) -> list[int]:
    return list(tokenizer.apply_chat_template(conversation, tokenize=True, return_dict=False))


def says(*turns: str) -> list[dict[str, str]]:
    """A conversation that the user begins."""
    return [{"role": ("user", "assistant")[k % 2], "content": turn} for k, turn in enumerate(turns)]


def math_shepherd(model: Any, tokenizer: Any, question: str, steps: Sequence[str]) -> list[float]:
    ids = tokenizer.encode(question + " " + "\n".join(f"{step} ки" for step in steps))
    labels = tokenizer.encode("+ -")[1:]
    return _at(_logits(model, ids)[:, labels].softmax(-1)[:, 0], ids, tokenizer.encode("ки")[-1]).tolist()


def er_prm(model: Any, tokenizer: Any, question: str, steps: Sequence[str]) -> list[float]:
    ids = tokenizer.encode(question + " " + "".join(f"{step} ки" for step in steps))
    labels = [tokenizer.encode(" +")[-1], tokenizer.encode(" -")[-1]]
    return _at(_logits(model, ids)[:, labels].softmax(-1)[:, 0], ids, tokenizer.encode(" ки")[-1]).tolist()


def math_psa(model: Any, tokenizer: Any, question: str, steps: Sequence[str]) -> list[float]:
    text = question + " " + "".join(f"{step} \n\n\n\n\n " for step in steps)
    ids = tokenizer.encode(text, add_special_tokens=False)  # a Qwen2 tokenizer adds none
    tag, *labels = tokenizer.encode(" \n\n\n\n\n + -", add_special_tokens=False)
    return _at(_logits(model, ids)[:, labels].softmax(-1)[:, 0], ids, tag).tolist()


def versaprm(model: Any, tokenizer: Any, question: str, steps: Sequence[str]) -> list[float]:
    ids = tokenizer.encode(question + " \n\n" + "".join(f"{step} \n\n\n\n" for step in steps))
    (tag,) = tokenizer.encode(" \n\n\n\n", add_special_tokens=False)
    minus, plus = tokenizer.encode("-")[-1], tokenizer.encode("+")[-1]
    return _at(_logits(model, ids)[:, [minus, plus]].softmax(-1)[:, 1], ids, tag).tolist()


def rlhflow(model: Any, tokenizer: Any, question: str, steps: Sequence[str]) -> list[float]:
    """One forward a step; the label is predicted two tokens before the end, `+` and the end of the turn."""
    conversation, scores = [], []
    labels = [tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]]
    for k, step in enumerate(steps):
        conversation += says(step if k else f"{question} {step}", "+")
        scores.append(float(_logits(model, _chat(tokenizer, conversation))[-3, labels].softmax(-1)[0]))
    return scores


def qwen_prm(model: Any, tokenizer: Any, question: str, steps: Sequence[str]) -> list[float]:
    turns = says(question, "<extra_0>".join(steps) + "<extra_0>")
    ids = _chat(tokenizer, [{"role": "system", "content": SYSTEM}, *turns])
    return _at(_logits(model, ids).softmax(-1)[:, 1], ids, tokenizer.convert_tokens_to_ids("<extra_0>")).tolist()


def _apart(tokenizer: Any, begin: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
    """(ids, positions) with steps and line ends tokenised apart."""
    ids, at = tokenizer.encode(begin), []
    for step in steps:
        ids += [*(tokenizer.encode(step.replace("\n", " ")) if step else []), *tokenizer.encode("\n")]
        at.append(len(ids) - 1)
    return ids, at


def skywork_prm(model: Any, tokenizer: Any, question: str, steps: Sequence[str]) -> list[float]:
    ids, at = _apart(tokenizer, f"{tokenizer.bos_token}{question}\n", steps)
    return _logits(model, ids)[at, 0].sigmoid().tolist()


def token_classifier(model: Any, tokenizer: Any, question: str, steps: Sequence[str]) -> list[float]:
    """`PRMTrainer.tokenize_row` of trl."""
    ids, at = _apart(tokenizer, f"{question}\n", steps)
    ids, at = [tokenizer.bos_token_id, *ids], [k + 1 for k in at]
    return _logits(model, ids)[at].softmax(-1)[:, 1].tolist()


def qwen_rm(model: Any, tokenizer: Any, question: str, steps: Sequence[str]) -> list[float]:
    ids = _chat(tokenizer, [{"role": "system", "content": SYSTEM}, *says(question, "".join(steps))])
    return [float(_logits(model, ids)[-1, 0])]


def classifier(model: Any, tokenizer: Any, question: str, steps: Sequence[str]) -> list[float]:
    """Model card of Skywork/Skywork-Reward-Llama-3.1-8B: `model(ids).logits[0][0]` of the whole conversation."""
    with torch.inference_mode():
        out = model(torch.tensor([_chat(tokenizer, says(question, "".join(steps)))]))
    return [float(out.logits[0, 0])]


# The models


@dataclass(frozen=True)
class Family:
    """`hub`: the name it is published by, `card`: what its card computes."""

    hub: str
    kind: Any
    config: Any
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    card: Callable[[Any, Any, str, Sequence[str]], list[float]]


PRMS = {
    "math-shepherd": Family(
        "peiyi9979/math-shepherd-mistral-7b-prm", MistralForCausalLM, MistralConfig, mistral, math_shepherd
    ),
    "er-prm": Family("HanningZhang/Llama3.1-Math-PRM", LlamaForCausalLM, LlamaConfig, llama3, er_prm),
    "math-psa": Family("openreasoner/Math-psa", Qwen2ForCausalLM, Qwen2Config, qwen, math_psa),
    "versaprm": Family("UW-Madison-Lee-Lab/VersaPRM", LlamaForCausalLM, LlamaConfig, llama3, versaprm),
    "rlhflow": Family("RLHFlow/Llama3.1-8B-PRM-Deepseek-Data", LlamaForCausalLM, LlamaConfig, llama3, rlhflow),
    "qwen2.5-math-prm": Family("Qwen/Qwen2.5-Math-PRM-7B", Qwen2ForProcessRewardModel, Qwen2Config, qwen, qwen_prm),
    "skywork-o1-open-prm": Family(
        "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B", Qwen2ForPrmModel, Qwen2Config, skywork, skywork_prm
    ),
    "newline": Family("trl-lib/a-prm", Qwen2ForTokenClassification, Qwen2Config, skywork, token_classifier),
}
OUTCOMES = {
    "qwen2.5-math-rm": Family("Qwen/Qwen2.5-Math-RM-72B", Qwen2ForRewardModel, Qwen2Config, qwen, qwen_rm),
    "classifier": Family(
        "Skywork/Skywork-Reward-Llama-3.1-8B", LlamaForSequenceClassification, LlamaConfig, llama3, classifier
    ),
}


def save(folder: Path, family: Family, **config: Any) -> Path:
    """A small model of the family in a folder that ends in its hub name; weights large enough that scores differ."""
    torch.manual_seed(5)
    tokenizer = family.tokenizer()
    shape = {"vocab_size": 640, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 32,
             "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512,
             "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
             "pad_token_id": tokenizer.pad_token_id} | config  # fmt: skip
    if family.kind is LlamaForSequenceClassification:
        shape["num_labels"] = 1
    model = family.kind(family.config(**shape))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.mul_(6)
    folder = folder / family.hub
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
