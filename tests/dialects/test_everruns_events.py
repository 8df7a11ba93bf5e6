"""Ids, messages and events of Everruns' dialect: pure functions."""

import json
import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_api.conversations import RenderCache, TurnChanges, TurnEntry, images_of
from codegen_api.conversations.late_changes import ROOM
from codegen_api.dialects.everruns.events import EventRenderer, SessionEvent, SessionTeller, last_spot, unrendered
from codegen_api.dialects.everruns.families import (
    FLAT,
    MOST_NUMBER,
    MOST_PLACES,
    NESTED,
    OFFSET_BITS,
    START,
    Spot,
    as_uuid,
    event_hex,
    parse_spot,
    stored_id,
)
from codegen_api.dialects.everruns.messages import LAYOUT, NO_OUTPUT_YET, EventSpot, message_fields, parse_content
from codegen_api.dialects.everruns.rendering import (
    FLAT_KINDS,
    NESTED_KINDS,
    OTHER_FLAT_KINDS,
    EventFrame,
    FrameRenderer,
    flat_event_fields,
    nested_event_fields,
    render_event,
)
from codegen_api.dialects.everruns.wire import format_organization, parse_organization
from codegen_api.errors import NotFound, Rejected
from codegen_api.runs import LogEntry, RunRef, Step, StepKind
from codegen_api.stores import Turn, TurnState

SESSION = "6f1d4a58-2c0e-4d53-9a0c-0a3b6d3f7e11"
OTHER = "6f1d4a58-2c0e-4d53-9a0c-0a3b6d3f7e12"
TURN = Turn(
    "0d9f5c66-77c8-4f42-8d43-6b7b0a6f1c01",
    SESSION,
    1_000.0,
    1_010.5,
    TurnState.COMPLETED,
    3,
    messages=({"id": "5b8e1f1e-4b7d-4f0c-9c7e-0f3f1d2b3c4d", "content": [{"type": "text", "text": "Hello"}]},),
    run=RunRef("9", "1"),
    begin=7,
    end=12,
)
SPOTS = st.builds(
    Spot, st.integers(1, (1 << 17) - 1), st.integers(0, (1 << OFFSET_BITS) - 1), st.integers(0, MOST_PLACES - 1)
)


def entry(**fields: Any) -> LogEntry:
    return LogEntry(json.dumps(fields).encode(), "1970-01-01T00:17:00Z", open=False, amendable=False)


def step(each: LogEntry) -> Step:
    fields = json.loads(each.json)
    return Step(**{"raw_kind": "PLAN", "text": "", **fields, "kind": StepKind(fields.get("kind", "thought"))})


LOG = [
    entry(kind="user", text="told to the host"),
    entry(text="a plan"),
    entry(kind="action", text="a look", tool="ls", input={"path": "."}, output={"files": 2}),
    entry(kind="action", tool="run", input="make", output=None, closed=False),
    entry(kind="answer", text="done"),
]


def told(turn: Turn, log: list[LogEntry], *, by: int = 1) -> list[SessionEvent]:
    """What a teller tells when ``by`` entries come at a time."""
    teller = SessionTeller(turn, EventRenderer(step, unrendered))
    came = [TurnEntry(offset, each) for offset, each in enumerate(log, 1)]
    events = list(teller.begin())
    for start in range(0, len(came), by):
        events += teller.take(came[start : start + by])
    return [*events, *teller.over(turn)]


# -- ids --------------------------------------------------------------------------------------------------------------


@given(spot=SPOTS)
def test_every_id_of_an_event_leads_back_in_each_of_its_forms(spot: Spot) -> None:
    bare = event_hex(SESSION, spot)
    for text in (f"event_{bare}", bare, bare.upper(), str(uuid.UUID(bare)), str(spot.number)):
        assert parse_spot(SESSION, text) == spot
    assert parse_spot(OTHER, f"event_{bare}") is None
    assert spot.number < MOST_NUMBER


@given(one=SPOTS, other=SPOTS)
def test_ids_are_in_the_order_of_events(one: Spot, other: Spot) -> None:
    assert (one < other) == (one.number < other.number) == (event_hex(SESSION, one) < event_hex(SESSION, other))


@given(text=st.text(max_size=40) | st.from_regex(r"\A(event_)?[0-9a-f-]{30,38}\Z"))
def test_an_id_that_nobody_has_sent_leads_nowhere(text: str) -> None:
    assert parse_spot(SESSION, text) is None or text.isdecimal()


