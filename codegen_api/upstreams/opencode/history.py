"""Reads the history of one session, which the host gives only forwards, and at most 100 events at a time."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from codegen_api.runs import Cursor
from codegen_api.upstreams.host_json import Object
from codegen_api.upstreams.opencode.entries import History, HistoryEvent, calls_in, turn_status

MOST = 100
"""Maximum events in one answer of the host."""
CONTEXT = 20
"""Number of earlier events to read along: they say which tools were called, and the status of the turn."""

Fetch = Callable[[Cursor, int], Awaitable[History]]
"""Fetches events after a number, up to a limit."""


class LogStretch(NamedTuple):
    """Consecutive events after number ``start``, with the ``calls`` whose results are among them."""

    start: Cursor
    events: Sequence[HistoryEvent]
    calls: Mapping[str, Object]
    more: bool


async def read_stretch(fetch: Fetch, after: Cursor, limit: int) -> LogStretch:
    """Read ``limit`` numbers after ``after``, some before them, and possibly some after them."""
    start = max(0, after - CONTEXT)
    history = await fetch(start, MOST)
    events = list(history.events)
    while history.more and events[-1].seq < after + limit:
        history = await fetch(events[-1].seq, MOST)
        events += history.events
    calls = calls_in(events)
    wanted, first = {event.call for event in events if event.seq > after} - {None}, start
    while wanted - calls.keys() and first > 0:
        first, before = max(0, first - MOST), first
        earlier = await fetch(first, MOST)
        calls |= calls_in([event for event in earlier.events if event.seq <= before])
    return LogStretch(start, events, calls, history.more)


async def read_end(fetch: Fetch, low: Cursor) -> Sequence[HistoryEvent]:
    """Read the last events, as many as ``turn_status`` needs. The log has at least ``low``; its end is searched for in
    steps that double, and halve again.
    """
    while True:
        start = max(0, low - CONTEXT)
        history = await fetch(start, MOST)
        if not history.events and low:  # another log, under the same name
            low = 0
            continue
        if not history.more:
            return await read_back(fetch, start, history.events)
        low, high, step = history.events[-1].seq, None, MOST
        while high is None or high - low > MOST - CONTEXT:
            probe = low + step if high is None else (low + high) // 2
            events = (await fetch(probe, 1)).events
            low, high = (events[-1].seq, high) if events else (low, probe)
            step *= 2


async def read_back(fetch: Fetch, start: Cursor, events: Sequence[HistoryEvent]) -> Sequence[HistoryEvent]:
    """Put before ``events``, which follow number ``start``, as many earlier ones as ``turn_status`` needs."""
    while turn_status(events) is None and start > 0:
        start, before = max(0, start - MOST), start
        earlier = await fetch(start, MOST)
        events = [*(event for event in earlier.events if event.seq <= before), *events]
    return events


def last_seq(events: Sequence[HistoryEvent]) -> Cursor:
    """The number of the last event; 0 if there is none."""
    return events[-1].seq if events else 0
