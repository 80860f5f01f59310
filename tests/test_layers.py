"""Imports point downwards only, and the pure floors stay pure: read from the source, nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = [
    {"types", "errors"},
    {"tree", "answers", "tasks", "terminal"},
    {"algorithms"},
    {"forms", "manager", "wire", "mounts", "salvage", "store", "dispatch", "blame"},
    {"backends", "models", "checker", "workers"},
    {"pool", "backpressure", "residents", "turns", "engine", "config", "problems", "progress", "results", "run"},
    {"actors"},
    {"cli", "__main__", "sweep", "server", "viewer", "report", "export", "doctor", "learn"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
WALL = (
    "time.time",
    "time.time_ns",
    "time.localtime",
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "date.today",
)
PURE = 4  # floors below this one
IMPURE = {"asyncio", "time", "threading", "ray", "torch", "vllm"}
FACADE = ("treesearch", "__init__.py")  # the public names, loaded lazily: above every floor


def modules() -> list[Path]:
    paths = [*ROOT.glob("treesearch/**/*.py"), *ROOT.glob("actors/**/*.py")]
    return sorted(path.relative_to(ROOT) for path in paths if path.relative_to(ROOT).parts != FACADE)


def room(module: str) -> str:
    """The file or folder that has a floor: `tasks` of `treesearch.tasks.base`; "" of the package itself."""
    top, _, rest = module.partition(".")
    return "actors" if top == "actors" else rest.partition(".")[0]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import in the file, those inside functions and under TYPE_CHECKING included."""
    package = list(path.parts[:-1])
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join(base + ([node.module] if node.module else []))
            if origin == "treesearch":  # `from treesearch import manager` is an import of the module
                yield from ((node.lineno, f"treesearch.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, origin


@pytest.mark.parametrize("path", modules(), ids=str)
def test_every_module_has_a_floor_and_imports_only_downwards(path: Path):
    here = room(".".join(path.with_suffix("").parts))
    assert here in FLOOR, f"{path}: give it a floor in tests/test_layers.py"
    for line, module in imports(path):
        if module.split(".")[0] not in ("treesearch", "actors"):
            continue
        there = room(module)
        assert there in FLOOR or there == "__version__", f"{path}:{line} imports {module}, which has no floor"
        assert FLOOR.get(there, 0) <= FLOOR[here], f"{path}:{line}: {here} must not import {module} from above"


@pytest.mark.parametrize("path", modules(), ids=str)
def test_the_first_four_floors_know_no_clock_no_loop_and_no_model(path: Path):
    here = room(".".join(path.with_suffix("").parts))
    found = {(line, module) for line, module in imports(path) if module.split(".")[0] in IMPURE}
    assert FLOOR[here] >= PURE or not found, f"{path} imports {sorted(found)}"


@pytest.mark.parametrize("path", modules(), ids=str)
def test_the_wall_clock_decides_nothing(path: Path):
    """It jumps: a machine sleeps, or is set right. Deadlines are of the monotonic clock; a folder's name may tell the day."""
    names = {
        ast.unparse(node) for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.Attribute)
    }
    found = {name for name in names if name.endswith(WALL)}
    assert found == ({"datetime.now"} if path == Path("treesearch/cli.py") else set())
