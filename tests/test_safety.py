"""Nothing that runs data as code: no pickle, no eval, no unsafe YAML, no sympy parser, no remote model code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
CALLS = {"eval", "exec", "__import__"}  # as bare names: a torch model's .eval() is a method
NAMES = {"sympify", "parse_expr"}
UNSAFE = {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.load", "os.system", "numpy.load", "np.load"}
KEYWORDS = {"trust_remote_code", "allow_pickle", "shell"}  # must not be set to anything but False


def dangers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) of everything in the source that could run data as code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if a.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in MODULES:
                yield node.lineno, str(node.module)
            yield from ((node.lineno, a.name) for a in node.names if a.name in NAMES)
        elif isinstance(node, ast.Attribute):
            if node.attr in NAMES or ast.unparse(node) in UNSAFE:
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in CALLS | NAMES:
                yield node.lineno, f"{node.func.id}(...)"
            for keyword in node.keywords:
                if keyword.arg in KEYWORDS and ast.unparse(keyword.value) != "False":
                    yield node.lineno, f"{keyword.arg}={ast.unparse(keyword.value)}"


SOURCES = sorted([*ROOT.glob("treesearch/**/*.py"), *ROOT.glob("actors/**/*.py")])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_runs_data_as_code(path: Path):
    found = list(dangers(ast.parse(path.read_text())))
    assert not found, f"{path.relative_to(ROOT)}: {found}"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "eval(text)",
        "yaml.load(text)",
        "from sympy import sympify",
        "sympy.parse_expr(text)",
        "torch.load(path)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "np.load(path, allow_pickle=flag)",
    ],
)
def test_the_gate_sees_what_it_is_there_for(source: str):
    assert list(dangers(ast.parse(source)))


@pytest.mark.parametrize(
    "source", ["model.eval()", "yaml.safe_load(text)", "re.compile(text)", "connection.execute(sql)"]
)
def test_the_gate_lets_harmless_namesakes_pass(source: str):
    assert not list(dangers(ast.parse(source)))
