"""A parser of event streams, after the WHATWG HTML standard, section 9.2.6: what a browser would dispatch."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """A dispatched event, and the reconnection time in force then."""

    type: str
    data: str
    last_event_id: str
    retry: int | None


def parse(stream: bytes) -> list[Event]:
    text = stream.decode("utf-8", errors="replace").removeprefix("\ufeff")
    events: list[Event] = []
    data, kind, last_event_id, retry = "", "", "", None
    *lines, unfinished = re.split("\r\n|\r|\n", text)
    assert not unfinished, "the stream ends in the middle of a line"
    for line in lines:
        if not line:
            if data:
                events.append(Event(kind or "message", data.removesuffix("\n"), last_event_id, retry))
            data, kind = "", ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "event":
                kind = value
            case "data":
                data += value + "\n"
            case "id" if "\0" not in value:
                last_event_id = value
            case "retry" if value.isascii() and value.isdigit():
                retry = int(value)
    return events
