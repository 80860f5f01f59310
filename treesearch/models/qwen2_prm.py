"""Reward models with a Qwen2 body that transformers has no class for: the published checkpoints bring them as remote code,
which we do not run, so here are the few lines it takes. Each gives logits [batch, tokens, labels] at every token.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from transformers import Qwen2Config, Qwen2Model, Qwen2PreTrainedModel

LANGUAGE = [r"lm_head\."]  # some checkpoints keep the language model's head


class _Qwen2Reward(Qwen2PreTrainedModel):
    """A body and a two-layer head, with the weight names of Qwen/Qwen2.5-Math-*: `model.*`, `score.0.*`, `score.2.*`."""

    config_class = Qwen2Config
    _keys_to_ignore_on_load_unexpected = LANGUAGE
    labels = 1

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        self.model = Qwen2Model(config)
        self.score = self._head(config.hidden_size)
        self.post_init()

    def _head(self, size: int) -> nn.Module:
        return nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, self.labels))

    def forward(self, input_ids: torch.Tensor, **kwargs) -> torch.Tensor:
        return self.score(self.model(input_ids=input_ids, **kwargs).last_hidden_state)


class Qwen2ForProcessRewardModel(_Qwen2Reward):
    """Qwen/Qwen2.5-Math-PRM-7B and its kin; class 1 is "right so far"."""

    labels = 2


class Qwen2ForRewardModel(_Qwen2Reward):
    """Qwen/Qwen2.5-Math-RM-72B: one value, read at the last token of a whole answer."""


class Qwen2ForPrmModel(Qwen2PreTrainedModel):
    """Skywork/Skywork-o1-Open-PRM-Qwen-2.5-*: a linear head, `v_head.summary.*`; its sigmoid is "right so far"."""

    config_class = Qwen2Config
    _keys_to_ignore_on_load_unexpected = LANGUAGE

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        self.model = Qwen2Model(config)
        self.v_head = nn.Sequential(OrderedDict(summary=nn.Linear(config.hidden_size, 1)))
        self.post_init()

    def forward(self, input_ids: torch.Tensor, **kwargs) -> torch.Tensor:
        return self.v_head(self.model(input_ids=input_ids, **kwargs).last_hidden_state)
