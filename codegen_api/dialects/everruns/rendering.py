"""Events as they are written into a stream: encoded once for all who listen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cachetools import LRUCache

from codegen_api.conversations import Came
from codegen_api.dialects.everruns.events import Event, Happened, happened
from codegen_api.dialects.everruns.families import NESTED, Family
from codegen_api.dialects.everruns.ids import Reached, Spot, event_hex
from codegen_api.dialects.everruns.kinds import kind_in
from codegen_api.dialects.everruns.wire import event_fields, payload_below
from codegen_api.runs import LogEntry, Step, to_json
from codegen_api.sse import frame
from codegen_api.stores import Turn


@dataclass(frozen=True, slots=True)
class Written:
    """An event as it goes over the wire; with no ``frame`` where the family does not know it. ``again``: for who has it
    in another form.
    """

    spot: Spot
    kind: str
    frame: bytes
    again: bool = False


Kept = tuple[LogEntry, Happened[Written]]


class Renderings:
    """What entries amount to, for those who listen. ``step`` says what an entry means."""

    def __init__(self, step: Callable[[LogEntry], Step], *, max_bytes: int) -> None:
        self._step = step
        self._kept: LRUCache[tuple[str, str, int], Kept] = LRUCache(max_bytes, getsizeof=_size)

    @property
    def held_bytes(self) -> int:
        return int(self._kept.currsize)

    def of(self, family: Family, turn: Turn, came: Came) -> Happened[Written]:
        key = (family.name, turn.id, came.offset)
        kept = self._kept.get(key)
        if kept is None or kept[0] != came.entry:
            kept = came.entry, self._written(family, turn, came)
            if _size(kept) <= self._kept.maxsize:
                self._kept[key] = kept
        return kept[1]

    def _written(self, family: Family, turn: Turn, came: Came) -> Happened[Written]:
        found = happened(turn, came.offset, came.entry, self._step(came.entry))
        return Happened(
            tuple(written(family, event) for event in found.at_once),
            tuple(written(family, event) for event in found.at_close),
            found.closed,
        )


class Framed:
    """In the words of a family, as server-sent events."""

    def __init__(self, family: Family, renderings: Renderings) -> None:
        self._family = family
        self._renderings = renderings

    def event(self, event: Event) -> Written:
        return written(self._family, event)

    def entry(self, turn: Turn, came: Came) -> Happened[Written]:
        return self._renderings.of(self._family, turn, came)

    def again(self, told: Written) -> Written:
        return replace(told, again=True)


class Sent:
    """What a listener has by now, in the ids that they are sent."""

    def __init__(self, family: Family, session: str, reached: Reached) -> None:
        self.reached = reached
        self._family = family
        self._session = session

    def frame(self, event: Written, owed: Sequence[int]) -> bytes:
        """An event that is sent. Then they have everything up to it, but for what came of the entries in ``owed``."""
        if event.again:
            self.reached = Reached(self.reached.spot, tuple(owed), self.reached.again + 1)
        else:
            self.reached = Reached(event.spot, tuple(owed))
            if not owed:
                return event.frame
        if self._family is NESTED:
            name = self.reached.number.encode()
            return event.frame.replace(b"id: %d\n" % event.spot.number, b"id: %b\n" % name, 1)
        name = self.reached.hex(self._session).encode()
        return event.frame.replace(event_hex(self._session, event.spot).encode(), name)


def written(family: Family, event: Event) -> Written:
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