@pytest.mark.parametrize("number", [MOST_NUMBER, 10**15 * 9 + 8 * 10**15 + 10**15])
def test_a_number_that_no_event_can_have_leads_nowhere(number: int) -> None:
    assert parse_spot(SESSION, str(number)) is None


def test_ids_are_understood_in_the_forms_of_both_families() -> None:
    bare = uuid.UUID(SESSION).hex
    for text in (SESSION, SESSION.upper(), bare, f"session_{bare}", f"session_{SESSION}"):
        assert stored_id(text, "session") == SESSION
    assert (NESTED.id("session", SESSION), FLAT.id("session", SESSION)) == (SESSION, f"session_{bare}")
    for text in (
        "",
        "x",
        f"agent_{bare}",
        f"{bare}0",
        bare[:-1],
        f"session_{bare}\n",
        "..",
        "\N{FULLWIDTH DIGIT ONE}" * 32,
    ):
        with pytest.raises(NotFound, match=r"^Session .*not found$"):
            stored_id(text, "session")


def test_what_has_another_id_gets_one_made_of_it() -> None:
    assert as_uuid(SESSION) == SESSION
    assert as_uuid("m-1") == as_uuid("m-1") != as_uuid("m-2")
    assert uuid.UUID(as_uuid("m-1")).version == 5


@pytest.mark.parametrize(
    ("kept", "shown"),
    [("323", f"org_{'323':0>32}"), ("0", f"org_{'0' * 32}"), ("9" * 32, f"org_{'9' * 32}")],
)
def test_an_organization_s_number_can_be_read_back(kept: str, shown: str) -> None:
    assert format_organization(kept) == shown
    assert parse_organization(shown) == parse_organization(kept) == kept


def test_an_organization_without_a_number_has_an_id_of_that_form_too() -> None:
    shown = format_organization("acme")
    assert shown.startswith("org_")
    assert len(shown) == 36
    assert parse_organization("acme") == "acme"


# -- messages ---------------------------------------------------------------------------------------------------------


def test_what_was_said_is_told_as_messages_in_the_words_of_each_family() -> None:
    messages = [event.message for event in told(TURN, LOG) if event.message is not None]
    flat: list[Any] = [message_fields(FLAT, SESSION, message) for message in messages]
    below = [message_fields(NESTED, SESSION, message) for message in messages]
    assert [each["role"] for each in flat] == ["user", "agent", "agent", "tool_result", "agent", "tool_result", "agent"]
    roles = ["user", "assistant", "assistant", "tool_result", "assistant", "tool_result", "assistant"]
    assert [each["role"] for each in below] == roles
    assert [each["sequence"] for each in flat] == sorted({each["sequence"] for each in flat})
    assert flat[0]["id"] == "message_5b8e1f1e4b7d4f0c9c7e0f3f1d2b3c4d"
    assert below[0]["id"] == "5b8e1f1e-4b7d-4f0c-9c7e-0f3f1d2b3c4d"
    assert [uuid.UUID(str(each["id"])).hex for each in below] == [str(each["id"])[-32:] for each in flat]
    assert flat[1]["content"] == [{"type": "text", "text": "a plan"}]
    assert flat[1]["metadata"] == {"kind": "thought", "host_kind": "PLAN"}
    said, call = flat[2]["content"]
    assert said == {"type": "text", "text": "a look"}
    assert call == {"type": "tool_call", "id": call["id"], "name": "ls", "arguments": {"path": "."}}
    assert flat[3]["content"] == [{"type": "tool_result", "tool_call_id": call["id"], "result": {"files": 2}}]
    (made,) = flat[4]["content"]
    assert made["arguments"] == {"input": "make"}
    missing = {"type": "tool_result", "tool_call_id": made["id"], "result": None, "error": NO_OUTPUT_YET}
    assert flat[5]["content"] == [missing]
    assert {each["created_at"] for each in flat[1:]} == {"1970-01-01T00:17:00.000000Z"}


def test_a_message_of_the_user_in_the_middle_of_a_turn_is_told() -> None:
    log = [LOG[0], entry(kind="user", text="and hurry")]
    messages = [event.message for event in told(TURN, log) if event.message is not None]
    assert [message.role for message in messages] == ["user", "user"]
    assert messages[1].content == [{"type": "text", "text": "and hurry"}]


