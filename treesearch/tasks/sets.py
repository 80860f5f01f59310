"""Problem sets that have a name: which task fits each, and where those lie that are not packaged. Data alone."""

from __future__ import annotations

TASK_OF = {
    "game24": "game24",
    "game24:train": "game24",
    "countdown": "countdown",
    "gsm8k": "gsm8k",
    "math500": "math",
    "aime24": "aime",
    "aime25": "aime",
}
# Sets of the Hugging Face Hub, each with the config and the split in which its problems are published.
SOURCES = {
    "gsm8k": "hf:openai/gsm8k:main:test",  # 1,319 problems; question, answer
    "math500": "hf:HuggingFaceH4/MATH-500:test",  # 500; problem, answer
    "aime24": "hf:HuggingFaceH4/aime_2024:train",  # 30; id, problem, answer (the set has no other split)
    "aime25": "hf:math-ai/aime25:test",  # 30; id, problem, answer
}
