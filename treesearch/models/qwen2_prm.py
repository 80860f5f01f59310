"""Qwen2ForProcessRewardModel: a Qwen2 body and a two-layer, two-class head read at a step token.

transformers ships no class of this name (the published checkpoints bring it as remote code, which we do not run), so
here are the few lines it takes. Weight names are those of Qwen/Qwen2.5-Math-PRM-7B: `model.*`, `score.0.*`, `score.2.*`.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import Qwen2Config, Qwen2Model, Qwen2PreTrainedModel


class Qwen2ForProcessRewardModel(Qwen2PreTrainedModel):
    config_class = Qwen2Config

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        self.model = Qwen2Model(config)
        self.score = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size), nn.ReLU(), nn.Linear(config.hidden_size, 2)
        )
        self.post_init()

    def forward(self, input_ids: torch.Tensor, **kwargs) -> torch.Tensor:
        """Logits [batch, tokens, 2]; class 1 is "right so far"."""
        return self.score(self.model(input_ids=input_ids, **kwargs).last_hidden_state)
