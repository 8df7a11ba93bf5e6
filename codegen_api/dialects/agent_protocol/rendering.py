"""The messages and events of each entry of a turn in some stream modes, rendered once for all readers.

An action has two parts: the call when it arrives, and the tool's answer when it is closed. Whole states span entries:
see ``events``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from codegen_api.conversations import EventLayout, Form, RenderCache, TurnEntry
from codegen_api.dialects.agent_protocol.messages import Message, entry_messages, message_chunk, removal_message
from codegen_api.runs import Json, LogEntry, Step, to_json
from codegen_api.stores import Turn

LAYOUT = EventLayout(meanwhile=64, block=4096)
"""The layout of the numbers of an entry's events: two numbers for each place."""

STRIDE = LAYOUT.places
"""The distance between the numbers of an entry and those of the next."""

AFTER_BLOCKS = LAYOUT.closed // 2
"""The first place after the blocks for what is sent again while the entry, an action, is open."""


class EventPlace(IntEnum):
    """The place of an event among those of its entry."""

    STARTED = 0
    CUSTOM = 1
    METADATA = 2
    PARTIAL = 3
    TUPLE = 4
    UPDATE = 5
    DONE = 6
    STATE = 7
    TOOL_STARTED = 8
    # after the blocks
    TOOL_METADATA = AFTER_BLOCKS
    TOOL_COMPLETE = AFTER_BLOCKS + 1
    TOOL_TUPLE = AFTER_BLOCKS + 2
    TOOL_UPDATE = AFTER_BLOCKS + 3
    TOOL_DONE = AFTER_BLOCKS + 4
    WHOLE_STATE = AFTER_BLOCKS + 5
    CHECKPOINT = AFTER_BLOCKS + 6


def event_number(offset: int, place: int) -> int:
    return offset * STRIDE + 2 * place


REPEATED_AT = {
    place: 2 * index for index, place in enumerate(sorted({*EventPlace} - {EventPlace.STATE, EventPlace.WHOLE_STATE}))
}
"""The position in a block of each event that is sent again."""

REPEATED_CHECKPOINTS_AT = REPEATED_AT[EventPlace.CHECKPOINT]
"""After these come the checkpoints that contain a changed entry, in order."""


NumberedFrame = tuple[int, bytes]
"""An event, with the number of its id."""


@dataclass(frozen=True, slots=True)
class EntryEvents:
    """The events of an entry: ``arrival`` comes with it, ``begun`` when its tool is called, ``answered`` when it is
    closed. ``ai`` and ``tool`` are its messages.
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
    """Renders the entries of a turn in ``modes``. ``step`` interprets an entry."""

    turn: Turn
    modes: frozenset[str]
    step: Callable[[LogEntry], Step]
    cache: RenderCache

    def render(self, came: TurnEntry) -> EntryEvents:
        key = (self.turn.id, self.modes, came.offset)
        return self.cache.of(key, came.entry, lambda: self._render(came.offset, came.entry), lambda events: events.size)

    def renumbered(self, frame: bytes, n: int) -> bytes:
        """An event under another number, to be sent again."""
        return b"%b\nid: %b_event_%d\n\n" % (frame[: frame.rindex(b"\nid: ")], self.turn.id.encode(), n)

    def removal_frame(self, offset: int) -> bytes:
        """Removes a message that clients have assembled from pieces, before it is sent again."""
        pair = b"[%b,%b]" % (to_json(removal_message(self.turn.id, offset)), self._message_metadata(offset, "agent"))
        return self.frame("messages", pair, offset, EventPlace.TUPLE)[1]

    def frame(self, event: str, data: bytes, offset: int, place: int, *, again: int = 0) -> NumberedFrame:
        n = event_number(offset, place) + again
        return n, b"event: %b\ndata: %b\nid: %b_event_%d\n\n" % (event.encode(), data, self.turn.id.encode(), n)

    def message_frames(self, offset: int, message: Message, written: bytes, node: str = "agent") -> list[NumberedFrame]:
        """The events of a message of the agent, or of one of its tools."""
        kind, behind = ("partial", 0) if node == "agent" else ("complete", AFTER_BLOCKS - EventPlace.METADATA)
        about = self._message_metadata(offset, node)
        out = self._task_frames(offset, node) if node == "agent" else []
        if "messages" in self.modes:
            named = b'{%b:{"metadata":%b}}' % (to_json(message["id"]), about)
            out.append(self.frame("messages/metadata", named, offset, EventPlace.METADATA + behind))
            out.append(self.frame(f"messages/{kind}", b"[%b]" % written, offset, EventPlace.PARTIAL + behind))
        if "messages-tuple" in self.modes:
            piece = message_chunk(message)
            pair = b"[%b,%b]" % (written if piece is message else to_json(piece), about)
            out.append(self.frame("messages", pair, offset, EventPlace.TUPLE + behind))
        if "updates" in self.modes:
            update = b'{"%b":{"messages":[%b]}}' % (node.encode(), written)
            out.append(self.frame("updates", update, offset, EventPlace.UPDATE + behind))
        return out + self._task_frames(offset, node, written)

    def with_debug(self, mode: str, kind: str, payload: bytes, offset: int, place: int) -> list[NumberedFrame]:
        """An event of a mode, and the same for ``debug``. Each has its own id, or a client that was cut off between
        them would get one of them twice.
        """
        out = [self.frame(mode, payload, offset, place)] if mode in self.modes else []
        if "debug" in self.modes:
            wrapped = b'{"step":%d,"timestamp":null,"type":"%b","payload":%b}' % (offset, kind.encode(), payload)
            out.append(self.frame("debug", wrapped, offset, place, again=1))
        return out

    def _render(self, offset: int, entry: LogEntry) -> EntryEvents:
        step = self.step(entry)
        form, (ai, tool) = Form.of(entry, step), entry_messages(self.turn, offset, step)
        ai_written, tool_written = (None if message is None else to_json(message) for message in (ai, tool))
        arrival = [] if ai is None or ai_written is None else self.message_frames(offset, ai, ai_written)
        if "custom" in self.modes:
            arrival.append(self.frame("custom", _with_position(entry.json, offset), offset, EventPlace.CUSTOM))
        arrival.sort(key=lambda one: one[0])
        if tool is None or tool_written is None:
            return EntryEvents(entry, form, True, ai_written, None, arrival)
        begun, answered = self._task_frames(offset, "tools"), self.message_frames(offset, tool, tool_written, "tools")
        return EntryEvents(entry, form, step.closed, ai_written, tool_written, arrival, begun, answered)

    def _task_frames(self, offset: int, node: str, result: bytes | None = None) -> list[NumberedFrame]:
        """A node begins or, with a ``result``, ends."""
        if not self.modes & {"tasks", "debug"}:
            return []
        is_agent = node == "agent"
        name = f'"id":"{self.turn.id}-{offset}-{node}","name":"{node}"'.encode()
        if result is None:
            place = EventPlace.STARTED if is_agent else EventPlace.TOOL_STARTED
            return self.with_debug("tasks", "task", b'{%b,"input":{},"triggers":[]}' % name, offset, place)
        payload = b'{%b,"error":null,"result":{"messages":[%b]},"interrupts":[]}' % (name, result)
        place = EventPlace.DONE if is_agent else EventPlace.TOOL_DONE
        return self.with_debug("tasks", "task_result", payload, offset, place)

    def _message_metadata(self, offset: int, node: str) -> bytes:
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
