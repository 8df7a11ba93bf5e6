"""A host that fails: before a stream, in the middle of one, and for plain requests."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.end_to_end import processes
from tests.end_to_end.conftest import BRISK
from tests.end_to_end.processes import BOB, Sandbox, Server, entry
from tests.end_to_end.viewing import Viewer

READ_TIMEOUT = 0.5

Fault = tuple[str, dict[str, Any], int, str, str]

FAULTS: list[Fault] = [
    # kind, how it is armed, status and code of an ordinary answer, code of a notice
    ("429", {"retry_after": 1}, 429, "upstream_rate_limited", "rate_limited"),
    ("500", {}, 502, "upstream_error", "upstream_unavailable"),
    ("html", {}, 502, "upstream_error", "upstream_unavailable"),
    ("503_html", {}, 502, "upstream_error", "upstream_unavailable"),
    ("reset", {}, 502, "upstream_unreachable", "upstream_unavailable"),
    ("half_body", {}, 502, "upstream_error", "upstream_unavailable"),
    ("hang", {}, 504, "upstream_timeout", "upstream_unavailable"),
    ("empty", {}, 502, "upstream_error", "upstream_unavailable"),
]
PATIENT: Fault = ("429", {}, 429, "upstream_rate_limited", "rate_limited")
"""A 429 that does not say how long: the gateway waits ten seconds."""


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Sandbox, Server]]:
    settings = {**BRISK, "upstream_read_timeout_seconds": READ_TIMEOUT}
    with processes.sandbox() as host, processes.gateway(host, **settings) as server:
        yield host, server


async def suffer(host: Sandbox, viewer: Viewer, faults: list[Fault]) -> None:
    """A stream through one fault after the other; after each the log goes on."""
    token = viewer.token
    watching = asyncio.create_task(viewer.watch(60))
    notices = 0
    try:
        await viewer.until("log")
        for number, (kind, more, _, _, code) in enumerate(faults, 1):
            await asyncio.to_thread(host.fault, kind, "logs", token, times=1, **more)
            await asyncio.to_thread(host.append, viewer.run, f"written while there was {kind}")
            if kind != "half_body":  # what is cut off is asked for again in smaller pieces, at once
                notices += 2
                notice = await viewer.until("notice", notices - 1)
                assert notice.data["code"] == code, kind
                assert notice.data["retry_in"] > 0
                recovered = await viewer.until("notice", notices)
                assert recovered.data["code"] == "recovered", kind
                if code == "rate_limited":  # else it may be there again sooner, as somebody else's read shows
                    assert recovered.at - notice.at >= min(notice.data["retry_in"], 10) - 0.2, kind
            await viewer.until("log", number + 1)
        await asyncio.to_thread(host.patch, viewer.run, status="COMPLETE")
        await watching
    finally:
        watching.cancel()
    assert viewer.entries == await asyncio.to_thread(host.log, viewer.run)
    assert len(viewer.of("end")) == 1
    assert not viewer.of("resync")


@pytest.mark.wire("fault-notice", "fault-recovered")
async def test_a_stream_lives_through_each_fault_of_the_host_and_loses_nothing(pair: tuple[Sandbox, Server]) -> None:
    host, server = pair
    host.heal()

    alice = Viewer(server.url, host.seed(entries=[entry("the first of them")]))
    bob = Viewer(server.url, host.seed(entries=[entry("the first of them")]), token="sandbox-bob")
    await asyncio.gather(suffer(host, alice, FAULTS), suffer(host, bob, [PATIENT]))


@pytest.mark.wire("json-always-valid", "host-fields-kept", "entry-position")
async def test_a_stream_takes_odd_json_as_it_comes(pair: tuple[Sandbox, Server]) -> None:
    host, server = pair
    host.heal()

    viewer = Viewer(server.url, host.seed(entries=[entry(f"entry {number}") for number in range(1, 7)]))
    watching = asyncio.create_task(viewer.watch())
    await viewer.until("log", 6)
    await asyncio.to_thread(host.fault, "odd_json", "logs", times=2)
    await asyncio.to_thread(host.append, viewer.run, *(f"entry {number}" for number in range(7, 21)))
    await viewer.until("log", 20)
    await asyncio.to_thread(host.heal)
    await asyncio.to_thread(host.patch, viewer.run, status="COMPLETE")
    await watching
    assert viewer.entries == await asyncio.to_thread(host.log, viewer.run)
    assert len(viewer.of("end")) == 1
    assert not viewer.of("notice") + viewer.of("failure") + viewer.of("resync")


@pytest.mark.wire("no-foreign-cookies")
def test_a_cookie_of_the_host_goes_neither_on_nor_back(pair: tuple[Sandbox, Server]) -> None:
    host, server = pair
    host.heal()
    host.forget_requests()
    host.fault("cookie", value="somebody-elses")

    async def main() -> None:
        viewer = Viewer(server.url, await asyncio.to_thread(host.create, "quick"))
        await viewer.watch()
        assert viewer.connection is not None
        assert "set-cookie" not in viewer.connection.headers
        assert not viewer.notices()
        assert len(viewer.of("end")) == 1

    asyncio.run(main())
    for path in ("/users/me", "/organizations", "/agent-runs", "/agent-runs/12345", "/agent-runs/12345/logs"):
        for _ in range(2):
            answer = server.get(path)
            assert answer.status_code == 200
            assert "set-cookie" not in answer.headers
            assert "somebody-elses" not in answer.text
    assert host.admin("GET", "requests")["with_cookie"] == 0
    assert host.requests("logs") > 2


PLAIN = [
    ("get", "GET", "/agent-runs/{run}"),
    ("logs", "GET", "/agent-runs/{run}/logs"),
    ("list", "GET", "/agent-runs"),
    ("organizations", "GET", "/organizations"),
    ("create", "POST", "/agent-runs"),
    ("get", "GET", "/agent-runs/{run}/logs/stream"),
]
TOKENS = ["sandbox-alice", "sandbox-bob"]


def check_refused(answer: httpx.Response, fault: Fault) -> None:
    kind, more, status, code, _ = fault
    where = (kind, answer.request.method, answer.url.path, answer.text)
    assert answer.headers["content-type"] == "application/json", where
    assert "<" not in answer.text, where
    body = answer.json()
    assert (answer.status_code, body["status_code"], body["code"]) == (status, status, code), where
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["error"]
    if status == 429:
        assert int(answer.headers["retry-after"]) == body["retry_after"] == more.get("retry_after", 10)


@pytest.mark.wire(
    "error-shape",
    "error-from-host",
    "error-host-failed",
    "error-host-sentence",
    "error-host-unreachable",
    "error-retry-after",
    "writes-once",
    "trouble-on-connect",
    "reads-retried",
)
def test_each_fault_before_a_stream_and_on_plain_requests_is_the_documented_error(
    pair: tuple[Sandbox, Server],
) -> None:
    host, server = pair
    host.heal()

    def ask(token: str, run: int, method: str, path: str) -> httpx.Response:
        body = {"prompt": "Mend the fence"} if method == "POST" else None
        headers = {"Authorization": f"Bearer {token}"}
        return server.request(method, path.format(run=run), json=body, headers=headers)

    def suffer_all(token: str, faults: list[Fault]) -> None:
        for fault in faults:
            run = host.seed(entries=[entry("the first of them")])
            # of these, what is cut off or takes too long is asked for again in smaller pieces, until they come
            in_pieces = ("logs", "list", "organizations") if fault[0] in ("half_body", "hang") else ()
            plain = [each for each in PLAIN if each[0] not in in_pieces]
            for operation, method, _ in plain:  # as often as it will be asked for, no more and no less
                asked = 3 if fault[2] == 502 and method == "GET" else 1
                host.fault(fault[0], operation, token, times=asked, **fault[1])
            with ThreadPoolExecutor(len(PLAIN)) as pool:
                for answer in pool.map(lambda each, run=run: ask(token, run, *each[1:]), plain):
                    check_refused(answer, fault)
            assert token.removeprefix("sandbox-") not in str(host.admin("GET", "faults")), fault[0]

    for token in TOKENS:
        assert ask(token, 12345, "GET", "/organizations").status_code == 200  # the token is known now
    with ThreadPoolExecutor(len(TOKENS)) as lanes:
        list(lanes.map(suffer_all, TOKENS, [FAULTS[0::2], [*FAULTS[1::2], PATIENT]]))
    assert " ERROR " not in server.log.read_text(), "what can be expected is no fault of ours"


@pytest.mark.wire("trouble-on-reconnect", "ndjson")
async def test_a_reconnect_that_meets_a_fault_is_told_to_come_back(pair: tuple[Sandbox, Server]) -> None:
    host, server = pair
    host.heal()

    async def as_events(run: int, token: str, fault: Fault) -> Viewer:
        viewer = Viewer(server.url, run, token=token, last_id="0")
        await viewer.watch()
        (notice,) = viewer.events
        assert (notice.name, notice.data["code"]) == ("notice", fault[4])
        assert notice.retry is not None
        assert notice.retry >= max(1000, fault[1].get("retry_after", 0) * 1000)
        assert notice.data["retry_in"] == pytest.approx(notice.retry / 1000, abs=0.01)
        assert viewer.connection is not None
        assert viewer.connection.headers["content-type"] == "text/event-stream; charset=utf-8"
        return viewer

    def as_lines(run: int, token: str, fault: Fault) -> None:
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/x-ndjson"}
        answer = server.get(f"/agent-runs/{run}/logs/stream?skip=0", headers)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert answer.json()["event"] == "notice"
        assert answer.json()["data"]["code"] == fault[4]

    async def lane(token: str, faults: list[Fault]) -> None:
        for fault in faults:
            runs = [host.seed(entries=[entry("the first of them")], status="COMPLETE") for _ in range(2)]
            asked = 6 if fault[2] == 502 else 2
            await asyncio.to_thread(host.fault, fault[0], "get", token, times=asked, **fault[1])
            viewer, _ = await asyncio.gather(
                as_events(runs[0], token, fault), asyncio.to_thread(as_lines, runs[1], token, fault)
            )
            await viewer.watch()
            assert viewer.last_id == "1.end"

    await asyncio.gather(*map(lane, TOKENS, [FAULTS[0:2], [*FAULTS[4::2], PATIENT]]))


@pytest.mark.wire("auth-outage", "error-host-sentence")
def test_a_token_that_was_good_stays_good_while_the_host_fails_and_no_other_does(pair: tuple[Sandbox, Server]) -> None:
    host, _ = pair
    host.heal()
    with processes.gateway(host, token_cache_seconds=0.05) as server:
        assert server.get("/agent-runs/12345").status_code == 200
        host.fault("500", "me")
        assert server.get("/agent-runs/12345").status_code == 200
        stranger = server.get("/agent-runs/12345", BOB)
        assert (stranger.status_code, stranger.json()["code"]) == (503, "auth_unavailable")
        assert int(stranger.headers["retry-after"]) >= 1
        host.heal()
        assert server.get("/agent-runs/12345", BOB).status_code == 200


@pytest.mark.wire("right-revoked")
def test_viewers_whose_token_is_refused_are_told_and_the_others_go_on(pair: tuple[Sandbox, Server]) -> None:
    host, _ = pair
    host.heal()

    async def main(server: Server) -> None:
        run = host.seed(entries=[entry("the first of them")])
        alice, bob = Viewer(server.url, run), Viewer(server.url, run, token="sandbox-bob")
        watching = [asyncio.create_task(viewer.watch()) for viewer in (alice, bob)]
        await asyncio.gather(alice.until("log"), bob.until("log"))
        await asyncio.to_thread(host.fault, "revoked", None, "bob")
        for number in range(4):
            await asyncio.to_thread(host.append, run, f"entry {number}")
            await alice.until("log", number + 2)
        await watching[1]
        assert bob.events[-1].name == "failure"
        assert bob.events[-1].data["code"] == "invalid_token"
        await asyncio.to_thread(host.patch, run, status="COMPLETE")
        await watching[0]
        assert alice.entries == await asyncio.to_thread(host.log, run)
        assert not alice.notices()

    with processes.gateway(host, **BRISK) as server:  # which knows of no refusals, and so rotates evenly
        asyncio.run(main(server))
