"""The events of a run: the same live and again, and each once for a reader who comes back."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegen_api.conversations import TurnChanges, TurnEntry
from codegen_api.dialects.agio.events import BETWEEN, MOST_RANGES, NEVER, EventPosition, RunEvent, RunTeller
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


def teller(after: str | None = None) -> RunTeller:
    return RunTeller("r", step, EventPosition() if after is None else EventPosition.of(after))


def take(mine: RunTeller, number: int, entry: LogEntry) -> list[RunEvent]:
    return mine.take([TurnEntry(number, entry)])


def brief(events: list[RunEvent]) -> list[tuple[str, Any, str | None]]:
    """Name, the most telling field, and the id."""
    told = ("content", "result", "arguments", "query")
    return [(e.name, next((e.data[name] for name in told if name in e.data), None), e.id) for e in events]


def test_a_run_is_told_from_its_beginning() -> None:
    mine = teller()
    assert brief(mine.begin("s", "Hello!")) == [("run_started", "Hello!", "0")]
    assert take(mine, 1, entry("user", "These are your instructions: ...")) == []
    assert brief(take(mine, 2, entry("thought", "Well."))) == [("content_delta", "Well.", "11")]
    action = entry("action", "I look.", tool="look", input={"at": "it"}, output=[1])
    assert brief(take(mine, 3, action)) == [
        ("content_delta", BETWEEN + "I look.", "16"),
        ("tool_call_started", '{"at":"it"}', "17-3"),
        ("tool_call_completed", "[1]", "18"),
    ]
    assert brief(take(mine, 4, entry("answer", "Done."))) == [("content_delta", BETWEEN + "Done.", "21")]
    assert brief(mine.close(turn(TurnState.COMPLETED))) == []
    assert brief(mine.conclude("By the way.")) == [("content_delta", BETWEEN + "By the way.", "24")]
    assert mine.response == "Well.\n\nI look.\n\nDone.\n\nBy the way."
    assert (mine.steps, mine.calls) == (4, 1)


def test_a_call_is_told_with_all_that_is_known_of_it() -> None:
    started, completed = take(teller(), 1, entry("action", tool="look", output="seen", at=7))
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
    assert brief(take(mine, 1, entry("action", tool="slow"))) == [("tool_call_started", "{}", "7-1")]
    assert take(mine, 1, entry("action", tool="slow")) == []
    assert brief(take(mine, 2, entry("thought", "Meanwhile."))) == [("content_delta", "Meanwhile.", "11-1")]
    assert brief(take(mine, 1, entry("action", tool="slow", output="at last"))) == [
        ("tool_call_completed", "at last", "11~2.1")
    ]
    assert brief(take(mine, 1, entry("action", tool="slow", output="again"))) == [
        ("tool_call_completed", "again", "11~2.3")
    ]
    assert take(mine, 1, entry("action", tool="slow", output="again")) == []


def test_an_error_of_a_tool_is_a_call_that_failed_and_any_other_is_said() -> None:
    mine = teller()
    failed = take(mine, 1, entry("error", "It broke.", tool="edit"))
    assert brief(failed) == [("tool_call_started", "{}", "7-1"), ("tool_call_failed", "It broke.", "8")]
    assert failed[1].data["is_success"] is False
    assert brief(take(mine, 2, entry("error", "I give up."))) == [("content_delta", "I give up.", "11")]
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
    take(mine, 1, entry("action", tool="slow"))
    assert brief(mine.close(turn(state))) == [(name, result, "8")]
    assert mine.close(turn(state)) == []


@pytest.mark.parametrize("apart", [1, 2])
def test_however_many_calls_go_on_at_a_time_each_gets_its_answer(apart: int) -> None:
    """The positions of readers name them by ranges."""
    count, changes = 5 * MOST_RANGES, TurnChanges()
    log = [
        entry("action", tool="slow") if number % apart == 0 else entry("action", tool="fast", output="now")
        for number in range(1, count + 1)
    ]
    answered = [entry("action", tool="slow", output="late") if each.json == log[-1].json else each for each in log]
    mine = teller()
    mine.begin_turn(changes)
    events = mine.take([TurnEntry(number, each) for number, each in enumerate(log, 1)])
    assert len(EventPosition.of(str(events[-1].id)).open) == (1 if apart == 1 else MOST_RANGES)
    for number, each in enumerate(answered, 1):
        events += take(mine, number, each)
    assert results(events) == {n: "late" if n % apart == 0 else "now" for n in range(1, count + 1)}
    # who comes back, be it to another process, gets all answers
    for known in (changes, None):
        for index in (0, 3, len(log), len(log) + 7):
            back = teller(events[index].id)
            back.begin_turn(known)
            rest = back.take([TurnEntry(number, each) for number, each in enumerate(answered, 1)])
            assert results([*events[: index + 1], *rest]) == results(events)


def test_who_is_cut_while_they_are_told_what_came_meanwhile_still_waits_for_what_comes_behind_it() -> None:
    log = [entry("action", tool="slow"), entry("action", tool="slow", output="late"), entry("action", tool="slow")]
    back = teller("17-1.3")
    (answered,) = back.take([TurnEntry(number, each) for number, each in enumerate(log, 1)])
    assert answered.id is not None
    assert [EventPosition.of(answered.id).awaits(step) for step in (1, 2, 3)] == [True, False, True]


def results(events: list[RunEvent]) -> dict[Any, Any]:
    return {event.data["step"]: event.data["result"] for event in events if "result" in event.data}


def test_seconds_are_those_of_the_host() -> None:
    mine = teller()
    assert mine.seconds is None
    for number, at in enumerate((1, 3, 8), 1):
        take(mine, number, entry("thought", "Well.", at))
    assert mine.seconds == 7.0
    take(mine, 4, LogEntry(b'{"kind": "thought", "text": ""}', None, False, False))
    assert mine.seconds == 7.0


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1-", "1-x", "1.5", "1" * 19, "\u0661", "1" + "-1" * 30, "1~2", "1-1.", "1-1.x"]
)
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(InvalidCursor):
        EventPosition.of(text)


@pytest.mark.parametrize("text", ["0", "17-3", "17-3-1", "17-3.9-1~4.2", "123456789012345678"])
def test_a_position_comes_back_as_it_was(text: str) -> None:
    assert str(EventPosition.of(text)) == text


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
        output: dict[str, Any] = {"output": f"out {number}"} if filled is not None and filled <= length else {}
        return entry("action", "" if "silent" in kind else f"<{number}>", tool="t", **output)

    def read(self, mine: RunTeller, since: int = 0) -> list[RunEvent]:
        """What is there at moment ``since``, and then each that comes."""
        events = mine.begin("s", "q")
        if since:
            length = self.moments[since - 1][1]
            for number in range(1, length + 1):
                events += take(mine, number, self.entry(number, length))
        for number, length in self.moments[since:]:
            events += take(mine, number, self.entry(number, length))
        return events + mine.close(turn(TurnState.COMPLETED)) + mine.conclude("the end")


def keys(events: list[RunEvent]) -> list[tuple[str, str, str]]:
    return [(event.name, str(event.data.get("step")), str(event.data.get("content"))) for event in events]


@settings(deadline=None)
@given(log=LOGS, cuts=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=3))
def test_a_reader_who_comes_back_gets_everything_once(
    log: list[tuple[str, int | None]], cuts: list[tuple[int, int]]
) -> None:
    host = Host(log)
    whole = host.read(teller())
    assert len(keys(whole)) == len(set(keys(whole)))
    got: list[RunEvent] = []
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


@st.composite
def lives(draw: Any) -> tuple[list[LogEntry], list[list[TurnEntry]]]:
    """A log, and the portions in which it came to somebody who was there from the beginning: words and outputs late, or
    others before.
    """
    log: list[LogEntry] = []
    portions: list[list[TurnEntry]] = []
    coming: list[int] = []
    for offset, kind in enumerate(draw(st.lists(KINDS, min_size=1, max_size=8)), 1):
        number = offset
        fields: dict[str, Any] = {"text": "" if "silent" in kind else f"<{offset}>"}
        if "action" in kind or kind == "failure":
            fields |= {"tool": "t", "input": {"n": offset}}
        if "action" in kind and draw(st.booleans()):
            fields["output"] = f"out {offset}"
        kind = {"silent action": "action", "failure": "error"}.get(kind, kind)  # noqa: PLW2901
        log.append(entry(kind, **fields))
        before = dict(fields)
        if kind != "user" and draw(st.booleans()):
            coming.append(number)
            before |= draw(
                st.sampled_from([{}, {"text": "other"}, {"text": ""}, {"input": "other"} if "tool" in fields else {}])
            )
            before.pop("output", None)
            before |= (
                draw(st.sampled_from([{}, {"output": "other"}])) if kind == "action" and "output" in fields else {}
            )
        portions.append([TurnEntry(offset, entry(kind, **before))])
        for there in [each for each in coming if draw(st.booleans())]:
            portions.append([TurnEntry(there, log[there - 1], amended=True)])
            coming.remove(there)
    return log, [*portions, *([TurnEntry(there, log[there - 1], amended=True)] for there in coming)]


def held(events: list[RunEvent]) -> dict[Any, Any]:
    """What a client has who puts what is told again in its place, but for the empty line behind what was said first."""
    has: dict[Any, Any] = {}
    for event in events:
        what = "answer" if "result" in event.data else event.name
        content = str(event.data.get("content", "")).strip()
        has[what, event.data.get("step"), content == "the end"] = (event.name, {**event.data, "content": content})
    return {key: data for key, data in has.items() if key[0] != "content_delta" or data[1]["content"]}


@settings(deadline=None)
@given(life=lives(), data=st.data())
def test_at_the_end_all_readers_have_the_same_whenever_they_came_and_however_often_they_were_cut(
    life: tuple[list[LogEntry], list[list[TurnEntry]]], data: Any
) -> None:
    log, portions = life
    changes, over = TurnChanges(), turn(TurnState.COMPLETED)

    def reading(after: str | None = None) -> RunTeller:
        mine = teller(after)
        mine.begin_turn(changes)
        return mine

    def ended(mine: RunTeller) -> list[RunEvent]:
        return mine.close(over) + mine.conclude("the end")

    steady = reading()
    got: list[list[RunEvent]] = [[], []]  # one stays all the time, and one is cut
    speaker: RunTeller | None = reading()
    got[0] += steady.begin("s", "q")
    got[1] += reading().begin("s", "q")
    there: dict[int, LogEntry] = {}
    for portion in [*portions, []]:
        there.update((came.offset, came.entry) for came in portion)
        got[0] += steady.take(portion)
        news = portion
        if speaker is None:
            speaker, news = reading(got[1][-1].id), [TurnEntry(offset, there[offset]) for offset in sorted(there)]
        told = speaker.take(news)
        seen = data.draw(st.none() | st.integers(0, len(told)), label="cut behind") if portion else None
        got[1] += told if seen is None else told[:seen]
        speaker = speaker if seen is None else None
    got[0] += ended(steady)
    speaker = speaker or reading(got[1][-1].id)
    while True:  # and at the end, too
        told = [*speaker.take([TurnEntry(n, each) for n, each in enumerate(log, 1)]), *ended(speaker)]
        seen = data.draw(st.sampled_from([None, 1, 2]), label="cut behind") if told else None
        got[1] += told[:seen]
        if seen is None:
            break
        speaker = reading(got[1][-1].id)
    fresh = reading()
    listed = [*fresh.begin("s", "q"), *fresh.take([TurnEntry(n, each) for n, each in enumerate(log, 1)]), *ended(fresh)]
    assert len(keys(listed)) == len(set(keys(listed))), "who had nothing is told nothing again"
    for events in got:
        assert held(events) == held(listed)
    assert steady.response == speaker.response == fresh.response
    assert steady.calls == speaker.calls == fresh.calls
