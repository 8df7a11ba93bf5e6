"""Reading the history of one session, which the host gives forwards only, at most 100 events at a time."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from codegen_api.runs import Cursor
from codegen_api.upstreams.host_json import Object
from codegen_api.upstreams.opencode.entries import History, HistoryEvent, calls_in, outlook

MOST = 100
"""Events in one answer, by the host's own limit."""
CONTEXT = 20
"""So many events before those asked for are read with them: they say what was called, and how the session stands."""

Fetch = Callable[[Cursor, int], Awaitable[History]]
"""Asks the host for the events behind a number, and for how many."""


class LogStretch(NamedTuple):
    """Consecutive events behind number ``start``, and what the calls were whose results are among them."""

    start: Cursor
    events: Sequence[HistoryEvent]
    calls: Mapping[str, Object]
    more: bool


async def stretch(fetch: Fetch, after: Cursor, limit: int) -> LogStretch:
    """The ``limit`` numbers behind ``after``, with some before and possibly some behind them."""
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


async def end(fetch: Fetch, low: Cursor) -> Sequence[HistoryEvent]:
    """The last events, as many as tell how the session stands. The log is known to reach ``low``: it is searched in
    steps that double, and halve again.
    """
    while True:
        start = max(0, low - CONTEXT)
        history = await fetch(start, MOST)
        if not history.events and low:  # another log, under the same name
            low = 0
            continue
        if not history.more:
            return await with_outlook(fetch, start, history.events)
        low, high, step = history.events[-1].seq, None, MOST
        while high is None or high - low > MOST - CONTEXT:
            probe = low + step if high is None else (low + high) // 2
            found = (await fetch(probe, 1)).events
            low, high = (found[-1].seq, high) if found else (low, probe)
            step *= 2


async def with_outlook(fetch: Fetch, start: Cursor, events: Sequence[HistoryEvent]) -> Sequence[HistoryEvent]:
    """``events``, which follow number ``start``, and before them as many as tell how the session stands."""
    while outlook(events) is None and start > 0:
        start, before = max(0, start - MOST), start
        earlier = await fetch(start, MOST)
        events = [*(event for event in earlier.events if event.seq <= before), *events]
    return events


def last_of(events: Sequence[HistoryEvent]) -> Cursor:
    """The number of the last event; 0 if there is none."""
    return events[-1].seq if events else 0
