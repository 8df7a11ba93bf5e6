"""Events as they are written into a stream: encoded once for all who listen."""

from collections.abc import Callable
from dataclasses import dataclass

from cachetools import LRUCache

from codegen_api.conversations import TurnEntry
from codegen_api.dialects.everruns.event_types import kind_in
from codegen_api.dialects.everruns.events import Happened, SessionEvent, happened
from codegen_api.dialects.everruns.families import NESTED, Family
from codegen_api.dialects.everruns.ids import Spot
from codegen_api.dialects.everruns.wire import event_fields, payload_below
from codegen_api.runs import LogEntry, Step, to_json
from codegen_api.sse import frame
from codegen_api.stores import Turn


@dataclass(frozen=True, slots=True)
class Written:
    """An event as it goes over the wire; with no ``frame`` where the family does not know it."""

    spot: Spot
    kind: str
    frame: bytes


Kept = tuple[LogEntry, Happened[Written]]


class Renderings:
    """What entries amount to, for those who listen. ``step`` says what an entry means."""

    def __init__(self, step: Callable[[LogEntry], Step], *, max_bytes: int) -> None:
        self._step = step
        self._kept: LRUCache[tuple[str, str, int], Kept] = LRUCache(max_bytes, getsizeof=_size)

    @property
    def held_bytes(self) -> int:
        return int(self._kept.currsize)

    def of(self, family: Family, turn: Turn, came: TurnEntry) -> Happened[Written]:
        key = (family.name, turn.id, came.offset)
        kept = self._kept.get(key)
        if kept is None or kept[0] != came.entry:
            kept = came.entry, self._written(family, turn, came)
            if _size(kept) <= self._kept.maxsize:
                self._kept[key] = kept
        return kept[1]

    def happened(self, turn: Turn, came: TurnEntry) -> Happened[SessionEvent]:
        """The same, before it is written."""
        return happened(turn, came.offset, came.entry, self._step(came.entry))

    def _written(self, family: Family, turn: Turn, came: TurnEntry) -> Happened[Written]:
        found = self.happened(turn, came)
        return Happened(
            found.form,
            tuple(written(family, event) for event in found.at_once),
            tuple(written(family, event) for event in found.at_close),
            found.closed,
        )


class Framed:
    """In the words of a family, as server-sent events."""

    def __init__(self, family: Family, renderings: Renderings) -> None:
        self._family = family
        self._renderings = renderings

    def event(self, event: SessionEvent) -> Written:
        return written(self._family, event)

    def entry(self, turn: Turn, came: TurnEntry) -> Happened[Written]:
        return self._renderings.of(self._family, turn, came)

    def unwritten(self, turn: Turn, came: TurnEntry) -> Happened[SessionEvent]:
        return self._renderings.happened(turn, came)


def written(family: Family, event: SessionEvent) -> Written:
    """An event in the words of a family. The nested one counts its events, and has a name for messages only."""
    kind = kind_in(family, event)
    if kind is None:
        return Written(event.spot, event.kind, b"")
    if family is NESTED:
        return Written(event.spot, kind, frame(kind, to_json(payload_below(event)), event.spot.number))
    fields = event_fields(event)
    return Written(event.spot, kind, frame(kind, to_json(fields), str(fields["id"])))


def _size(kept: Kept) -> int:
    entry, found = kept
    return 400 + entry.size + sum(len(each.frame) for each in (*found.at_once, *found.at_close))
