"""The events of a turn are a function of its log: live or again, from the start or from any id, they are the same."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_api.conversations import RenderCache, TurnChanges, TurnEntry, late_changes
from codegen_api.conversations.late_changes import ROOM
from codegen_api.dialects.agent_protocol.events import END, FINAL_STATE, MODES, ThreadTeller, position
from codegen_api.dialects.agent_protocol.rendering import (
    LAYOUT,
    STRIDE,
    EntryRenderer,
    EventPlace,
    event_number,
)
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


def teller(modes: Sequence[str], after: int = 0, changes: Any = None) -> ThreadTeller:
    wording = EntryRenderer(TURN, frozenset(modes), HOST.step, RenderCache(10**6))
    return ThreadTeller(wording, after=after, changes=changes)


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
            TurnEntry(offset, open_form(log[offset - 1]) if offset in late else log[offset - 1])
            for offset in range(start + 1, stop + 1)
        ]
        pieces.append(speaker.take(portion))
        pieces.append(speaker.take([TurnEntry(o, log[o - 1], amended=True) for o in late if start < o <= stop]))
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
    final = ("values", event_number(len(log) + 1, FINAL_STATE))  # what was late may only stand there

    def told_of(events: Sequence[Event]) -> list[tuple[str, int]]:
        """What was told once, whether or not an answer was missing in a state."""
        kept = [(name, n - n % 2 if name == "values" else n) for name, n, _ in events if not is_again(n)]
        return [each for each in kept if each != final]

    assert told_of(live) == told_of(again)
    for each in (live, again):
        numbers = [n for _, n, _ in each]
        assert numbers == sorted(set(numbers)), "each id once, in order"
    assert again[0][0] == "metadata"
    assert again[-1][0] == "end"
    if "values" in modes:  # whatever was late, in the end everybody has the same
        assert states(live)[-1] == states(again)[-1]


def is_again(n: int) -> bool:
    """Whether this is the number of something that is told again."""
    return LAYOUT.meanwhile <= n % STRIDE < LAYOUT.closed or n % STRIDE >= LAYOUT.afterwards


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
        next(n for name, n, _ in events[::-1] if name == "values" and n < event_number(3, 0))
        for events in (live, again)
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
    final = [
        each for each in rest if each[:2] == ("values", event_number(len(log) + 1, FINAL_STATE)) and each not in whole
    ]
    if final:  # behind another event nobody knows what was in the state before it
        assert any(one.amendable for one in log)
        assert modes != {"values"}
        rest.remove(final[0])
    if seen == len(whole):  # who asks for the end again is told of it
        seen -= 1
    assert whole[:seen] + rest == whole


def held(events: Sequence[Event]) -> dict[Any, Any]:
    """What a client has, who puts in its place what is told again."""
    has: dict[Any, Any] = {}

    def have(mode: str, kind: str, data: Any) -> None:
        match kind:
            case "custom":
                has[mode, data["position"]] = data
            case "messages/metadata":
                has.update({(mode, "metadata", key): value for key, value in data.items()})
            case "messages/partial" | "messages/complete":
                has.update({(mode, message["id"]): message for message in data})
            case "messages" if data[0]["type"] == "remove":
                for part in ("content", "calls"):
                    has.pop((mode, part, data[0]["id"]), None)
            case "messages":
                message, _ = data
                before = has.get((mode, "content", message["id"]), "") if message["type"] == "AIMessageChunk" else ""
                has[mode, "content", message["id"]] = before + message["content"]
                calls = has.get((mode, "calls", message["id"]), [])
                has[mode, "calls", message["id"]] = [*calls, *message.get("tool_call_chunks", [])]
            case "updates":
                for node, update in data.items():
                    has.update({(mode, node, message["id"]): message for message in update["messages"]})
            case "tasks" | "task" | "task_result":
                has[mode, data["id"], "result" in data] = data
            case "checkpoints" | "checkpoint":
                has[mode, data["config"]["configurable"]["checkpoint_id"]] = data
            case "debug":
                have(mode, data["type"], data["payload"])
            case _:
                has[mode, kind] = data

    for name, _, data in events:
        have("debug" if name == "debug" else "", name, data)
    return has


@st.composite
def lives(draw: Any) -> tuple[list[LogEntry], list[list[TurnEntry]]]:
    """A log, and the portions in which it came to somebody who was there from the beginning: outputs late or not, and
    words or outputs that were others before, or missing.
    """
    log: list[LogEntry] = draw(logs())
    portions: list[list[TurnEntry]] = []
    coming: list[int] = []
    for offset, one in enumerate(log, 1):
        late = draw(st.booleans())
        portions.append([TurnEntry(offset, draw(st.sampled_from(earlier_forms(one))) if late else one)])
        coming += [offset] if late else []
        for there in [each for each in coming if draw(st.booleans())]:
            right = TurnEntry(there, log[there - 1], amended=True)
            wrong = TurnEntry(there, draw(st.sampled_from(earlier_forms(log[there - 1]))), amended=True)
            portions.append([wrong, right] if draw(st.booleans()) else [right])
            coming.remove(there)
    return log, [*portions, *([TurnEntry(there, log[there - 1], amended=True)] for there in coming)]


def earlier_forms(one: LogEntry) -> list[LogEntry]:
    fields = json.loads(one.json)
    n, kind = fields.pop("n"), fields.pop("type")
    if kind == "ACTION":
        wrong = entry(n, kind, **{**fields, "output": "wrong"})
        other = entry(n, kind, **{**fields, "text": "a thought", "input": {}})
        return [open_form(one), wrong, other, open_form(other)]
    return [one] if one.said or not fields.get("text") else [entry(n, kind, text=""), entry(n, kind, text="wrong")]


@given(life=lives(), modes=MODE_SETS, data=st.data())
def test_at_the_end_all_readers_have_the_same_whenever_they_came_and_however_often_they_were_cut(
    life: tuple[list[LogEntry], list[list[TurnEntry]]], modes: set[str], data: Any
) -> None:
    log, portions = life
    end = replace(TURN, state=TurnState.COMPLETED, end=7 + len(log))
    changes, wanted = TurnChanges(), sorted(modes)
    steady = teller(wanted, changes=changes)
    got: list[list[Event]] = [[], []]  # one stays all the time, perhaps, and one is cut
    stays = data.draw(st.booleans(), label="somebody stays")
    there: dict[int, LogEntry] = {}
    speaker: ThreadTeller | None = teller(wanted, changes=changes)
    got[0] += parsed([steady.begin()])
    got[1] += parsed([teller(wanted, changes=changes).begin()])
    for portion in portions:
        there.update((came.offset, came.entry) for came in portion)
        if stays:
            got[0] += parsed([steady.take(portion)])
        if speaker is None:  # back again, with the last id
            speaker = teller(wanted, got[1][-1][1], changes)
            so_far = [TurnEntry(offset, there[offset]) for offset in sorted(there)]
            pieces = parsed([speaker.begin(), speaker.take(so_far)])
        else:
            pieces = parsed([speaker.take(portion)])
        # who leaves between two outputs of the same action has one of them
        cuts = st.none() if len(portion) > 1 else st.none() | st.integers(0, len(pieces))
        seen = data.draw(cuts, label="cut behind")
        got[1] += pieces if seen is None else pieces[:seen]
        speaker = speaker if seen is None else None
    if speaker is None:
        speaker = teller(wanted, got[1][-1][1], changes)
        got[1] += parsed(
            [speaker.begin(), speaker.take([TurnEntry(offset, there[offset]) for offset in sorted(there)])]
        )
    got[1] += parsed([speaker.over(end)])
    expected = held(told(log, wanted))
    assert held(got[1]) == expected
    fresh = teller(wanted, changes=changes)
    came = [TurnEntry(offset, one) for offset, one in enumerate(log, 1)]
    listed = parsed([fresh.begin(), fresh.take(came), fresh.over(end)])
    assert held(listed) == expected
    if stays:
        got[0] += parsed([steady.over(end)])
        assert held(got[0]) == expected
    assert not any(is_again(n) for _, n, _ in listed), "who had nothing is told nothing again"
    for events in (*got, listed):
        numbers = [n for _, n, _ in events]
        assert numbers == sorted(set(numbers)), "each id once, in order"


def test_a_late_output_is_told_again_under_an_id_of_its_own_to_who_lacks_it() -> None:
    changes = TurnChanges()
    speaker = teller(["custom"], changes=changes)
    waiting, done = entry(1, "ACTION", tool="run", output=None), entry(1, "ACTION", tool="run", output="late")
    pieces = [speaker.begin(), speaker.take([TurnEntry(1, waiting), TurnEntry(2, entry(2, text="x"))])]
    pieces += [speaker.take([TurnEntry(1, done, amended=True)]), speaker.take([TurnEntry(3, entry(3, text="y"))])]
    custom = [(data["position"], data.get("output"), n) for name, n, data in parsed(pieces) if name == "custom"]
    late = event_number(2, EventPlace.CUSTOM) + LAYOUT.afterwards
    assert custom == [
        (1, None, event_number(1, EventPlace.CUSTOM)),
        (2, None, event_number(2, EventPlace.CUSTOM)),
        (1, "late", late),
        (3, None, event_number(3, EventPlace.CUSTOM)),
    ]
    log = [done, entry(2, text="x"), entry(3, text="y")]
    for after, rest in (
        (custom[1][2], custom[2:]),
        (late, custom[3:]),
        (0, [(1, "late", custom[0][2]), custom[1], custom[3]]),
    ):
        back = teller(["custom"], after, changes)
        again = parsed([back.begin(), back.take([TurnEntry(offset, one) for offset, one in enumerate(log, 1)])])
        assert [(data["position"], data.get("output"), n) for name, n, data in again if name == "custom"] == rest


@pytest.mark.parametrize(("room", "count"), [(ROOM, 17), (ROOM, ROOM + 5), (200, 405)])
def test_however_many_outputs_come_late_at_one_place_each_is_told_again(
    room: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those for which there is no room wait for the next entry, or for the end."""
    monkeypatch.setattr(late_changes, "ROOM", room)
    changes = TurnChanges()
    speaker = teller(["custom"], changes=changes)
    calls = [TurnEntry(n, entry(n, "ACTION", tool="run")) for n in range(1, count + 2)]
    late = [TurnEntry(n, entry(n, "ACTION", tool="run", output="late"), amended=True) for n in range(1, count + 1)]
    pieces = [speaker.begin(), speaker.take(calls), *(speaker.take([came]) for came in late)]
    waiting = count - sum(data.get("output") == "late" for name, _, data in parsed(pieces) if name == "custom")
    assert waiting == max(0, count - room)
    pieces.append(speaker.take([TurnEntry(count + 2, entry(count + 2, text="x"))]))
    pieces.append(speaker.over(replace(TURN, state=TurnState.COMPLETED, end=7 + count + 2)))
    events = parsed(pieces)
    has = {data["position"]: data.get("output") for name, _, data in events if name == "custom"}
    assert [n for n in range(1, count + 1) if has[n] != "late"] == []
    numbers = [n for _, n, _ in events]
    assert numbers == sorted(set(numbers))
    cut = next(index for index, (_, n, _) in enumerate(events) if is_again(n)) + 7
    back = teller(["custom"], events[cut][1], changes)
    now = [*late, calls[-1], TurnEntry(count + 2, entry(count + 2, text="x"))]
    rest = [back.begin(), back.take(now), back.over(replace(TURN, state=TurnState.COMPLETED, end=7 + count + 2))]
    assert parsed(rest) == events[cut + 1 :]


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
    assert [name for name, *_ in parsed([speaker.take([TurnEntry(1, entry(1, "ACTION", tool="run"))])])] == ["updates"]
    done = entry(1, "ACTION", tool="run", output={"exit": 0})
    (event,) = parsed([speaker.take([TurnEntry(1, done, amended=True)])])
    assert event[2]["tools"]["messages"][0]["content"] == '{"exit":0}'
    assert parsed([speaker.take([TurnEntry(1, done, amended=True)])]) == []


