"""Frames: what goes in comes out, what is damaged or foreign is refused."""

from __future__ import annotations

import zlib

import pytest

from tests.fakes import keyed_chain
from treesearch.errors import FrameError, RemoteError, RequestError, RunError, told
from treesearch.types import Job, Problem, Sampling, Step
from treesearch.wire import chain_rows, chains_of, error_of, error_row, job_of, job_row, seal, unseal


def job(**changed) -> Job:
    path = (Step("a\ud800\n", (1, 2), 2, -0.5, 0.25), Step("b\x00", (), None))
    given = {"id": "p/1/7", "problem": Problem("p/1", "2+2?", "4"), "path": path, "first": 3, "n": 4, "until": "step",
             "sampling": Sampling((0.5, 1.0), 0.9), "seed": 2**64 - 1}  # fmt: skip
    return Job(**(given | changed))


@pytest.mark.parametrize("changed", [{}, {"n": None, "score": None}, {"priority": 9, "logprobs": True, "leaf": 5}])
def test_a_job_comes_out_as_it_went_in(changed: dict) -> None:
    assert job_of(unseal(seal(job_row(job(**changed))))) == job(**changed)


def test_chains_come_out_as_they_went_in() -> None:
    chains = tuple(keyed_chain(job(until="answer"), i) for i in range(8))
    assert chains_of(unseal(seal(chain_rows(chains)))) == chains


def test_an_error_keeps_its_name_and_a_refusal_its_meaning() -> None:
    for kind in (RequestError, RunError):
        found = error_of(unseal(seal(error_row(kind("too long")))))
        assert type(found) is kind and str(found) == "too long"
    other = error_of(error_row(ZeroDivisionError("division")))
    assert isinstance(other, RemoteError) and told(other) == told(ZeroDivisionError("division"))


def test_every_flipped_bit_and_every_cut_is_noticed() -> None:
    frame = seal([1, "two", [3.0, None]])
    damaged = [
        bytes(b ^ (1 << bit % 8) if k == bit // 8 else b for k, b in enumerate(frame)) for bit in range(8 * len(frame))
    ]
    for bad in [*damaged, *(frame[:k] for k in range(len(frame)))]:
        with pytest.raises(FrameError, match="checksum"):
            unseal(bad)


def test_a_frame_of_another_version_is_named() -> None:
    body = bytes([99]) + seal(1)[5:]
    with pytest.raises(FrameError, match="version 99"):
        unseal(zlib.crc32(body).to_bytes(4, "little") + body)