def test_what_the_log_does_not_tell_of_the_answer_is_a_message_at_the_end() -> None:
    turn = replace(TURN, end=8, answer="42")
    events = told(turn, LOG[:1])
    kinds = [event.kind for event in events]
    assert kinds[-5:] == [
        "output.message.started",
        "output.message.delta",
        "output.message.completed",
        "turn.completed",
        "session.idled",
    ]
    assert events[-3].message is not None
    assert events[-3].message.content == [{"type": "text", "text": "42"}]


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        ([{"type": "text", "text": "Hi"}], [{"type": "text", "text": "Hi"}]),
        (
            [{"type": "image", "base64": "QUJD", "media_type": "image/gif"}],
            [{"type": "image", "url": "data:image/gif;base64,QUJD"}],
        ),
        ([{"type": "image", "base64": "QUJD"}], [{"type": "image", "url": "data:image/png;base64,QUJD"}]),
        (
            [{"type": "image", "url": "data:image/png;base64,QUJD", "more": 1}, {"type": "text", "text": " "}],
            [{"type": "image", "url": "data:image/png;base64,QUJD"}, {"type": "text", "text": " "}],
        ),
    ],
)
def test_what_a_user_says_is_kept_as_the_host_can_be_told(content: list[Any], kept: list[Any]) -> None:
    assert parse_content(content) == kept
    assert images_of({"content": kept}) == tuple(part["url"] for part in kept if part["type"] == "image")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ([{"type": "text", "text": " \n"}], "too_short"),
        ([{"type": "text", "text": 1}], "content_not_supported"),
        ([{"type": "tool_result", "tool_call_id": "1", "result": 1}], "content_not_supported"),
        ([{}], "content_not_supported"),
        ([{"type": "image", "url": "https://example.com/a.png"}], "image_not_inline"),
        ([{"type": "image", "base64": "QUJD", "media_type": "image png"}], "image_not_inline"),
        ([{"type": "image", "base64": 1}], "image_not_inline"),
    ],
)
def test_what_the_host_cannot_be_told_is_refused(content: list[Any], kind: str) -> None:
    with pytest.raises(Rejected) as refused:
        parse_content(content)
    assert refused.value.details[0].type == kind  # type: ignore[union-attr]


def test_an_image_is_shown_as_it_was_sent() -> None:
    kept: Any = [{"type": "image", "url": "data:image/gif;base64,QUJD"}, {"type": "image", "url": "cid:1"}]
    turn = replace(TURN, messages=({"id": "m", "content": kept, "metadata": {"a": 1}},))
    (message, *_) = [event.message for event in told(turn, []) if event.message is not None]
    fields = message_fields(FLAT, SESSION, message)
    shown = [{"type": "image", "base64": "QUJD", "media_type": "image/gif"}, {"type": "image", "url": "cid:1"}]
    assert fields["content"] == shown
    assert fields["metadata"] == {"a": 1}


# -- events -----------------------------------------------------------------------------------------------------------


def test_one_turn_is_told_in_the_documented_order() -> None:
    said = ["output.message.started", "output.message.delta", "output.message.completed"]
    called = ["output.message.started", "output.message.completed", "tool.started", "tool.completed"]
    assert [event.kind for event in told(TURN, LOG)] == [
        "input.message",
        "session.activated",
        "turn.started",
        *said,
        *said,
        *called[2:],
        *called,
        *said,
        "turn.completed",
        "session.idled",
    ]


def test_events_carry_what_clients_look_for() -> None:
    by_kind = {event.kind: flat_event_fields(event) for event in told(TURN, LOG)}
    turn_id = "turn_0d9f5c6677c84f428d436b7b0a6f1c01"
    input_id = "message_5b8e1f1e4b7d4f0c9c7e0f3f1d2b3c4d"
    for fields in by_kind.values():
        assert set(fields) == {"id", "type", "ts", "session_id", "sequence", "context", "data"}
        assert fields["context"]["turn_id"] == turn_id  # type: ignore[index,call-overload]
        assert parse_spot(SESSION, str(fields["id"])) == Spot.of(int(str(fields["sequence"])))
    assert by_kind["turn.started"]["data"] == {"turn_id": turn_id, "input_message_id": input_id}
    assert by_kind["turn.started"]["context"] == {"turn_id": turn_id, "input_message_id": input_id}
    assert by_kind["turn.completed"]["data"] == {"turn_id": turn_id, "iterations": 5, "duration_ms": 10_500}
    completed: Any = by_kind["output.message.completed"]["data"]
    assert completed["message"]["content"] == [{"type": "text", "text": "done"}]
    delta: Any = by_kind["output.message.delta"]["data"]
    assert delta == {
        "turn_id": turn_id,
        "message_id": completed["message"]["id"],
        "delta": "done",
        "accumulated": "done",
    }
    tool: Any = by_kind["tool.completed"]["data"]
    assert (tool["success"], tool["status"], tool["result"], tool["error"]) == (False, "timeout", [], NO_OUTPUT_YET)
    first: Any = next(event.data for event in told(TURN, LOG) if event.kind == "tool.completed")
    assert (first["success"], first["status"], first["tool_name"]) == (True, "success", "ls")
    assert first["result"] == [{"type": "text", "text": '{"files":2}'}]
    started: Any = next(event.data for event in told(TURN, LOG) if event.kind == "tool.started")
    assert started["tool_call"] == {"id": first["tool_call_id"], "name": "ls", "arguments": {"path": "."}}


