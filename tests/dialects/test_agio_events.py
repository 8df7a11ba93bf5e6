"""The events of a run: the same live and again, and each once for a reader who comes back."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegen_api.dialects.agio.events import BETWEEN, MOST_OPEN, NEVER, Event, Position, Teller
from codegen_api.errors import InvalidCursor
from codegen_api.runs import LogEntry, Step, StepKind
from codegen_api.stores import Turn, TurnState

CREATED = "2026-11-20T12:00:{:02}Z"


def entry(kind: str, text: str = "", at: int = 0, **more: Any) -> LogEntry:
    fields = {"kind": kind, "text": text, **more}
    return LogEntry(json.dumps(fields).encode(), CREATED.format(at % 60), False, kind == "action")


def step(entry: LogEntry) -> Step:
    fields = json.loads(entry.json)
    closed = fields["kind"] != "action" or "output" in fields
    return Step(
        StepKind(fields["kind"]),
        None,
        fields["text"],
        fields.get("tool"),
        fields.get("input"),
        fields.get("output"),
        closed,
    )


def turn(state: TurnState) -> Turn:
    return Turn("r", "s", 0.0, 0.0, state)


def teller(after: str | None = None) -> Teller:
    return Teller("r", step, Position() if after is None else Position.of(after))


def brief(events: list[Event]) -> list[tuple[str, Any, str | None]]:
    """Name, the most telling field, and the id."""
    told = ("content", "result", "arguments", "query")
    return [(e.name, next((e.data[name] for name in told if name in e.data), None), e.id) for e in events]


def test_a_run_is_told_from_its_beginning() -> None:
    mine = teller()
    assert brief(mine.begin("s", "Hello!")) == [("run_started", "Hello!", "0")]
    assert mine.take(1, entry("user", "These are your instructions: ...")) == []
    assert brief(mine.take(2, entry("thought", "Well."))) == [("content_delta", "Well.", "11")]
    action = entry("action", "I look.", tool="look", input={"at": "it"}, output=[1])
    assert brief(mine.take(3, action)) == [
        ("content_delta", BETWEEN + "I look.", "16"),
        ("tool_call_started", '{"at":"it"}', "17-3"),
        ("tool_call_completed", "[1]", "18"),
    ]
    assert brief(mine.take(4, entry("answer", "Done."))) == [("content_delta", BETWEEN + "Done.", "21")]
    assert brief(mine.close(turn(TurnState.COMPLETED))) == []
    assert brief(mine.conclude("By the way.")) == [("content_delta", BETWEEN + "By the way.", "24")]
    assert mine.response == "Well.\n\nI look.\n\nDone.\n\nBy the way."
    assert (mine.steps, mine.calls) == (4, 1)


def test_a_call_is_told_with_all_that_is_known_of_it() -> None:
    started, completed = teller().take(1, entry("action", tool="look", output="seen", at=7))
    assert started.data == {"tool_name": "look", "tool_call_id": "call_r_1", "arguments": "{}", "step": 1}
    assert completed.data == {
        "tool_name": "look",
        "tool_call_id": "call_r_1",
        "result": "seen",
        "is_success": True,
        "duration": None,
        "step": 1,
    }
    assert started.created == completed.created == 1795176007.0


def test_what_a_tool_answers_late_is_told_late() -> None:
    mine = teller()
    assert brief(mine.take(1, entry("action", tool="slow"))) == [("tool_call_started", "{}", "7-1")]
    assert mine.take(1, entry("action", tool="slow")) == []
    assert brief(mine.take(2, entry("thought", "Meanwhile."))) == [("content_delta", "Meanwhile.", "11-1")]
    assert brief(mine.take(1, entry("action", tool="slow", output="at last"))) == [
        ("tool_call_completed", "at last", "11")
    ]
    assert mine.take(1, entry("action", tool="slow", output="again")) == []


def test_an_error_of_a_tool_is_a_call_that_failed_and_any_other_is_said() -> None:
    mine = teller()
    failed = mine.take(1, entry("error", "It broke.", tool="edit"))
    assert brief(failed) == [("tool_call_started", "{}", "7-1"), ("tool_call_failed", "It broke.", "8")]
    assert failed[1].data["is_success"] is False
    assert brief(mine.take(2, entry("error", "I give up."))) == [("content_delta", "I give up.", "11")]
    assert mine.response == "I give up."


@pytest.mark.parametrize(
    ("state", "name", "result"),
    [
        (TurnState.COMPLETED, "tool_call_completed", ""),
        (TurnState.WAITING, "tool_call_completed", ""),
        (TurnState.CANCELLED, "tool_call_failed", NEVER),
        (TurnState.FAILED, "tool_call_failed", NEVER),
    ],
)
def test_whoever_has_not_answered_by_the_end_never_will(state: TurnState, name: str, result: str) -> None:
    mine = teller()
    mine.take(1, entry("action", tool="slow"))
    assert brief(mine.close(turn(state))) == [(name, result, "8")]
    assert mine.close(turn(state)) == []


def test_of_very_many_calls_the_oldest_is_given_up() -> None:
    mine = teller()
    for number in range(1, MOST_OPEN + 1):
        mine.take(number, entry("action", tool="slow"))
    events = mine.take(MOST_OPEN + 1, entry("action", tool="slow"))
    assert [event.name for event in events] == ["tool_call_started", "tool_call_completed"]
    assert events[1].data["step"] == 1
    assert len(Position.of(str(events[0].id)).open) == MOST_OPEN + 1
    assert mine.take(1, entry("action", tool="slow", output="too late")) == []


def test_seconds_are_those_of_the_host() -> None:
    mine = teller()
    assert mine.seconds is None
    for number, at in enumerate((1, 3, 8), 1):
        mine.take(number, entry("thought", "Well.", at))
    assert mine.seconds == 7.0
    mine.take(4, LogEntry(b'{"kind": "thought", "text": ""}', None, False, False))
    assert mine.seconds == 7.0


@pytest.mark.parametrize("text", ["", "x", "-1", "1-", "1-x", "1.5", "1" * 19, "\u0661", "1" + "-1" * 30])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(InvalidCursor):
        Position.of(text)


@pytest.mark.parametrize("text", ["0", "17-3", "17-3-1", "123456789012345678"])
def test_a_position_comes_back_as_it_was(text: str) -> None:
    assert str(Position.of(text)) == text


# -- readers who come back --------------------------------------------------------------------------------------------

KINDS = st.sampled_from(["user", "thought", "answer", "error", "action", "silent action", "failure"])
LOGS = st.lists(st.tuples(KINDS, st.none() | st.integers(0, 6)), min_size=1, max_size=12)
"""Entries, and for an action behind how many later ones its output comes, if it ever does."""


class Host:
    """A log that grows and is filled in, a moment after the other."""

    def __init__(self, log: list[tuple[str, int | None]]) -> None:
        self.log = log
        self.moments: list[tuple[int, int]] = []  # entry, and how many there are by then
        for number in range(1, len(log) + 1):
            self.moments.append((number, number))
            self.moments += [(n, number) for n in range(1, number) if self.filled_at(n) == number]

    def filled_at(self, number: int) -> int | None:
        kind, delay = self.log[number - 1]
        return None if delay is None or "action" not in kind else number + delay

    def entry(self, number: int, length: int) -> LogEntry:
        kind, _ = self.log[number - 1]
        filled = self.filled_at(number)
        if "action" not in kind:
            return entry("error" if kind == "failure" else kind, f"<{number}>", tool="t" if kind == "failure" else None)
        output = {"output": f"out {number}"} if filled is not None and filled <= length else {}
        return entry("action", "" if "silent" in kind else f"<{number}>", tool="t", **output)

    def read(self, mine: Teller, since: int = 0) -> list[Event]:
        """What is there at moment ``since``, and then each that comes."""
        events = mine.begin("s", "q")
        if since:
            length = self.moments[since - 1][1]
            for number in range(1, length + 1):
                events += mine.take(number, self.entry(number, length))
        for number, length in self.moments[since:]:
            events += mine.take(number, self.entry(number, length))
        return events + mine.close(turn(TurnState.COMPLETED)) + mine.conclude("the end")


def keys(events: list[Event]) -> list[tuple[str, str, str]]:
    return [(event.name, str(event.data.get("step")), str(event.data.get("content"))) for event in events]


@settings(deadline=None)
@given(log=LOGS, cuts=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=3))
def test_a_reader_who_comes_back_gets_everything_once(
    log: list[tuple[str, int | None]], cuts: list[tuple[int, int]]
) -> None:
    host = Host(log)
    whole = host.read(teller())
    assert len(keys(whole)) == len(set(keys(whole)))
    got: list[Event] = []
    after: str | None = None
    for events_taken, since in cuts:
        events = host.read(teller(after), min(since, len(host.moments)))[:events_taken]
        got += events
        after = events[-1].id if events else after
    got += host.read(teller(after), len(host.moments))
    assert sorted(keys(got)) == sorted(keys(whole))
    contents = "".join(str(event.data["content"]) for event in got if event.name == "content_delta")
    assert contents == "".join(str(event.data["content"]) for event in whole if event.name == "content_delta")
    last = teller()
    host.read(last)
    assert contents == last.response
