"""A turn as the chunks of one message, from its beginning: the client puts away what it had of it.

The client puts a message together anew with every chunk, so a long one takes it long: of a turn that has come far, the
older entries come as the data of a few chunks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from codegen_api.conversations import EntryRepeated, Form, HoldingTeller, TurnChanges, TurnEntry
from codegen_api.dialects.ai_sdk import wire
from codegen_api.runs import Json, LogEntry, Step
from codegen_api.stores import Turn
from codegen_api.upstreams import PendingRequest

FOLDED = 100
"""So many older entries come in one chunk."""

UNFOLDED = 200
"""So many of the latest entries come each by itself."""


@dataclass(frozen=True, slots=True)
class ChatEntry:
    """An entry in chunks: what is ``said`` in it, the tool that is ``called``, and the ``outcome`` of that. ``open``:
    the host is still writing it.
    """

    offset: int
    form: Form
    is_action: bool
    closed: bool
    open: bool
    said: bytes
    called: bytes
    outcome: bytes

    @property
    def size(self) -> int:
        """What holding it costs, in bytes."""
        return 600 + len(self.said) + len(self.called) + len(self.outcome)

    @classmethod
    def of(cls, turn: Turn, came: TurnEntry, step: Step) -> "ChatEntry":
        parts = wire.parts_of(turn, came.offset, step)
        tools = [part for part in parts if part["type"] == wire.TOOL]
        return cls(
            came.offset,
            Form.of(came.entry, step),
            is_action=bool(tools),
            closed=step.closed,
            open=came.entry.open,
            said=wire.telling([part for part in parts if part not in tools], str(came.offset)),
            called=wire.telling(tools),
            outcome=b"".join(map(wire.answering, tools)),
        )


class ChatTeller(HoldingTeller[ChatEntry]):
    """Tells one reader a turn. ``step`` says what an entry means, and ``render`` gives its chunks."""

    claimed = 0
    """Nobody comes back to the middle."""

    def __init__(
        self,
        turn: Turn,
        step: Callable[[LogEntry], Step],
        render: Callable[[TurnEntry], ChatEntry],
        changes: TurnChanges,
    ) -> None:
        super().__init__(render, changes, repeats=True)
        self._turn = turn
        self._step = step
        self._has_begun = False
        self._so_far: dict[int, TurnEntry] | None = {}  # what was there when the reader came, its latest entries
        self._folded = 0  # up to here entries came as data
        self._unanswered: set[int] = set()

    def begin(self) -> bytes:
        """The beginning of the message; the second time, what was there when the reader came."""
        if self._has_begun:
            return self._catch_up()
        self._has_begun = True
        return wire.chunk("start", messageId=self._turn.id, messageMetadata=wire.metadata(self._turn))

    def take(self, entries: Sequence[TurnEntry]) -> bytes:
        changed = b"".join(self._changed(came) for came in entries if came.offset <= self._folded)
        later = [came for came in entries if came.offset > self._folded]
        if self._so_far is None:
            return changed + super().take(later)
        self._so_far.update((came.offset, came) for came in later)
        while len(self._so_far) >= UNFOLDED + FOLDED:
            changed += self._fold(self._so_far, sorted(self._so_far)[:FOLDED])
        return changed

    def over(self, turn: Turn, pending: Sequence[PendingRequest] = ()) -> bytes:
        """What comes behind the last entry."""
        last = [self._catch_up(), *map(self._tell, self._telling.close()), self._release()]
        last += map(self._tell, self._telling.rest())
        last += [wire.answering(wire.closed(wire.called(turn, offset), turn)) for offset in sorted(self._unanswered)]
        return b"".join([*last, wire.telling(wire.last_parts(turn, pending), "end"), *wire.ending(turn)])

    def _catch_up(self) -> bytes:
        so_far, self._so_far = self._so_far or {}, None
        return super().take([so_far[offset] for offset in sorted(so_far)])

    def _fold(self, so_far: dict[int, TurnEntry], offsets: Sequence[int]) -> bytes:
        parts: list[Json] = [part for offset in offsets for part in self._parts(so_far.pop(offset))]
        self._folded = offsets[-1]
        data: Json = {"from": offsets[0], "to": offsets[-1], "parts": parts}
        return wire.telling([wire.data_part("earlier", str(offsets[0]), data)])

    def _added(self, entry: ChatEntry) -> bytes:
        if entry.is_action:
            self._unanswered.add(entry.offset)
        return entry.said + entry.called

    def _again(self, event: EntryRepeated[ChatEntry]) -> bytes:
        entry = event.rendered
        told = self._release() if self._held is not None and not self._held.open else b""
        if not entry.is_action or event.text:
            told += self._changed(event.came)
        if entry.is_action and event.call:
            self._unanswered.add(entry.offset)
            told += entry.called
        return told + (self._answered(entry) if event.words | event.outcome else b"")

    def _answered(self, entry: ChatEntry) -> bytes:
        if entry.outcome:
            self._unanswered.discard(entry.offset)
        return entry.outcome

    def _changed(self, came: TurnEntry) -> bytes:
        """An entry whose parts cannot be replaced, as it is now; a tool's can, unless they came as data."""
        is_folded = came.offset <= self._folded
        parts = [part for part in self._parts(came) if is_folded or part["type"] != wire.TOOL]
        data: Json = {"entry": came.offset, "parts": parts}
        return wire.telling([wire.data_part("changed", str(came.offset), data)])

    def _parts(self, came: TurnEntry) -> list[wire.Part]:
        return wire.parts_of(self._turn, came.offset, self._step(came.entry))
