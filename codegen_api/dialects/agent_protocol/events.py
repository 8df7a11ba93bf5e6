"""A turn as the events of the stream modes: which events there are, in which order, with which ids.

Everything is a function of the turn's log, so that each instance tells the same, live or again. An id is
``{turn}_event_{n}`` with n = 16 x the entry's number in the turn + the event's place among those of the entry; metadata
comes before the first entry, ``end`` behind the last.

An action is closed when its output is there, a later entry has come, or the turn is over. What its tool answered comes
then, before anything of the next entry.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum

from codegen_api.conversations import Came, Checkpoint
from codegen_api.dialects.agent_protocol.messages import Message, answer, chunk, human
from codegen_api.dialects.agent_protocol.rendering import Rendered, Renderings
from codegen_api.runs import Json, to_json
from codegen_api.stores import Turn, TurnState

PLACES = 16
"""How many events an entry can have."""

FREE, EARNED = 10_000, 16
"""Whole states are told behind each entry until they have held FREE messages together, then as often as EARNED messages
for each entry allow: a long log would else cost its square.
"""

MODES = (
    "values",
    "updates",
    "messages",
    "messages-tuple",
    "custom",
    "tasks",
    "checkpoints",
    "debug",
)


class Place(IntEnum):
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
    TOOL_METADATA = 9
    TOOL_COMPLETE = 10
    TOOL_TUPLE = 11
    TOOL_UPDATE = 12
    TOOL_DONE = 13
    WHOLE_STATE = 14
    CHECKPOINT = 15


# before the first entry, and behind the last
RUN_METADATA, INPUT, INPUT_CHECKPOINT = 1, 2, 3
INTERRUPT, INTERRUPT_UPDATE, FAILURE, FINAL_STATE, END = 7, 8, 13, 14, 15

STATUSES: Mapping[TurnState, str] = {
    TurnState.STARTING: "pending",
    TurnState.RUNNING: "running",
    TurnState.WAITING: "interrupted",
    TurnState.COMPLETED: "success",
    TurnState.FAILED: "error",
    TurnState.CANCELLED: "interrupted",
    TurnState.UNKNOWN: "error",
}
DOCUMENTED_STATUSES: Mapping[TurnState, str] = {
    **STATUSES,
    TurnState.COMPLETED: "completed",
    TurnState.FAILED: "failed",
    TurnState.CANCELLED: "cancelled",
    TurnState.UNKNOWN: "failed",
}
"""The words of older documents."""

_ID = re.compile(r"_event_([0-9]{1,18})", re.ASCII)


def number(offset: int, place: int) -> int:
    return offset * PLACES + place


def position(turn: Turn, text: str | None) -> int:
    """The number in an event id of this turn; 0, from where everything is told, for any other text."""
    if text is None or not text.startswith(turn.id):
        return 0
    found = _ID.fullmatch(text[len(turn.id) :])
    return 0 if found is None else int(found[1])


class Teller:
    """Tells one reader of a turn, in ``modes``, the events behind number ``after``.

    ``before`` are the messages of the conversation before the turn, needed where whole states are told; ``context`` is
    what is said of each message (the run, the thread, the assistant).
    """

    def __init__(
        self,
        turn: Turn,
        renderings: Renderings,
        *,
        modes: Iterable[str],
        after: int = 0,
        before: Sequence[bytes] = (),
        context: Mapping[str, Json],
        statuses: Mapping[TurnState, str] = STATUSES,
    ) -> None:
        self.after = after
        self._turn = turn
        self._renderings = renderings
        self._modes = frozenset(modes)
        self._context = context
        self._statuses = statuses
        self._id = turn.id.encode()
        self._messages = [*before, *(to_json(human(message)) for message in turn.messages)]
        self._at: dict[tuple[int, bool], int] = {}  # where in them an entry's messages are
        self._open: tuple[int, Rendered] | None = None
        self._offset = 0
        self._told = len(self._messages)
        self._states = bool(self._modes & {"values", "checkpoints", "debug"})

    def begin(self) -> bytes:
        """What comes before the first entry."""
        out = [self._frame("metadata", to_json({"run_id": self._turn.id, "attempt": 1}), 0, RUN_METADATA)]
        if "values" in self._modes:
            out.append(self._frame("values", self._state(), 0, INPUT))
        out += self._checkpoint(0, INPUT_CHECKPOINT)
        return b"".join(out)

    def take(self, news: Sequence[Came]) -> bytes:
        """What these entries amount to."""
        out: list[bytes] = []
        for came in news:
            rendered = self._renderings.of(self._turn, came)
            if came.offset <= self._offset:
                out += self._amend(came.offset, rendered)
                continue
            out += self._close()
            self._offset = came.offset
            out += self._tell(came.offset, rendered)
        return b"".join(out)

    def over(self, turn: Turn) -> bytes:
        """What comes behind the last entry."""
        out = self._close()
        last = self._offset + 1
        if turn.answer is not None:
            message = answer(turn.id, turn.answer)
            out += self._message(last, to_json(message), to_json(chunk(message)), to_json(message["id"]))
        final: Mapping[str, Json] = {}
        if turn.state is TurnState.WAITING:
            final = {"__interrupt__": [interrupt(turn)]}
            if "values" in self._modes:
                out.append(self._frame("values", to_json(final), last, INTERRUPT))
            if "updates" in self._modes:
                out.append(self._frame("updates", to_json(final), last, INTERRUPT_UPDATE))
        if turn.state in (TurnState.FAILED, TurnState.UNKNOWN):
            kind = "OutcomeUnknown" if turn.state is TurnState.UNKNOWN else "RunFailed"
            failure = to_json({"error": kind, "message": turn.error or "The run has failed."})
            out.append(self._frame("error", failure, last, FAILURE))
        elif "values" in self._modes:
            out.append(self._frame("values", self._state(final), last, FINAL_STATE))
        out.append(self._frame("end", to_json({"status": self._statuses[turn.state]}), last, END))
        return b"".join(out)

    @property
    def end(self) -> int:
        """The number of ``end``, once everything has come."""
        return number(self._offset + 1, END)

    # -- one entry ----------------------------------------------------------------------------------------------------

    def _tell(self, offset: int, rendered: Rendered) -> list[bytes]:
        out: list[bytes] = []
        if "custom" in self._modes:
            out.append(self._frame("custom", _with_position(rendered.entry.json, offset), offset, Place.CUSTOM))
        if rendered.ai is not None and rendered.ai_chunk is not None:
            out = [*self._task(offset, "agent"), *out]
            self._at[offset, False] = len(self._messages)
            out += self._message(offset, rendered.ai, rendered.ai_chunk, rendered.ai_id)
            out += self._task(offset, "agent", rendered.ai)
        if rendered.tool is None:
            return out + self._whole(offset, ("agent",))
        if self._affordable():
            out += self._whole(offset, ("tools",), Place.STATE)
        out += self._task(offset, "tools")
        self._open = (offset, rendered)
        return out + (self._close() if rendered.closed else [])

    def _amend(self, offset: int, rendered: Rendered) -> list[bytes]:
        if rendered.ai is not None and (offset, False) in self._at:
            self._messages[self._at[offset, False]] = rendered.ai
        if rendered.tool is not None and (offset, True) in self._at:
            self._messages[self._at[offset, True]] = rendered.tool
        if self._open is not None and self._open[0] == offset:
            self._open = (offset, rendered)
            return self._close() if rendered.closed else []
        return []

    def _close(self) -> list[bytes]:
        """The open action, if there is one, has had its time."""
        if self._open is None:
            return []
        (offset, rendered), self._open = self._open, None
        assert rendered.tool is not None  # noqa: S101 - or it would not be an action
        self._at[offset, True] = len(self._messages)
        self._messages.append(rendered.tool)
        out: list[bytes] = []
        if "messages" in self._modes:
            about = b'{%b:{"metadata":%b}}' % (rendered.tool_id, self._about(offset, "tools"))
            out.append(self._frame("messages/metadata", about, offset, Place.TOOL_METADATA))
            out.append(self._frame("messages/complete", b"[%b]" % rendered.tool, offset, Place.TOOL_COMPLETE))
        if "messages-tuple" in self._modes:
            pair = b"[%b,%b]" % (rendered.tool, self._about(offset, "tools"))
            out.append(self._frame("messages", pair, offset, Place.TOOL_TUPLE))
        if "updates" in self._modes:
            update = b'{"tools":{"messages":[%b]}}' % rendered.tool
            out.append(self._frame("updates", update, offset, Place.TOOL_UPDATE))
        out += self._task(offset, "tools", rendered.tool)
        return out + self._whole(offset, ("agent",))

    def _message(self, offset: int, message: bytes, piece: bytes, id: bytes) -> list[bytes]:  # noqa: A002
        self._messages.append(message)
        out: list[bytes] = []
        if "messages" in self._modes:
            about = b'{%b:{"metadata":%b}}' % (id, self._about(offset, "agent"))
            out.append(self._frame("messages/metadata", about, offset, Place.METADATA))
            out.append(self._frame("messages/partial", b"[%b]" % message, offset, Place.PARTIAL))
        if "messages-tuple" in self._modes:
            pair = b"[%b,%b]" % (piece, self._about(offset, "agent"))
            out.append(self._frame("messages", pair, offset, Place.TUPLE))
        if "updates" in self._modes:
            out.append(self._frame("updates", b'{"agent":{"messages":[%b]}}' % message, offset, Place.UPDATE))
        return out

    # -- whole states -------------------------------------------------------------------------------------------------

    def _affordable(self) -> bool:
        if not self._states or self._told + len(self._messages) > FREE + EARNED * self._offset:
            return False
        self._told += len(self._messages)
        return True

    def _whole(self, offset: int, following: Sequence[str], place: Place = Place.WHOLE_STATE) -> list[bytes]:
        """The state behind an entry, if it may be told again; within an entry (``STATE``) the caller has asked."""
        if place is Place.WHOLE_STATE and not self._affordable():
            return []
        out = [self._frame("values", self._state(), offset, place)] if "values" in self._modes else []
        if place is Place.WHOLE_STATE:
            out += self._checkpoint(offset, Place.CHECKPOINT, following)
        return out

    def _state(self, more: Mapping[str, Json] | None = None) -> bytes:
        rest = b"" if not more else b"," + to_json(more)[1:-1]
        return b'{"messages":[%b]%b}' % (b",".join(self._messages), rest)

    def _checkpoint(self, offset: int, place: int, following: Sequence[str] = ("agent",)) -> list[bytes]:
        if not self._modes & {"checkpoints", "debug"}:
            return []
        parent = str(Checkpoint(self._turn.id, offset - 1)) if offset else self._turn.parent
        described = to_json(
            {
                "config": self._config(str(Checkpoint(self._turn.id, offset))),
                "metadata": {"source": "loop", "step": offset},
                "next": list(following),
                "parent_config": None if parent is None else self._config(parent),
                "tasks": [],
            }
        )
        payload = b'%b,"values":%b}' % (described[:-1], self._state())
        return self._both("checkpoints", "checkpoint", payload, offset, place)

    def _config(self, checkpoint: str) -> Json:
        return {
            "configurable": {
                "thread_id": self._turn.conversation,
                "checkpoint_ns": "",
                "checkpoint_id": checkpoint,
            }
        }

    # -- tasks --------------------------------------------------------------------------------------------------------

    def _task(self, offset: int, node: str, result: bytes | None = None) -> list[bytes]:
        """A node begins, or with its ``result`` has ended."""
        if not self._modes & {"tasks", "debug"}:
            return []
        begun, ended = (Place.STARTED, Place.DONE) if node == "agent" else (Place.TOOL_STARTED, Place.TOOL_DONE)
        name = f'"id":"{self._turn.id}-{offset}-{node}","name":"{node}"'.encode()
        if result is None:
            return self._both("tasks", "task", b'{%b,"input":{},"triggers":[]}' % name, offset, begun)
        payload = b'{%b,"error":null,"result":{"messages":[%b]},"interrupts":[]}' % (name, result)
        return self._both("tasks", "task_result", payload, offset, ended)

    def _both(self, mode: str, kind: str, payload: bytes, offset: int, place: int) -> list[bytes]:
        """An event of a mode, and the same for ``debug``: asked for together they have one id, which comes last."""
        wrapped = b'{"step":%d,"timestamp":null,"type":"%b","payload":%b}' % (offset, kind.encode(), payload)
        frames = [(name, data) for name, data in ((mode, payload), ("debug", wrapped)) if name in self._modes]
        out = [self._frame(name, data, offset, place) for name, data in frames]
        if len(out) == 2 and out[0]:
            out[0] = out[0][: out[0].rindex(b"id: ")] + b"\n"
        return out

    # -- frames -------------------------------------------------------------------------------------------------------

    def _about(self, offset: int, node: str) -> bytes:
        return to_json({**self._context, "langgraph_node": node, "langgraph_step": offset})

    def _frame(self, event: str, data: bytes, offset: int, place: int) -> bytes:
        n = number(offset, place)
        if n <= self.after:
            return b""
        return b"event: %b\ndata: %b\nid: %b_event_%d\n\n" % (event.encode(), data, self._id, n)


def interrupt(turn: Turn) -> Json:
    """The host waits for a human."""
    return {
        "id": f"{turn.id}-interrupt",
        "value": {"reason": "The agent waits for an answer.", "run_id": turn.id},
        "resumable": True,
        "ns": ["agent"],
        "when": "during",
    }


def encoded(messages: Iterable[Message]) -> list[bytes]:
    return [to_json(message) for message in messages]


def _with_position(entry: bytes, offset: int) -> bytes:
    comma = b"" if entry == b"{}" else b","
    return b'%b%b"position":%d}' % (entry[:-1], comma, offset)
