"""Frames: what goes in comes out, what is damaged or foreign is refused."""

from __future__ import annotations

import sys
import time
import zlib
from typing import Any

import msgpack
import pytest

from tests.fakes import keyed_chain
from treesearch import wire
from treesearch.errors import FrameError, RemoteError, RequestError, RunError, told
from treesearch.types import Expansion, Job, Problem, Sampling, Step
from treesearch.wire import (
    VERSION,
    chain_rows,
    chains_of,
    close_of,
    error_of,
    error_row,
    expansion_of,
    expansion_row,
    job_of,
    job_row,
    reply_of,
    scores_of,
    seal,
    step_of,
    step_row,
    unseal,
)


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


def sealed(packed: bytes) -> bytes:
    """A frame with a right checksum around any bytes: what a forger can write."""
    body = bytes([VERSION]) + packed
    return zlib.crc32(body).to_bytes(4, "little") + body


FORGED = {
    "an array of 4e9": b"\xdd\xee\x6b\x28\x00",
    "a map of 4e9": b"\xdf\xee\x6b\x28\x00",
    "a text of 4e9": b"\xdb\xee\x6b\x28\x00abc",
    "bytes of 4e9": b"\xc6\xee\x6b\x28\x00abc",
    "an array within an array, 100,000 deep": b"\x91" * 100_000 + b"\xc0",
    "a map within a map, 100,000 deep": b"\x81\xa1k" * 100_000 + b"\xc0",
    "a map whose keys are numbers": b"\x81\x01\x02",
    "a map whose key is a list": b"\x81\x90\x02",
    "an extension": b"\xd4\x05a",
    "an extension of nothing": b"\xc7\x00\x05",
    "a time stamp": b"\xd6\xff\x00\x00\x00\x01",
    "a type that there is not": b"\xc1",
    "text that is not UTF-8": b"\xa2\xff\xfe",
    "half of a value": b"\x92\x01",
    "a value and more": b"\x01\x02",
}


@pytest.mark.parametrize("packed", FORGED.values(), ids=FORGED)
def test_a_forged_frame_is_refused_at_once(packed: bytes) -> None:
    began = time.monotonic()
    with pytest.raises(FrameError, match=r"no MessagePack of ours|fails its checksum"):
        unseal(sealed(packed))
    assert time.monotonic() - began < 1


def test_a_frame_beyond_the_limits_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LONGEST_FRAME", 100)
    with pytest.raises(FrameError, match="a frame of 204 bytes: the most is 100"):
        unseal(b"\0" * 204)
    with pytest.raises(FrameError, match="the most is 100"):
        seal("x" * 100)
    monkeypatch.undo()
    monkeypatch.setitem(wire.LIMITS, "max_array_len", 3)
    with pytest.raises(FrameError, match="4 exceeds max_array_len"):
        unseal(seal([1, 2, 3, 4]))
    monkeypatch.setitem(wire.LIMITS, "max_str_len", 3)
    with pytest.raises(FrameError, match="4 exceeds max_str_len"):
        unseal(seal("four"))


def test_no_frame_within_the_limits_needs_much_more_memory_than_its_own() -> None:
    """The worst in a byte is an empty map: 64 bytes."""
    assert sys.getsizeof(unseal(sealed(b"\x91\x80"))[0]) <= 64 and wire.MOST_ITEMS * 64 <= 1 << 28


ODD: list[Any] = [
    None,
    True,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    2**63,
    "",
    "\0",
    "\ud800",
    b"",
    (),
    ("a",),
    {},
    {"a": 1},
]
STEP = step_row(Step("a\n", (1, 2), 2, -0.5, 0.25, "answer", "4", "4", 0.5, "large"))
JOB, EXPANSION = job_row(job()), expansion_row(Expansion(3, ((Step(*STEP),),), None, 7))
ROWS = {
    "step": (step_of, STEP),
    "job": (job_of, JOB),
    "expansion": (expansion_of, EXPANSION),
    "error": (error_of, ("RequestError", "too long")),
    "scores": (scores_of, (((0.5,), (0.25, 1.0)), 8)),
    "reply": (reply_of, (0, 2**64 - 1, 1.5, EXPANSION)),
    "close": (close_of, ("finished", 1.5, 0, None)),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_with_a_wrong_field_is_a_frame_error_or_a_value_that_goes_through_again(name: str) -> None:
    """Whatever stands in one field: refused, or of the right type; never a crash."""
    read, row = ROWS[name]
    read(unseal(seal(row)))
    refused = 0
    for k in range(len(row)):
        for odd in ODD:
            changed = unseal(seal([*row[:k], odd, *row[k + 1 :]]))
            try:
                read(changed)
            except FrameError as error:
                refused += 1
                assert str(error).startswith("no ")
    assert refused >= len(row) * len(ODD) // 2
    for wrong in (row[:-1], (*row, None), None, 5, "text", {"a": 1}):
        with pytest.raises(FrameError):
            read(unseal(seal(wrong)))


@pytest.mark.parametrize(
    ("field", "bad"),
    [(0, None), (0, b"a"), (1, (1, "2")), (1, (-1,)), (1, (1.5,)), (1, "12"), (1, ((1,),)), (1, (2**40,)), (2, -1), (2, 2.0),
     (2, True), (3, float("nan")), (3, "0"), (4, float("nan")), (4, float("inf")), (4, True), (5, "end"), (5, None),
     (5, ()), (6, 4), (7, b"4"), (8, float("-inf")), (9, 1)],
)  # fmt: skip
def test_each_field_of_a_step_has_its_type_and_range(field: int, bad: Any) -> None:
    row = unseal(seal([*STEP[:field], bad, *STEP[field + 1 :]]))
    with pytest.raises(FrameError, match="no step: 10 fields"):
        step_of(row)


def test_a_step_of_a_frame_is_like_any_other() -> None:
    step = step_of(unseal(seal(STEP)))
    assert step == Step(*STEP) and hash(step) == hash(Step(*STEP)) and step.scored(0.5).score == 0.5
    with pytest.raises(AttributeError):
        step.text = "b"  # type: ignore[misc]


def test_a_step_that_cannot_be_said_keeps_its_log_probability() -> None:
    assert step_of(unseal(seal(step_row(Step("a", (1,), 1, float("-inf")))))).logprob == float("-inf")


def test_hostile_text_comes_out_as_it_went_in() -> None:
    for text in ("\0\x1b]0;x\x07", "\ud800\udfff", "‮abc", "[red]", "<|im_end|><extra_0> ки", "\U0010ffff" * 1000):
        chains = ((Step(text, (0,), 1, 0.0, 0.0, "answer", text, text),),)
        assert chains_of(unseal(seal(chain_rows(chains)))) == chains
    assert msgpack.unpackb(seal("a")[5:]) == "a"
