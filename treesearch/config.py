"""YAML and `key=value` pairs -> one frozen `Config`. Knows no model, no loop and no search's parameters.

A search or backend declares its parameters once, as its own dataclass; pydantic's TypeAdapter validates that dataclass,
and its `__post_init__` refuses values out of range. Keys come in layers (defaults, file, overrides); a layer that
changes the `type` of a section drops the keys that lower layers set for the old type.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from treesearch.answers import AnswerRule
from treesearch.backends.base import Limits
from treesearch.errors import ConfigError
from treesearch.manager import Budget
from treesearch.problems import Fields
from treesearch.tasks import prompts
from treesearch.tasks.base import Prompt
from treesearch.tasks.sets import TASK_OF
from treesearch.terminal import encodable
from treesearch.types import Sampling

Data = dict[str, Any]
LONGEST, MOST, DEEPEST = 1_000_000, 10_000, 50  # characters of a config; its values, its levels
ARGUMENT = 131_072  # characters of an override: Linux takes no longer argument of a command


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """`trees`: searches live at once (auto: as many as use all credits). `delivery` null means `issue` in runs."""

    trees: int | Literal["auto"] = "auto"
    delivery: Literal["issue", "arrival"] | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Cluster:
    """Processes on a Ray cluster; a run in one process has no use for it.

    GPUs count only for backends that can use one, and at least one for each tensor-parallel rank; fractions that add up
    to 1 share a card. `..._resources` are further Ray resources of a replica, such as `{CPU: 4, fast_node: 1}`.
    """

    managers: int = 1
    proposers: int = 1
    scorers: int = 1
    gpus_per_proposer: float = 1.0
    gpus_per_scorer: float = 1.0
    proposer_resources: dict[str, float] = field(default_factory=dict)
    scorer_resources: dict[str, float] = field(default_factory=dict)
    restarts: int = 3  # times that each replica may come back
    timeout: float | None = 600.0  # seconds for one request to a replica
    silence: float = 30.0  # seconds without a word from a replica after which it is replaced
    linger: float | None = None  # seconds between two calls to a replica; null: by the number of replicas


DEFAULTS: Data = {
    "problems": "game24",
    "fields": {},
    "limit": None,
    "task": "game24",
    "prompt": {},
    "search": {"type": "mcts"},
    "sampling": {},
    "limits": {},
    "answer": {},
    "proposer": {"type": "bundled"},
    "scorer": {"type": "bundled"},
    "outcome": {"type": "none"},
    "budget": {},
    "engine": {},
    "cluster": {},
}
PLAIN: dict[str, type] = {
    "fields": Fields,
    "prompt": Prompt,
    "sampling": Sampling,
    "limits": Limits,
    "answer": AnswerRule,
    "budget": Budget,
    "engine": EngineConfig,
    "cluster": Cluster,
}
TYPED = ("search", "proposer", "scorer", "outcome")
MEMBER = ("weight", "temperature", "name")  # keys of a member of a list of proposers that are not its model's
# What may differ when a folder is resumed: these change which problems run and how fast, not what any reply is.
NO_MATTER = ("limit", "engine.trees", "cluster", *(
    f"{spec}.{key}" for spec in ("proposer", "scorer.model", "outcome.model")
    for key in ("base_url", "api_key_env", "max_connections", "timeout", "retries")))  # fmt: skip


def _registry(section: str) -> Mapping[str, type]:
    """Type names of a section -> spec dataclasses. Imported here, so that `--help` need not."""
    from treesearch import algorithms, backends

    return {
        "search": algorithms.SEARCHES,
        "proposer": backends.PROPOSERS,
        "scorer": backends.SCORERS,
        "outcome": backends.OUTCOMES,
    }[section]


def _default(section: str) -> Any:
    """Factory of a typed section's default spec."""
    return lambda: _registry(section)[DEFAULTS[section]["type"]]()


