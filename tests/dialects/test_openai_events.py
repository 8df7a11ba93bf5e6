"""The events of a response: whoever joins whenever, behind whatever number, has the same at the end."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_api.conversations import ReaderAhead, TurnChanges, TurnEntry
from codegen_api.dialects.openai.events import STRIDE, ResponseTeller
from codegen_api.dialects.openai.items import Item, ResponseEntry, last_items, settled, turn_of_item
from codegen_api.dialects.openai.wire import last_event, response_fields
from codegen_api.runs import LogEntry, RunRef, Step, StepKind, WaitReason, to_json
from codegen_api.stores import Turn, TurnState
from codegen_api.upstreams import PendingRequest
from tests.dialects.openai import Seen, events_of

TURN = Turn("t", "c", 0.0, 0.0, TurnState.RUNNING, run=RunRef("9", "1"))
QUESTION = PendingRequest("q1", WaitReason.QUESTION, "Left or right?")


def entry(kind: str, text: str = "", *, is_open: bool = False, **more: Any) -> LogEntry:
    fields = {"kind": kind, "text": text, **more}
    is_open = is_open or (kind == "action" and "output" not in more)
    return LogEntry(json.dumps(fields).encode(), None, open=is_open, amendable=True)


def step(entry: LogEntry) -> Step:
    fields = json.loads(entry.json)
    tool = fields.get("tool", "look" if fields["kind"] == "action" else None)
    is_closed = fields["kind"] != "action" or "output" in fields
    return Step(
        StepKind(fields["kind"]), "NOTE", fields["text"], tool, fields.get("input"), fields.get("output"), is_closed
    )


def rendered(came: TurnEntry) -> ResponseEntry:
    return ResponseEntry.of(TURN, came, step(came.entry))


def items_of(log: Sequence[LogEntry]) -> list[Item]:
    return [item for offset, each in enumerate(log, 1) for item in rendered(TurnEntry(offset, each)).items]


def over(state: TurnState, length: int, **more: Any) -> Turn:
    return Turn("t", "c", 0.0, 0.0, state, run=RunRef("9", "1"), end=length, **more)


class Reader:
    """One who reads the response, from when they join."""

    def __init__(self, changes: TurnChanges | None = None, after: int = -1) -> None:
        self.changes = changes or TurnChanges()
        self.seen = Seen(after)
        self.told: list[Any] = []
        self._teller = ResponseTeller(TURN, rendered, self.changes, after)

    def _take(self, told: bytes) -> None:
        events = events_of(told.decode())
        self.told += events
        self.seen.take(events)

    def join(self, there: Sequence[LogEntry] = ()) -> "Reader":
        self._take(self._teller.begin())
        if there:
            self.take(dict(enumerate(there, 1)))
        self._take(self._teller.begin())
        return self

    def leave(self) -> None:
        """And come back at once, behind what was told."""
        self._teller = ResponseTeller(TURN, rendered, self.changes, self.seen.number)

    def take(self, news: dict[int, LogEntry]) -> None:
        self._take(self._teller.take([TurnEntry(offset, entry) for offset, entry in news.items()]))

    def over(self, turn: Turn, log: Sequence[LogEntry], *pending: PendingRequest) -> Any:
        self._take(self._teller.over(turn, pending))
        if self._teller.ended is not None:
            output = [*map(settled, items_of(log)), *last_items(turn, pending)]
            response = to_json(response_fields(turn, turn.state, output, pending))
            self._take(last_event(self._teller.number, turn.state, response))
        return self.seen.response


ALL = [
    entry("user", "Go!"),
    entry("thought", "Well."),
    entry("action", "I look.", tool="look", input={"at": "it"}, output=[1]),
    entry("error", "It broke.", tool="edit", output=None),
    entry("error", "I give up."),
    entry("other", "Something else."),
    entry("other"),
    entry("user", "And more."),
    entry("answer", "Done."),
]


def test_each_kind_of_entry_is_an_item_of_its_own() -> None:
    response = Reader().join(ALL).over(over(TurnState.COMPLETED, len(ALL)), ALL)
    assert [
        (item["type"], item.get("output") or item.get("error") or [part["text"] for part in item[field]])
        for item in response["output"]
        for field in ["content" if item["type"] == "message" else "summary"]
    ] == [
        ("reasoning", ["Well."]),
        ("reasoning", ["I look."]),
        ("mcp_call", "[1]"),
        ("mcp_call", {"type": "mcp_tool_execution_error", "content": "It broke."}),
        ("reasoning", ["I give up."]),
        ("reasoning", ["Something else."]),
        ("reasoning", ["And more."]),
        ("message", ["Done."]),
    ]
    assert {turn_of_item(item["id"]) for item in response["output"]} == {TURN.id}
    assert [item["arguments"] for item in response["output"] if item["type"] == "mcp_call"] == ['{"at":"it"}', "{}"]


def test_the_events_of_each_item_come_in_their_order() -> None:
    reader = Reader().join(ALL)
    reader.over(over(TurnState.COMPLETED, len(ALL)), ALL)
    assert [event["type"].removeprefix("response.") for event in reader.told if event["sequence_number"] < 5 * STRIDE][
        2:
    ] == [
        *(
            "output_item.added",
            "reasoning_summary_part.added",
            "reasoning_summary_text.delta",
            "reasoning_summary_text.done",
            "reasoning_summary_part.done",
            "output_item.done",
        )
        * 2,
        *("output_item.added", "mcp_call.in_progress", "mcp_call_arguments.done"),
        *("mcp_call.completed", "output_item.done"),
        *("output_item.added", "mcp_call.in_progress", "mcp_call_arguments.done"),
        *("mcp_call.failed", "output_item.done"),
    ]
    assert [
        event["type"].removeprefix("response.") for event in reader.told if event["sequence_number"] >= 9 * STRIDE
    ] == [
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done"),
        *("output_item.done", "completed"),
    ]


def test_a_reader_behind_any_number_gets_exactly_what_is_behind_it() -> None:
    turn = over(TurnState.WAITING, len(ALL), answer="That is it.")
    first = Reader().join(ALL)
    first.over(turn, ALL, QUESTION)
    last = first.seen.number
    for number in range(last + 1):
        reader = Reader(after=number).join(ALL)
        reader.over(turn, ALL, QUESTION)
        assert reader.told == [event for event in first.told if event["sequence_number"] > number], number
    with pytest.raises(ReaderAhead):
        Reader(after=last + 1).join(ALL).over(turn, ALL, QUESTION)


def test_what_the_host_is_still_writing_is_told_when_it_is_written() -> None:
    reader = Reader().join()
    reader.take({1: entry("user", "Go!"), 2: entry("answer", "The fi", is_open=True)})
    assert not reader.seen.items
    reader.take({2: entry("answer", "The first", is_open=True)})
    assert not reader.seen.items
    reader.take({2: entry("answer", "The first one.")})
    assert reader.seen.items[0]["content"][0]["text"] == "The first one."
    reader.take({3: entry("thought", "Hm", is_open=True)})
    reader.take({4: entry("action", tool="look")})
    assert [item["type"] for item in reader.seen.items.values()] == ["message", "reasoning", "mcp_call"]
    assert reader.seen.done == {0, 1}


def test_a_tool_is_told_at_once_and_its_output_when_it_is_there() -> None:
    reader = Reader().join()
    reader.take({1: entry("action", "I look.", tool="look", input={"at": "it"})})
    assert (reader.seen.items[1]["status"], reader.seen.items[1]["output"]) == ("in_progress", None)
    reader.take({1: entry("action", "I look.", tool="look", input={"at": "it"}, output="A cat.")})
    assert (reader.seen.items[1]["status"], reader.seen.items[1]["output"]) == ("completed", "A cat.")
    assert reader.told[-2]["type"] == "response.mcp_call.completed"


@pytest.mark.parametrize("output", [{"output": "A cat."}, {}], ids=["with an output", "without one"])
def test_a_thought_that_becomes_a_call_while_the_host_writes_it_is_a_call_that_is_done(output: dict[str, Any]) -> None:
    log = [entry("action", "I look.", tool="look", input={"at": "it"}, **output), entry("answer", "Done.")]
    reader = Reader().join()
    reader.take({1: entry("thought", "I lo", is_open=True)})
    reader.take({1: log[0]})
    reader.take({2: log[1]})
    response = reader.over(over(TurnState.COMPLETED, 2), log)
    assert [reader.seen.items[index] for index in sorted(reader.seen.items)] == response["output"]
    assert reader.seen.done == {0, 1, 2}


def test_a_thought_that_becomes_a_call_is_done_as_soon_as_its_output_is_there() -> None:
    log = [entry("action", tool="look", output="A cat.")]
    reader = Reader().join()
    reader.take({1: entry("thought", "I lo", is_open=True)})
    reader.take({1: entry("action", tool="look")})
    assert (reader.seen.items[0]["status"], reader.seen.done) == ("in_progress", set())
    reader.take({1: log[0]})
    assert (reader.seen.items[0]["output"], reader.seen.done) == ("A cat.", {0})
    reader.over(over(TurnState.COMPLETED, 1), log)
    assert sum(event["type"] == "response.output_item.done" for event in reader.told) == 1


def test_an_output_that_is_late_is_in_the_last_event_and_no_item_is_done_twice() -> None:
    reader = Reader().join()
    log = [entry("action", tool="look"), entry("thought", "On I go.")]
    reader.take(dict(enumerate(log, 1)))
    assert reader.seen.items[0]["status"] == "incomplete"
    assert "mcp_call" not in reader.told[5]["type"]
    log[0] = entry("action", tool="look", output="Late.")
    reader.take({1: log[0]})
    assert reader.seen.items[0]["output"] is None
    response = reader.over(over(TurnState.COMPLETED, 2), log)
    assert (response["output"][0]["status"], response["output"][0]["output"]) == ("completed", "Late.")


def test_a_text_that_changes_when_it_was_told_is_in_the_last_event_as_it_is_then() -> None:
    reader = Reader().join()
    log = [entry("answer", "The first one.")]
    reader.take({1: log[0]})
    log[0] = entry("answer", "The second one.")
    reader.take({1: log[0]})
    response = reader.over(over(TurnState.COMPLETED, 1), log)
    assert response["output"][0]["content"][0]["text"] == "The second one."
    assert sum(event["type"] == "response.output_item.done" for event in reader.told) == 1


@pytest.mark.parametrize(
    ("state", "event", "status"),
    [
        (TurnState.COMPLETED, "completed", "completed"),
        (TurnState.WAITING, "completed", "completed"),
        (TurnState.FAILED, "failed", "failed"),
        (TurnState.UNKNOWN, "failed", "failed"),
        (TurnState.CANCELLED, "incomplete", "cancelled"),
        (TurnState.WITHDRAWN, "incomplete", "cancelled"),
    ],
)
def test_how_it_ended_is_in_the_last_event(state: TurnState, event: str, status: str) -> None:
    log = [entry("action", tool="look")]
    reader = Reader().join(log)
    response = reader.over(over(state, 1), log)
    assert reader.told[-1]["type"] == f"response.{event}"
    assert response["status"] == status
    assert (response["error"] is not None) == (status == "failed")
    assert response["output"][0]["status"] == reader.seen.items[0]["status"] == "incomplete"


def test_what_the_agent_asks_is_a_message_and_how_to_answer_is_in_the_metadata() -> None:
    approval = PendingRequest("a1", WaitReason.APPROVAL, "May I?", "shell", {"command": "ls"})
    response = Reader().join().over(over(TurnState.WAITING, 0), [], QUESTION, approval)
    assert [item["content"][0]["text"] for item in response["output"]] == ["Left or right?", "May I?"]
    assert response["metadata"]["codegen_status"] == "waiting"
    assert [each["id"] for each in json.loads(response["metadata"]["codegen_pending"])] == ["q1", "a1"]


KINDS = st.sampled_from(["thought", "answer", "action", "error", "other"])
NEWS = st.lists(
    st.tuples(
        st.integers(1, 12),
        KINDS,
        st.sampled_from(["One.", "Two.", "Three."]),
        st.booleans(),
        st.sampled_from([{}, {"output": 1}, {"output": None, "input": [2]}]),
    ),
    min_size=1,
    max_size=40,
)


@given(
    NEWS,
    st.sets(st.integers(0, 40), max_size=4),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 4)), max_size=12),
    st.sampled_from([TurnState.COMPLETED, TurnState.CANCELLED, TurnState.FAILED]),
)
def test_whoever_joins_whenever_has_the_same_at_the_end(
    news: Any, joins: set[int], leaves: list[tuple[int, int]], state: TurnState
) -> None:
    """Entries come in order and change in any; readers leave, and come back behind what they have: each has every item
    once, at its place, and in the end all of them as they are.
    """
    log: list[LogEntry] = []
    told: set[int] = set()
    changes = TurnChanges()
    readers = [Reader(changes).join()]
    for number, (wanted, kind, text, is_open, more) in enumerate(news):
        if number in joins:
            readers.append(Reader(changes).join(log))
        for when, who in leaves:
            if when == number and who < len(readers):
                readers[who].leave()
                readers[who].join(log)
        is_new = wanted > len(log)
        offset = len(log) + 1 if is_new else wanted
        before = {} if is_new else json.loads(log[offset - 1].json)
        # what a tool has answered may change, and is there for good
        was_told = offset in told or offset < len(log) or before.get("kind") != "thought"
        now = kind if kind == "action" and not was_told else before.get("kind", kind)
        if not is_open:
            told.add(offset)
        made = entry(now, text, is_open=is_open, **({"output": 2} if "output" in before else {}) | more)
        log[offset - 1 : offset] = [made]
        for reader in readers:
            reader.take({offset: made})
    turn = over(state, len(log))
    for reader in readers:
        response = reader.over(turn, log)
        assert response["output"] == json.loads(to_json([*map(settled, items_of(log))]))
        ids = [item["id"] for item in response["output"]]
        assert [reader.seen.items[index]["id"] for index in sorted(reader.seen.items)] == ids
        assert reader.seen.done == set(range(len(ids)))
