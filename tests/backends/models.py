"""Small random models of the real classes, saved as a user's folder would be."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification, Qwen2ForTokenClassification

from treesearch.models.qwen2_prm import Qwen2ForProcessRewardModel
from treesearch.models.train import make_tokenizer
from treesearch.types import Chain, Job, Problem, Sampling, Step, digest

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CLASSES = {
    "causal": Qwen2ForCausalLM,
    "prm": Qwen2ForProcessRewardModel,
    "token": Qwen2ForTokenClassification,
    "sequence": Qwen2ForSequenceClassification,
}


def save(folder: Path, kind: str, chat: bool = False, **config: object) -> Path:
    """A random model of this kind with the bundled tokenizer; sharp logits, so that batching noise cannot flip a sample."""
    torch.manual_seed(3)
    tokenizer = make_tokenizer()
    if chat:
        tokenizer.chat_template = CHATML
    shape = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128,
             "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id} | config  # fmt: skip
    model = CLASSES[kind](Qwen2Config(**shape))  # type: ignore[arg-type]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.mul_(6)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def job(question: str = "4 5 6 10", *, n: int | None = 4, first: int = 0, until: str = "step", path: Chain = (),
        sampling: Sampling | None = None) -> Job:  # fmt: skip
    seed = digest("run", question, *(step.text for step in path))
    return Job("p/0", Problem("p", question, "24"), path, first, n, until, sampling or Sampling(), seed)  # type: ignore[arg-type]


def steps(*texts: str) -> Chain:
    ids = make_tokenizer()
    return tuple(Step(text, tuple(ids(text)["input_ids"]), len(ids(text)["input_ids"])) for text in texts)