@dataclass(frozen=True)
class Config:
    """A run, resolved: every section is a value of its own dataclass, ready to build."""

    problems: str = "game24"
    fields: Fields = field(default_factory=Fields)
    limit: int | None = None
    task: str = "game24"
    prompt: Prompt = field(default_factory=Prompt)
    search: Any = field(default_factory=_default("search"))
    sampling: Sampling = field(default_factory=Sampling)
    limits: Limits = field(default_factory=Limits)
    answer: AnswerRule = field(default_factory=AnswerRule)
    proposer: Any = field(default_factory=_default("proposer"))
    scorer: Any = field(default_factory=_default("scorer"))
    outcome: Any = field(default_factory=_default("outcome"))
    budget: Budget = field(default_factory=Budget)
    engine: EngineConfig = field(default_factory=EngineConfig)
    cluster: Cluster = field(default_factory=Cluster)

    def resolved(self) -> Data:
        """All keys with their values, as written to config.yaml; `build` of it gives an equal Config."""
        out: Data = {}
        for name in DEFAULTS:
            value = getattr(self, name)
            out[name] = _with_type(name, value) if name in TYPED else _plain(value)
        return out

    def __post_init__(self) -> None:
        """A scorer that asks a language model, and names none, asks the run's own proposer."""
        for name in ("scorer", "outcome"):
            spec = getattr(self, name)
            for key in [key for key, section in _inner_sections(type(spec)).items() if section == "proposer"]:
                if getattr(spec, key) is None:
                    object.__setattr__(self, name, dataclasses.replace(spec, **{key: self.proposer}))

    def labels(self) -> list[str]:
        """What must stand beside every number of this run: SIMULATED, ORACLE."""
        specs = [spec for name in ("proposer", "scorer", "outcome") for spec in specs_in(getattr(self, name))]
        return sorted({label for spec in specs if (label := getattr(spec, "label", None))})


def load(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a config file (None: the defaults) and apply `key=value` overrides. Raises ConfigError."""
    return build([read(path) if path is not None else {}, parse_overrides(overrides)])


def read(path: str | Path) -> Data:
    """The mapping in a YAML file. Raises ConfigError if there is no such file or no mapping in it."""
    path = Path(path)
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(LONGEST + 1)
    except FileNotFoundError:
        raise ConfigError(f"config {path}: no such file (looked for {path.resolve()})") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"config {path}: cannot be read: {error}") from None
    if len(text) > LONGEST:
        raise ConfigError(f"config {path}: longer than {LONGEST:,} characters; a config is a page")
    try:
        data = parsed(text)
    except NotYAML as error:
        raise ConfigError(f"{path}:{error.line}: {error}" if error.line else f"{path}: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}: holds a {type(data).__name__}, not keys and values such as `search: {{type: beam}}`"
        )
    return data


def parse_overrides(overrides: Iterable[str]) -> Data:
    """`["search.type=beam", "limit=5"]` as one layer; values are YAML scalars or {..}, [..]."""
    layer: Data = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        parts = key.strip().split(".")
        if len(text) > ARGUMENT:
            raise ConfigError(
                f"--set {text[:60]!r}...: {len(text):,} characters, at most {ARGUMENT:,}; use a config file"
            )
        if not equals or not all(parts):
            raise ConfigError(f"--set {text!r}: not of the form key=value, such as search.type=beam")
        at = layer
        for i, part in enumerate(parts[:-1]):
            here = _spelled(".".join(parts[: i + 1]), at.setdefault(part, {}))
            if not isinstance(here, dict):
                raise ConfigError(
                    f"--set {text!r}: {'.'.join(parts[: i + 1])} was set to {here!r} before, which has no keys"
                )
            at[part] = at = here
        at[parts[-1]] = _value(text, value)
    return layer


def _value(text: str, value: str) -> Any:
    """A YAML scalar, or a collection where it is written as one: `template=Q: {question}` is a string."""
    collection = value.lstrip().startswith(("{", "["))
    try:
        found = parsed(value)
    except NotYAML as error:
        if collection:
            raise ConfigError(f"--set {text!r}: the value is {error}") from None
        return value
    if isinstance(found, dict | list):
        return found if collection else value
    return found if found is None or isinstance(found, bool | int | float | str) else value


class NotYAML(ConfigError):
    """`line` from 1, where it is known."""

    def __init__(self, why: object, line: int | None = None) -> None:
        super().__init__(f"not YAML: {why}")
        self.line = line


def parsed(text: str) -> Any:
    """What a YAML text says, if it says it in so many words. Raises NotYAML, for aliases that repeat or hold themselves too.

    PyYAML's constructors raise what they like: `!!int ""` is an IndexError, `2026-13-01` a ValueError.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def fetch_flow_collection_start(self, token: Any) -> None:
            """PyYAML takes seconds for some thousand braces, and then exceeds the recursion limit."""
            if self.flow_level >= DEEPEST:
                raise RecursionError
            super().fetch_flow_collection_start(token)

    try:
        data = Loader(text).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise NotYAML(getattr(error, "problem", None) or error, mark.line + 1 if mark else None) from None
    except RecursionError:
        raise NotYAML("nested too deeply") from None
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        raise NotYAML(error) from None
    level, seen = [data], 0
    for _ in range(DEEPEST):
        level = list(islice((item for value in level for item in _inside(value)), MOST + 1))
        seen += len(level)
        if not level:
            return data
        if seen > MOST:
            break
    raise NotYAML(f"more than {MOST:,} values, or nested more than {DEEPEST} deep")


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple | set) else ()


