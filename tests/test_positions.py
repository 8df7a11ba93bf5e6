"""Where a viewer is in a log, and how that is written."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_api.errors import InvalidCursor
from codegen_api.http.sse import parse_position
from codegen_api.positions import AMENDABLE, OUTDATED, UNKNOWN, Copy, Missed, Position, Sighting, Trail
from codegen_api.runs import LogEntry

cursors = st.integers(0, 10**18 - 1)
digests = st.one_of(
    st.binary().map(lambda text: LogEntry(text, None, open=False, amendable=False).digest),
    st.sampled_from([UNKNOWN, OUTDATED]),
)
positions = st.one_of(
    st.builds(Position, cursors, st.just(value=True)),
    st.builds(
        Position,
        cursors,
        seen=st.none() | st.builds(Sighting, cursors, st.booleans(), cursors),
        copies=st.lists(digests, max_size=AMENDABLE).map(tuple),
    ),
)


def entry(number: int, *, amendable: bool = True) -> LogEntry:
    return LogEntry(json.dumps({"n": number}).encode(), None, open=False, amendable=amendable)


@pytest.mark.wire("position-form", "stream-ids")
@given(positions)
def test_every_position_is_read_as_it_was_written_and_begins_with_its_number(position: Position) -> None:
    written = str(position)
    assert parse_position(written) == position
    assert re.split("[-~.]", written)[0] == str(position.cursor)
    assert re.fullmatch("[A-Za-z0-9._~-]*", written)  # it goes into URLs as it is
    assert written.endswith(".end") is position.over


@pytest.mark.wire("position-form")
@pytest.mark.parametrize(
    "text",
    ["5-", "5-6", "5-6.", "5-6.7.8", "5-.7", "5~", "5~abc", "5~abcde", "5~ab d", "5.end~abcd", "5-6.7.end", "5 ~abcd"],
)
def test_what_only_resembles_a_position_is_none(text: str) -> None:
    with pytest.raises(InvalidCursor):
        parse_position(text)


def test_who_was_told_of_more_elsewhere_still_knows_it_here() -> None:
    elsewhere = Position(4, seen=Sighting(9, True, 2))
    assert Position(5).after(elsewhere) == Position(5, seen=elsewhere.seen)
    later = Position(5, seen=Sighting(12, False, 0))
    assert later.after(elsewhere) == later
    assert Position(10).after(elsewhere) == Position(10)
    assert Position(5).after(Position(4)) == Position(5)


def test_where_nothing_may_change_a_position_is_a_number() -> None:
    trail = Trail(Position(0), Missed(length=30))
    assert [str(trail.appended(entry(number, amendable=False))) for number in (1, 2, 3)] == ["1", "2", "3"]


def test_far_from_the_end_a_position_says_how_long_the_log_was_and_near_it_what_the_copies_are() -> None:
    trail = Trail(Position(0), Missed(length=150))
    told = [trail.appended(entry(number)) for number in range(1, 151)]
    assert all(position.seen == Sighting(150, False, 0) and not position.copies for position in told[:50])
    assert all(position.seen is None and len(position.copies) == AMENDABLE for position in told[50:])
    assert told[-1].copies == tuple(entry(number).digest for number in range(131, 151))


def test_what_is_still_to_be_told_is_not_claimed_to_be_known() -> None:
    near = [Copy.of(entry(number)) for number in range(1, 6)]
    changes = [Sighting(5, False, 2), Sighting(6, False, 1)]
    trail = Trail(Position(5), Missed(6, changes[-1], changes, near), changes, doubtful=[4])
    first = trail.amended(4, entry(40))
    assert (first.seen, first.digest(4), first.digest(2)) == (Sighting(5, False, 1), entry(40).digest, OUTDATED)
    second = trail.amended(2, entry(20))
    assert (second.seen, second.digest(1)) == (Sighting(6, False, 0), OUTDATED)
    last = trail.amended(1, entry(10))
    assert (last.seen, last.digest(1)) == (changes[-1], entry(10).digest)
    assert last.has(changes[0])
    assert last.has(changes[1])
