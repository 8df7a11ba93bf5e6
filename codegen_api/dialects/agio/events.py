"""The events of a run's stream, their order, and a reader's position among them.

The events are a function of the run's log, so every instance sends the same, live or later. A *step* is an entry of
that log, counted from 1. A tool's answer is sent when it comes, even after later steps; so a position names the steps
whose answers are still missing, and a reader who reconnects gets every event once. A step that changes after it was
sent is sent again, and a position says which of those the reader has: see ``conversations.turn_events``.
"""

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from weakref import WeakValueDictionary

from codegen_api.conversations import START, Form, Slot, TurnChanges, TurnEntry, TurnTeller, output_of
from codegen_api.conversations.turn_events import ActionClosed, EntryAdded, EntryChanged, EntryRepeated, TurnEvent
from codegen_api.errors import InvalidCursor
from codegen_api.http.sse import frame
from codegen_api.runs import Json, LogEntry, Step, StepKind, to_json
from codegen_api.stores import Turn, TurnState

PLACES = 5
"""How many event numbers a step has. Number 0 is unused, and the others are:"""
SAID, CALLED, ANSWERED, CONCLUDED = 1, 2, 3, 4

BETWEEN = "\n\n"
"""The separator of two texts of the agent, sent at the beginning of the second."""

MOST_RANGES = 20
"""How many ranges of steps a position names at most. With more, ranges are merged, and include steps with an answer."""

NEVER = "The run stopped before the tool had answered."