def written(data: Data) -> str:
    """YAML that says `data`: what `parsed` makes of it is equal, whatever characters are in its texts and keys."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def check_simple_key(self) -> bool:
            """A key that may take more than YAML's 1,024 characters once its own are escaped, by ten each, is not simple."""
            return bool(super().check_simple_key()) and len(getattr(self.event, "value", "")) < 100

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        # between single quotes PyYAML writes a NEL as it is, and reads the end of a line there
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, '"' if "\x85" in value else None)

    Dumper.add_representer(str, text)
    return str(yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True))


def build(layers: Sequence[Data]) -> Config:
    """A Config from layers of keys, later ones above. Raises ConfigError naming the full dotted key."""
    merged: Data = {name: dict(value) if isinstance(value, dict) else value for name, value in DEFAULTS.items()}
    named: dict[str, bool] = dict.fromkeys(TYPED, True)  # whether the keys so far were set for a type given with them
    for layer in layers:
        check_keys(layer, DEFAULTS, "")
        for name, value in layer.items():
            merged[name] = _merge(name, merged[name], _spelled(name, value), named)
    values: Data = {name: merged[name] for name in DEFAULTS if name not in PLAIN and name not in TYPED}
    values |= {name: _section(cls, merged[name], name) for name, cls in PLAIN.items()}
    values |= {name: _typed(name, _with_rule(name, merged[name], values["answer"])) for name in TYPED}
    values |= _scalars(values)
    if not any("task" in layer for layer in layers):
        values["task"] = TASK_OF.get(values["problems"], values["task"])
    config = Config(**values)
    _check(config)
    return config


def _spelled(name: str, value: Any) -> Any:
    """`search: beam` is short for `search: {type: beam}`; an empty section is its default."""
    if name in TYPED:
        if isinstance(value, str):
            return {"type": value}
        if value is None:
            raise ConfigError(
                f"{name} is empty: use {{type: none}} to go without, or leave the key out for the default"
            )
        if isinstance(value, list):
            if name != "proposer":
                raise ConfigError(f"{name} is a list: a run has one {name}; use a mapping such as {{type: bundled}}")
            return {"type": "mixture", "members": [_member(k, item) for k, item in enumerate(value)]}
    if name in PLAIN and value is None:
        return {}
    return value


def _member(number: int, value: Any) -> Data:
    """`{type: vllm, model: M, weight: 2}` in a list of proposers: what is the member's own, and its model's spec."""
    if isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, dict):
        raise ConfigError(
            f"proposer[{number}] = {value!r}: must be a mapping such as {{type: vllm, model: M, weight: 2}}"
        )
    own = {key: value[key] for key in MEMBER if key in value}
    return {**own, "model": {key: item for key, item in value.items() if key not in own}}


