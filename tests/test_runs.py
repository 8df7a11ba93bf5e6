import json
import math
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_api.runs import ENTRY_OVERHEAD, Json, LogEntry, LogPage, Paging, Run, RunRef, RunStatus, from_json, to_json

REF = RunRef("9", "1")


def a_run(run_status: RunStatus = RunStatus.RUNNING, **fields: Any) -> Run:
    return Run(REF, run_status, run_status.name, fields)


def page(after: int, count: int, *, total: int | None = None, newest_first: bool = False) -> LogPage:
    entry = LogEntry(b"{}", None, False, False)
    return LogPage(a_run(), after, (entry,) * count, False, Paging(total, None, None, None), newest_first)


texts = st.text(st.characters(exclude_categories=()), max_size=30)  # every code point, lone surrogates too
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


def as_sent(value: Any) -> Any:
    """What a reader is to get for ``value``: itself, but for the numbers that JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: as_sent(item) for key, item in value.items()}
    return [as_sent(item) for item in value] if isinstance(value, list | tuple) else value


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


@pytest.mark.wire("json-always-valid")
@given(values)
def test_whatever_is_encoded_is_one_line_of_strict_json_that_reads_back(value: Any) -> None:
    encoded = to_json(value)
    text = encoded.decode("utf-8")
    assert not {"\n", "\r", "\0"} & set(text)
    assert json.loads(text, parse_constant=refuse) == as_sent(value)


@given(values)
def test_what_was_encoded_is_read_back(value: Any) -> None:
    again = from_json(to_json(value))
    assert to_json(again) == to_json(value) or any(abs(number) >= 2**63 for number in integers_in(value))


def integers_in(value: Any) -> Iterator[int]:
    """The whole numbers in a value: those beyond 64 bit come back as others read them, without their last digits."""
    if isinstance(value, int):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from integers_in(item)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ({"a": [1, "ü", None, True]}, '{"a":[1,"ü",null,true]}'.encode()),
        ("\ud800", b'"\\ud800"'),
        ([math.nan, math.inf, -math.inf], b"[null,null,null]"),
        (["\ud800", math.nan, {"x": (math.inf,)}], b'["\\ud800",null,{"x":[null]}]'),
        (2**80, b"1208925819614629174706176"),
        ({"\udfff": 1.5}, b'{"\\udfff":1.5}'),
    ],
)
def test_what_json_has_no_word_for_is_written_so_that_every_reader_accepts_it(value: Any, encoded: bytes) -> None:
    assert to_json(value) == encoded


@pytest.mark.wire("host-fields-kept")
@pytest.mark.parametrize(
    "number",
    [
        "25000000000000000001",
        "-9223372036854775809",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "-" + "9" * 30,
        "1" + "0" * 399,
        "9" * 400,
    ],
)
@pytest.mark.parametrize("around", ["%s", "[%s]", '{"a":%s,"b":[{"c":%s}]}', '{"half of a pair":"\\ud800","n":%s}'])
def test_whole_numbers_are_read_and_written_to_their_last_digit(number: str, around: str) -> None:
    text = around.replace("%s", number).encode()
    assert to_json(from_json(text)) == text
    assert to_json(from_json(bytearray(text))) == text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (b"1.0000000000000000001", b"1.0"),
        (b"0.1234567890123456789012345", b"0.12345678901234568"),
        (b"-0.0", b"-0.0"),
        (b"12345678901234567890.5", b"1.2345678901234567e+19"),
        (b"1e400", b"null"),
        (b"[12345678901234567890123,1e400]", b"[12345678901234567890123,null]"),
        (b"[12345678901234567890123,NaN,-Infinity]", b"[12345678901234567890123,null,null]"),
        (b'"12345678901234567890123"', b'"12345678901234567890123"'),
        (b"9" * 401, b'"%b"' % (b"9" * 401)),
        (b"9" * 5000, b'"%b"' % (b"9" * 5000)),
        (b"[-%b,1,NaN]" % (b"9" * 5000), b'["-%b",1,null]' % (b"9" * 5000)),
    ],
)
def test_other_numbers_are_read_as_every_reader_reads_them(text: bytes, written: bytes) -> None:
    assert to_json(from_json(text)) == written


def test_a_long_number_does_not_keep_what_is_nested_deeply_from_being_read() -> None:
    value: Any = from_json(b"[" * 950 + b"25000000000000000001" + b"]" * 950)
    for _ in range(950):
        (value,) = value
    assert float(value) == 2.5e19


@pytest.mark.parametrize("text", [b"", b"<html>", b"[1,", b"12345678901234567890123,", b"\xff", b"[" * 200_000])
def test_what_is_no_json_is_not_read(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_json(text)


ENDS = ["\x0a", "\x0b", "\x0c", "\x0d", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
"""Where Python's ``splitlines``, and so ``httpx`` and ``requests``, cut lines."""


@pytest.mark.wire("json-one-line")
@given(
    st.lists(st.sampled_from([*ENDS, "\\", '"', "\u2027", "\u202a", "\xc2", "\x84", "\u0e85", "\ud800", "a"])).map(
        "".join
    )
)
def test_no_reader_cuts_a_text_in_two(text: str) -> None:
    written = to_json({text: [text]})
    assert len(written.decode().splitlines()) == 1
    assert json.loads(written) == {text: [text]} == from_json(written)


