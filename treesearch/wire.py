"""Frames: what travels between processes and lies in a journal, as MessagePack with a version and a checksum. Pure.

Never pickle. A frame is `CRC-32 of the rest (4 bytes, little endian), version (1 byte), MessagePack`. The checksum finds
damage, not forgery: whoever can write a frame can seal it. So what comes out is checked too: sizes before anything is
unpacked, and every field of a row for its type and range. What does not fit is a FrameError, never an odd object.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Sequence
from typing import Any, NoReturn, get_args

import msgpack

from treesearch.errors import FrameError, RemoteError, RequestError, RunError
from treesearch.types import Chain, Expansion, Finish, Job, Problem, Sampling, Step, Stopped, Until, made_step

VERSION = 2
LONGEST_FRAME = 1 << 28  # bytes
MOST_ITEMS = 1 << 22  # of one array or map
LONGEST_TEXT = 1 << 26  # bytes of one text
LIMITS: dict[str, int] = {"max_str_len": LONGEST_TEXT, "max_bin_len": LONGEST_FRAME, "max_array_len": MOST_ITEMS,
                          "max_map_len": MOST_ITEMS, "max_ext_len": 0}  # fmt: skip
FINISHES, UNTILS, STOPPED = frozenset(get_args(Finish)), frozenset(get_args(Until)), frozenset(get_args(Stopped))
SCORES = frozenset({"step", "siblings", None})
NUMBER = (float, int)


def seal(value: Any) -> bytes:
    """A frame of lists, numbers, text and bytes. Lone surrogates, which a model can write, pass.

    Raises FrameError for what no `unseal` would take.
    """
    body = bytes([VERSION]) + msgpack.packb(value, unicode_errors="surrogatepass")
    if len(body) > LONGEST_FRAME:
        raise FrameError(f"a frame of {len(body)} bytes: the most is {LONGEST_FRAME}")
    return zlib.crc32(body).to_bytes(4, "little") + body


def whole(frame: Any) -> bytes:
    """The frame, its size, checksum and version looked at but not what it holds. Raises FrameError if one is wrong."""
    if not isinstance(frame, bytes):
        raise FrameError(f"a frame is bytes, not {type(frame).__name__}")
    if len(frame) > LONGEST_FRAME + 4:
        raise FrameError(f"a frame of {len(frame)} bytes: the most is {LONGEST_FRAME}")
    body = frame[4:]
    if len(body) < 2 or zlib.crc32(body) != int.from_bytes(frame[:4], "little"):
        raise FrameError("a frame fails its checksum")
    if body[0] != VERSION:
        raise FrameError(f"a frame of version {body[0]}, this treesearch writes version {VERSION}")
    return frame


def unseal(frame: bytes) -> Any:
    """Inverse of `seal`, with tuples for lists. Raises FrameError if a bit is wrong, the version is another, or it holds
    what no frame does: extension types, maps whose keys are no text, nesting beyond some hundred, more than the limits."""
    try:
        return msgpack.unpackb(
            whole(frame)[5:], unicode_errors="surrogatepass", use_list=False, ext_hook=_no_extension, **LIMITS
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise FrameError(f"a frame is no MessagePack of ours: {_named(error)}") from None


def _no_extension(code: int, data: bytes) -> NoReturn:
    raise ValueError(f"extension type {code}")


def step_row(step: Step) -> tuple[Any, ...]:
    return (step.text, step.ids, step.tokens, step.logprob, step.score, step.finish, step.answer, step.canonical,
            step.outcome, step.proposer)  # fmt: skip


def step_of(row: Sequence[Any]) -> Step:
    """Raises FrameError."""
    try:
        text, ids, tokens, logprob, score, finish, answer, canonical, outcome, proposer = row
        array("I", ids)  # whole numbers from 0: the fastest that looks at each
        # no NaN anywhere, and no infinity but the log-probability of what cannot be said
        good = (
            type(text) is str and type(ids) is tuple and finish in FINISHES
            and (tokens is None or (type(tokens) is int and tokens >= 0))
            and (logprob is None or ((type(logprob) is float or type(logprob) is int) and logprob == logprob))
            and (score is None or ((type(score) is float or type(score) is int) and score - score == 0))
            and (outcome is None or ((type(outcome) is float or type(outcome) is int) and outcome - outcome == 0))
            and (answer is None or type(answer) is str) and (canonical is None or type(canonical) is str)
            and (proposer is None or type(proposer) is str)
        )  # fmt: skip
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        wrong("step", row)
    return made_step(*row)


def chain_rows(chains: Sequence[Chain]) -> list[list[tuple[Any, ...]]]:
    return [[step_row(step) for step in chain] for chain in chains]


def chains_of(rows: Sequence[Sequence[Sequence[Any]]]) -> tuple[Chain, ...]:
    """Raises FrameError."""
    try:
        return tuple([tuple([step_of(row) for row in chain]) for chain in rows])
    except TypeError:
        raise FrameError(f"no chains: {_told(rows)}") from None


def expansion_row(e: Expansion) -> tuple[Any, ...]:
    return e.leaf, chain_rows(e.chains), e.error, e.scored


def expansion_of(row: Sequence[Any]) -> Expansion:
    """Raises FrameError."""
    leaf, chains, error, scored = fields(row, 4, "expansion")
    good = is_count(leaf) and (error is None or type(error) is str) and (scored is None or is_count(scored))
    return Expansion(leaf, chains_of(chains), error, scored) if good else wrong("expansion", row)


def problem_row(problem: Problem) -> tuple[Any, ...]:
    return problem.id, problem.question, problem.reference


def problem_of(row: Sequence[Any]) -> Problem:
    """Raises FrameError."""
    id_, question, reference = fields(row, 3, "problem")
    good = type(id_) is str and type(question) is str and (reference is None or type(reference) is str)
    return Problem(id_, question, reference) if good else wrong("problem", row)


def job_row(job: Job) -> tuple[Any, ...]:
    sampling = (job.sampling.temperature, job.sampling.top_p)
    path = [step_row(step) for step in job.path]
    return (job.id, problem_row(job.problem), path, job.first, job.n, job.until, sampling, job.seed, job.score,
            job.proposer, job.leaf, job.priority, job.logprobs)  # fmt: skip


def job_of(row: Sequence[Any]) -> Job:
    """Raises FrameError."""
    id_, problem, path, first, n, until, sampling, seed, score, proposer, leaf, priority, logprobs = fields(
        row, 13, "job"
    )
    good = (
        type(id_) is str and is_count(first) and (n is None or is_count(n)) and _among(until, UNTILS) and is_count(seed)
        and _among(score, SCORES) and (proposer is None or type(proposer) is str) and is_count(leaf)
        and is_count(priority) and type(logprobs) is bool
    )  # fmt: skip
    if not good:
        wrong("job", row)
    (steps,) = chains_of((path,))
    return Job(id_, problem_of(problem), steps, first, n, until, _sampling_of(sampling), seed, score, proposer, leaf,
               priority, logprobs)  # fmt: skip


def _sampling_of(row: Sequence[Any]) -> Sampling:
    temperature, top_p = fields(row, 2, "sampling")
    temperatures = temperature if type(temperature) is tuple else (temperature,)
    good = temperatures and all(is_number(t) and t >= 0 for t in temperatures) and is_number(top_p)
    return Sampling(temperature, top_p) if good else wrong("sampling", row)


def error_row(error: Exception) -> tuple[str, str]:
    return type(error).__name__, str(error)


def error_of(row: Sequence[str]) -> Exception:
    """The exception in another process: RequestError and RunError as themselves, else a RemoteError that names it.

    Raises FrameError.
    """
    kind, message = fields(row, 2, "error")
    if type(kind) is not str or type(message) is not str:
        wrong("error", row)
    known = {"RequestError": RequestError, "RunError": RunError}
    return known[kind](message) if kind in known else RemoteError(kind, message)


def scores_of(payload: Any) -> tuple[tuple[tuple[float, ...], ...], int | None]:
    """(scores by chain and step, tokens computed) of a scorer in another process; the engine looks at their values.

    Raises FrameError.
    """
    scores, tokens = fields(payload, 2, "scores")
    good = (tokens is None or is_count(tokens)) and type(scores) is tuple
    good = good and all(type(row) is tuple and all(type(value) in NUMBER for value in row) for row in scores)
    return (scores, tokens) if good else wrong("scores", payload)


def reply_of(value: Any) -> tuple[int, int, float, Expansion]:
    """(seq, wish, at, expansion) of a journalled reply. Raises FrameError."""
    seq, wish, at, expansion = fields(value, 4, "reply")
    good = is_count(seq) and is_count(wish) and is_number(at)
    return (seq, wish, at, expansion_of(expansion)) if good else wrong("reply", value)


def close_of(value: Any) -> tuple[Stopped, float, int | None, str | None]:
    """(stopped, seconds, wasted, error) of a journalled end. Raises FrameError."""
    stopped, seconds, wasted, error = fields(value, 4, "close")
    good = _among(stopped, STOPPED) and is_number(seconds) and (wasted is None or is_count(wasted))
    return (
        (stopped, seconds, wasted, error) if good and (error is None or type(error) is str) else wrong("close", value)
    )


# What a field may be


def fields(row: Any, count: int, what: str) -> Sequence[Any]:
    """The row, if it is a tuple of so many fields; raises FrameError that says `what` it is not."""
    return row if type(row) is tuple and len(row) == count else wrong(what, row)


def is_count(value: Any) -> bool:
    """A whole number from 0; no bool."""
    return type(value) is int and value >= 0


def is_number(value: Any) -> bool:
    """A finite number; no bool."""
    return type(value) in NUMBER and value - value == 0


def wrong(what: str, row: Any) -> NoReturn:
    raise FrameError(f"no {what}: {_told(row)}")


def _among(value: Any, known: frozenset[Any]) -> bool:
    return (value is None or type(value) is str) and value in known


def _told(row: Any) -> str:
    """Enough of it to see what is wrong, whatever it is."""
    if type(row) is not tuple:
        return type(row).__name__
    kinds = [type(item).__name__ for item in row[:16]]
    return f"{len(row)} fields ({', '.join(kinds)}{', ...' if len(row) > len(kinds) else ''})"


def _named(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip()[:200]
