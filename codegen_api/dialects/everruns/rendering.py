"""Events as they are written into a stream: encoded once for all who listen."""

from collections.abc import Callable
from dataclasses import dataclass

from codegen_api.conversations import RenderCache, TurnEntry
from codegen_api.dialects.everruns.event_types import kind_in
from codegen_api.dialects.everruns.events import EntryAsEvents, SessionEvent, happened
from codegen_api.dialects.everruns.families import NESTED, Family
from codegen_api.dialects.everruns.ids import Spot
from codegen_api.dialects.everruns.wire import event_fields, payload_below
from codegen_api.runs import LogEntry, Step, to_json
from codegen_api.sse import frame
from codegen_api.stores import Turn


@dataclass(frozen=True, slots=True)
class EventFrame:
    """An event as it goes over the wire; with no ``frame`` where the family does not know it."""

    spot: Spot
    kind: str
    frame: bytes


class FrameStyle:
    """In the words of a family, as server-sent events, each made once for all who listen. ``step`` says what an entry
    means.
    """

    def __init__(self, family: Family, step: Callable[[LogEntry], Step], cache: RenderCache) -> None:
        self._family = family
        self._step = step
        self._cache = cache

    def event(self, event: SessionEvent) -> EventFrame:
        return written(self._family, event)

    def entry(self, turn: Turn, came: TurnEntry) -> EntryAsEvents[EventFrame]:
        key = (self._family.name, turn.id, came.offset)
        return self._cache.of(key, came.entry, lambda: self._written(turn, came), _size)

    def unwritten(self, turn: Turn, came: TurnEntry) -> EntryAsEvents[SessionEvent]:
        return happened(turn, came.offset, came.entry, self._step(came.entry))

    def _written(self, turn: Turn, came: TurnEntry) -> EntryAsEvents[EventFrame]:
        found = self.unwritten(turn, came)
        return EntryAsEvents(
            found.form, tuple(map(self.event, found.at_once)), tuple(map(self.event, found.at_close)), found.closed
        )


def written(family: Family, event: SessionEvent) -> EventFrame:
    """An event in the words of a family. The nested one counts its events, and has a name for messages only."""
    kind = kind_in(family, event)
    if kind is None:
        return EventFrame(event.spot, event.kind, b"")
    if family is NESTED:
        return EventFrame(event.spot, kind, frame(kind, to_json(payload_below(event)), event.spot.number))
    fields = event_fields(event)
    return EventFrame(event.spot, kind, frame(kind, to_json(fields), str(fields["id"])))


def _size(found: EntryAsEvents[EventFrame]) -> int:
    return 400 + sum(len(each.frame) for each in (*found.at_once, *found.at_close))
