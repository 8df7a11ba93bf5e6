"""A turn as the events of the stream modes: which events there are, in which order, with which ids.

Everything is a function of the turn's log, so all instances send the same, live or later. An id is
``{turn}_event_{n}`` with n = STRIDE x the entry's number in the turn + twice the event's place among those
of the entry, plus one for its ``debug`` form, and for a state in which no tool's answer is missing. Metadata comes
before the first entry, ``end`` after the last.

A tool's answer comes when its action is closed, before anything of the next entry. What changes after it was sent is
sent again, after what has come by then, in blocks of numbers: see ``conversations.turn_events``.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence

from codegen_api.conversations import (
    ActionClosed,
    EntryAdded,
    EntryChanged,
    EntryRepeated,
    ReaderAhead,
    TurnChanges,
    TurnCheckpoint,
    TurnEntry,
    TurnEvent,
    TurnTeller,
)
from codegen_api.dialects.agent_protocol.messages import answer_message, human_message, interrupts
from codegen_api.dialects.agent_protocol.rendering import (
    AFTER_BLOCKS,
    LAYOUT,
    REPEATED_AT,
    REPEATED_CHECKPOINTS_AT,
    STRIDE,
    EntryEvents,
    EntryRenderer,
    EventPlace,
    NumberedFrame,
    event_number,
)
from codegen_api.runs import Json, to_json
from codegen_api.stores import Turn, TurnState
from codegen_api.upstreams import PendingRequest

FREE, EARNED = 10_000, 16
"""A whole state follows each entry until the states had FREE messages together, then as often as EARNED messages per
entry allow. Otherwise the cost would grow with the square of a log's length.
"""

MODES = ("values", "updates", "messages", "messages-tuple", "custom", "tasks", "checkpoints", "debug")

CHECKPOINTS = frozenset({"checkpoints", "debug"})
WHOLE_STATES = CHECKPOINTS | {"values"}
"""The modes with whole states."""

# before the first entry, and after the last
RUN_METADATA, INPUT, INPUT_CHECKPOINT = 1, 2, 3
INTERRUPT, INTERRUPT_UPDATE, FAILURE, FINAL_STATE, END = (AFTER_BLOCKS + place for place in (7, 8, 13, 14, 15))

STATUSES: Mapping[TurnState, str] = {
    TurnState.QUEUED: "pending",
    TurnState.STARTING: "pending",
    TurnState.RUNNING: "running",
    TurnState.WAITING: "interrupted",
    TurnState.COMPLETED: "success",
    TurnState.FAILED: "error",
    TurnState.CANCELLED: "interrupted",
    TurnState.WITHDRAWN: "interrupted",
    TurnState.UNKNOWN: "error",
}
DOCUMENTED_STATUSES: Mapping[TurnState, str] = {
    **STATUSES,
    TurnState.COMPLETED: "completed",
    TurnState.FAILED: "failed",
    TurnState.CANCELLED: "cancelled",
    TurnState.WITHDRAWN: "cancelled",
    TurnState.UNKNOWN: "failed",
}
"""The words of older documents."""

_ID = re.compile(r"_event_([0-9]{1,18})", re.ASCII)


def position(turn: Turn, text: str | None) -> int:
    """The number in an event id of this turn; 0, which stands before all events, for any other text."""
    if text is None or not text.startswith(turn.id):
        return 0
    found = _ID.fullmatch(text[len(turn.id) :])
    return 0 if found is None else int(found[1])


class ThreadTeller:
    """The events of a turn for one reader, after number ``after``, in the modes of ``renderer``.

    ``before`` are the messages before the turn, which whole states need. ``changes`` were seen in the turn.
    """

    def __init__(
        self,
        renderer: EntryRenderer,
        *,
        after: int = 0,
        before: Sequence[bytes] = (),
        changes: TurnChanges | None = None,
        statuses: Mapping[TurnState, str] = STATUSES,
    ) -> None:
        self.after = after
        self.claimed = after // STRIDE
        self._turn, self._modes = renderer.turn, renderer.modes
        self._renderer = renderer
        self._begun = False
        self._statuses = statuses
        slot = LAYOUT.slot(*divmod(after, STRIDE))
        self._teller: TurnTeller[EntryEvents] = TurnTeller(renderer.render, changes, slot)
        # whole states: all messages, and of each its entry and whether a tool sent it
        self._has_states = bool(self._modes & WHOLE_STATES)
        self._messages = [*before, *(to_json(human_message(message)) for message in self._turn.messages)]
        self._origins = [(0, False)] * len(self._messages)
        self._checkpoints: list[int] = []
        self._messages_sent = self._messages_resent = len(self._messages)
        # what the reader's last state lacks: a message, or perhaps a change
        self._has_news = self._maybe_stale = self._amendable = False
        self._unanswered: set[int] = set()
        self._out: list[NumberedFrame] = []

    def begin(self) -> bytes:
        """The events before the first entry, once."""
        if self._begun:
            return b""
        self._begun = True
        self._send("metadata", to_json({"run_id": self._turn.id, "attempt": 1}), 0, RUN_METADATA)
        if "values" in self._modes:
            self._send("values", self._state(), 0, INPUT)
        self._out += self._checkpoint_frames(0, INPUT_CHECKPOINT)
        return self._flush()

    def take(self, news: Sequence[TurnEntry]) -> bytes:
        """The events of these entries."""
        self._handle(self._teller.take(news))
        return self._flush()

    def over(self, turn: Turn, pending: Sequence[PendingRequest] = ()) -> bytes:
        """The events after the last entry. ``end`` comes again for a reader that has it.

        Raises:
            ReaderAhead: the reader has an event after that.
        """
        last = self._teller.offset + 1
        if self.after > event_number(last, END):
            raise ReaderAhead
        self.after = min(self.after, event_number(last, END) - 1)
        self._handle(self._teller.close())
        if turn.answer is not None:
            message = answer_message(turn.id, turn.answer)
            written = to_json(message)
            self._add_message((last, False), written)
            self._out += self._renderer.message_frames(last, message, written)
        self._handle(self._teller.rest())
        final: Mapping[str, Json] = {}
        if turn.state is TurnState.WAITING:
            final = {"__interrupt__": interrupts(turn, pending)}
            for mode, place in (("values", INTERRUPT), ("updates", INTERRUPT_UPDATE)):
                if mode in self._modes:
                    self._send(mode, to_json(final), last, place)
        if turn.state in (TurnState.FAILED, TurnState.UNKNOWN):
            self._send("error", to_json(failure(turn)), last, FAILURE)
        elif "values" in self._modes and (self._has_news or self._maybe_stale or final):
            self._send("values", self._state(final), last, FINAL_STATE)
        self._send("end", to_json({"status": self._statuses[turn.state]}), last, END)
        return self._flush()

    def _send(self, event: str, data: bytes, offset: int, place: int) -> None:
        self._out.append(self._renderer.frame(event, data, offset, place))

    def _flush(self) -> bytes:
        """The collected events that the reader does not have."""
        out, self._out = self._out, []
        return b"".join([frame for n, frame in out if n > self.after])

    # -- one entry ----------------------------------------------------------------------------------------------------

    def _handle(self, events: Iterable[TurnEvent[EntryEvents]]) -> None:
        for event in events:
            if isinstance(event, EntryAdded):
                self._add_entry(event.offset, event.rendered)
            elif isinstance(event, ActionClosed):
                self._out += event.rendered.answered
                self._add_message((event.offset, True), event.rendered.tool)
                self._add_state(event.offset)
            elif isinstance(event, EntryChanged):
                self._change_entry(event.offset, event.rendered)
            else:
                self._repeat_entry(event)

    def _add_entry(self, offset: int, rendered: EntryEvents) -> None:
        self._amendable |= rendered.entry.amendable
        self._out += rendered.arrival
        self._add_message((offset, False), rendered.ai)
        if rendered.tool is None:
            self._add_state(offset)
            return
        if self._has_news and "values" in self._modes and self._spend():
            self._out.append(self._state_frame(offset, EventPlace.STATE))
        self._out += rendered.begun
        if not rendered.closed:
            self._unanswered.add(offset)

    def _change_entry(self, offset: int, rendered: EntryEvents) -> None:
        if rendered.closed:
            self._unanswered.discard(offset)
        if self._has_states:
            self._maybe_stale |= self._put_message((offset, False), rendered.ai)
            if self._teller.open is None or offset < self._teller.offset:
                self._maybe_stale |= self._put_message((offset, True), rendered.tool)

    def _repeat_entry(self, again: EntryRepeated[EntryEvents]) -> None:
        """Send an entry again as it is now, in a block of numbers after what has come."""
        rendered, first = again.rendered, again.slot.behind * STRIDE + LAYOUT.first(again.slot)
        frames: list[NumberedFrame] = []
        for n, frame in (*rendered.arrival, *rendered.begun, *rendered.answered):
            place = EventPlace(n % STRIDE // 2)
            lacks = again.outcome if place >= AFTER_BLOCKS else again.words or place == EventPlace.CUSTOM
            if not lacks or (again.earlier and n > self.after):
                continue
            at = first + REPEATED_AT[place] + n % 2
            if place == EventPlace.TUPLE:
                frames.append((at, self._renderer.removal_frame(again.came.offset)))
                at += 1
            frames.append((at, frame))
        if self._modes & CHECKPOINTS:
            frames += self._checkpoints_with(again, first + REPEATED_CHECKPOINTS_AT)
        self._out += [(n, self._renderer.renumbered(frame, n)) for n, frame in frames if n > self.after]

    def _checkpoints_with(self, again: EntryRepeated[EntryEvents], first: int) -> list[NumberedFrame]:
        """The checkpoints that contain a changed entry; only the last one, if all would be too much."""
        holding = [
            each
            for each in self._checkpoints[bisect_left(self._checkpoints, again.came.offset) :]
            if not again.earlier or event_number(each, EventPlace.CHECKPOINT) <= self.after
        ][-((LAYOUT.block - REPEATED_CHECKPOINTS_AT) // 2) :]
        if self._messages_resent + sum(map(self._message_count, holding)) > FREE + EARNED * self._teller.offset:
            holding = holding[-1:]
        frames: list[NumberedFrame] = []
        for index, each in enumerate(holding):
            self._messages_resent += self._message_count(each)
            numbered = self._checkpoint_frames(each, EventPlace.CHECKPOINT)
            frames += [(first + 2 * index + n % 2, frame) for n, frame in numbered]
        return frames

    def _add_message(self, origin: tuple[int, bool], message: bytes | None) -> None:
        if self._has_states and message is not None:
            self._put_message(origin, message)
            self._has_news = True

    # -- whole states -------------------------------------------------------------------------------------------------

    def _put_message(self, origin: tuple[int, bool], message: bytes | None) -> bool:
        """Put a message in its place. True if that changes anything."""
        index = bisect_left(self._origins, origin)
        end = index + (self._origins[index : index + 1] == [origin])
        if self._messages[index:end] == ([] if message is None else [message]):
            return False
        self._messages[index:end] = [] if message is None else [message]
        self._origins[index:end] = [] if message is None else [origin]
        return True

    def _message_count(self, offset: int) -> int:
        """The number of messages up to an entry."""
        return bisect_right(self._origins, (offset, True))

    def _spend(self) -> bool:
        """Whether one more whole state may be sent; if so, its messages are counted."""
        if not self._has_states or self._messages_sent + len(self._messages) > FREE + EARNED * self._teller.offset:
            return False
        self._messages_sent += len(self._messages)
        return True

    def _add_state(self, offset: int) -> None:
        """Add the state after an entry, if it has news, and the checkpoint, within the limit of ``_spend``."""
        news = self._has_news and "values" in self._modes
        if not (news or self._modes & CHECKPOINTS) or not self._spend():
            return
        if news:
            self._out.append(self._state_frame(offset, EventPlace.WHOLE_STATE))
        if self._modes & CHECKPOINTS:
            self._checkpoints.append(offset)
        self._out += self._checkpoint_frames(offset, EventPlace.CHECKPOINT)

    def _state_frame(self, offset: int, place: EventPlace) -> NumberedFrame:
        """The state after an entry. Once every tool has answered it has the next number, so that a reader of the
        earlier state gets it again.
        """
        n, frame = self._renderer.frame("values", self._state(), offset, place, again=not self._unanswered)
        self._has_news = False
        # a reader that has later events may have had either of the two
        self._maybe_stale = (n < self.after and self._amendable) or (n <= self.after and self._teller.returned)
        return n, frame

    def _state(self, more: Mapping[str, Json] | None = None, *, upto: int | None = None) -> bytes:
        rest = b"" if not more else b"," + to_json(more)[1:-1]
        return b'{"messages":[%b]%b}' % (b",".join(self._messages[:upto]), rest)

    def _checkpoint_frames(self, offset: int, place: int) -> list[NumberedFrame]:
        if not self._modes & CHECKPOINTS:
            return []
        parent = str(TurnCheckpoint(self._turn.id, offset - 1)) if offset else self._turn.parent
        described = to_json(
            {
                "config": self._config(str(TurnCheckpoint(self._turn.id, offset))),
                "metadata": {"source": "loop", "step": offset},
                "next": ["agent"],
                "parent_config": None if parent is None else self._config(parent),
                "tasks": [],
            }
        )
        payload = b'%b,"values":%b}' % (described[:-1], self._state(upto=self._message_count(offset)))
        return self._renderer.with_debug("checkpoints", "checkpoint", payload, offset, place)

    def _config(self, checkpoint: str) -> Json:
        named = {"thread_id": self._turn.conversation, "checkpoint_ns": "", "checkpoint_id": checkpoint}
        return {"configurable": named}


def failure(turn: Turn) -> dict[str, Json]:
    """The error of a failed turn."""
    kind = "OutcomeUnknown" if turn.state is TurnState.UNKNOWN else "RunFailed"
    return {"error": kind, "message": turn.error or "The run has failed."}
