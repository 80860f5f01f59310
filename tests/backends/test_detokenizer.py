"""Texts of steps add up to the text of the chain, in every style of tokenizer, wherever it is cut."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from tests.backends.chat_models import LINES, STYLES, TEXT, tokenizer_of
from treesearch.backends.base import Limits
from treesearch.backends.detokenizer import CUT, Detokenizer
from treesearch.backends.steps import Splitter

MULTIPLY = "3 × 8 = 24 €, 你好 🙂🙃.  Two  spaces .\n\n"


def parts(detokenizer: Detokenizer, ids: Sequence[int], cuts: Sequence[int]) -> list[str]:
    """The text of each part, given all ids before it."""
    borders = [0, *sorted(cuts), len(ids)]
    return [detokenizer.text(ids[:a], ids[a:b], k > len(cuts)) for k, (a, b) in enumerate(pairwise(borders), 1)]


@pytest.mark.parametrize("style", STYLES)
@given(text=st.text(max_size=40) | st.sampled_from([MULTIPLY, *TEXT, *LINES]), data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_texts_of_all_parts_are_the_decode_of_the_whole(style: str, text: str, data: Any) -> None:
    tokenizer = tokenizer_of(style)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=8))
    whole = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert "".join(parts(Detokenizer(tokenizer), ids, cuts)) == whole


@pytest.mark.parametrize("style", STYLES)
def test_so_they_are_for_ids_that_no_tokenizer_gave(style: str) -> None:
    """What models sample: special tokens in mid-text, spaces twice, bytes that are no text."""
    tokenizer, rng = tokenizer_of(style), random.Random(1)
    detokenizer = Detokenizer(tokenizer)
    odd = [i for i in range(len(tokenizer)) if CUT in tokenizer.decode([i])]
    compared = 0
    for _ in range(300):
        ids = [
            rng.choice(odd) if rng.random() < 0.1 else rng.randrange(len(tokenizer)) for _ in range(rng.randrange(30))
        ]
        whole = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        found = "".join(parts(detokenizer, ids, [rng.randint(0, len(ids)) for _ in range(rng.randrange(6))]))
        if style != "mistral" or CUT not in whole:  # its decoder takes whole characters beside broken ones back
            compared += 1
            assert found == whole
    assert compared == 300 or (style == "mistral" and compared > 20)


def test_a_character_cut_by_a_step_is_the_next_step_s() -> None:
    for style in STYLES:
        tokenizer = tokenizer_of(style)
        ids = tokenizer("x🙂y", add_special_tokens=False)["input_ids"]
        ends = [k for k in range(len(ids)) if tokenizer.decode(ids[:k]).endswith(CUT)]
        assert len(ends) >= 3, "the test wants a character of several tokens"
        assert [parts(Detokenizer(tokenizer), ids, [k]) for k in ends] == [["x", "🙂y"]] * len(ends)
        assert parts(Detokenizer(tokenizer), ids, ends) == ["x", *[""] * (len(ends) - 1), "🙂y"]


def test_a_long_run_of_byte_tokens_is_read_from_a_whole_character_on() -> None:
    """Twelve byte tokens and more before the border: the decoder must not begin in the middle of one of them."""
    tokenizer = tokenizer_of("mistral")
    ids = tokenizer("a" + "你好吗🙂" * 3, add_special_tokens=False)["input_ids"]
    assert len(ids) > 30
    for k in range(len(ids) + 1):
        assert "".join(parts(Detokenizer(tokenizer), ids, [k])) == "a" + "你好吗🙂" * 3


def test_a_decoder_whose_first_token_has_no_space_of_its_own() -> None:
    """The first step reads as the tokenizer reads a beginning, a later one as it reads the middle."""
    tokenizer = tokenizer_of("mistral")
    ids = tokenizer("the answer is the answer", add_special_tokens=False)["input_ids"]
    cut = next(k for k in range(2, len(ids)) if tokenizer.convert_ids_to_tokens(ids[k]).startswith("▁"))
    first, second = parts(Detokenizer(tokenizer), ids, [cut])
    assert first.startswith("the") and second.startswith(" ")


def test_words_that_end_with_a_mark_and_tokens_that_say_nothing() -> None:
    inner = Tokenizer(models.WordLevel({"a</w>": 0, "b</w>": 1, "c": 2, "[UNK]": 3}, unk_token="[UNK]"))
    inner.decoder = decoders.BPEDecoder()
    detokenizer = Detokenizer(PreTrainedTokenizerFast(tokenizer_object=inner))
    for ids in ([0, 2, 1, 0], [2, 2, 0], [0, 99, 1, 2]):  # 99: a row of the embedding without a token
        for k in range(len(ids) + 1):
            assert "".join(parts(detokenizer, ids, [k])) == detokenizer.decode(ids)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("separator", ["\n", "\n\n", ". ", ";\n"])
def test_steps_end_with_the_separator_in_every_style(style: str, separator: str) -> None:
    """Whatever tokens the separator is made of: bytes, two of them, or a part of a longer one."""
    tokenizer = tokenizer_of(style)
    detokenizer = Detokenizer(tokenizer)
    splitter = Splitter(detokenizer.vocabulary(len(tokenizer)), separator, [tokenizer.eos_token_id], Limits())
    for text in [*LINES, "One. Two. Three; four;\nfive"]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        steps, before = [], []
        for piece in splitter.split(ids, 0, 0, 10**6):
            steps.append(detokenizer.text(before, piece.ids, False))
            assert separator not in detokenizer.text(before, piece.ids[:-1], False)  # it ends as soon as it can
            before += piece.ids
        assert "".join(steps) == text
        assert len(steps) > 1 or text.count(separator) <= (text.endswith(separator))
        assert all(separator in step for step in steps[:-1])


def test_a_vocabulary_holds_each_token_as_it_reads_in_the_middle() -> None:
    texts = {style: Detokenizer(tokenizer_of(style)).vocabulary(len(tokenizer_of(style)) + 2) for style in STYLES}
    for style, column in texts.items():
        known = tokenizer_of(style).get_vocab()
        assert column[-2:] == ["", ""] and len(column) == len(known) + 2
        assert column[known["Ġ" if style != "mistral" else "▁"]] == " "
        assert column[known["Ċ" if style != "mistral" else "<0x0A>"]] == "\n"
    assert texts["mistral"][tokenizer_of("mistral").get_vocab()["▁do"]] == " do"