@pytest.mark.parametrize(
    ("state", "error", "kind", "data"),
    [
        (TurnState.FAILED, "The run ended as ERROR.", "turn.failed", {"error_code": "run_failed"}),
        (TurnState.UNKNOWN, "outcome_unknown", "turn.failed", {"error_code": "outcome_unknown"}),
        (TurnState.CANCELLED, None, "turn.cancelled", {"reason": "The run was stopped."}),
        (TurnState.WAITING, None, "turn.completed", {"iterations": 5}),
    ],
)
def test_the_end_of_a_turn_says_how_it_ended(state: TurnState, error: str | None, kind: str, data: Any) -> None:
    *_, end, idled = told(replace(TURN, state=state, error=error), LOG)
    assert (end.kind, idled.kind) == (kind, "session.idled")
    assert data.items() <= dict(end.data).items()
    assert end.data.get("error") == error


def test_every_type_of_event_that_is_told_can_be_chosen() -> None:
    events = [event for state in TurnState for event in told(replace(TURN, state=state), LOG)]
    assert {event.kind for event in events} == FLAT_KINDS
    assert {fields["event_type"] for fields in map(nested_event_fields, filter(is_message, events))} == set(
        NESTED_KINDS.values()
    )
    assert not FLAT_KINDS & OTHER_FLAT_KINDS


def is_message(event: SessionEvent) -> bool:
    return event.message is not None


def test_of_a_turn_that_the_host_never_began_nothing_is_told() -> None:
    turn = replace(TURN, state=TurnState.FAILED, end=None, run=None)
    assert list(SessionTeller(turn, EventRenderer(step, unrendered)).over(turn)) == []
    assert (NESTED.status(turn), FLAT.status(turn)) == ("pending", "idle")


@given(by=st.integers(1, 6))
def test_the_same_is_told_however_the_log_comes(by: int) -> None:
    events = told(TURN, LOG, by=by)
    assert events == told(TURN, LOG)
    spots = [event.spot for event in events]
    assert spots == sorted(set(spots))
    assert spots[-1] == last_spot(TURN)
    assert min(spots) > START


def test_an_output_that_comes_late_is_told_when_it_comes_and_before_the_next_entry() -> None:
    teller = SessionTeller(TURN, EventRenderer(step, unrendered))
    open_call = entry(kind="action", tool="run", closed=False)
    closed = entry(kind="action", tool="run", output="ok")
    assert [event.kind for event in teller.take([TurnEntry(1, open_call)])][-1] == "tool.started"
    assert [event.kind for event in teller.take([TurnEntry(1, open_call, amended=True)])] == []
    (completed,) = teller.take([TurnEntry(1, closed, amended=True)])
    assert completed.data["result"] == [{"type": "text", "text": "ok"}]
    assert list(teller.take([TurnEntry(1, closed, amended=True)])) == []
    teller = SessionTeller(TURN, EventRenderer(step, unrendered))
    list(teller.take([TurnEntry(1, open_call)]))
    first, *_ = teller.take([TurnEntry(2, LOG[1])])
    assert (first.kind, first.data["status"]) == ("tool.completed", "timeout")
    (again,) = teller.take([TurnEntry(1, closed, amended=True)])
    assert (again.kind, again.data["status"]) == ("tool.completed", "success")
    assert again.spot == Spot(TURN.number, 2, LAYOUT.afterwards + LAYOUT.block - 1)
    assert list(teller.take([TurnEntry(1, closed, amended=True)])) == []