def test_a_late_output_is_in_the_last_state_and_its_message_goes_out_again() -> None:
    speaker = teller(["values", "messages-tuple"])
    pieces = [
        speaker.begin(),
        speaker.take([TurnEntry(1, entry(1, "ACTION", tool="run")), TurnEntry(2, entry(2, text="x"))]),
    ]
    pieces.append(speaker.take([TurnEntry(1, entry(1, "ACTION", tool="run", output="late"), amended=True)]))
    pieces.append(speaker.over(replace(TURN, state=TurnState.COMPLETED, end=9)))
    events = parsed(pieces)
    answers = [data[0]["content"] for name, _, data in events if name == "messages" and data[0]["type"] == "tool"]
    assert answers == ["", "late"]
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
        assert events[-1] == ("end", event_number(1, END), {"status": words})
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
    assert event_number(0, max(EventPlace)) + 1 < LAYOUT.afterwards
    assert LAYOUT.afterwards + LAYOUT.block * ROOM <= event_number(1, 0) == STRIDE
    assert event_number(0, EventPlace.TOOL_METADATA) >= LAYOUT.meanwhile + LAYOUT.block * ROOM
    assert event_number(0, FINAL_STATE) > LAYOUT.meanwhile + LAYOUT.block * ROOM


def test_words_that_change_beside_an_output_are_told_again_in_the_words_of_each_mode() -> None:
    was, now = entry(1, "ACTION", tool="run", text="a thought", output="x"), "another thought"
    speaker = teller(["messages", "messages-tuple", "updates", "tasks"])
    speaker.begin()
    speaker.take([TurnEntry(1, was), TurnEntry(2, entry(2, text="y"))])
    altered = entry(1, "ACTION", tool="run", text=now, output="x")
    events = parsed([speaker.take([TurnEntry(1, altered, amended=True)])])
    told_again = [(name, data) for name, _, data in events]
    assert [name for name, _ in told_again] == [
        "tasks",
        "messages/metadata",
        "messages/partial",
        "messages",
        "messages",
        "updates",
        "tasks",
        "tasks",
    ]
    ((message,), (gone, _), (piece, _), update, result) = (data for _, data in told_again[2:7])
    assert (gone["type"], gone["id"], gone["content"]) == ("remove", piece["id"], "")
    said = (message, piece, *update["agent"]["messages"], *result["result"]["messages"])
    assert [each["content"] for each in said] == [now] * 4
    assert parsed([speaker.take([TurnEntry(1, altered, amended=True)])]) == []
