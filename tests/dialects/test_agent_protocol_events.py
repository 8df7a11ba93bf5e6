"""The events of a turn are a function of its log: live or again, from the start or from any id, they are the same."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_api.conversations import Came
from codegen_api.dialects.agent_protocol.events import FINAL_STATE, MODES, Teller, position
from codegen_api.dialects.agent_protocol.wording import PLACES, Place, Wordings, number
from codegen_api.runs import LogEntry, RunRef
from codegen_api.stores import Turn, TurnState
from tests.fakehost import FakeHost

TURN = Turn(
    "t1",
    "c1",
    0.0,
    0.0,
    state=TurnState.RUNNING,
    messages=({"id": "m1", "content": [{"type": "text", "text": "Say hello"}]},),
    run=RunRef("9", "1"),
    begin=7,
)
HOST = FakeHost()
Event = tuple[str, int, Any]


def entry(number: int, kind: str = "NOTE", **more: Any) -> LogEntry:
    fields = {"n": number, "type": kind, **more}
    action = kind == "ACTION"
    said = more.get("prompt")
    return LogEntry(json.dumps(fields).encode(), None, action and more.get("output") is None, action, said)


def parsed(pieces: Sequence[bytes]) -> list[Event]:
    events = []
    for block in b"".join(pieces).decode().split("\n\n")[:-1]:
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        n = int(lines["id"].removeprefix("t1_event_"))
        events.append((lines["event"], n, json.loads(lines["data"])))
    return events


def teller(modes: Sequence[str], after: int = 0) -> Teller:
    wanted = frozenset(modes)
    wording = Wordings(HOST.step, max_bytes=10**6).of(TURN, wanted, {"run_id": "t1"})
    return Teller(TURN, wording, modes=wanted, after=after)


def told(
    log: Sequence[LogEntry],
    modes: Sequence[str],
    *,
    after: int = 0,
    cuts: Sequence[int] = (),
    late: Sequence[int] = (),
    over: Turn | None = None,
) -> list[Event]:
    """The events of ``log``, which comes in portions cut at ``cuts``; outputs of the entries in ``late`` come later."""
    speaker = teller(modes, after)
    pieces = [speaker.begin()]
    start = 0
    for stop in [*sorted({cut for cut in cuts if 0 < cut < len(log)}), len(log)]:
        portion = [
            Came(offset, open_form(log[offset - 1]) if offset in late else log[offset - 1])
            for offset in range(start + 1, stop + 1)
        ]
        pieces.append(speaker.take(portion))
        pieces.append(speaker.take([Came(o, log[o - 1], amended=True) for o in late if start < o <= stop]))
        start = stop
    pieces.append(speaker.over(over or replace(TURN, state=TurnState.COMPLETED, end=7 + len(log))))
    return parsed(pieces)


def open_form(one: LogEntry) -> LogEntry:
    fields = json.loads(one.json)
    return entry(fields["n"], fields["type"], **{k: v for k, v in fields.items() if k not in ("n", "type", "output")})


KINDS = st.sampled_from(["NOTE", "ACTION", "ANSWER", "SILENT", "USER"])


@st.composite
def logs(draw: Any) -> list[LogEntry]:
    made = []
    for n, kind in enumerate(draw(st.lists(KINDS, max_size=8)), 1):
        if kind == "ACTION":
            output = draw(st.sampled_from([None, {"done": n}, "text"]))
            done = {} if output is None else {"output": output}
            made.append(entry(n, "ACTION", tool="run", input={"n": n}, **done))
        elif kind == "USER" or n == 1:
            made.append(entry(n, "NOTE", prompt=f"say {n}"))
        else:
            made.append(entry(n, "NOTE" if kind == "SILENT" else kind, text="" if kind == "SILENT" else f"word {n}"))
    return made


MODE_SETS = st.sets(st.sampled_from(MODES), min_size=1)


@given(log=logs(), modes=MODE_SETS, cuts=st.lists(st.integers(0, 8)), data=st.data())
def test_whenever_entries_come_the_events_and_their_ids_are_the_same(
    log: list[LogEntry], modes: set[str], cuts: list[int], data: Any
) -> None:
    actions = [o for o, one in enumerate(log, 1) if one.amendable and not one.open]
    late = data.draw(st.lists(st.sampled_from(actions), unique=True) if actions else st.just([]))
    again = told(log, sorted(modes))
    live = told(log, sorted(modes), cuts=cuts, late=late)
    final = ("values", number(len(log) + 1, FINAL_STATE))  # what was late may only stand there

    def told_of(events: Sequence[Event]) -> list[tuple[str, int]]:
        """What was told, whether or not an answer was missing in a state."""
        kept = [(name, n - n % 2 if name == "values" else n) for name, n, _ in events]
        return [each for each in kept if each != final]

    assert told_of(live) == told_of(again)
    for each in (live, again):
        numbers = [n for _, n, _ in each]
        assert numbers == sorted(set(numbers)), "each id once, in order"
    assert again[0][0] == "metadata"
    assert again[-1][0] == "end"
    if "values" in modes:  # whatever was late, in the end everybody has the same
        assert states(live)[-1] == states(again)[-1]


def states(events: Sequence[Event]) -> list[Any]:
    return [data for name, _, data in events if name == "values"]


@given(log=logs(), cuts=st.lists(st.integers(0, 8)), data=st.data())
def test_each_state_has_news(log: list[LogEntry], cuts: list[int], data: Any) -> None:
    """However entries come, and behind whatever event a reader comes back who misses no change."""
    actions = [o for o, one in enumerate(log, 1) if one.amendable and not one.open]
    late = data.draw(st.lists(st.sampled_from(actions), unique=True) if actions else st.just([]))
    told_states = states(told(log, ["values"], cuts=cuts, late=late))
    assert all(one != other for one, other in pairwise(told_states))


def test_who_comes_back_behind_a_state_gets_it_again_only_when_an_answer_was_missing_in_it() -> None:
    log = [entry(1, "ACTION", tool="run", output="late"), entry(2, text="x")]
    live, again = told(log, ["values"], late=[1]), told(log, ["values"])
    assert states(live)[-1] == states(again)[-1] != states(live)[-2]  # who was here all the time gets it at the end
    without, whole = (
        next(n for name, n, _ in events[::-1] if name == "values" and n < number(3, 0)) for events in (live, again)
    )
    assert whole == without + 1
    assert states(told(log, ["values"], after=without)) == [states(again)[-1]]
    assert states(told(log, ["values"], after=whole)) == []


@given(log=logs(), modes=MODE_SETS, data=st.data())
def test_from_any_id_on_a_reader_gets_just_what_is_missing(log: list[LogEntry], modes: set[str], data: Any) -> None:
    whole = told(log, sorted(modes))
    seen = data.draw(st.integers(0, len(whole)))
    after = whole[seen - 1][1] if seen else 0
    rest = told(log, sorted(modes), after=after)
    final = [each for each in rest if each[:2] == ("values", number(len(log) + 1, FINAL_STATE)) and each not in whole]
    if final:  # behind another event nobody knows what was in the state before it
        assert any(one.amendable for one in log)
        assert modes != {"values"}
        rest.remove(final[0])
    assert whole[:seen] + rest == whole


def test_an_action_is_answered_before_anything_of_the_next_entry() -> None:
    log = [entry(1, prompt="Say hello"), entry(2, "ACTION", tool="run", input={}), entry(3, text="next")]
    events = told(log, ["messages-tuple"])
    shown = [(name, data[0]["type"], data[0]["content"]) for name, _, data in events[1:-1]]
    assert shown == [
        ("messages", "AIMessageChunk", ""),
        ("messages", "tool", ""),
        ("messages", "AIMessageChunk", "next"),
    ]


def test_an_open_action_waits_for_its_output_and_then_answers_at_once() -> None:
    speaker = teller(["updates"])
    speaker.begin()
    assert [name for name, *_ in parsed([speaker.take([Came(1, entry(1, "ACTION", tool="run"))])])] == ["updates"]
    done = entry(1, "ACTION", tool="run", output={"exit": 0})
    (event,) = parsed([speaker.take([Came(1, done, amended=True)])])
    assert event[2]["tools"]["messages"][0]["content"] == '{"exit":0}'
    assert parsed([speaker.take([Came(1, done, amended=True)])]) == []


def test_a_late_output_is_in_the_last_state_though_its_message_went_out_without() -> None:
    speaker = teller(["values", "messages-tuple"])
    pieces = [speaker.begin(), speaker.take([Came(1, entry(1, "ACTION", tool="run")), Came(2, entry(2, text="x"))])]
    pieces.append(speaker.take([Came(1, entry(1, "ACTION", tool="run", output="late"), amended=True)]))
    pieces.append(speaker.over(replace(TURN, state=TurnState.COMPLETED, end=9)))
    events = parsed(pieces)
    assert sum(data[0]["type"] == "tool" for name, _, data in events if name == "messages") == 1
    final = events[-2][2]["messages"]
    assert [message["content"] for message in final if message["type"] == "tool"] == ["late"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("t1_event_0", 0),
        ("t1_event_37", 37),
        ("t2_event_37", 0),
        ("t1_event_", 0),
        ("t1_event_x", 0),
        ("t1_event_\u0663", 0),
        ("-1", 0),
        ("0", 0),
        ("", 0),
        (None, 0),
        ("t1_event_" + "9" * 30, 0),
    ],
)
def test_a_position_is_a_number_of_this_run_or_none(text: str | None, found: int) -> None:
    assert position(TURN, text) == found


def test_the_end_tells_how_it_was_and_never_has_empty_data() -> None:
    for state, words in (
        (TurnState.COMPLETED, "success"),
        (TurnState.FAILED, "error"),
        (TurnState.UNKNOWN, "error"),
        (TurnState.CANCELLED, "interrupted"),
        (TurnState.WAITING, "interrupted"),
    ):
        events = told([], ["values"], over=replace(TURN, state=state, end=7))
        assert events[-1] == ("end", number(1, 15), {"status": words})
        assert ("error" in [name for name, *_ in events]) is (words == "error")
        assert any("__interrupt__" in data for name, _, data in events if name == "values") is (
            state is TurnState.WAITING
        )


def test_an_answer_that_only_the_host_s_result_tells_comes_last() -> None:
    over = replace(TURN, state=TurnState.COMPLETED, end=7, answer="There was nothing to do.")
    events = told([], ["values", "messages", "messages-tuple", "updates"], over=over)
    assert [name for name, *_ in events] == [
        "metadata",
        "values",
        "messages/metadata",
        "messages/partial",
        "messages",
        "updates",
        "values",
        "end",
    ]
    assert events[-2][2]["messages"][-1]["content"] == "There was nothing to do."


def test_whole_states_of_a_long_log_cost_no_square_of_it() -> None:
    log = [entry(n, text="word") for n in range(1, 3501)]
    events = told(log, ["values"])
    states = [len(data["messages"]) for name, _, data in events if name == "values"]
    assert states[:100] == list(range(1, 2)) + list(range(2, 101))
    assert sum(states) < 10_000 + 16 * 3500 + 2 * 3501
    assert states[-1] == 3501


def test_debug_tells_what_tasks_and_checkpoints_tell() -> None:
    log = [entry(1, "ACTION", tool="run", output="x")]
    alone = told(log, ["debug"])
    kinds = [data["type"] for name, _, data in alone if name == "debug"]
    assert kinds == ["checkpoint", "task", "task_result", "task", "task_result", "checkpoint"]
    beside = told(log, ["debug", "tasks", "checkpoints"])
    assert [data for name, _, data in beside if name == "debug"] == [data for name, _, data in alone if name == "debug"]
    payloads = [data["payload"] for name, _, data in alone if name == "debug"]
    assert [data for name, _, data in beside if name in ("tasks", "checkpoints")] == payloads


def test_places_fit_between_two_entries() -> None:
    assert number(0, max(Place)) + 1 < number(1, 0) == PLACES
