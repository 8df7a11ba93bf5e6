"""The live log on the wire. What it says and when is settled in tests/following; here it is how."""

import asyncio
import json
import re
from itertools import pairwise
from typing import Any

import pytest

from codegen_api import errors
from codegen_api.dialects.native.wire import EVENTS, LINES, Frames, try_again
from codegen_api.following import Patrol
from codegen_api.gateway import Gateway
from codegen_api.http.sse import parse_position
from tests.dialects.eventsource import Event, parse
from tests.dialects.rich import RichHost
from tests.dialects.site import AUTHORIZED, Connection, serving
from tests.fakehost import FakeHost, caller, in_front_of

STREAM = "/agent-runs/1/logs/stream"


def a_host(status: str = "COMPLETE", length: int = 3) -> RichHost:
    host = RichHost()
    host.add(status=status, result="42").append(length)
    return host


def summary(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.type, event.last_event_id) for event in events]


def lines(body: bytes) -> list[Any]:
    return [json.loads(line) for line in body.splitlines()]


# -- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.mark.wire("stream-head", "stream-first-frame", "stream-events", "stream-log", "end-complete", "answer-json")
async def test_a_finished_run_is_a_status_its_entries_and_an_end() -> None:
    async with serving(a_host()) as site:
        answer = await site.get(STREAM, headers={"Accept-Encoding": "gzip, br"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in answer.headers
    assert "content-length" not in answer.headers
    assert answer.content.startswith(b"retry: 2000\nevent: status\n")
    events = parse(answer.content)
    assert summary(events) == [("status", ""), ("log", "1"), ("log", "2"), ("log", "3"), ("end", "3.end")]
    data = [json.loads(event.data) for event in events]
    assert [entry["position"] for entry in data[1:4]] == [1, 2, 3]
    assert [entry["n"] for entry in data[1:4]] == [1, 2, 3]
    assert data[0]["run_status"] == "completed"
    assert data[-1] == {
        "id": 1, "status": "COMPLETE", "result": "42", "summary": "whole", "run_status": "completed", "ended": True,
        "total_logs": 3,
    }  # fmt: skip


@pytest.mark.wire("ndjson", "stream-head")
@pytest.mark.parametrize(
    "accept", ["application/x-ndjson", "application/jsonl", "text/html, application/x-ndjson;q=0.9"]
)
async def test_the_same_comes_as_lines_for_who_asks_for_lines(accept: str) -> None:
    async with serving(a_host()) as site:
        answer = await site.get(STREAM, headers={"Accept": accept})
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    given = lines(answer.content)
    assert [(line["event"], line["id"]) for line in given] == [
        ("status", None), ("log", "1"), ("log", "2"), ("log", "3"), ("end", "3.end"),
    ]  # fmt: skip
    assert all(set(line) == {"event", "id", "data"} for line in given)
    assert given[-1]["data"]["total_logs"] == 3


@pytest.mark.wire("ndjson-no-204", "end-known")
async def test_there_is_no_204_for_who_reads_lines() -> None:
    async with serving(a_host()) as site:
        headers = {"Last-Event-ID": "3.end"}
        answer = await site.get(STREAM, headers={**headers, "Accept": "application/x-ndjson"})
        assert [line["event"] for line in lines(answer.content)] == ["status", "end"]
        answer = await site.get(STREAM, headers=headers)
        assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.wire("position-sources", "position-names", "position-continues", "end-known")
@pytest.mark.parametrize(
    ("query", "header", "ids"),
    [
        ("", None, ["1", "2", "3", "3.end"]),
        ("?skip=1", None, ["2", "3", "3.end"]),
        ("?last_event_id=2&skip=1", None, ["3", "3.end"]),
        ("?last_event_id=2&skip=1", "3", ["3.end"]),
        ("?last_event_id=2", "", ["3", "3.end"]),
        ("?last_event_id=&skip=2", None, ["3", "3.end"]),
        ("?last_event_id=1.end", None, ["2", "3", "3.end"]),
        ("?skip=3", None, ["3.end"]),
        ("?lastEventId=2", None, ["3", "3.end"]),
        ("?last_event_id=0&lastEventId=2", None, ["3", "3.end"]),
        ("?lastEventId=2&last_event_id=0&skip=1", None, ["3", "3.end"]),
        ("?lastEventId=1&lastEventId=2", None, ["3", "3.end"]),
        ("?lastEventID=2", None, ["3", "3.end"]),
        ("?Last-Event-ID=2&skip=1", None, ["3", "3.end"]),
        ("?lasteventid=2", None, ["3", "3.end"]),
        ("?last_event_id=1&lastEventId=", None, ["2", "3", "3.end"]),
        ("?lastEventId=1", "2", ["3", "3.end"]),
        ("?lastEventId=2.end", None, ["3", "3.end"]),
        ("?xlastEventId=2&lastEventIds=2", None, ["1", "2", "3", "3.end"]),
    ],
)
async def test_a_position_is_taken_from_the_header_else_from_the_url(
    query: str, header: str | None, ids: list[str]
) -> None:
    async with serving(a_host()) as site:
        answer = await site.get(STREAM + query, headers={} if header is None else {"Last-Event-ID": header})
    assert [event.last_event_id for event in parse(answer.content) if event.type in ("log", "end")] == ids


@pytest.mark.wire("position-form")
@pytest.mark.parametrize("text", ["x", "-1", "3.end.end", "9" * 19, "1 2"])
@pytest.mark.parametrize("where", ["header", "last_event_id", "lastEventId"])
async def test_a_position_that_is_none_is_400_and_no_run_is_asked_for(text: str, where: str) -> None:
    host = a_host()
    async with serving(host) as site:
        if where == "header":
            answer = await site.get(STREAM, headers={"Last-Event-ID": text})
        else:
            answer = await site.get(STREAM, params={where: text})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_last_event_id")
    assert set(host.calls) == {"identify"}


@pytest.mark.wire("position-ahead")
async def test_a_position_ahead_of_the_log_is_answered() -> None:
    async with serving(a_host()) as site:
        answer = await site.get(STREAM, headers={"Last-Event-ID": "40"})
    events = parse(answer.content)
    assert summary(events) == [("status", ""), ("resync", "3"), ("end", "3.end")]
    assert json.loads(events[1].data) == {"requested": 40, "log_length": 3}


TROUBLE = [
    (errors.UpstreamError(), 502, "upstream_unavailable"),
    (errors.UpstreamUnreachable(), 502, "upstream_unavailable"),
    (errors.UpstreamTimeout(), 504, "upstream_unavailable"),
    (errors.UpstreamRateLimited(retry_after=20), 429, "rate_limited"),
]


@pytest.mark.wire("trouble-on-connect", "trouble-on-reconnect")
@pytest.mark.parametrize(("error", "status", "notice"), TROUBLE)
async def test_who_reconnects_into_trouble_is_told_to_come_back(
    error: errors.GatewayError, status: int, notice: str
) -> None:
    host = a_host()

    async def fail(operation: str) -> None:
        if operation == "get":
            raise error

    host.before = fail
    async with serving(host, cors_origins="https://a.example") as site:
        answer = await site.get(STREAM)
        assert answer.status_code == status
        answer = await site.get(STREAM, headers={"Last-Event-ID": "2", "Origin": "https://a.example"})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        (event,) = parse(answer.content)
        assert event.type == "notice"
        assert event.last_event_id == ""
        data = json.loads(event.data)
        assert data["code"] == notice
        assert event.retry == pytest.approx(data["retry_in"] * 1000, abs=1)
        assert data["retry_in"] >= (error.retry_after or 1)


@pytest.mark.wire("trouble-on-reconnect", "ndjson")
@pytest.mark.parametrize("query", ["?last_event_id=2", "?skip=0", "?last_event_id=2.end", "?lastEventId=2"])
async def test_a_reconnect_is_known_by_any_position(query: str) -> None:
    host = a_host()

    async def fail(operation: str) -> None:
        if operation == "get":
            raise errors.UpstreamTimeout

    host.before = fail
    async with serving(host) as site:
        (event,) = parse((await site.get(STREAM + query)).content)
        assert json.loads(event.data)["code"] == "upstream_unavailable"
        answer = await site.get(STREAM + query, headers={"Accept": "application/x-ndjson"})
        assert [line["data"]["code"] for line in lines(answer.content)] == ["upstream_unavailable"]


@pytest.mark.wire("trouble-on-reconnect", "auth-outage")
async def test_who_reconnects_while_tokens_cannot_be_checked_is_told_to_come_back() -> None:
    host = a_host()

    async def fail(_: str) -> None:
        raise errors.UpstreamTimeout

    host.before = fail
    async with serving(host) as site:
        assert (await site.get(STREAM)).status_code == 503
        (event,) = parse((await site.get(STREAM, headers={"Last-Event-ID": "2"})).content)
        assert json.loads(event.data)["code"] == "upstream_unavailable"


@pytest.mark.wire("trouble-on-reconnect", "right-asked-first", "org-closed")
@pytest.mark.parametrize(
    ("error", "status"),
    [(errors.InvalidToken(), 401), (errors.Forbidden(), 403), (errors.NotFound(), 404), (errors.Rejected(), 422)],
)
async def test_a_refusal_is_a_refusal_also_for_who_reconnects(error: errors.GatewayError, status: int) -> None:
    host = a_host()

    async def fail(operation: str) -> None:
        if operation == "get":
            raise error

    host.before = fail
    async with serving(host) as site:
        for headers in ({}, {"Last-Event-ID": "2"}):
            answer = await site.get(STREAM, headers=headers)
            assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")


@pytest.mark.wire("drain-refuses", "trouble-on-connect")
async def test_while_draining_new_streams_are_refused_and_old_ones_sent_elsewhere() -> None:
    async with serving(a_host()) as site:
        await site.app.state.parts.gateway.drain(0.01)
        answer = await site.get(STREAM)
        assert (answer.status_code, answer.json()["code"]) == (503, "shutting_down")
        assert int(answer.headers["retry-after"]) >= 1
        (event,) = parse((await site.get(STREAM, headers={"Last-Event-ID": "2"})).content)
        assert event.type == "notice"


@pytest.mark.wire("stream-leaves-nothing", "stream-head")
async def test_the_head_and_the_first_frame_leave_at_once_and_a_viewer_who_leaves_is_gone() -> None:
    host = a_host("ACTIVE", 0)
    async with serving(host, follower_linger_seconds=0.05) as site:
        reading = asyncio.Event()

        async def slow(operation: str) -> None:
            if operation == "log":
                await reading.wait()

        host.before = slow
        connection = Connection(site.app, STREAM, {**AUTHORIZED, "Accept": "text/event-stream"})
        await connection.received(2)
        assert connection.status == 200
        assert connection.body.startswith(b"retry: 2000\nevent: status\n")
        health = (await site.get("/health")).json()
        assert (health["viewers"], health["runs_followed"]) == (1, 1)
        await connection.left()
        await asyncio.sleep(0.2)
        health = (await site.get("/health")).json()
        assert (health["viewers"], health["runs_followed"]) == (0, 0)
        assert not connection.transport.aborted


@pytest.mark.wire("stream-stall")
async def test_a_viewer_whose_connection_takes_nothing_is_cut() -> None:
    host = a_host("ACTIVE", 500)
    async with serving(host, stream_stall_seconds=0.1) as site:
        connection = Connection(site.app, STREAM)
        connection.blocked = asyncio.Event()
        await connection.task
        assert connection.transport.aborted
        assert (await site.get("/health")).json()["viewers"] == 0


# -- in virtual time --------------------------------------------------------------------------------------------------


async def watch(
    gateway: Gateway, writer: Any, seconds: float, position: str = "0"
) -> tuple[bytes, list[tuple[float, bytes]]]:
    """What a viewer is sent in so many seconds, and when."""
    came = parse_position(position)
    stream = await gateway.follow(caller(), "9", "1", came)
    assert stream is not None
    pieces: list[tuple[float, bytes]] = []
    sending = Frames(stream, writer, came.cursor if came.over else None)
    try:
        async with asyncio.timeout(seconds):
            async for piece in sending:
                pieces += [(asyncio.get_running_loop().time(), piece)]
    except TimeoutError:
        pass
    finally:
        await sending.aclose()
    return b"".join(piece for _, piece in pieces), pieces


def gateway_to(host: FakeHost, **patrol: float) -> Gateway:
    return in_front_of(host, patrol=lambda: Patrol(**patrol))


@pytest.mark.wire("stream-heartbeat", "stream-waits", "ndjson")
@pytest.mark.parametrize("status", ["ACTIVE", "PAUSED", "UNHEARD_OF"])
@pytest.mark.virtual_time
async def test_a_silent_stream_gives_a_sign_of_life(status: str) -> None:
    for writer, sign in ((EVENTS, b":\n\n"), (LINES, b'{"event":"heartbeat"}\n')):
        host = FakeHost()
        host.add(status=status)
        gateway = gateway_to(host)
        _, pieces = await watch(gateway, writer, 100)
        beats = [at for at, piece in pieces if piece == sign]
        assert len(beats) == 6
        assert all(14.9 < later - earlier < 15.1 for earlier, later in pairwise(beats))
        await gateway.aclose()


@pytest.mark.wire("stream-age", "stream-events")
@pytest.mark.virtual_time
async def test_an_old_stream_ends_with_a_way_back() -> None:
    host = FakeHost()
    host.add().append(5)
    gateway = gateway_to(host, max_age=60, heartbeat=15)
    body, pieces = await watch(gateway, EVENTS, 1000)
    assert 59.9 < pieces[-1][0] < 60.5
    event = parse(body)[-1]
    data = json.loads(event.data)
    assert (event.type, event.last_event_id) == ("notice", "5")
    assert set(data) == {"code", "retry_in", "last_event_id"}
    assert (data["code"], data["last_event_id"]) == ("reconnect", "5")
    assert event.retry == pytest.approx(data["retry_in"] * 1000)
    assert 1 <= data["retry_in"] <= 2
    body, _ = await watch(gateway, LINES, 1000)
    assert lines(body)[-1]["data"]["code"] == "reconnect"
    assert lines(body)[-1]["id"] is None


@pytest.mark.wire("stream-amended", "stream-ids", "position-amendments", "stream-status", "stream-events")
@pytest.mark.virtual_time
async def test_amendments_carry_the_same_position_and_their_id_says_that_they_are_known() -> None:
    host = FakeHost()
    hosted = host.add(length=3)
    position = hosted.act()
    gateway = gateway_to(host)
    watching = asyncio.create_task(watch(gateway, EVENTS, 1000))
    await asyncio.sleep(5)
    hosted.append(2)
    hosted.amend(position, output="done")
    await asyncio.sleep(5)
    hosted.status = "COMPLETE"
    body, _ = await watching
    events = parse(body)
    assert [event.type for event in events] == [
        "status",
        *["log"] * 4,
        "log.amended",
        "log",
        "log",
        "status",
        "end",
    ]
    amended = json.loads(events[5].data)
    assert (amended["position"], amended["output"]) == (position, "done")
    numbers = [re.split("[-~]", event.last_event_id)[0] for event in events[1:8]]
    assert numbers == ["1", "2", "3", "4", "4", "5", "6"]
    plain = [event.last_event_id for event in events[1:4]]
    assert plain == numbers[:3]  # nothing there is of a kind that changes
    for told in events[5:8]:
        back, _ = await watch(gateway, EVENTS, 1000, position=told.last_event_id)
        assert {event.type for event in parse(back)} <= {"status", "log", "end"}
    for untold in (events[4].last_event_id, "6"):
        back, _ = await watch(gateway, EVENTS, 1000, position=untold)
        assert [event.type for event in parse(back)].count("log.amended") == 1


@pytest.mark.wire("resumed-streams-on", "stream-ids", "end-known")
@pytest.mark.parametrize("writer", [EVENTS, LINES])
@pytest.mark.virtual_time
async def test_a_status_that_takes_an_end_back_moves_the_position_away_from_it(writer: Any) -> None:
    """Or whoever is cut off now is told by the next process that this is still the end, and never comes back."""

    host = FakeHost()
    hosted = host.add(length=3)
    gateway = gateway_to(host)
    body, _ = await watch(gateway, writer, 5, position="3.end")
    (told,) = [line["id"] for line in lines(body)] if writer is LINES else [parse(body)[-1].last_event_id]
    assert told == "3"
    hosted.status = "COMPLETE"
    body, _ = await watch(gateway, writer, 50, position="3")
    assert b"id: 3\n" not in body


@pytest.mark.wire("position-sources", "position-form", "position-headway", "ndjson")
async def test_any_id_is_a_position_in_a_header_and_in_a_url_in_both_forms_of_the_stream() -> None:
    host = a_host(length=0)
    hosted = host.runs["1"]
    hosted.append(2)
    hosted.act()
    hosted.amend(3, output="done")
    hosted.append(2)
    async with serving(host) as site:
        events = [event for event in parse((await site.get(STREAM)).content) if event.type == "log"]
        assert "~" in events[2].last_event_id
        for number, event in enumerate(events, 1):
            last = event.last_event_id
            for headers, params in (({"Last-Event-ID": last}, {}), ({}, {"last_event_id": last})):
                rest = parse((await site.get(STREAM, headers=headers, params=params)).content)
                left = [json.loads(each.data)["position"] for each in rest if each.type == "log"]
                assert left == list(range(number + 1, 6))
                assert "log.amended" not in {each.type for each in rest}
        given = lines((await site.get(STREAM, headers={"Accept": "application/x-ndjson"})).content)
        ids = [line["id"] for line in given if line["event"] == "log"]
        assert ids == [event.last_event_id for event in events]


@pytest.mark.wire("fault-notice", "fault-recovered", "right-revoked")
@pytest.mark.virtual_time
async def test_trouble_is_told_and_a_lost_right_is_a_failure() -> None:
    host = FakeHost()
    host.add().append(2)
    gateway = gateway_to(host)
    faults: list[errors.GatewayError] = []

    async def before(operation: str) -> None:
        if operation == "log" and faults:
            raise faults.pop(0)

    host.before = before
    watching = asyncio.create_task(watch(gateway, EVENTS, 1000))
    await asyncio.sleep(5)
    faults += [errors.UpstreamError(), errors.UpstreamRateLimited(retry_after=20)]
    await asyncio.sleep(60)
    host.barred.add(("alice", "1"))
    body, _ = await watching
    told = [(event.type, json.loads(event.data)) for event in parse(body) if event.type in ("notice", "failure")]
    assert [(kind, data["code"]) for kind, data in told] == [
        ("notice", "upstream_unavailable"),
        ("notice", "rate_limited"),
        ("notice", "recovered"),
        ("failure", "forbidden"),
    ]
    assert told[0][1]["retry_in"] > 0
    assert told[1][1]["retry_in"] >= 20
    assert told[2][1]["retry_in"] is None
    assert told[3][1]["status_code"] == 403
    assert body.endswith(b"\n\n")
    assert gateway.viewers == 0


@pytest.mark.wire("log-replaced")
@pytest.mark.virtual_time
async def test_a_replaced_log_is_announced_with_the_id_from_which_it_goes_on() -> None:
    host = FakeHost()
    hosted = host.add(length=8)
    gateway = gateway_to(host)
    watching = asyncio.create_task(watch(gateway, EVENTS, 1000))
    await asyncio.sleep(5)
    hosted.replace(3)
    await asyncio.sleep(60)
    hosted.status = "COMPLETE"
    body, _ = await watching
    events = parse(body)
    at = [event.type for event in events].index("resync")
    assert events[at].last_event_id == "0"
    assert json.loads(events[at].data) == {"requested": 8, "log_length": 3}
    assert [event.last_event_id for event in events[at + 1 :] if event.type == "log"] == ["1", "2", "3"]


@pytest.mark.virtual_time
async def test_viewers_at_the_same_position_are_sent_the_same_bytes() -> None:
    host = FakeHost()
    host.add().append(50)
    gateway = gateway_to(host)
    first = asyncio.create_task(watch(gateway, EVENTS, 10))
    second = asyncio.create_task(watch(gateway, EVENTS, 10))
    (_, one), (_, other) = await asyncio.gather(first, second)
    shared = [a is b for (_, a), (_, b) in zip(one, other, strict=True) if b"event: log" in a]
    assert shared
    assert all(shared)


@pytest.mark.wire("trouble-on-reconnect")
@pytest.mark.virtual_time
async def test_nobody_is_told_to_come_back_at_the_same_moment() -> None:
    waits = set()
    for _ in range(20):
        (event,) = parse(b"".join([piece async for piece in try_again(errors.UpstreamError(), EVENTS)]))
        waits.add(event.retry)
    assert len(waits) > 10


# -- how many there may be --------------------------------------------------------------------------------------------


@pytest.mark.wire("stream-limits", "trouble-on-connect", "trouble-on-reconnect")
@pytest.mark.parametrize(
    ("limit", "whose", "status", "code"),
    [("streams_per_caller", "alice", 429, "rate_limited"), ("streams_per_process", "bob", 503, "at_capacity")],
)
async def test_one_stream_too_many_is_refused_until_another_ends(
    limit: str, whose: str, status: int, code: str
) -> None:
    async with serving(a_host("ACTIVE"), **{limit: 2}) as site:
        opened = [Connection(site.app, STREAM) for _ in range(2)]
        for connection in opened:
            await connection.received(2)
        answer = await site.get(STREAM, token=whose)
        assert answer.status_code == status
        assert answer.json()["code"] == code
        assert 5 <= int(answer.headers["retry-after"]) <= 10  # not the same for all who are refused together
        (event,) = parse((await site.get(f"{STREAM}?skip=1", token=whose)).content)
        assert event.type == "notice"
        assert event.retry is not None
        assert event.retry >= 5000
        opened[0].leave()
        await opened[0].task
        again = Connection(site.app, STREAM, {"Authorization": f"Bearer {whose}"})
        await again.received(2)
        assert again.status == 200
        for connection in (opened[1], again):
            await connection.left()
        assert site.app.state.parts.gateway._stream_limits.taken == 0


@pytest.mark.wire("stream-limits")
async def test_who_is_at_the_limit_keeps_nobody_else_out_and_can_do_everything_else() -> None:
    async with serving(a_host("ACTIVE"), streams_per_caller=1) as site:
        alice = Connection(site.app, STREAM)
        bob = Connection(site.app, STREAM, {"Authorization": "Bearer bob"})
        for connection in (alice, bob):
            await connection.received(2)
            assert connection.status == 200
        assert (await site.get("/agent-runs/1")).status_code == 200
        site.host.tokens["alice-too"] = site.host.tokens["alice"]
        assert (await site.get(STREAM, token="alice-too")).status_code == 429  # another token, the same user
        for connection in (alice, bob):
            await connection.left()


async def test_a_stream_that_could_not_begin_takes_no_place() -> None:
    async with serving(a_host(), streams_per_caller=1) as site:
        for _ in range(3):
            assert (await site.get("/agent-runs/99/logs/stream")).status_code == 404
        assert (await site.get(STREAM)).status_code == 200
