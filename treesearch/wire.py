"""Frames: what travels between processes and lies in a journal, as MessagePack with a version and a checksum. Pure.

Never pickle. A frame is `CRC-32 of the rest (4 bytes, little endian), version (1 byte), MessagePack`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import msgpack

from treesearch.errors import FrameError, RemoteError, RequestError, RunError
from treesearch.types import Chain, Expansion, Job, Problem, Sampling, Step

VERSION = 2


def seal(value: Any) -> bytes:
    """A frame of lists, numbers, text and bytes. Lone surrogates, which a model can write, pass."""
    body = bytes([VERSION]) + msgpack.packb(value, unicode_errors="surrogatepass")
    return zlib.crc32(body).to_bytes(4, "little") + body


def unseal(frame: bytes) -> Any:
    """Inverse of `seal`, with tuples for lists. Raises FrameError if a bit is wrong or the version is another."""
    if not isinstance(frame, bytes):
        raise FrameError(f"a frame is bytes, not {type(frame).__name__}")
    body = frame[4:]
    if len(body) < 2 or zlib.crc32(body) != int.from_bytes(frame[:4], "little"):
        raise FrameError("a frame fails its checksum")
    if body[0] != VERSION:
        raise FrameError(f"a frame of version {body[0]}, this treesearch writes version {VERSION}")
    return msgpack.unpackb(body[1:], unicode_errors="surrogatepass", use_list=False)


def step_row(step: Step) -> tuple[Any, ...]:
    return (step.text, step.ids, step.tokens, step.logprob, step.score, step.finish, step.answer, step.canonical,
            step.outcome, step.proposer)  # fmt: skip


def chain_rows(chains: Sequence[Chain]) -> list[list[tuple[Any, ...]]]:
    return [[step_row(step) for step in chain] for chain in chains]


def chains_of(rows: Sequence[Sequence[Sequence[Any]]]) -> tuple[Chain, ...]:
    return tuple(tuple(Step(*row) for row in chain) for chain in rows)


def expansion_row(e: Expansion) -> tuple[Any, ...]:
    return e.leaf, chain_rows(e.chains), e.error, e.scored


def expansion_of(row: Sequence[Any]) -> Expansion:
    leaf, chains, error, scored = row
    return Expansion(leaf, chains_of(chains), error, scored)


def problem_row(problem: Problem) -> tuple[Any, ...]:
    return problem.id, problem.question, problem.reference


def job_row(job: Job) -> tuple[Any, ...]:
    sampling = (job.sampling.temperature, job.sampling.top_p)
    path = [step_row(step) for step in job.path]
    return (job.id, problem_row(job.problem), path, job.first, job.n, job.until, sampling, job.seed, job.score,
            job.proposer, job.leaf, job.priority, job.logprobs)  # fmt: skip


def job_of(row: Sequence[Any]) -> Job:
    id_, problem, path, first, n, until, sampling, *rest = row
    steps = tuple(Step(*step) for step in path)
    return Job(id_, Problem(*problem), steps, first, n, until, Sampling(*sampling), *rest)


def error_row(error: Exception) -> tuple[str, str]:
    return type(error).__name__, str(error)


def error_of(row: Sequence[str]) -> Exception:
    """The exception in another process: RequestError and RunError as themselves, else a RemoteError that names it."""
    kind, message = row
    known = {"RequestError": RequestError, "RunError": RunError}
    return known[kind](message) if kind in known else RemoteError(kind, message)
