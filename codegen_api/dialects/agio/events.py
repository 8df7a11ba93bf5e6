"""A run as the events of its stream: which there are, in which order, and where in them a reader is.

Everything is a function of the run's log, so that each instance tells the same, live or again. A *step* is an entry of
that log, counted from 1. What a tool answered is told when it is there, be it behind later steps; so a position names
the steps whose answer is still to come, and a reader who comes back gets every event once.
"""

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakValueDictionary

from codegen_api.errors import InvalidCursor
from codegen_api.runs import Json, LogEntry, Step, StepKind, to_json
from codegen_api.stores import Turn, TurnState

PLACES = 5
"""How many events a step can have, and one more; these are their places among them:"""
SAID, CALLED, ANSWERED, CONCLUDED = 1, 2, 3, 4

BETWEEN = "\n\n"
"""What stands between two things that the agent says: told as the beginning of the second."""

MOST_OPEN = 20
"""So many answers may be awaited at a time; then the oldest is given up. Logs are not read again further back."""

NEVER = "The run stopped before the tool had answered."

_POSITION = re.compile(rf"([0-9]{{1,18}})((?:-[0-9]{{1,18}}){{0,{MOST_OPEN + 1}}})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Position:
    """``number`` is that of the last event told in the order of the log, PLACES for each step: 0 is the first of all,
    and -1 before it. ``open`` are the steps whose tools have not answered.
    """

    number: int = -1
    open: tuple[int, ...] = ()

    def __str__(self) -> str:
        return "-".join(map(str, (self.number, *self.open)))

    @property
    def step(self) -> int:
        return max(0, self.number) // PLACES

    @classmethod
    def of(cls, text: str) -> "Position":
        """
        Raises:
            InvalidCursor: it is none.
        """
        found = _POSITION.fullmatch(text.strip())
        if found is None:
            raise InvalidCursor("The last event id is none that is given here.")
        return cls(int(found[1]), tuple(int(step) for step in found[2].split("-") if step))


BEGINNING = Position()


@dataclass(frozen=True)
class Event:
    """``id`` is where a reader is who has it; None at the end, which is told to whoever comes back. ``created`` is when
    the host did what it tells, as far as that is known.
    """

    name: str
    data: Mapping[str, Json]
    id: str | None = None
    created: float | None = None

    @cached_property
    def frame(self) -> bytes:
        """As a server-sent event. The id comes last: there are clients that take two lines for name and data."""
        id_line = b"" if self.id is None else b"id: %b\n" % self.id.encode()
        return b"event: %b\ndata: %b\n%b\n" % (self.name.encode(), to_json(self.data), id_line)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Text:
    """Something that an agent has said."""

    text: str


class Shared:
    """What many readers of a run hold at the same time, made once: each text, as the end tells all of them again, and
    that end. It is kept for as long as one of them holds it.
    """

    def __init__(self) -> None:
        self._texts: WeakValueDictionary[str, Text] = WeakValueDictionary()
        self._ends: WeakValueDictionary[Hashable, Event] = WeakValueDictionary()

    def text(self, text: str) -> Text:
        return self._texts.setdefault(text, Text(text))

    def end(self, key: Hashable, make: Callable[[], Event]) -> Event:
        """The last event of a run, which ``key`` tells from all others."""
        event = self._ends.get(key)
        if event is None:
            event = self._ends[key] = make()
        return event


class Teller:
    """Tells one reader of a run the events behind ``after``, and keeps what they amount to.

    ``step`` says what an entry means. ``shared`` is for those who read together.
    """

    def __init__(
        self, run_id: str, step: Callable[[LogEntry], Step], after: Position = BEGINNING, shared: Shared | None = None
    ) -> None:
        self.steps = 0
        self.calls = 0
        self.said: list[Text] = []
        self.began: float | None = None
        self.latest: float | None = None
        self._run_id = run_id
        self._step = step
        self._after = after
        self._shared = shared or Shared()
        self._number = after.number
        self._open = set(after.open)
        self._tools: dict[int, str] = {}  # of the steps in ``_open`` that have come

    @property
    def response(self) -> str:
        """All that the agent has said: what the contents of the events make together."""
        return BETWEEN.join(said.text for said in self.said)

    @property
    def seconds(self) -> float | None:
        """From the first step to the latest, by the host's clock."""
        return None if self.began is None or self.latest is None else max(0.0, self.latest - self.began)

    def begin(self, session_id: str, query: str) -> list[Event]:
        """What comes before the first step."""
        return self._tell(0, "run_started", {"run_id": self._run_id, "session_id": session_id, "query": query})

    def take(self, number: int, entry: LogEntry) -> list[Event]:
        """What a step amounts to when it comes, and when it comes again because the host has filled it in."""
        step = self._step(entry)
        if number <= self.steps:
            return self._answer(number, step, entry.created) if number in self._tools and step.closed else []
        self.steps = number
        if entry.created is not None:
            self.began = entry.created if self.began is None else self.began
            self.latest = entry.created
        if step.kind is StepKind.USER:
            return []
        broken = step.kind is StepKind.ERROR and step.tool is not None
        out = [] if broken else self._say(number, SAID, step, entry.created)
        return out + self._call(number, step, entry.created) if broken or step.kind is StepKind.ACTION else out

    def close(self, turn: Turn) -> list[Event]:
        """What comes behind the last step of a turn that is over: nobody answers any more."""
        fine = turn.state in (TurnState.COMPLETED, TurnState.WAITING)
        return [
            event
            for number in sorted(self._tools)
            for event in self._result(number, "" if fine else NEVER, is_success=fine, created=None)
        ]

    def conclude(self, text: str) -> list[Event]:
        """What the host says at the end, and its log does not tell."""
        return self._say(self.steps, CONCLUDED, Step(StepKind.ANSWER, None, text), None)

    # -- one step -----------------------------------------------------------------------------------------------------

    def _say(self, number: int, place: int, step: Step, created: float | None) -> list[Event]:
        if not step.text:
            return []
        text = BETWEEN + step.text if self.said else step.text
        self.said.append(self._shared.text(step.text))
        data: dict[str, Json] = {"content": text, "step": number, "kind": step.kind.value}
        return self._tell(number * PLACES + place, "content_delta", data, created)

    def _call(self, number: int, step: Step, created: float | None) -> list[Event]:
        self.calls += 1
        n = number * PLACES + CALLED
        if n <= self._after.number and number not in self._open:
            return []  # this reader has the answer already
        self._open.add(number)
        self._tools[number] = step.tool or "unknown"
        data: dict[str, Json] = {
            "tool_name": self._tools[number],
            "tool_call_id": f"call_{self._run_id}_{number}",
            "arguments": "{}" if step.input is None else to_json(step.input).decode(),
            "step": number,
        }
        out = self._tell(n, "tool_call_started", data, created)
        if step.closed:
            out += self._answer(number, step, created)
        elif len(self._tools) > MOST_OPEN:
            out += self._result(min(self._tools), "", is_success=True, created=None)
        return out

    def _answer(self, number: int, step: Step, created: float | None) -> list[Event]:
        if step.kind is StepKind.ERROR:
            return self._result(number, step.text, is_success=False, created=created)
        output = "" if step.output is None else step.output
        text = output if isinstance(output, str) else to_json(output).decode()
        return self._result(number, text, is_success=True, created=created)

    def _result(self, number: int, result: str, *, is_success: bool, created: float | None) -> list[Event]:
        self._open.discard(number)
        data: dict[str, Json] = {
            "tool_name": self._tools.pop(number),
            "tool_call_id": f"call_{self._run_id}_{number}",
            "result": result,
            "is_success": is_success,
            "duration": None,  # the host does not say how long it took
            "step": number,
        }
        name = "tool_call_completed" if is_success else "tool_call_failed"
        # behind later steps, the reader stays where they are in the order of the log
        return self._told(max(self._number, number * PLACES + ANSWERED), name, data, created)

    # -- where the reader is ------------------------------------------------------------------------------------------

    def _tell(self, n: int, name: str, data: Mapping[str, Json], created: float | None = None) -> list[Event]:
        return self._told(n, name, data, created) if n > self._number else []

    def _told(self, n: int, name: str, data: Mapping[str, Json], created: float | None) -> list[Event]:
        self._number = n
        return [Event(name, data, str(Position(n, tuple(sorted(self._open)))), created)]
