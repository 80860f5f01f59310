"""Nothing in the package runs data as code: no pickle, no eval, no unsafe YAML, no sympy parser, no remote model code.

A gate over the sources, by their syntax. The package itself, the actors, the benchmarks and the tests go through it; what
is allowed is in ALLOWED, each with its reason.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = {  # unpickle, or run, what they are given
    "pickle", "_pickle", "cloudpickle", "dill", "jsonpickle", "marshal", "shelve", "joblib", "imp", "runpy", "code",
    "ctypes", "cffi", "telnetlib", "ftplib", "numexpr",
}  # fmt: skip
CALLS = {"eval", "exec", "__import__", "compile"}  # as bare names: a torch model's .eval(), re.compile are others
NAMES = {  # whatever they are called on, or imported from
    "sympify", "parse_expr", "parse_latex", "parse_mathematica", "lambdify", "extractall", "unpack_archive",
    "load_extension", "enable_load_extension", "cloudpickle", "ForkingPickler", "Unpickler", "UnsafeLoader", "FullLoader",
    "read_pickle",
}  # fmt: skip
UNSAFE = {
    "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all",
    "torch.load", "torch.jit.load", "torch.hub.load", "torch.package", "numpy.load", "np.load", "pandas.eval", "pd.eval",
    "builtins.eval", "builtins.exec", "sympy.S", "sympy.simplify",
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn", "tempfile.mktemp",
    "asyncio.create_subprocess_shell", "ssl._create_unverified_context", "logging.config.listen", "jinja2.Template",
    "jinja2.Environment",
}  # fmt: skip
STARTS = ("os.exec", "os.spawn", "os.posix_spawn")
KEYWORDS = {"trust_remote_code", "allow_pickle", "shell", "enable_user_site"}  # must not be set to anything but False
ALWAYS = {"weights_only", "use_safetensors", "verify"}  # must not be set to anything but True
SECRETS = {"api_key", "secret", "password", "auth_token"}  # compared with ==, they leak by the time it takes
LOADERS = {"import_module", "spec_from_file_location"}  # of a name or a file that is not a constant

ALLOWED = {
    # `package.module:object` and `module:function`, which the operator writes into a config (SECURITY.md)
    ("treesearch/config.py", "import_module(module)"),
    ("treesearch/tasks/__init__.py", "import_module(module)"),
    ("treesearch/backends/verifier.py", "import_module(module)"),
    # names that the package itself gives
    ("treesearch/__init__.py", "import_module(f'treesearch.{_HOMES[name]}')"),
    ("treesearch/__init__.py", "import_module(f'treesearch.{room}')"),
    ("treesearch/workers.py", "import_module(serving)"),
    # tensors only, by torch's own reader, in a command of its own
    ("treesearch/models/convert.py", "torch.load"),
    # a function that crashes the process it runs in, as a verifier may
    ("tests/backends/functions.py", "ctypes"),
    # a terminal's child becomes the command
    ("tests/test_signals.py", "os.execv"),
    # the README's own code blocks and its script are run as users run them
    ("tests/test_readme.py", "exec(...)"),
    ("tests/test_readme.py", "compile(...)"),
    ("tests/test_readme.py", "spec_from_file_location('readme_tree', ROOT / 'tests' / 'readme_tree.py')"),
}


def dangers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) of everything in the source that could run data as code, or leak a secret."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if MODULES & {*a.name.split(".")})
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, what) for what in _imported(node))
        elif isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if node.attr in NAMES or name in UNSAFE or name.startswith(STARTS):
                yield node.lineno, name
        elif isinstance(node, ast.Call):
            yield from ((node.lineno, what) for what in _called(node))
        elif isinstance(node, ast.Compare):
            yield from ((node.lineno, what) for what in _compared(node))


def _imported(node: ast.ImportFrom) -> Iterator[str]:
    module = node.module or ""
    if MODULES & {*module.split(".")}:
        yield module
    for alias in node.names:
        name = f"{module}.{alias.name}"
        if alias.name in NAMES or name in UNSAFE or name.startswith(STARTS):
            yield name


def _called(node: ast.Call) -> Iterator[str]:
    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    if isinstance(node.func, ast.Name) and name in CALLS | NAMES:
        yield f"{name}(...)"
    if name == "recv" and not node.args and not node.keywords:  # of a multiprocessing connection: it unpickles
        yield "recv()"
    if name in LOADERS and not all(isinstance(argument, ast.Constant) for argument in node.args):
        yield f"{name}({', '.join(map(ast.unparse, node.args))})"
    for keyword in node.keywords:
        value = ast.unparse(keyword.value)
        if (keyword.arg in KEYWORDS and value != "False") or (keyword.arg in ALWAYS and value != "True"):
            yield f"{keyword.arg}={value}"


def _compared(node: ast.Compare) -> Iterator[str]:
    """Two values compared by ==, of which one is named as a secret is."""
    sides = [node.left, *node.comparators]
    names = [side.attr if isinstance(side, ast.Attribute) else getattr(side, "id", "") for side in sides]
    equal = any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops)
    if equal and not any(isinstance(side, ast.Constant) for side in sides) and SECRETS & {*map(str.lower, names)}:
        yield ast.unparse(node)


SOURCES = sorted(
    path for room in ("treesearch", "actors", "benchmarks", "tests") for path in ROOT.glob(f"{room}/**/*.py")
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_runs_data_as_code(path: Path):
    name = path.relative_to(ROOT).as_posix()
    found = [danger for danger in dangers(ast.parse(path.read_text())) if (name, danger[1]) not in ALLOWED]
    assert not found, f"{name}: {found}"


def test_everything_that_is_allowed_is_still_there():
    for name, what in ALLOWED:
        assert what in {danger for _, danger in dangers(ast.parse((ROOT / name).read_text()))}, (name, what)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import torch, _pickle",
        "import ray.cloudpickle",
        "from ray import cloudpickle",
        "ray.cloudpickle.loads(data)",
        "from multiprocessing.reduction import ForkingPickler",
        "builtins.eval(text)",
        "yaml.load_all(text, Loader=yaml.UnsafeLoader)",
        "sympy.S(text)",
        "sympy.parsing.latex.parse_latex(text)",
        "pd.read_pickle(path)",
        "from cloudpickle import loads",
        "eval(text)",
        "exec(compile(text, '', 'exec'))",
        "yaml.load(text)",
        "from yaml import full_load",
        "from sympy import sympify",
        "sympy.parse_expr(text)",
        "torch.load(path)",
        "model.load(path, weights_only=False)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoModel.from_pretrained(name, use_safetensors=safe)",
        "np.load(path, allow_pickle=flag)",
        "subprocess.run(command, shell=True)",
        "subprocess.getoutput(command)",
        "os.popen(command)",
        "os.execv(path, arguments)",
        "from os import system",
        "tempfile.mktemp()",
        "importlib.import_module(name)",
        "import_module(row['module'])",
        "connection.recv()",
        "tarfile.open(path).extractall()",
        "database.enable_load_extension(True)",
        "jinja2.Template(text).render()",
        "from jinja2 import Environment",
        "if given == self.api_key: pass",
        "httpx.get(url, verify=False)",
    ],
)
def test_the_gate_sees_what_it_is_there_for(source: str):
    assert list(dangers(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "yaml.safe_load(text)",
        "re.compile(text)",
        "connection.execute(sql)",
        "connection.recv_bytes()",
        "socket.recv(4096)",
        "importlib.import_module('treesearch.config')",
        "from jinja2.sandbox import SandboxedEnvironment",
        "hmac.compare_digest(given, self.api_key)",
        "AutoModel.from_pretrained(name, use_safetensors=True)",
        "if name != KEY_NAME: pass",
    ],
)
def test_the_gate_lets_harmless_namesakes_pass(source: str):
    assert not list(dangers(ast.parse(source)))


KEYS = re.compile(
    r"\b(sk-(proj-|ant-)?[A-Za-z0-9_-]{20,}|hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{60,}|AKIA[A-Z0-9]{16}"
    r"|xox[abpr]-[A-Za-z0-9-]{20,}|AIza[A-Za-z0-9_-]{35})|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)


def test_no_file_holds_a_key():
    """Of OpenAI, Anthropic, Hugging Face, GitHub, AWS, Slack, Google; or a private one."""
    for room in ("treesearch", "actors", "benchmarks", "tests", ".ci", "."):
        for path in (ROOT / room).glob("**/*" if room != "." else "*"):
            if path.is_file() and path.stat().st_size < 1 << 20 and path != Path(__file__):
                found = KEYS.search(path.read_bytes().decode("utf-8", "replace"))
                assert found is None, f"{path.relative_to(ROOT)}: {found.group()[:8]}..."


@pytest.mark.parametrize(
    "text", ["sk-" + "a" * 40, "sk-proj-" + "a" * 40, "hf_" + "B" * 34, "ghp_" + "a" * 36, "AKIA" + "A" * 16,
             "-----BEGIN RSA " + "PRIVATE KEY-----"],
)  # fmt: skip
def test_a_key_is_known_by_its_form(text: str):
    assert KEYS.search(f"key = '{text}'") and not KEYS.search("sk-test and hf_token")
