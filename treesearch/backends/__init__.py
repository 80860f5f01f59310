"""Proposers, scorers and outcome models by their config type. Importing the specs is cheap; `build` loads models."""

from __future__ import annotations

from typing import Any

from treesearch.backends.bundled import Bundled, BundledPRM
from treesearch.backends.generative import Generative, GenerativeOutcome
from treesearch.backends.judge import Judge, JudgeOutcome
from treesearch.backends.legal import Legal
from treesearch.backends.mixture import Member, Mixture
from treesearch.backends.none import NoModel
from treesearch.backends.openai import OpenAI
from treesearch.backends.oracle import Oracle, OracleOutcome
from treesearch.backends.recorded import Recorded, RecordedOutcome, RecordedScorer
from treesearch.backends.reward import TransformersORM, TransformersPRM
from treesearch.backends.simulated import Simulated, SimulatedOutcome, SimulatedScorer
from treesearch.backends.transformers import Transformers
from treesearch.backends.verifier import Verifier, VerifierOutcome
from treesearch.backends.vllm import VLLM, VLLMORM, VLLMPRM

__all__ = [
    "OUTCOMES", "PROPOSERS", "SCORERS", "VLLM", "VLLMORM", "VLLMPRM", "Bundled", "BundledPRM", "Generative",
    "GenerativeOutcome", "Judge", "JudgeOutcome", "Legal", "Member", "Mixture", "NoModel", "OpenAI", "Oracle",
    "OracleOutcome", "Recorded", "RecordedOutcome", "RecordedScorer", "Simulated", "SimulatedOutcome", "SimulatedScorer",
    "Transformers", "TransformersORM", "TransformersPRM", "Verifier", "VerifierOutcome",
]  # fmt: skip

PROPOSERS: dict[str, Any] = {
    "bundled": Bundled,
    "vllm": VLLM,
    "transformers": Transformers,
    "openai": OpenAI,
    "recorded": Recorded,
    "simulated": Simulated,
    "legal": Legal,
    "mixture": Mixture,
}
SCORERS: dict[str, Any] = {
    "bundled": BundledPRM,
    "vllm": VLLMPRM,
    "transformers": TransformersPRM,
    "recorded": RecordedScorer,
    "simulated": SimulatedScorer,
    "judge": Judge,
    "generative": Generative,
    "verifier": Verifier,
    "oracle": Oracle,
    "none": NoModel,
}
OUTCOMES: dict[str, Any] = {
    "none": NoModel,
    "vllm": VLLMORM,
    "transformers": TransformersORM,
    "recorded": RecordedOutcome,
    "simulated": SimulatedOutcome,
    "judge": JudgeOutcome,
    "generative": GenerativeOutcome,
    "verifier": VerifierOutcome,
    "oracle": OracleOutcome,
}
