"""A turn as the events of the stream modes: which events there are, in which order, with which ids.

Everything is a function of the turn's log, so that each instance tells the same, live or again. An id is
``{turn}_event_{n}`` with n = PLACES x the entry's number in the turn + twice the event's place among those of the
entry, and one more for what ``debug`` tells of it, and for a state in which no tool's answer is missing; metadata comes
before the first entry, ``end`` behind the last.

What a tool answered comes when the action is closed, before anything of the next entry. What changes after it was told
is told again, behind what has come by then, in blocks of numbers: see ``conversations.turn_events``.
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
from codegen_api.dialects.agent_protocol.messages import answer, human, interrupts
from codegen_api.dialects.agent_protocol.rendering import (
    AGAIN,
    BEHIND,
    CHECKPOINTS_AGAIN,
    LAYOUT,
    PLACES,
    EntryEvents,
    EntryRenderer,
    EventPlace,
    NumberedFrame,
    number,
)
from codegen_api.runs import Json, to_json
from codegen_api.stores import Turn, TurnState
from codegen_api.upstreams import PendingRequest

FREE, EARNED = 10_000, 16
"""Whole states are told behind each entry until they have held FREE messages together, then as often as EARNED messages
for each entry allow: a long log would else cost its square.
"""

MODES = ("values", "updates", "messages", "messages-tuple", "custom", "tasks", "checkpoints", "debug")

CHECKPOINTS = frozenset({"checkpoints", "debug"})
WHOLE_STATES = CHECKPOINTS | {"values"}
"""The modes that tell whole states."""


# before the first entry, and behind the last
RUN_METADATA, INPUT, INPUT_CHECKPOINT = 1, 2, 3
INTERRUPT, INTERRUPT_UPDATE, FAILURE, FINAL_STATE, END = (BEHIND + place for place in (7, 8, 13, 14, 15))

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
    """The number in an event id of this turn; 0, from where everything is told, for any other text."""
    if text is None or not text.startswith(turn.id):
        return 0
    found = _ID.fullmatch(text[len(turn.id) :])
    return 0 if found is None else int(found[1])


class ThreadTeller:
    """Tells one reader of a turn the events behind number ``after``, as ``wording`` has it and in its modes.

    ``before`` are the messages of the conversation before the turn, needed where whole states are told. ``changes`` are
    what was seen to change in the turn.
    """

    def __init__(
        self,
        wording: EntryRenderer,
        *,
        after: int = 0,
        before: Sequence[bytes] = (),
        changes: TurnChanges | None = None,
        statuses: Mapping[TurnState, str] = STATUSES,
    ) -> None:
        self.after = after
        self.claimed = after // PLACES
        self._turn, self._modes = wording.turn, wording.modes
        self._wording = wording
        self._begun = False
        self._statuses = statuses
        self._telling: TurnTeller[EntryEvents] = TurnTeller(wording.of, changes, LAYOUT.slot(*divmod(after, PLACES)))
        # whole states: what has been said, and of which entry each message is
        self._states = bool(self._modes & WHOLE_STATES)
        self._messages = [*before, *(to_json(human(message)) for message in self._turn.messages)]
        self._of = [(0, False)] * len(self._messages)
        self._checkpoints: list[int] = []
        self._told = self._told_again = len(self._messages)
        # what the reader's last state lacks: something that was said, or perhaps what was amended since
        self._said = self._doubtful = self._amendable = False
        self._unanswered: set[int] = set()
        self._out: list[NumberedFrame] = []

    def begin(self) -> bytes:
        """What comes before the first entry, if that was not told."""
        if self._begun:
            return b""
        self._begun = True
        self._send("metadata", to_json({"run_id": self._turn.id, "attempt": 1}), 0, RUN_METADATA)
        if "values" in self._modes:
            self._send("values", self._state(), 0, INPUT)
        self._out += self._checkpoint(0, INPUT_CHECKPOINT)
        return self._sent()

    def take(self, news: Sequence[TurnEntry]) -> bytes:
        """What these entries amount to."""
        self._tell(self._telling.take(news))
        return self._sent()

    def over(self, turn: Turn, pending: Sequence[PendingRequest] = ()) -> bytes:
        """What comes behind the last entry. Whoever asks for the end again is told of it.

        Raises:
            ReaderAhead: they have something behind that.
        """
        last = self._telling.offset + 1
        if self.after > number(last, END):
            raise ReaderAhead
        self.after = min(self.after, number(last, END) - 1)
        self._tell(self._telling.close())
        if turn.answer is not None:
            message = answer(turn.id, turn.answer)
            written = to_json(message)
            self._say((last, False), written)
            self._out += self._wording.message(last, message, written)
        self._tell(self._telling.rest())
        final: Mapping[str, Json] = {}
        if turn.state is TurnState.WAITING:
            final = {"__interrupt__": interrupts(turn, pending)}
            for mode, place in (("values", INTERRUPT), ("updates", INTERRUPT_UPDATE)):
                if mode in self._modes:
                    self._send(mode, to_json(final), last, place)
        if turn.state in (TurnState.FAILED, TurnState.UNKNOWN):
            self._send("error", to_json(failure(turn)), last, FAILURE)
        elif "values" in self._modes and (self._said or self._doubtful or final):
            self._send("values", self._state(final), last, FINAL_STATE)
        self._send("end", to_json({"status": self._statuses[turn.state]}), last, END)
        return self._sent()

    def _send(self, event: str, data: bytes, offset: int, place: int) -> None:
        self._out.append(self._wording.frame(event, data, offset, place))

    def _sent(self) -> bytes:
        """What has come together, but for what the reader has."""
        out, self._out = self._out, []
        return b"".join([frame for n, frame in out if n > self.after])

    # -- one entry ----------------------------------------------------------------------------------------------------

    def _tell(self, events: Iterable[TurnEvent[EntryEvents]]) -> None:
        for event in events:
            if isinstance(event, EntryAdded):
                self._arrive(event.offset, event.rendered)
            elif isinstance(event, ActionClosed):
                self._out += event.rendered.answered
                self._say((event.offset, True), event.rendered.tool)
                self._whole(event.offset)
            elif isinstance(event, EntryChanged):
                self._alter(event.offset, event.rendered)
            else:
                self._tell_again(event)

    def _arrive(self, offset: int, told: EntryEvents) -> None:
        self._amendable |= told.entry.amendable
        self._out += told.arrival
        self._say((offset, False), told.ai)
        if told.tool is None:
            self._whole(offset)
            return
        if self._said and "values" in self._modes and self._affordable():
            self._out.append(self._values(offset, EventPlace.STATE))
        self._out += told.begun
        if not told.closed:
            self._unanswered.add(offset)

    def _alter(self, offset: int, told: EntryEvents) -> None:
        if told.closed:
            self._unanswered.discard(offset)
        if self._states:
            self._doubtful |= self._put((offset, False), told.ai)
            if self._telling.open is None or offset < self._telling.offset:
                self._doubtful |= self._put((offset, True), told.tool)

    def _tell_again(self, again: EntryRepeated[EntryEvents]) -> None:
        """An entry, as it is now, behind what has come: in a block of numbers of its own."""
        told, first = again.rendered, again.slot.behind * PLACES + LAYOUT.first(again.slot)
        frames: list[NumberedFrame] = []
        for n, frame in (*told.arrival, *told.begun, *told.answered):
            place = EventPlace(n % PLACES // 2)
            lacks = again.outcome if place >= BEHIND else again.words or place == EventPlace.CUSTOM
            if not lacks or (again.earlier and n > self.after):
                continue
            at = first + AGAIN[place] + n % 2
            if place == EventPlace.TUPLE:
                frames.append((at, self._wording.removed(again.came.offset)))
                at += 1
            frames.append((at, frame))
        if self._modes & CHECKPOINTS:
            frames += self._checkpoints_with(again, first + CHECKPOINTS_AGAIN)
        self._out += [(n, self._wording.again(frame, n)) for n, frame in frames if n > self.after]

    def _checkpoints_with(self, again: EntryRepeated[EntryEvents], first: int) -> list[NumberedFrame]:
        """The checkpoints that hold an entry which has changed; where that is too much, the last one."""
        holding = [
            each
            for each in self._checkpoints[bisect_left(self._checkpoints, again.came.offset) :]
            if not again.earlier or number(each, EventPlace.CHECKPOINT) <= self.after
        ][-((LAYOUT.block - CHECKPOINTS_AGAIN) // 2) :]
        if self._told_again + sum(map(self._length, holding)) > FREE + EARNED * self._telling.offset:
            holding = holding[-1:]
        frames: list[NumberedFrame] = []
        for index, each in enumerate(holding):
            self._told_again += self._length(each)
            told = self._checkpoint(each, EventPlace.CHECKPOINT)
            frames += [(first + 2 * index + n % 2, frame) for n, frame in told]
        return frames

    def _say(self, of: tuple[int, bool], message: bytes | None) -> None:
        if self._states and message is not None:
            self._put(of, message)
            self._said = True

    # -- whole states -------------------------------------------------------------------------------------------------

    def _put(self, of: tuple[int, bool], message: bytes | None) -> bool:
        """A message of an entry in its place; whether that is new."""
        index = bisect_left(self._of, of)
        end = index + (self._of[index : index + 1] == [of])
        if self._messages[index:end] == ([] if message is None else [message]):
            return False
        self._messages[index:end] = [] if message is None else [message]
        self._of[index:end] = [] if message is None else [of]
        return True

    def _length(self, offset: int) -> int:
        """How many messages there are up to an entry."""
        return bisect_right(self._of, (offset, True))

    def _affordable(self) -> bool:
        if not self._states or self._told + len(self._messages) > FREE + EARNED * self._telling.offset:
            return False
        self._told += len(self._messages)
        return True

    def _whole(self, offset: int) -> None:
        """The state behind an entry, if there is something new in it, and the checkpoint; if it may be told again."""
        news = self._said and "values" in self._modes
        if not (news or self._modes & CHECKPOINTS) or not self._affordable():
            return
        if news:
            self._out.append(self._values(offset, EventPlace.WHOLE_STATE))
        if self._modes & CHECKPOINTS:
            self._checkpoints.append(offset)
        self._out += self._checkpoint(offset, EventPlace.CHECKPOINT)

    def _values(self, offset: int, place: EventPlace) -> NumberedFrame:
        """The state behind an entry. One in which every tool has answered has the next number, so that who had it
        before gets it again.
        """
        n, frame = self._wording.frame("values", self._state(), offset, place, again=not self._unanswered)
        self._said = False
        # of who has something behind it, nobody knows which of both they had
        self._doubtful = (n < self.after and self._amendable) or (n <= self.after and self._telling.returned)
        return n, frame

    def _state(self, more: Mapping[str, Json] | None = None, *, upto: int | None = None) -> bytes:
        rest = b"" if not more else b"," + to_json(more)[1:-1]
        return b'{"messages":[%b]%b}' % (b",".join(self._messages[:upto]), rest)

    def _checkpoint(self, offset: int, place: int) -> list[NumberedFrame]:
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
        payload = b'%b,"values":%b}' % (described[:-1], self._state(upto=self._length(offset)))
        return self._wording.both("checkpoints", "checkpoint", payload, offset, place)

    def _config(self, checkpoint: str) -> Json:
        named = {"thread_id": self._turn.conversation, "checkpoint_ns": "", "checkpoint_id": checkpoint}
        return {"configurable": named}


def failure(turn: Turn) -> dict[str, Json]:
    """What has become of a turn that failed."""
    kind = "OutcomeUnknown" if turn.state is TurnState.UNKNOWN else "RunFailed"
    return {"error": kind, "message": turn.error or "The run has failed."}