def _merge(name: str, low: Any, high: Any, named: dict[str, bool]) -> Any:
    """One section of a higher layer laid over what is below it."""
    if name not in PLAIN and name not in TYPED:
        return high
    if not isinstance(high, dict):
        raise ConfigError(f"{name} = {high!r}: must be a mapping of keys and values")
    if name in TYPED and "type" in high:
        if high["type"] != low["type"]:
            # Keys set beside another type were meant for that one; keys set without naming a type are the user's wish.
            low = {} if named[name] else {key: value for key, value in low.items() if key != "type"}
        named[name] = True
    elif name in TYPED and set(low) == {"type"}:
        named[name] = False
    return {**low, **high}


def _typed(section: str, data: Data, where: str | None = None) -> Any:
    """The spec of a typed section: its `type` picks the dataclass. `where`: its dotted name, if not the section's own."""
    kind, name = data["type"], where or section
    known = {**_registry(section), **_own(name, kind)}
    if not isinstance(kind, str) or kind not in known:
        raise ConfigError(
            f"{name}.type = {kind!r}: unknown{_nearest(str(kind), known)}; known types: {', '.join(known)}"
        )
    of = f" of type {kind}"
    check_keys(data, ["type", *(f.name for f in dataclasses.fields(known[kind]) if f.init)], name, of)
    return _section(known[kind], {key: value for key, value in data.items() if key != "type"}, name, of)


def _own(name: str, kind: Any) -> dict[str, type]:
    """The user's own spec dataclass under its type, `package.module:Class`."""
    module, colon, attribute = kind.partition(":") if isinstance(kind, str) else ("", "", "")
    if not colon:
        return {}
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # TypeError: a relative name
        raise ConfigError(f"{name}.type = {kind!r}: cannot be imported: {error}; give package.module:Class") from error
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ConfigError(f"{name}.type = {kind!r}: is no dataclass; its fields are the section's keys")
    return {kind: found}


def _with_rule(name: str, data: Data, answer: AnswerRule) -> Data:
    """A search that stops early on a vote counts it by the rule that chooses the answer, unless told otherwise."""
    cls = _registry(name).get(data["type"]) if name == "search" and isinstance(data["type"], str) else None
    own = {f.name for f in dataclasses.fields(cls)} if cls is not None else set()
    if not {"rule", "aggregate"} <= own:  # an aggregate alone ranks survivors: another matter
        return data
    return {"rule": answer.rule, "aggregate": answer.aggregate} | data


def _section(cls: type, data: Data, where: str, of: str = "") -> Any:
    """Validate `data` as the dataclass `cls`; its own ConfigError (a value out of range) passes through."""
    from pydantic import ValidationError

    _known_fields(cls, data, where, of)
    _finite(data, where)
    data = _built_inside(cls, data, where)
    try:
        found = _adapter(cls).validate_python(data)
    except ValidationError as error:
        raise ConfigError(_explain(error.errors(include_url=False), data, where)) from None
    _finite(_plain(found), where)  # again: "inf" in quotes is a number to pydantic
    return found


@cache  # it takes a millisecond to make one
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _built_inside(cls: type, data: Data, where: str) -> Data:
    """`data` with the specs inside it built: fields that name a section, and lists of dataclasses that hold such fields."""
    out = dict(data)
    for f in dataclasses.fields(cls):
        value, at = data.get(f.name), f"{where}.{f.name}"
        if value is None:
            continue
        if "section" in f.metadata:
            inner = {"type": value} if isinstance(value, str) else value
            if not isinstance(inner, dict) or "type" not in inner:
                raise ConfigError(f"{at} = {value!r}: must be a mapping with a type, such as {{type: vllm, model: M}}")
            out[f.name] = _typed(f.metadata["section"], inner, at)
        elif "items" in f.metadata:
            if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
                raise ConfigError(f"{at} = {value!r}: must be a list of mappings")
            out[f.name] = tuple(_section(f.metadata["items"], item, f"{at}[{k}]") for k, item in enumerate(value))
    return out


