"""What all tests share: the folder of published data, and an environment without network and without idle threads."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# before any test imports torch or transformers: they read these once
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# a shell starts what runs in its background with Ctrl-C ignored, and so would all that the tests start
signal.signal(signal.SIGINT, signal.default_int_handler)

# the same examples on every machine, and no failure because a machine was busy
settings.register_profile("treesearch", deadline=None, derandomize=True)
settings.load_profile("treesearch")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of published puzzles, samples and solutions; tests that need it skip where it is missing."""
    folder = Path(os.environ.get("TREESEARCH_DATA") or ROOT.parent / "shared" / "data").resolve()
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}: set TREESEARCH_DATA to it")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What vLLM leaves behind when an engine ends is its own."""
    for item in items:
        if item.get_closest_marker("vllm"):
            item.add_marker(pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning"))
