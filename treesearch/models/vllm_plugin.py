"""Tells vLLM of reward models that it has no class for. Engines call `register` by our entry point in vllm.general_plugins."""

from __future__ import annotations

CLASSES = {"Qwen2ForPrmModel": "treesearch.models.qwen2_prm_vllm:Qwen2ForPrmModel"}


def register() -> None:
    """Called in each of vLLM's processes, maybe more than once."""
    from vllm import ModelRegistry

    for architecture, where in CLASSES.items():
        if architecture not in ModelRegistry.get_supported_archs():
            ModelRegistry.register_model(architecture, where)