def _inner_sections(cls: type) -> dict[str, str]:
    """Fields of a spec that hold a spec of another section."""
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    return {f.name: f.metadata["section"] for f in fields if "section" in f.metadata}


def specs_in(spec: Any) -> Iterator[Any]:
    """A backend's spec and all specs inside it."""
    yield spec
    for key in _inner_sections(type(spec)):
        if getattr(spec, key) is not None:
            yield from specs_in(getattr(spec, key))
    for member in getattr(spec, "members", ()):
        yield from specs_in(member.model)


def with_specs(spec: Any, change: Callable[[Any], Any]) -> Any:
    """A backend's spec with `change` made to it and to all specs inside it."""
    inner = {key: getattr(spec, key) for key in _inner_sections(type(spec)) if getattr(spec, key) is not None}
    changed = {key: with_specs(value, change) for key, value in inner.items()}
    if members := getattr(spec, "members", ()):
        changed["members"] = tuple(dataclasses.replace(m, model=with_specs(m.model, change)) for m in members)
    return change(dataclasses.replace(spec, **changed) if changed else spec)


def _scalars(values: Data) -> Data:
    """The keys without a section, validated."""
    from pydantic import ValidationError

    out: Data = {}
    kinds: dict[str, Any] = {"problems": str, "limit": int | None, "task": str}
    for name, kind in kinds.items():
        _finite(values[name], name)
        try:
            out[name] = _adapter(kind).validate_python(values[name])
        except ValidationError as error:
            raise ConfigError(f"{name} = {values[name]!r}: {error.errors(include_url=False)[0]['msg']}") from None
    return out


def _explain(errors: Sequence[Any], data: Data, where: str) -> str:
    """One message for the first key that is wrong; a union gives one error a member."""
    first = errors[0]["loc"][0] if errors[0]["loc"] else ""
    same = [e for e in errors if e["loc"][:1] == (first,)]
    reason = " or ".join(dict.fromkeys(e["msg"] for e in same))
    if same[0]["type"] == "missing":
        return f"{where}.{first}: must be set"
    return f"{where}.{first} = {data.get(first)!r}: {reason}"


def check_keys(data: Data, known: Iterable[str], where: str, of: str = "") -> None:
    """Refuse the first key that does not exist, naming the nearest that does."""
    names = list(known)
    for key in data:
        if key not in names:
            dotted = f"{where}.{key}" if where else str(key)
            raise ConfigError(
                f"{dotted}: unknown key{of}{_nearest(str(key), names, where)}; known: {', '.join(names) or 'none'}"
            )


def _nearest(word: str, known: Iterable[str], where: str = "") -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean {where + '.' if where else ''}{close[0]}?" if close else ""


def _known_fields(cls: type, data: Data, where: str, of: str = "") -> None:
    """`_known` for a dataclass and the dataclasses in it."""
    hints = _hints(cls)
    names = [f.name for f in dataclasses.fields(cls) if f.init]
    check_keys(data, names, where, of)
    for key, value in data.items():
        inner = _dataclass_in(hints[key])
        if inner is not None and isinstance(value, dict):
            _known_fields(inner, value, f"{where}.{key}")


_hints = cache(typing.get_type_hints)  # which evaluates each annotation anew


def _dataclass_in(hint: Any) -> type | None:
    """The dataclass that a field holds: `X` or `X | None`."""
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next((m for m in members if isinstance(m, type) and dataclasses.is_dataclass(m)), None)


def _finite(value: Any, where: str) -> None:
    """Refuse what neither JSON nor UTF-8 can hold: infinite numbers, halves of characters."""
    if isinstance(value, str) and not encodable(value):
        raise ConfigError(f"{where} = {value!r}: must be text; it holds half of a character")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} = {value}: must be a finite number")
    if isinstance(value, dict):
        for key, item in value.items():
            _finite(item, f"{where}.{key}")
    elif isinstance(value, list):
        for item in value:
            _finite(item, where)