_NUMBER = "[0-9]{1,18}"
_RANGE = rf"-({_NUMBER})(?:\.({_NUMBER}))?"
_POSITION = re.compile(rf"({_NUMBER})((?:{_RANGE}){{0,{MOST_RANGES}}})(?:~({_NUMBER})\.({_NUMBER}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class EventPosition:
    """A reader's position. ``number`` is the number of the last event in the order of the log, with PLACES for each
    step: 0 is the first event, and -1 before it. ``open`` are ranges of steps whose tools have not answered, and
    ``slot`` is the last slot of repeated steps there.
    """

    number: int = -1
    open: tuple[tuple[int, int], ...] = ()
    slot: Slot | None = None

    def __str__(self) -> str:
        ranges = (f"-{first}" if first == last else f"-{first}.{last}" for first, last in self.open)
        again = "" if self.slot is None else f"~{self.slot.behind}.{2 * self.slot.number + self.slot.is_closed}"
        return f"{self.number}{''.join(ranges)}{again}"

    def awaits(self, step: int) -> bool:
        return any(first <= step <= last for first, last in self.open)

    @property
    def step(self) -> int:
        return max(0, self.number) // PLACES

    @classmethod
    def of(cls, text: str) -> "EventPosition":
        """Parse a position. Raises ``InvalidCursor`` if ``text`` is none."""
        found = _POSITION.fullmatch(text.strip())
        if found is None:
            raise InvalidCursor("The last event id is none that is given here.")
        ranges = [(int(first), int(last or first)) for first, last in re.findall(_RANGE, found[2], re.ASCII)]
        slot = None if found[5] is None else Slot(int(found[5]), int(found[6]) % 2 == 1, int(found[6]) // 2)
        return cls(int(found[1]), tuple(ranges), slot)


BEGINNING = EventPosition()


def ranges_of(some: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Sort ranges, and merge those that touch; if there are too many, also merge the nearest ones."""
    ranges: list[tuple[int, int]] = []
    for first, last in sorted(some):
        if ranges and first <= ranges[-1][1] + 1:
            ranges[-1] = ranges[-1][0], max(last, ranges[-1][1])
        else:
            ranges.append((first, last))
    while len(ranges) > MOST_RANGES:
        near = min(range(1, len(ranges)), key=lambda index: ranges[index][0] - ranges[index - 1][1])
        ranges[near - 1 : near + 1] = [(ranges[near - 1][0], ranges[near][1])]
    return tuple(ranges)


@dataclass(frozen=True)
class RunEvent:
    """An event. ``id`` is the position of a reader who has it; None for the last event, which is always sent again.
    ``created`` is the host's time of the step, if known.
    """

    name: str
    data: Mapping[str, Json]
    id: str | None = None
    created: float | None = None

    @cached_property
    def frame(self) -> bytes:
        return frame(self.name, to_json(self.data), self.id)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Text:
    text: str


class SharedEvents:
    """Texts and last events of runs, shared by their readers, and kept as long as one of them holds them. Readers hold
    all texts of a run, because its last event repeats them.
    """

    # No RenderCache: it may evict what readers still hold, and the next reader would then hold a copy.

    def __init__(self) -> None:
        self._texts: WeakValueDictionary[str, Text] = WeakValueDictionary()
        self._ends: WeakValueDictionary[Hashable, RunEvent] = WeakValueDictionary()

    def text(self, text: str) -> Text:
        return self._texts.setdefault(text, Text(text))

    def end(self, key: Hashable, make: Callable[[], RunEvent]) -> RunEvent:
        """The last event of a run, identified by ``key``."""
        event = self._ends.get(key)
        if event is None:
            event = self._ends[key] = make()
        return event


@dataclass(frozen=True, slots=True)
class RunStep:
    """A step of the log, as a text and a call with its outcome."""

    number: int
    step: Step
    form: Form
    created: float | None

    @property
    def has_failed(self) -> bool:
        return self.step.kind is StepKind.ERROR and self.step.tool is not None

    @property
    def is_action(self) -> bool:
        return self.has_failed or self.step.kind is StepKind.ACTION

    @property
    def closed(self) -> bool:
        return self.step.closed

    @property
    def text(self) -> str:
        return "" if self.has_failed or self.step.kind is StepKind.USER else self.step.text

    @property
    def tool(self) -> str:
        return self.step.tool or "unknown"

    @property
    def result(self) -> str:
        return self.step.text if self.has_failed else output_of(self.step)


class RunTeller:
    """Makes the events of a run after ``after`` for one reader, and keeps the run's response and metrics.

    ``step`` parses an entry. ``shared`` holds what readers of the same run have in common.
    """

    def __init__(
        self,
        run_id: str,
        step: Callable[[LogEntry], Step],
        after: EventPosition = BEGINNING,
        shared: SharedEvents | None = None,
    ) -> None:
        self.steps = 0
        self.began: float | None = None
        self.latest: float | None = None
        self._run_id = run_id
        self._step = step
        self._after = after
        self._shared = shared or SharedEvents()
        self._said: dict[int, Text] = {}  # by the number of the event
        self._number = after.number
        self._slot = after.slot
        self._called: set[int] = set()  # the steps that call a tool
        self._tools: dict[int, str] = {}  # by step, the tools that have not answered
        self._ahead: set[int] = set()  # the steps whose answer the reader has, from an instance that had read further
        self.begin_turn()

    def begin_turn(self, changes: TurnChanges | None = None) -> None:
        """Begin the next turn. ``changes`` are the late changes of its entries."""
        self._base = self.steps
        # a step that is sent again takes several events, of which only the last has the slot
        slot = Slot(self._after.step, False) if self._after.slot is None else self._after.slot.next
        after = slot._replace(behind=slot.behind - self._base) if slot.behind > self._base else START
        self._telling: TurnTeller[RunStep] = TurnTeller(self._meant, changes, after)

    @property
    def said(self) -> tuple[Text, ...]:
        return tuple(self._said[n] for n in sorted(self._said))

    @property
    def response(self) -> str:
        """All texts of the agent: the contents of all events, joined."""
        return BETWEEN.join(said.text for said in self.said)

    @property
    def calls(self) -> int:
        return len(self._called)

    @property
    def seconds(self) -> float | None:
        """From the first step to the latest, by the host's clock."""
        return None if self.began is None or self.latest is None else max(0.0, self.latest - self.began)

    def begin(self, session_id: str, query: str) -> list[RunEvent]:
        """The events before the first step."""
        return self._tell(0, "run_started", {"run_id": self._run_id, "session_id": session_id, "query": query})

    def take(self, news: Sequence[TurnEntry]) -> list[RunEvent]:
        return list(self._told(self._telling.take(news)))

    def close(self, turn: Turn) -> list[RunEvent]:
        """The events after the last step of a turn that is over. Calls without an answer get a closing result."""
        told = [*self._told(self._telling.close()), *self._told(self._telling.rest())]
        fine = turn.state in (TurnState.COMPLETED, TurnState.WAITING)
        result = "" if fine else NEVER
        return told + [self._result(each, result, is_success=fine, created=None) for each in sorted(self._tools)]

    def conclude(self, text: str) -> list[RunEvent]:
        """The event of an answer that is not in the host's log."""
        step = Step(StepKind.ANSWER, None, text)
        return self._say(CONCLUDED, RunStep(self.steps, step, Form(0, 0, 0, 0), None))

    def _meant(self, came: TurnEntry) -> RunStep:
        step = self._step(came.entry)
        return RunStep(self._base + came.offset, step, Form.of(came.entry, step), came.entry.created)

    def _told(self, events: Iterable[TurnEvent[RunStep]]) -> Iterator[RunEvent]:
        for event in events:
            meant = event.rendered
            match event:
                case EntryAdded():
                    yield from self._arrive(meant)
                case ActionClosed() if meant.closed and meant.number in self._tools:
                    yield self._answer(meant)
                case EntryChanged():
                    self._keep(meant.number * PLACES + SAID, meant.text)
                case EntryRepeated(slot=slot):
                    told = [*self._again(event)]
                    self._slot = slot._replace(behind=self._base + slot.behind)
                    yield from told[:-1]
                    yield from (replace(last, id=self._position) for last in told[-1:])
                case _:
                    pass

    def _arrive(self, meant: RunStep) -> Iterator[RunEvent]:
        self.steps = meant.number
        if meant.created is not None:
            self.began = meant.created if self.began is None else self.began
            self.latest = meant.created
        yield from self._say(SAID, meant)
        if meant.is_action:
            n = meant.number * PLACES + CALLED
            self._called.add(meant.number)
            if n > self._after.number or self._after.awaits(meant.number):
                self._tools[meant.number] = meant.tool
                yield from self._tell(n, "tool_call_started", self._call(meant), meant.created)
            elif not meant.closed:
                self._ahead.add(meant.number)

    def _say(self, place: int, meant: RunStep) -> list[RunEvent]:
        n = meant.number * PLACES + place
        self._keep(n, meant.text)
        return self._tell(n, "content_delta", self._content(n, meant), meant.created) if meant.text else []

    def _again(self, again: EntryRepeated[RunStep]) -> Iterator[RunEvent]:
        """The events of a step that is sent again."""
        meant, number = again.rendered, again.rendered.number
        said, n = (number * PLACES + place for place in (SAID, CALLED))
        if again.text and not meant.has_failed and not (again.earlier and said > self._after.number):
            self._number = max(self._number, said)
            yield self._event("content_delta", self._content(said, meant), meant.created)
        if not meant.is_action or (again.earlier and n > self._after.number):
            return
        called = again.call or number not in self._called
        if called:
            self._called.add(number)
            self._number = max(self._number, n)
            yield self._event("tool_call_started", self._call(meant), meant.created)
        if called or number in self._tools:
            self._tools[number] = meant.tool
            if meant.closed:
                yield self._answer(meant)
        elif number in self._ahead:
            self._ahead.remove(number)
        elif again.earlier and self._after.awaits(number):
            pass  # sent just before
        elif meant.closed and (again.outcome or meant.has_failed):
            yield self._answer(meant)

    def _keep(self, n: int, text: str) -> None:
        self._said.pop(n, None)
        if text:
            self._said[n] = self._shared.text(text)

    def _content(self, n: int, meant: RunStep) -> dict[str, Json]:
        is_first = not any(earlier < n for earlier in self._said)
        text = meant.text if is_first or not meant.text else BETWEEN + meant.text
        return {"content": text, "step": meant.number, "kind": meant.step.kind.value}

    def _call(self, meant: RunStep) -> dict[str, Json]:
        return {
            "tool_name": meant.tool,
            "tool_call_id": f"call_{self._run_id}_{meant.number}",
            "arguments": "{}" if meant.step.input is None else to_json(meant.step.input).decode(),
            "step": meant.number,
        }

    def _answer(self, meant: RunStep) -> RunEvent:
        self._tools[meant.number] = meant.tool
        return self._result(meant.number, meant.result, is_success=not meant.has_failed, created=meant.created)

    def _result(self, number: int, result: str, *, is_success: bool, created: float | None) -> RunEvent:
        data: dict[str, Json] = {
            "tool_name": self._tools.pop(number),
            "tool_call_id": f"call_{self._run_id}_{number}",
            "result": result,
            "is_success": is_success,
            "duration": None,  # the host does not say how long it took
            "step": number,
        }
        # an answer after later steps does not move the reader back in the order of the log
        self._number = max(self._number, number * PLACES + ANSWERED)
        return self._event("tool_call_completed" if is_success else "tool_call_failed", data, created)

    def _tell(self, n: int, name: str, data: Mapping[str, Json], created: float | None = None) -> list[RunEvent]:
        if n <= self._number:
            return []
        self._number = n
        return [self._event(name, data, created)]

    def _event(self, name: str, data: Mapping[str, Json], created: float | None) -> RunEvent:
        return RunEvent(name, data, self._position, created)

    @property
    def _position(self) -> str:
        to_come = [(max(first, self.steps + 1), last) for first, last in self._after.open if last > self.steps]
        slot = self._slot
        if slot is not None and slot.behind < max(0, self._number) // PLACES:
            slot = None
        return str(EventPosition(self._number, ranges_of([*((step, step) for step in self._tools), *to_come]), slot))
