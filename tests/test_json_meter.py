"""How much there is in JSON is counted as it comes, exactly, and whatever pieces it comes in."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_api.http.request_bodies import JsonMeter

TEXTS = st.text(st.sampled_from('a"\\,[]{}:\u2028\u00e9'), max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def extent(*pieces: bytes) -> tuple[int, int]:
    counted = JsonMeter()
    for piece in pieces:
        counted.feed(piece)
    return counted.values, counted.depth


def counted(value: Any) -> tuple[int, int]:
    """The same of what the JSON means: what stands behind a bracket or a comma, and an empty place behind a bracket."""
    if isinstance(value, dict | list):
        inner = [counted(each) for each in (value.values() if isinstance(value, dict) else value)]
        return max(len(inner), 1) + sum(each for each, _ in inner), 1 + max((deep for _, deep in inner), default=0)
    return 0, 0


@given(VALUES, st.booleans(), st.lists(st.integers(0, 200), max_size=6))
def test_it_is_the_same_in_whatever_pieces_it_comes(value: Any, ascii_only: bool, cuts: list[int]) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(places)]
    assert extent(*pieces) == extent(text) == extent(*(text[at : at + 1] for at in range(len(text)))) == counted(value)


@pytest.mark.parametrize(
    ("text", "values", "depth"),
    [
        (b'"\\\\", [', 2, 1),  # the quote behind two backslashes is one
        (b'"\\\\\\", [', 0, 0),  # behind three it is none
        (b"[" * 1000, 1000, 1000),
        (b"[],[],[]", 5, 1),
        (b'{"a":{"b":[1,2]}}', 4, 3),
        (b'"' + b"[,{" * 1000 + b'"', 0, 0),
    ],
)
def test_what_stands_in_a_text_does_not_count(text: bytes, values: int, depth: int) -> None:
    assert extent(text) == (values, depth)
