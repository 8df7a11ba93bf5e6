"""A parser of event streams, after the WHATWG HTML standard, section 9.2.6: what a browser would dispatch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass
class Early:
    """A client that remembers an id as soon as its line is whole, as some libraries do; ``told`` are the events that
    it has dispatched.
    """

    last: str = ""
    told: list[Event] = field(default_factory=list)
    _frame: bytes = b""
    _line: bytes = b""

    def read(self, stream: bytes) -> None:
        for byte in (stream[place : place + 1] for place in range(len(stream))):
            self._frame += byte
            self._line += byte
            if byte == b"\n":
                if self._line.startswith(b"id:"):
                    self.last = self._line[3:].strip().decode()
                if self._line == b"\n":
                    self.told += parse(self._frame)
                    self._frame = b""
                self._line = b""

    def cut(self) -> None:
        """The connection breaks: what was not dispatched is thrown away."""
        self._frame = self._line = b""


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
