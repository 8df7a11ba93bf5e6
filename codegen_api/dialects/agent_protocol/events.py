"""A turn as the events of the stream modes: which events there are, in which order, with which ids.

Everything is a function of the turn's log, so that each instance tells the same, live or again. An id is
``{turn}_event_{n}`` with n = 4096 x the entry's number in the turn + twice the event's place among those of the entry,
and one more for what ``debug`` tells of it, and for a state in which no tool's answer is missing; metadata comes before
the first entry, ``end`` behind the last.

An action is closed when its output is there, a later entry has come, or the turn is over. What its tool answered comes
then, before anything of the next entry. What changes after it was told is told again, behind what has come by then, as
far as ``conversations.late`` and the blocks of numbers have room.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from codegen_api.conversations import Came, Change, Changes, Checkpoint
from codegen_api.dialects.agent_protocol.messages import Message, answer, human
from codegen_api.dialects.agent_protocol.wording import (
    AFTERWARDS,
    AGAIN,
    BLOCK,
    CHECKPOINTS_AGAIN,
    MEANWHILE,
    PLACES,
    Frames,
    Place,
    Told,
    Wording,
    number,
)
from codegen_api.runs import Json, to_json
from codegen_api.stores import Turn, TurnState

FREE, EARNED = 10_000, 16
"""Whole states are told behind each entry until they have held FREE messages together, then as often as EARNED messages
for each entry allow: a long log would else cost its square.
"""

REMEMBERED = 100
"""Of so many entries, the last ones, it is remembered what was told of them."""

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

CHECKPOINTS = frozenset({"checkpoints", "debug"})
WHOLE_STATES = CHECKPOINTS | {"values"}
"""The modes that tell whole states."""


# before the first entry, and behind the last
RUN_METADATA, INPUT, INPUT_CHECKPOINT = 1, 2, 3
INTERRUPT, INTERRUPT_UPDATE, FAILURE, FINAL_STATE, END = 7, 8, 13, 14, 15

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


class Teller:
    """Tells one reader of a turn the events behind number ``after``, in the modes of ``wording``.

    ``before`` are the messages of the conversation before the turn, needed where whole states are told. ``changes`` are
    what was seen to change in the turn.
    """

    def __init__(
        self,
        turn: Turn,
        wording: Wording,
        *,
        modes: frozenset[str],
        after: int = 0,
        before: Sequence[bytes] = (),
        changes: Changes | None = None,
        statuses: Mapping[TurnState, str] = STATUSES,
    ) -> None:
        self.after = after
        self._turn = turn
        self._wording = wording
        self._modes = modes
        self._statuses = statuses
        # what is told again: all changes, those that were told of, what the reader has of the changed entries
        self._changes = changes or Changes()
        self._changed: set[Change] = set()
        self._known: dict[int, int] = {}
        self._had: dict[int, Told] = {}
        self._due: dict[int, Told] = {}
        self._lengths: dict[int, int] = {}
        self._offset = 0
        self._open: Told | None = None
        # whole states: what has been said, and where in it an entry's messages are
        self._states = bool(modes & WHOLE_STATES)
        self._messages = [*before, *(to_json(human(message)) for message in turn.messages)]
        self._at: dict[tuple[int, bool], int] = {}
        self._told = self._told_again = len(self._messages)
        # what the reader's last state lacks: something that was said, or perhaps what was amended since
        self._said = self._doubtful = self._amendable = False
        self._unanswered: set[int] = set()

    def begin(self) -> bytes:
        """What comes before the first entry."""
        out = [self._frame("metadata", to_json({"run_id": self._turn.id, "attempt": 1}), 0, RUN_METADATA)]
        if "values" in self._modes:
            out.append(self._frame("values", self._state(), 0, INPUT))
        out += [frame for n, frame in self._checkpoint(0, INPUT_CHECKPOINT) if n > self.after]
        return b"".join(out)

    def take(self, news: Sequence[Came]) -> bytes:
        """What these entries amount to."""
        out: list[bytes] = []
        for came in news:
            told = self._wording.of(came)
            if came.offset > self._offset:
                self._close(out)
                self._offset = came.offset
                self._remember(told)
                self._arrive(told, out)
            elif self._known.get(came.offset) != hash(came.entry.json):
                self._amend(came.offset, told, out)
        self._changes.told(self._offset, is_open=self._open is not None)
        return b"".join(out)

    def over(self, turn: Turn) -> bytes:
        """What comes behind the last entry."""
        out: list[bytes] = []
        self._close(out)
        last = self._offset + 1
        if turn.answer is not None:
            message = answer(turn.id, turn.answer)
            self._messages.append(to_json(message))
            self._said = True
            out.append(Frames.of(self._wording.message(last, message)).behind(self.after))
        final: Mapping[str, Json] = {}
        if turn.state is TurnState.WAITING:
            final = {"__interrupt__": [interrupt(turn)]}
            for mode, place in (("values", INTERRUPT), ("updates", INTERRUPT_UPDATE)):
                if mode in self._modes:
                    out.append(self._frame(mode, to_json(final), last, place))
        if turn.state in (TurnState.FAILED, TurnState.UNKNOWN):
            kind = "OutcomeUnknown" if turn.state is TurnState.UNKNOWN else "RunFailed"
            failure = to_json({"error": kind, "message": turn.error or "The run has failed."})
            out.append(self._frame("error", failure, last, FAILURE))
        elif "values" in self._modes and (self._said or self._doubtful or final):
            out.append(self._frame("values", self._state(final), last, FINAL_STATE))
        out.append(self._frame("end", to_json({"status": self._statuses[turn.state]}), last, END))
        return b"".join(out)

    @property
    def end(self) -> int:
        """The number of ``end``, once everything has come."""
        return number(self._offset + 1, END)

    # -- one entry ----------------------------------------------------------------------------------------------------

    def _arrive(self, told: Told, out: list[bytes]) -> None:
        self._amendable |= told.entry.amendable
        self._recall(told)
        self._send(told.arrival, out)
        if told.ai is not None:
            self._say(told.ai, tool=False)
        if told.tool is None:
            self._whole(("agent",), out)
            self._tell_changes(out)
            return
        if self._said and "values" in self._modes and self._affordable():
            out.append(self._values(Place.STATE))
        self._send(told.begun, out)
        self._open = told
        if not told.closed:
            self._unanswered.add(self._offset)
        self._tell_changes(out)
        if told.closed:
            self._close(out)

    def _amend(self, offset: int, told: Told, out: list[bytes]) -> None:
        for message, tool in ((told.ai, False), (told.tool, True)):
            place = self._at.get((offset, tool))
            if message is not None and place is not None and self._messages[place] != message:
                self._messages[place] = message
                self._doubtful = True
        if told.closed:
            self._unanswered.discard(offset)
        is_open = self._open is not None
        self._known[offset] = hash(told.entry.json)
        change = self._changes.see(self._changed, offset, self._offset, is_open=is_open)
        if change is not None:
            self._tell_change(change, told, out)
        if is_open and offset == self._offset:
            self._open = told
            if told.closed:
                self._close(out)

    def _close(self, out: list[bytes]) -> None:
        """The open action, if there is one, has had its time. It is the last entry that came."""
        told, self._open = self._open, None
        if told is None or told.tool is None:
            return
        self._send(told.answered, out)
        self._say(told.tool, tool=True)
        self._whole(("agent",), out)
        self._tell_changes(out)

    # -- what has changed ---------------------------------------------------------------------------------------------

    def _remember(self, told: Told) -> None:
        self._known[self._offset] = hash(told.entry.json)
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]

    def _recall(self, told: Told) -> None:
        """Whether an entry has changed since it was told to somebody, or while nobody was there."""
        if self._changes.of(self._offset):
            self._had[self._offset] = told
        elif not told.closed:
            self._changes.left_open(self._offset)
        elif self._offset in self._changes.unanswered and number(self._offset, Place.CUSTOM) <= self.after:
            self._due[self._offset] = told

    def _tell_changes(self, out: list[bytes]) -> None:
        """Those that were seen when so much had come."""
        is_open = self._open is not None
        for change in [*self._changes.seen] if self._had else []:
            here = (change.behind, change.is_open) == (self._offset, is_open)
            if here and change.offset in self._had and change not in self._changed:
                self._tell_change(change, self._had[change.offset], out)
        if self._due and (self._offset, not is_open) >= self._changes.front:
            for offset, told in self._due.items():
                new = self._changes.see(self._changed, offset, self._offset, is_open=is_open)
                if new is not None:
                    self._tell_change(new, told, out)
            self._due = {}

    def _tell_change(self, change: Change, told: Told, out: list[bytes]) -> None:
        """An entry, as it is now, behind what has come: in a block of numbers of its own."""
        self._changed.add(change)
        gap = MEANWHILE if change.is_open else AFTERWARDS
        first = number(change.behind, 0) + gap + BLOCK * change.number
        last_one = change.is_open and change.offset == change.behind  # whose answer is about to come by itself
        again: list[tuple[int, bytes]] = []
        for n, frame in (*told.arrival.each, *(() if last_one else told.answered.each)):
            place = Place(n % PLACES // 2)
            has_changed = place == Place.CUSTOM or told.tool is None or place >= Place.TOOL_METADATA
            if has_changed and place in AGAIN:
                again.append((first + AGAIN[place] + n % 2, frame))
        if self._modes & CHECKPOINTS:
            again += self._checkpoints_with(change, first + CHECKPOINTS_AGAIN)
        out += [self._wording.again(frame, n) for n, frame in again if n > self.after]

    def _checkpoints_with(self, change: Change, first: int) -> list[tuple[int, bytes]]:
        """The checkpoints that hold an entry which has changed; where that is too much, the last one."""
        most = (BLOCK - CHECKPOINTS_AGAIN) // 2
        holding = [each for each in self._lengths if each >= change.offset][::-1][:most]
        if self._told_again + sum(self._lengths[each] for each in holding) > FREE + EARNED * self._offset:
            holding = holding[:1]
        again: list[tuple[int, bytes]] = []
        for index, each in enumerate(holding):
            self._told_again += self._lengths[each]
            frames = self._checkpoint(each, Place.CHECKPOINT, upto=self._lengths[each])
            again += [(first + 2 * index + n % 2, frame) for n, frame in frames]
        return again

    def _send(self, frames: Frames, out: list[bytes]) -> None:
        out.append(frames.whole if number(self._offset, 0) > self.after else frames.behind(self.after))

    def _say(self, message: bytes, *, tool: bool) -> None:
        if self._states:
            self._at[self._offset, tool] = len(self._messages)
            self._messages.append(message)
            self._said = True

    # -- whole states -------------------------------------------------------------------------------------------------

    def _affordable(self) -> bool:
        if not self._states or self._told + len(self._messages) > FREE + EARNED * self._offset:
            return False
        self._told += len(self._messages)
        return True

    def _whole(self, following: Sequence[str], out: list[bytes]) -> None:
        """The state behind an entry, if there is something new in it, and the checkpoint; if it may be told again."""
        news = self._said and "values" in self._modes
        if not (news or self._modes & CHECKPOINTS) or not self._affordable():
            return
        if news:
            out.append(self._values(Place.WHOLE_STATE))
        out += [f for n, f in self._checkpoint(self._offset, Place.CHECKPOINT, following) if n > self.after]

    def _values(self, place: Place) -> bytes:
        """The state behind an entry. One in which every tool has answered has the next number, so that who had it
        before gets it again.
        """
        n, frame = self._wording.frame("values", self._state(), self._offset, place, again=not self._unanswered)
        self._said = False
        # of who has something behind it, nobody knows which of both they had
        self._doubtful = (n < self.after and self._amendable) or (n <= self.after and bool(self._had))
        return frame if n > self.after else b""

    def _state(self, more: Mapping[str, Json] | None = None, *, upto: int | None = None) -> bytes:
        rest = b"" if not more else b"," + to_json(more)[1:-1]
        return b'{"messages":[%b]%b}' % (b",".join(self._messages[:upto]), rest)

    def _checkpoint(
        self, offset: int, place: int, following: Sequence[str] = ("agent",), *, upto: int | None = None
    ) -> list[tuple[int, bytes]]:
        """``upto``: it holds so many messages, and not all that there are by now."""
        if not self._modes & CHECKPOINTS:
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
        if offset:
            self._lengths[offset] = len(self._messages) if upto is None else upto
            if len(self._lengths) > REMEMBERED:
                del self._lengths[next(iter(self._lengths))]
        payload = b'%b,"values":%b}' % (described[:-1], self._state(upto=upto))
        return self._wording.both("checkpoints", "checkpoint", payload, offset, place)

    def _config(self, checkpoint: str) -> Json:
        named = {"thread_id": self._turn.conversation, "checkpoint_ns": "", "checkpoint_id": checkpoint}
        return {"configurable": named}

    def _frame(self, event: str, data: bytes, offset: int, place: int) -> bytes:
        n, frame = self._wording.frame(event, data, offset, place)
        return frame if n > self.after else b""


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
