"""What each entry of a turn amounts to in some stream modes: messages and events, written once for all who read them.

An action has two parts: it arrives, and what its tool answered comes when it is closed. Whole states are not here: they
are more than one entry.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from codegen_api.conversations import EventLayout, Form, RenderCache, TurnEntry
from codegen_api.dialects.agent_protocol.messages import Message, chunk, removal, said
from codegen_api.runs import Json, LogEntry, Step, to_json
from codegen_api.stores import Turn

LAYOUT = EventLayout(meanwhile=64, block=4096)
"""Of the numbers that an entry has for its events: two for each place."""

PLACES = LAYOUT.places
"""How many those are."""

BEHIND = LAYOUT.closed // 2
"""The first place behind the blocks of what comes meanwhile."""


class EventPlace(IntEnum):
    """Where an event stands among those of its entry."""

    STARTED = 0
    CUSTOM = 1
    METADATA = 2
    PARTIAL = 3
    TUPLE = 4
    UPDATE = 5
    DONE = 6
    STATE = 7
    TOOL_STARTED = 8
    # behind the blocks
    TOOL_METADATA = BEHIND
    TOOL_COMPLETE = BEHIND + 1
    TOOL_TUPLE = BEHIND + 2
    TOOL_UPDATE = BEHIND + 3
    TOOL_DONE = BEHIND + 4
    WHOLE_STATE = BEHIND + 5
    CHECKPOINT = BEHIND + 6


def number(offset: int, place: int) -> int:
    return offset * PLACES + 2 * place


AGAIN = {
    place: 2 * index for index, place in enumerate(sorted({*EventPlace} - {EventPlace.STATE, EventPlace.WHOLE_STATE}))
}
"""Where in a block the events stand that are told again."""

CHECKPOINTS_AGAIN = AGAIN[EventPlace.CHECKPOINT]
"""The last are the checkpoints that hold what has changed, in their order."""


NumberedFrame = tuple[int, bytes]
"""An event, with the number of its id."""


@dataclass(frozen=True, slots=True)
class EntryEvents:
    """What an entry amounts to. ``arrival`` comes with it, ``begun`` when its tool has been called, ``answered`` when
    it is closed. ``ai`` and ``tool`` are its messages.
    """

    entry: LogEntry
    form: Form
    closed: bool
    ai: bytes | None
    tool: bytes | None
    arrival: Sequence[NumberedFrame]
    begun: Sequence[NumberedFrame] = ()
    answered: Sequence[NumberedFrame] = ()

    @property
    def is_action(self) -> bool:
        return self.tool is not None

    @property
    def size(self) -> int:
        frames = sum(len(frame) for _, frame in (*self.arrival, *self.begun, *self.answered))
        return 1000 + 2 * frames + len(self.ai or b"") + len(self.tool or b"")


@dataclass(frozen=True, slots=True)
class EntryRenderer:
    """Words the entries of a turn in ``modes``. ``step`` says what an entry means."""

    turn: Turn
    modes: frozenset[str]
    step: Callable[[LogEntry], Step]
    cache: RenderCache

    def of(self, came: TurnEntry) -> EntryEvents:
        key = (self.turn.id, self.modes, came.offset)
        return self.cache.of(key, came.entry, lambda: self._tell(came.offset, came.entry), lambda told: told.size)

    def again(self, frame: bytes, n: int) -> bytes:
        """An event that was told before, under another number."""
        return b"%b\nid: %b_event_%d\n\n" % (frame[: frame.rindex(b"\nid: ")], self.turn.id.encode(), n)

    def removed(self, offset: int) -> bytes:
        """Before a message whose pieces clients put together is told again, what they have of it goes."""
        pair = b"[%b,%b]" % (to_json(removal(self.turn.id, offset)), self._about(offset, "agent"))
        return self.frame("messages", pair, offset, EventPlace.TUPLE)[1]

    def frame(self, event: str, data: bytes, offset: int, place: int, *, again: int = 0) -> NumberedFrame:
        n = number(offset, place) + again
        return n, b"event: %b\ndata: %b\nid: %b_event_%d\n\n" % (event.encode(), data, self.turn.id.encode(), n)

    def message(self, offset: int, message: Message, written: bytes, node: str = "agent") -> list[NumberedFrame]:
        """The events of something that the agent said, or that one of its tools answered."""
        kind, behind = ("partial", 0) if node == "agent" else ("complete", BEHIND - EventPlace.METADATA)
        about = self._about(offset, node)
        out = self._task(offset, node) if node == "agent" else []
        if "messages" in self.modes:
            named = b'{%b:{"metadata":%b}}' % (to_json(message["id"]), about)
            out.append(self.frame("messages/metadata", named, offset, EventPlace.METADATA + behind))
            out.append(self.frame(f"messages/{kind}", b"[%b]" % written, offset, EventPlace.PARTIAL + behind))
        if "messages-tuple" in self.modes:
            piece = chunk(message)
            pair = b"[%b,%b]" % (written if piece is message else to_json(piece), about)
            out.append(self.frame("messages", pair, offset, EventPlace.TUPLE + behind))
        if "updates" in self.modes:
            update = b'{"%b":{"messages":[%b]}}' % (node.encode(), written)
            out.append(self.frame("updates", update, offset, EventPlace.UPDATE + behind))
        return out + self._task(offset, node, written)

    def both(self, mode: str, kind: str, payload: bytes, offset: int, place: int) -> list[NumberedFrame]:
        """An event of a mode, and the same for ``debug``: each has an id of its own, or it would come again to whoever
        was cut off in between.
        """
        out = [self.frame(mode, payload, offset, place)] if mode in self.modes else []
        if "debug" in self.modes:
            wrapped = b'{"step":%d,"timestamp":null,"type":"%b","payload":%b}' % (offset, kind.encode(), payload)
            out.append(self.frame("debug", wrapped, offset, place, again=1))
        return out

    def _tell(self, offset: int, entry: LogEntry) -> EntryEvents:
        step = self.step(entry)
        form, (ai, tool) = Form.of(entry, step), said(self.turn, offset, step)
        ai_written, tool_written = (None if message is None else to_json(message) for message in (ai, tool))
        arrival = [] if ai is None or ai_written is None else self.message(offset, ai, ai_written)
        if "custom" in self.modes:
            arrival.append(self.frame("custom", _with_position(entry.json, offset), offset, EventPlace.CUSTOM))
        arrival.sort(key=lambda one: one[0])
        if tool is None or tool_written is None:
            return EntryEvents(entry, form, True, ai_written, None, arrival)
        begun, answered = self._task(offset, "tools"), self.message(offset, tool, tool_written, "tools")
        return EntryEvents(entry, form, step.closed, ai_written, tool_written, arrival, begun, answered)

    def _task(self, offset: int, node: str, result: bytes | None = None) -> list[NumberedFrame]:
        """A node begins, or with its ``result`` has ended."""
        if not self.modes & {"tasks", "debug"}:
            return []
        is_agent = node == "agent"
        name = f'"id":"{self.turn.id}-{offset}-{node}","name":"{node}"'.encode()
        if result is None:
            place = EventPlace.STARTED if is_agent else EventPlace.TOOL_STARTED
            return self.both("tasks", "task", b'{%b,"input":{},"triggers":[]}' % name, offset, place)
        payload = b'{%b,"error":null,"result":{"messages":[%b]},"interrupts":[]}' % (name, result)
        place = EventPlace.DONE if is_agent else EventPlace.TOOL_DONE
        return self.both("tasks", "task_result", payload, offset, place)

    def _about(self, offset: int, node: str) -> bytes:
        about: Mapping[str, Json] = {
            "run_id": self.turn.id,
            "thread_id": self.turn.conversation,
            "assistant_id": self.turn.options.get("assistant_id"),
            "graph_id": "agent",
            "tags": [],
            "langgraph_node": node,
            "langgraph_step": offset,
        }
        return to_json(about)


def _with_position(entry: bytes, offset: int) -> bytes:
    comma = b"" if entry == b"{}" else b","
    return b'%b%b"position":%d}' % (entry[:-1], comma, offset)
