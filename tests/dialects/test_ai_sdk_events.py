"""The chunks of a turn: whoever joins whenever has the same message at the end."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_api.conversations import TurnChanges, TurnEntry
from codegen_api.dialects.ai_sdk.wire import FOLDED, NEVER, UNFOLDED, ChatEntry, ChatTeller, closed, parts_of
from codegen_api.runs import LogEntry, RunRef, Step, StepKind
from codegen_api.stores import Turn, TurnState
from tests.dialects.ai_sdk import Shown, shown

TURN = Turn("t", "c", 0.0, 0.0, TurnState.RUNNING, run=RunRef("9", "1"))


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


class Reader:
    """One who reads the turn, from when they join."""

    def __init__(self, changes: TurnChanges) -> None:
        self.told = b""
        self._teller = ChatTeller(TURN, step, lambda came: ChatEntry.of(TURN, came, step(came.entry)), changes)

    def join(self, there: Sequence[LogEntry] = ()) -> "Reader":
        self.told += self._teller.begin()
        if there:
            self.take(dict(enumerate(there, 1)))
        self.told += self._teller.begin()
        return self

    def take(self, news: dict[int, LogEntry]) -> None:
        self.told += self._teller.take([TurnEntry(offset, entry) for offset, entry in news.items()])

    def over(self, turn: Turn) -> Shown:
        self.told += self._teller.over(turn)
        return self.message

    @property
    def message(self) -> Shown:
        return shown(self.told.decode())


def over(state: TurnState, length: int, **more: Any) -> Turn:
    return Turn("t", "c", 0.0, 0.0, state, run=RunRef("9", "1"), end=length, **more)


def whole(log: Sequence[LogEntry], turn: Turn) -> list[Any]:
    """The parts of a turn, read when it is over."""
    steps = enumerate(map(step, log), 1)
    return [closed(part, turn) for offset, each in steps for part in parts_of(TURN, offset, each)]


def plain(parts: Any) -> Any:
    return json.loads(json.dumps(parts))


def ordered(parts: Sequence[Any]) -> list[str]:
    return sorted(json.dumps(part, sort_keys=True) for part in parts)


def test_a_thought_that_becomes_a_call_while_the_host_writes_it_is_told_with_what_came_of_it() -> None:
    log = [entry("action", "I look.", tool="look", input={"at": "it"}, output=[1])]
    reader = Reader(TurnChanges()).join()
    reader.take({1: entry("thought", "I lo", is_open=True)})
    reader.take({1: log[0]})
    end = over(TurnState.COMPLETED, 1)
    assert ordered(reader.over(end).parts) == ordered(plain(whole(log, end)))


def test_each_kind_of_entry_is_a_part_of_its_own() -> None:
    log = [
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
    reader = Reader(TurnChanges()).join(log)
    parts = reader.over(over(TurnState.COMPLETED, len(log))).parts
    assert [(part["type"], part.get("text") or part.get("output") or part.get("errorText")) for part in parts] == [
        ("reasoning", "Well."),
        ("reasoning", "I look."),
        ("dynamic-tool", [1]),
        ("dynamic-tool", "It broke."),
        ("data-codegen-entry", None),
        ("data-codegen-entry", None),
        ("data-codegen-entry", None),
        ("text", "Done."),
    ]
    assert [part["data"]["text"] for part in parts[4:7]] == ["I give up.", "Something else.", "And more."]


def test_what_the_host_is_still_writing_is_told_when_it_is_written() -> None:
    reader = Reader(TurnChanges()).join()
    reader.take({1: entry("user", "Go!"), 2: entry("answer", "The fi", is_open=True)})
    assert reader.message.parts == []
    reader.take({2: entry("answer", "The first", is_open=True)})
    assert reader.message.parts == []
    reader.take({2: entry("answer", "The first one.")})
    assert [part["text"] for part in reader.message.parts] == ["The first one."]
    reader.take({3: entry("thought", "Hm", is_open=True)})
    reader.take({4: entry("answer", "The second one.")})
    assert [part["text"] for part in reader.message.parts] == ["The first one.", "Hm", "The second one."]
    reader.take({5: entry("answer", "And the la", is_open=True)})
    assert [part["text"] for part in reader.over(over(TurnState.CANCELLED, 5)).parts][-1] == "And the la"


@pytest.mark.parametrize(
    ("state", "status", "error"),
    [
        (TurnState.COMPLETED, "ready", None),
        (TurnState.WAITING, "ready", None),
        (TurnState.CANCELLED, "ready", None),
        (TurnState.WITHDRAWN, "ready", None),
        (TurnState.FAILED, "error", "It broke down."),
        (TurnState.UNKNOWN, "error", "The host did not answer, and it is not known whether the agent began."),
    ],
)
def test_each_end_is_one_that_every_version_knows(state: TurnState, status: str, error: str | None) -> None:
    message = Reader(TurnChanges()).join().over(over(state, 0, error="It broke down."))
    assert (message.status, message.error) == (status, error)


@pytest.mark.parametrize(
    ("state", "shows"),
    [
        (TurnState.COMPLETED, ("output-available", "")),
        (TurnState.WAITING, ("output-available", "")),
        (TurnState.CANCELLED, ("output-error", NEVER)),
        (TurnState.FAILED, ("output-error", NEVER)),
    ],
)
def test_a_tool_that_has_not_answered_by_the_end_never_will(state: TurnState, shows: tuple[str, str]) -> None:
    log = [entry("user", "Go!"), entry("action"), entry("thought", "Meanwhile.")]
    tool, _ = Reader(TurnChanges()).join(log).over(over(state, 3)).parts[:2]
    assert (tool["state"], tool.get("output", tool.get("errorText"))) == shows


def test_what_the_host_says_beside_its_log_is_told_at_the_end() -> None:
    message = Reader(TurnChanges()).join().over(over(TurnState.COMPLETED, 0, answer="By the way."))
    assert [part["text"] for part in message.parts] == ["By the way."]


@pytest.mark.parametrize("more", [0, 1, FOLDED - 1, FOLDED, 3 * FOLDED + 5])
def test_of_a_long_turn_the_older_entries_come_together(more: int) -> None:
    log = [entry("thought", f"Step {number}.") for number in range(UNFOLDED + more)]
    message = Reader(TurnChanges()).join(log).over(over(TurnState.COMPLETED, len(log)))
    assert len(message.parts) == len(log) - FOLDED * (more // FOLDED) + more // FOLDED
    assert plain(message.unfolded) == plain(whole(log, over(TurnState.COMPLETED, len(log))))
    assert [part["data"]["to"] for part in message.parts if part["type"] == "data-codegen-earlier"] == [
        FOLDED * (page + 1) for page in range(more // FOLDED)
    ]


def test_a_change_of_an_entry_that_came_as_data_is_told() -> None:
    log = [entry("action") for _ in range(UNFOLDED + FOLDED)]
    reader = Reader(TurnChanges()).join(log)
    reader.take({7: entry("action", output="late")})
    message = reader.over(over(TurnState.COMPLETED, len(log)))
    log[6] = entry("action", output="late")
    assert plain(message.unfolded[6]) == plain(whole(log, over(TurnState.COMPLETED, len(log)))[6])


KINDS = st.sampled_from(["thought", "answer", "action", "error", "other"])
WORDS = st.sampled_from(["", "One.", "Two.", "Three."])
NEWS = st.lists(
    st.tuples(st.integers(1, 12), KINDS, WORDS, st.sampled_from([{}, {"output": 1}, {"output": None, "input": [2]}])),
    min_size=1,
    max_size=40,
)


@given(
    NEWS,
    st.sets(st.integers(0, 40), max_size=4),
    st.sampled_from([TurnState.COMPLETED, TurnState.CANCELLED, TurnState.FAILED]),
)
def test_whoever_joins_whenever_has_the_same_at_the_end(news: Any, joins: set[int], state: TurnState) -> None:
    """Entries come in order and change in any; each reader, put right by what it was told has changed, has them all."""
    log: list[LogEntry] = []
    changes = TurnChanges()
    readers = [Reader(changes).join()]
    for number, (wanted, kind, text, more) in enumerate(news):
        if number in joins:
            readers.append(Reader(changes).join(log))
        is_new = wanted > len(log)
        offset = len(log) + 1 if is_new else wanted
        before = {} if is_new else json.loads(log[offset - 1].json)
        # what a tool has answered may change, and is there for good
        made = entry(before.get("kind", kind), text, **({"output": 2} if "output" in before else {}) | more)
        log[offset - 1 : offset] = [made]
        for reader in readers:
            reader.take({offset: made})
    turn = over(state, len(log))
    for reader in readers:
        message = reader.over(turn)
        assert message.status is not None
        assert ordered(message.unfolded) == ordered(whole(log, turn))