@st.composite
def lives(draw: Any) -> tuple[list[LogEntry], list[list[TurnEntry]]]:
    """A log, and the portions in which it came to somebody who was there from the beginning: outputs late or not, and
    words that were others before.
    """
    log = draw(st.lists(st.sampled_from(LOG), max_size=8))
    portions: list[list[TurnEntry]] = []
    coming: list[int] = []
    for offset, each in enumerate(log, 1):
        fields = json.loads(each.json)
        late = fields.get("kind") != "user" and draw(st.booleans())
        if late and draw(st.booleans()):
            fields["text"] = "something else"
        if late and each is LOG[2] and draw(st.booleans()):
            fields |= {"output": None, "closed": False}
        portions.append([TurnEntry(offset, entry(**fields))])
        coming += [offset] if late else []
        for there in [offset for offset in coming if draw(st.booleans())]:
            portions.append([TurnEntry(there, log[there - 1], amended=True)])
            coming.remove(there)
    return log, [*portions, *([TurnEntry(there, log[there - 1], amended=True)] for there in coming)]


def heard_by(family: Any, events: list[EventFrame]) -> dict[Any, Any]:
    """What a listener has, who puts in its place what was told again."""
    has = {}
    for event in events:
        fields = dict(line.split(": ", 1) for line in event.frame.decode().strip().split("\n"))
        data = json.loads(fields["data"])
        if family is NESTED:
            has[event.kind, data["message_id"]] = data
            continue
        assert data.pop("id") == fields["id"]
        assert data.pop("sequence") == event.spot.number
        body = data["data"]
        about = body.get("tool_call_id") or body.get("message_id") or (body.get("message") or {}).get("id")
        has[event.kind, about or (body.get("tool_call") or {}).get("id")] = data
        if event.kind == "output.message.started":  # from its beginning
            has.pop(("output.message.delta", about), None)
    return has


@given(life=lives(), family=st.sampled_from([FLAT, NESTED]), data=st.data())
def test_at_the_end_all_listeners_have_the_same_whenever_they_came_and_however_often_they_were_cut(
    life: tuple[list[LogEntry], list[list[TurnEntry]]], family: Any, data: Any
) -> None:
    log, portions = life
    turn = replace(TURN, end=TURN.begin + len(log))
    cache = RenderCache(10**6)
    changes = TurnChanges()

    def listening(after: Spot = START) -> tuple[Any, Any]:
        teller = SessionTeller(turn, FrameRenderer(family, step, cache), changes, after)
        return teller, lambda events: [each for each in events if each.frame and each.spot > after]

    so_far = [TurnEntry(n, each) for n, each in enumerate(log, 1)]
    unknown = SessionTeller(turn, FrameRenderer(family, step, cache))
    elsewhere = [each for each in (*unknown.take(so_far), *unknown.over(turn)) if each.frame]

    stays = data.draw(st.booleans(), label="somebody stays")
    steady, frames = listening()
    kept: list[Any] = [*frames(steady.begin())]
    speaker: Any = listening()
    got: list[Any] = [*speaker[1](speaker[0].begin())]
    there: dict[int, LogEntry] = {}
    for portion in portions:
        there.update((came.offset, came.entry) for came in portion)
        kept += frames(steady.take(portion)) if stays else []
        if speaker is None:  # back again, with the last id
            speaker = listening(got[-1].spot)
            pieces = speaker[1](speaker[0].take([TurnEntry(offset, there[offset]) for offset in sorted(there)]))
        else:
            pieces = speaker[1](speaker[0].take(portion))
        seen = data.draw(st.none() | st.integers(0, len(pieces)), label="cut behind")
        got += pieces if seen is None else pieces[:seen]
        speaker = speaker if seen is None else None
    if speaker is None:
        speaker = listening(got[-1].spot)
        got += speaker[1](speaker[0].take([TurnEntry(offset, there[offset]) for offset in sorted(there)]))
    got += speaker[1](speaker[0].over(turn))
    kept += frames(steady.over(turn)) if stays else []
    fresh, frames = listening()
    listed = [*frames(fresh.take(so_far)), *frames(fresh.over(turn))]
    for each in (got, listed, *([kept] if stays else [])):
        spots = [event.spot for event in each]
        assert spots == sorted(set(spots)), "each id once, in order"
        assert heard_by(family, each) == heard_by(family, elsewhere)
    if stays:  # who matches by id what they have heard with a list finds all of it
        others = [[each.spot for each in events if each.kind != "output.message.delta"] for events in (listed, kept)]
        assert others[0] == others[1]


