"""Qwen2ForPrmModel (Skywork/Skywork-o1-Open-PRM-Qwen-2.5-*) for vLLM: its Qwen2 reward model with a linear head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from vllm.model_executor.models.interfaces_base import default_pooling_type
from vllm.model_executor.models.qwen2_rm import Qwen2ForRewardModel


@default_pooling_type(tok_pooling_type="ALL")
class Qwen2ForPrmModel(Qwen2ForRewardModel):
    """Raw values [tokens, 1]. The head's published name `v_head` is `score` in vLLM's class."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.score = nn.Sequential(OrderedDict(summary=nn.Linear(self.config.hidden_size, 1, dtype=self.head_dtype)))

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        named = ((name.replace("v_head.", "score.", 1), weight) for name, weight in weights)
        loaded: set[str] = super().load_weights(named)
        return loaded
