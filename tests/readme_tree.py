"""The file tree of the README, written from the files that are there: `make tree` refreshes it. Knows no git."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- file tree: make tree -->\n```text\n)(.*?)(```)", re.DOTALL)
PACKAGES = ("treesearch", "actors", "benchmarks")
OTHERS = {
    ".ci/run": "what must hold before a change is in: demo, tests, slow tests, wheel",
    "LICENSE": "Apache-2.0",
    "Makefile": "make demo, make test, make coverage, make tree, make clean",
    "README.md": "this page",
    "SECURITY.md": "who is trusted, what is done against the others, what is not",
    "actors/dashboard.json": "the Grafana dashboard of the metrics",
    "actors/rayjob.yaml": "a run on Kubernetes, as a KubeRay RayJob",
    "cluster.yaml": "what `ray up` reads",
    "constraints-vllm-cpu.txt": "the tested set of packages with vLLM on CPUs",
    "constraints.txt": "the tested set of packages for CPUs",
    "pyproject.toml": "the package, its extras, and the settings of ruff, mypy, pytest and coverage",
    "tests/": "mirrors the above; FAULTS.md: what may go wrong, what the user sees, which test shows it",
    "treesearch/models/prm/": "the bundled process reward model: weights, tokenizer, model card",
    "treesearch/models/proposer/": "the bundled proposer: weights, tokenizer, model card",
}
ORDER = ("treesearch", "actors", "benchmarks", "tests", ".ci")
COLUMN, WIDTH = 26, 118


def files() -> list[str]:
    """Paths that the tree must list: Python files of the packages, manifests, files at the top, model folders, tests/."""
    found = [p for name in PACKAGES for p in ROOT.glob(f"{name}/**/*.py")]
    found += [p for kind in ("json", "yaml") for p in ROOT.glob(f"actors/*.{kind}")]
    found += [p for p in ROOT.iterdir() if p.is_file() and not p.name.startswith(".")]
    listed = {str(p.relative_to(ROOT)) for p in found}
    return sorted(listed | {name for name in OTHERS if name.endswith("/") and (ROOT / name).is_dir()} | {".ci/run"})


def describe(path: str) -> str:
    """First sentence of a module's docstring; a fixed line for everything else."""
    if path in OTHERS:
        return OTHERS[path]
    if not path.endswith(".py"):
        raise SystemExit(f"{path}: say in OTHERS of tests/readme_tree.py what it is")
    text = ast.get_docstring(ast.parse((ROOT / path).read_text())) or "the package"
    return " ".join(re.split(r"\.\s|\.$|\n\n", text)[0].split())


def draw(paths: list[str]) -> str:
    """The tree as text: four columns a level, folders before what they hold."""
    lines: list[str] = []
    seen: set[str] = set()
    for path in sorted(
        paths, key=lambda path: (ORDER.index(path.partition("/")[0]) if "/" in path else len(ORDER), path)
    ):
        parts = path.rstrip("/").split("/")
        for level in range(1, len(parts)):
            folder = "/".join(parts[:level])
            if folder not in seen:
                seen.add(folder)
                lines.append("    " * (level - 1) + parts[level - 1] + "/")
        name = "    " * (len(parts) - 1) + parts[-1] + ("/" if path.endswith("/") else "")
        lines.append(f"{name:<{COLUMN}}  {textwrap.shorten(describe(path), WIDTH - COLUMN, placeholder=' ...')}")
    return "".join(f"{line}\n" for line in lines)


def listed(readme: str) -> dict[str, str]:
    """Path to description, read back from the README; folders that only group have no description and are left out."""
    block = BLOCK.search(readme)
    assert block is not None, "README.md: the file tree block is missing"
    result: dict[str, str] = {}
    folders: list[str] = []
    for line in block.group(2).splitlines():
        level = (len(line) - len(line.lstrip())) // 4
        name, _, description = line.strip().partition("  ")
        folders = folders[:level]
        if description:
            result["/".join([*folders, name])] = description.strip()
        else:
            folders.append(name.rstrip("/"))
    return result


def refresh() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text()
    assert BLOCK.search(text), "README.md: the file tree block is missing"
    readme.write_text(BLOCK.sub(lambda block: block.group(1) + draw(files()) + block.group(3), text))


if __name__ == "__main__":
    refresh()