def _check(config: Config) -> None:
    """Ranges of the keys whose dataclasses live below this floor and hold no rule of their own."""
    temperatures = config.sampling.temperature
    for t in temperatures if isinstance(temperatures, tuple) else (temperatures,):
        _range("sampling.temperature", t, t >= 0, "0 (greedy) or more")
    _range("sampling.temperature", temperatures, temperatures != (), "a number or a list of at least one")
    _range("sampling.top_p", config.sampling.top_p, 0 < config.sampling.top_p <= 1, "above 0 and at most 1")
    named, members = getattr(config.search, "proposers", ()), getattr(config.proposer, "names", [])
    known = f"names of the run's proposers ({', '.join(members) or 'it has no list of them'})"
    _range("search.proposers", list(named), set(named) <= set(members), known)
    counts: Data = {"limit": config.limit, "budget.tokens": config.budget.tokens}
    counts |= {f"limits.{key}": value for key, value in _plain(config.limits).items()}
    if config.engine.trees != "auto":
        counts["engine.trees"] = config.engine.trees
    prompts.check(config.prompt)
    least, most = config.limits.think_least, config.limits.think_most
    _range("limits.think_least", least, least is None or most is None or least <= most, f"at most think_most = {most}")
    for key, tokens in (("think_least", least), ("think_most", most)):
        rule = "null where no model thinks; set prompt.thinking, or prompt.style think"
        _range(f"limits.{key}", tokens, tokens is None or prompts.thinks(config.prompt), rule)
    cluster = config.cluster
    counts |= {f"cluster.{key}": getattr(cluster, key) for key in ("managers", "proposers", "scorers")}
    for key, value in counts.items():
        _range(key, value, value is None or value >= 1, "at least 1")
    spans = {
        "budget.seconds": config.budget.seconds,
        "cluster.timeout": cluster.timeout,
        "cluster.silence": cluster.silence,
    }
    for key, value in spans.items():
        _range(key, value, value is None or value > 0, "above 0")
    for key in ("gpus_per_proposer", "gpus_per_scorer", "restarts", "linger"):
        value = getattr(cluster, key)
        _range(f"cluster.{key}", value, value is None or value >= 0, "at least 0")
    for key in ("gpus_per_proposer", "gpus_per_scorer"):
        gpus = getattr(cluster, key)
        _range(f"cluster.{key}", gpus, gpus <= 1 or gpus == int(gpus), "a whole number if above 1")


def _range(key: str, value: Any, ok: bool, rule: str) -> None:
    if not ok:
        raise ConfigError(f"{key} = {value!r}: must be {rule}")


def type_name(section: str, spec: Any) -> str:
    """The config type of a spec; `package.module:Class` if it is a user's own."""
    own = f"{type(spec).__module__}:{type(spec).__qualname__}"
    return next((name for name, cls in _registry(section).items() if type(spec) is cls), own)


def _plain(value: Any) -> Any:
    """Dataclasses as dicts, tuples as lists, paths as text: what YAML can hold. What no config can set is left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = _inner_sections(type(value))
        return {
            f.name: _with_type(inner[f.name], getattr(value, f.name))
            if f.name in inner
            else _plain(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.init and f.compare
        }
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _with_type(section: str, spec: Any) -> Any:
    """A typed section as YAML can hold it."""
    return None if spec is None else {"type": type_name(section, spec), **_plain(spec)}


def flatten(data: Data, where: str = "") -> Data:
    """`{"search": {"n": 1}}` as `{"search.n": 1}`."""
    out: Data = {}
    for key, value in data.items():
        dotted = f"{where}.{key}" if where else key
        out |= flatten(value, dotted) if isinstance(value, dict) and value else {dotted: value}
    return out


def matters(resolved: Data) -> Data:
    """The dotted keys that change replies or results."""
    return {
        key: value
        for key, value in flatten(resolved).items()
        if not any(key == name or key.startswith(name + ".") for name in NO_MATTER)
    }


def digest(config: Config) -> str:
    """Identity of a run: equal digests give interchangeable results. NO_MATTER keys are not in it."""
    text = json.dumps(matters(config.resolved()), sort_keys=True)
    return blake2b(text.encode(), digest_size=8).hexdigest()