def test_what_is_taken_for_the_end_of_a_line_is_escaped_and_its_neighbours_are_not() -> None:
    text = "a\u2027b\u2028c\u2029d\u202ae\x84f\x85g\\\u2028"
    assert to_json(text).decode() == '"a\u2027b\\u2028c\\u2029d\u202ae\x84f\\u0085g\\\\\\u2028"'


def test_what_is_nested_too_deeply_is_refused() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="nested too deeply"):
        to_json(value)


def test_what_is_nested_more_deeply_than_the_fast_encoder_goes_is_still_written() -> None:
    value: list[Any] = []
    for _ in range(300):
        value = [value]
    assert to_json(value) == b"[" * 301 + b"]" * 301


@pytest.mark.wire("run-status")
@pytest.mark.parametrize("status", list(RunStatus))
def test_three_statuses_are_ends_and_no_others(status: RunStatus) -> None:
    assert status.ended == (status in {"completed", "failed", "cancelled"})


@pytest.mark.wire("stream-status")
def test_an_updated_run_keeps_the_fields_that_the_newer_description_leaves_out() -> None:
    older = a_run(id=1, summary="so far", status="ACTIVE")
    updated = older.updated(a_run(RunStatus.COMPLETED, id=1, status="COMPLETE", result=None))
    assert updated.fields == {"id": 1, "summary": "so far", "status": "COMPLETE", "result": None}
    assert updated.status is RunStatus.COMPLETED
    assert older.fields == {"id": 1, "summary": "so far", "status": "ACTIVE"}


@pytest.mark.wire("stream-status")
@pytest.mark.parametrize("with_status", [True, False])
def test_a_description_without_a_status_changes_everything_but_the_status(with_status: bool) -> None:
    fields: dict[str, Json] = {"id": 1, "status": "ACTIVE"} if with_status else {"id": 1}
    silent = Run(REF, RunStatus.UNKNOWN, None, {"id": 1, "status": None, "result": "42"})
    updated = Run(REF, RunStatus.RUNNING, "ACTIVE", fields).updated(silent)
    assert (updated.status, updated.raw_status) == (RunStatus.RUNNING, "ACTIVE")
    assert updated.fields == {"id": 1, "status": "ACTIVE" if with_status else None, "result": "42"}


@pytest.mark.parametrize(
    ("before", "after"), [(1, True), (False, 0), ([0, {"a": 1}], [0, {"a": True}]), ({"a": [True]}, {"a": [1]})]
)
def test_an_updated_run_has_true_where_it_had_one(before: Json, after: Json) -> None:
    older, newer = a_run(id=1, is_shared=before), a_run(is_shared=after)
    updated = older.updated(newer)
    assert updated != older
    assert to_json(updated.fields) == to_json({"id": 1, "is_shared": after})
    assert updated.updated(newer) is updated


def test_a_run_is_equal_to_what_describes_it_alike_and_to_nothing_else() -> None:
    one, other = a_run(id=1, parts=[1, {"a": True}]), a_run(id=1, parts=[1, {"a": True}])
    assert one == other
    assert one.updated(other) is one
    assert one != a_run(id=2, parts=[1, {"a": True}])
    assert one != REF


def test_an_entry_costs_its_text_and_what_is_around_it() -> None:
    assert LogEntry(b'{"a":1}', None, False, False).size == 7 + ENTRY_OVERHEAD


@pytest.mark.parametrize("id_length", [0, 36])
@pytest.mark.parametrize("length", [0, 500, 1000, 10_000])
def test_an_entry_takes_no_more_memory_than_it_is_charged_with(length: int, id_length: int) -> None:
    """An encoder may leave a lot of room behind what it wrote."""
    fields = {"text": "x" * length}
    tracemalloc.start()
    try:
        given_id = "-" * id_length or None
        entry = LogEntry(to_json(fields), "-".join(("2026", "11", "01T12:00:00.000000Z")), False, True, id=given_id)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(entry.json) < taken <= entry.size


@pytest.mark.wire("entry-position")
def test_positions_are_counted_from_one() -> None:
    assert [page(0, 3).position(index) for index in range(3)] == [1, 2, 3]
    assert [page(25, 2, total=99).position(index) for index in range(2)] == [26, 27]
    assert page(25, 2).last == 27
    assert page(25, 0).last == 25


@given(total=st.integers(0, 500), skip=st.integers(0, 500), limit=st.integers(1, 100))
def test_a_position_read_from_the_other_end_is_the_same_as_from_the_front(total: int, skip: int, limit: int) -> None:
    positions = list(range(total, 0, -1))[skip : skip + limit]
    backwards = page(skip, len(positions), total=total, newest_first=True)
    assert [backwards.position(index) for index in range(len(positions))] == positions


@pytest.mark.wire("logs-reverse")
def test_nobody_guesses_a_position_from_the_end_of_a_log_of_unknown_length() -> None:
    assert page(0, 1, newest_first=True).position(0) is None
