"""Weights in .bin files, which are pickles, as safetensors: `python -m treesearch.models.convert FOLDER`. Knows no class.

The one place that reads a pickle, in torch's own reader of tensors and nothing else (`weights_only`; the known way around it
ends with torch 2.6, CVE-2025-32434). Whoever does not trust the file runs this in a container without a network.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from treesearch.errors import ConfigError

INDEX = "pytorch_model.bin.index.json"


def convert(folder: Path) -> list[Path]:
    """Write each pytorch_model*.bin of a folder as model*.safetensors beside it; returns what was written.

    Raises ConfigError if there is none, or one holds anything but named tensors.
    """
    import torch
    from safetensors.torch import save_file

    files = sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise ConfigError(f"{folder}: no pytorch_model*.bin in it; give the folder of a downloaded model")
    written = []
    for file in files:
        try:
            found = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # of the unpickler: whatever the file makes it raise
            raise ConfigError(f"{file}: not read, it is damaged or holds more than tensors: {error}") from error
        if not isinstance(found, dict) or not all(isinstance(weight, torch.Tensor) for weight in found.values()):
            raise ConfigError(f"{file}: holds no named tensors; it is no file of weights")
        target = folder / renamed(file.name)
        save_file({name: weight.contiguous().clone() for name, weight in found.items()}, target, {"format": "pt"})
        written.append(target)
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text("utf-8"))
        index["weight_map"] = {name: renamed(file) for name, file in index["weight_map"].items()}
        (folder / renamed(INDEX)).write_text(json.dumps(index, indent=1) + "\n", "utf-8")
    return written


def renamed(name: str) -> str:
    """`pytorch_model-00001-of-00002.bin` is `model-00001-of-00002.safetensors`."""
    return name.replace("pytorch_model", "model", 1).replace(".bin", ".safetensors", 1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a model's .bin files as safetensors.")
    parser.add_argument("folder", type=Path)
    try:
        for path in convert(parser.parse_args().folder):
            print(path)
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