def test_words_that_change_beside_an_output_are_a_message_that_is_said_again() -> None:
    teller = SessionTeller(TURN, EventRenderer(step, unrendered))
    list(teller.take([TurnEntry(offset, each) for offset, each in enumerate(LOG[:4], 1)]))
    fields = json.loads(LOG[2].json)
    events = list(teller.take([TurnEntry(3, entry(**{**fields, "text": "a closer look"}), amended=True)]))
    kinds = ["output.message.started", "output.message.delta", "output.message.completed", "tool.started"]
    assert [event.kind for event in events] == kinds
    assert events[1].data["delta"] == events[1].data["accumulated"] == "a closer look"
    assert {event.spot.offset for event in events} == {4}


@pytest.mark.parametrize("count", [17, ROOM + 5])
def test_however_many_outputs_come_late_at_one_place_each_is_told_again(count: int) -> None:
    turn = replace(TURN, end=TURN.begin + count + 1)
    teller = SessionTeller(turn, EventRenderer(step, unrendered))
    calls = [TurnEntry(n, entry(kind="action", tool="run", closed=False)) for n in range(1, count + 2)]
    late = [TurnEntry(n, entry(kind="action", tool="run", output="late"), amended=True) for n in range(1, count + 1)]
    events = [*teller.take(calls), *(event for came in late for event in teller.take([came])), *teller.over(turn)]
    completed: dict[Any, Any] = {
        event.data["tool_call_id"]: event.data["status"] for event in events if event.kind == "tool.completed"
    }
    assert sorted(completed.values()) == ["success"] * count + ["timeout"]
    spots = [event.spot for event in events]
    assert spots == sorted(set(spots))
    assert LAYOUT.places <= EventSpot.TURN_OVER


def test_a_step_that_says_nothing_is_no_message() -> None:
    assert [event.kind for event in told(TURN, [LOG[0], entry(kind="other")])][3:] == [
        "turn.completed",
        "session.idled",
    ]


# -- as they are written ----------------------------------------------------------------------------------------------


def test_the_older_family_is_told_of_messages_only_and_counts_them() -> None:
    events = told(TURN, LOG)
    frames = [render_event(NESTED, event) for event in events]
    kinds = [each.kind for each in frames if each.frame]
    assert kinds == [
        "message.user",
        "message.assistant",
        "message.assistant",
        "message.tool_result",
        "message.assistant",
        "message.tool_result",
        "message.assistant",
    ]
    shown = next(each for each in frames if each.kind == "message.user").frame.decode()
    assert shown.startswith("event: message.user\ndata: ")
    assert shown.endswith(f"\nid: {events[0].spot.number}\n\n")
    payload = json.loads(shown.splitlines()[1].removeprefix("data: "))
    assert set(payload) == {"message_id", "role", "content", "controls", "metadata", "tags"}
    assert sum(not each.frame for each in frames) == len(events) - len(kinds)
    listed = [nested_event_fields(event) for event in filter(is_message, events)]
    assert [fields["event_type"] for fields in listed] == kinds
    assert set(listed[0]) == {"id", "session_id", "sequence", "event_type", "data", "created_at"}
    assert parse_spot(SESSION, str(listed[0]["id"])) == events[0].spot


def test_an_entry_is_written_once_for_all_who_listen_until_it_changes() -> None:
    asked: list[LogEntry] = []

    def counted(each: LogEntry) -> Step:
        asked.append(each)
        return step(each)

    cache = RenderCache(10**6)
    flat, nested = FrameRenderer(FLAT, counted, cache), FrameRenderer(NESTED, counted, cache)
    first = flat.render_entry(TURN, TurnEntry(2, LOG[1]))
    assert flat.render_entry(TURN, TurnEntry(2, LOG[1])) is first
    assert len(asked) == 1
    assert nested.render_entry(TURN, TurnEntry(2, LOG[1])) is not first
    assert flat.render_entry(TURN, TurnEntry(2, LOG[2])) != first
    assert len(asked) == 3
    huge = TurnEntry(9, entry(text="x" * 200))
    small = FrameRenderer(FLAT, counted, RenderCache(100))
    assert small.render_entry(TURN, huge) == small.render_entry(TURN, huge)
    assert len(asked) == 5
