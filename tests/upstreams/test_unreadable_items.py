"""What cannot be read costs nothing but itself: a gap in a list, a placeholder in a log; over every adapter."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from codegen_api import errors
from codegen_api.identity import Credential
from codegen_api.runs import Cursor, LogPage, RunRef, RunStatus
from codegen_api.upstreams import Listing, RunFilter, Upstream
from codegen_api.upstreams.a2a import A2AUpstream
from codegen_api.upstreams.codegen import CodegenUpstream
from codegen_api.upstreams.langgraph import LangGraphUpstream
from codegen_api.upstreams.opencode import OpencodeUpstream
from codegen_api.upstreams.openhands import OpenHandsUpstream

CREDENTIAL = Credential.of("token-of-tests", b"key")
NAMES = [f"ffb0f4f3-00da-4268-960d-e439e1c29a1{number}" for number in range(3)]
CARD = {"supportedInterfaces": [{"url": "http://host/", "protocolBinding": "HTTP+JSON", "protocolVersion": "1.0"}]}
ODD: list[object] = [7, None, "", [], {"id": {}, "name": "odd"}]


@dataclass
class Host:
    """How a host describes a run and an entry of a log, and where in its answers these are, by the end of the path."""

    connect: Callable[..., Upstream]
    ref: RunRef
    run: Callable[[int], dict[str, Any]]
    runs: Callable[[list[Any]], Mapping[str, object]]
    entry: Callable[[int], dict[str, Any]]
    log: Callable[[list[Any]], Mapping[str, object]]

    def upstream(self, answers: Mapping[str, object], **more: Any) -> Upstream:
        def answered(request: httpx.Request) -> httpx.Response:
            found = next(answer for end, answer in answers.items() if request.url.path.endswith(end))
            return httpx.Response(200, json=found(request) if callable(found) else found)

        return self.connect("http://host", transport=httpx.MockTransport(answered), **more)

    async def listing(self, items: list[Any]) -> Listing[Any]:
        organization = self.ref.organization
        return await self.upstream(self.runs(items)).list_runs(CREDENTIAL, organization, 0, 100, RunFilter())

    async def page(self, items: list[Any], *, newest_first: bool = False, after: Cursor = 0) -> LogPage:
        upstream = self.upstream(self.log(items))
        return await upstream.read_log(CREDENTIAL, self.ref, after, 100, newest_first=newest_first)


def codegen_run(number: int) -> dict[str, Any]:
    return {"id": number, "organization_id": 8, "status": "ACTIVE"}


def codegen_log(items: list[Any]) -> Mapping[str, object]:
    def answer(request: httpx.Request) -> object:
        newest_first = request.url.params.get("reverse") == "true"
        return {**codegen_run(0), "logs": items[::-1] if newest_first else items, "total_logs": len(items)}

    return {"/logs": answer}


def opencode_log(items: list[Any]) -> Mapping[str, object]:
    def history(request: httpx.Request) -> object:
        after, limit = int(request.url.params["after"]), int(request.url.params["limit"])
        return {"data": items[after : after + limit], "hasMore": after + limit < len(items)}

    return {"/active": {"data": {"ses_0": {}}}, "/history": history, "/question": {"data": []}, "": {"data": []}}


def openhands_log(items: list[Any]) -> Mapping[str, object]:
    def search(request: httpx.Request) -> object:
        newest_first = request.url.params["sort_order"] == "TIMESTAMP_DESC"
        return {"items": items[::-1] if newest_first else items, "next_page_id": None}

    return {"/count": len(items), "/events/search": search, "": openhands_run(0)}


def openhands_run(number: int) -> dict[str, Any]:
    return {"id": NAMES[number], "execution_status": "running", "tags": {}}


def a2a_message(number: int) -> dict[str, Any]:
    return {"messageId": f"m{number}", "role": "ROLE_USER", "parts": [{"text": str(number)}]}


def a2a_task(number: int, *history: object) -> dict[str, Any]:
    return {"id": NAMES[number], "status": {"state": "TASK_STATE_WORKING"}, "history": [*history]}


HOSTS = {
    "codegen": Host(
        CodegenUpstream,
        RunRef("8", "0"),
        codegen_run,
        lambda items: {"/runs": {"items": items, "total": len(items)}},
        lambda number: {"message_type": "ACTION", "thought": str(number)},
        codegen_log,
    ),
    "langgraph": Host(
        LangGraphUpstream,
        RunRef("default", NAMES[0]),
        lambda number: {"thread_id": NAMES[number], "status": "busy"},
        lambda items: {"/threads/search": items},
        lambda number: {"type": "human", "id": f"m{number}", "content": str(number)},
        lambda items: {"/state": {"values": {"messages": items}}, "/runs": [{"status": "running"}]},
    ),
    "a2a": Host(
        A2AUpstream,
        RunRef("default", NAMES[0]),
        a2a_task,
        lambda items: {"card.json": CARD, "/tasks": {"tasks": items}},
        a2a_message,
        lambda items: {"card.json": CARD, "": a2a_task(0, *items)},
    ),
    "opencode": Host(
        OpencodeUpstream,
        RunRef("default", "ses_0"),
        lambda number: {"id": f"ses_{number}", "time": {}},
        lambda items: {"/active": {"data": {}}, "/session": items},
        lambda number: {"id": f"evt_{number}", "type": "x", "durable": {"seq": number + 1}},
        opencode_log,
    ),
    "openhands": Host(
        lambda url, **more: OpenHandsUpstream(url, options={"agent": '{"llm": {}}'}, **more),
        RunRef("default", NAMES[0]),
        openhands_run,
        lambda items: {"/search": {"items": items, "next_page_id": None}},
        lambda number: {"id": f"evt_{number}", "kind": "MessageEvent", "source": "user"},
        openhands_log,
    ),
}


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
@pytest.mark.parametrize("odd", ODD, ids=json.dumps)
async def test_a_run_that_cannot_be_read_is_a_gap_in_its_list(host: Host, odd: object) -> None:
    listing = await host.listing([odd, host.run(2), odd, host.run(1)])
    readable = await host.listing([host.run(2), host.run(1)])
    assert listing.items == readable.items
    assert [run.ref.id[-1] for run in listing.items] == ["2", "1"]
    assert (listing.gaps, listing.length) == ((0, 2), 4)
    assert readable.gaps == ()


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
@pytest.mark.parametrize("odd", ODD, ids=json.dumps)
async def test_a_list_of_which_nothing_can_be_read_is_an_error(host: Host, odd: object) -> None:
    with pytest.raises(errors.UpstreamError):
        await host.listing([odd, odd])
    assert (await host.listing([])).items == ()


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
@pytest.mark.parametrize("odd", ODD, ids=json.dumps)
async def test_an_entry_that_cannot_be_read_keeps_its_place_in_the_log(host: Host, odd: object) -> None:
    whole = await host.page([host.entry(number) for number in range(5)])
    page = await host.page([odd, host.entry(1), odd, host.entry(3), odd])
    assert (len(page.entries), page.at_end) == (5, whole.at_end)
    assert [page.entries[index] for index in (1, 3)] == [whole.entries[index] for index in (1, 3)]
    assert all(entry.said is None for entry in page.entries[::2])
    back = await host.page([odd, host.entry(1), odd, host.entry(3), odd], newest_first=True)
    assert back.entries == page.entries[::-1]


# -- opencode: events have numbers ------------------------------------------------------------------------------------


async def test_an_event_without_a_number_stands_where_the_host_has_shown_it() -> None:
    host = HOSTS["opencode"]
    page = await host.page([host.entry(0), {"type": "x"}, {**host.entry(4), "durable": {"seq": 5}}])
    kinds = [json.loads(entry.json)["type"] for entry in page.entries]
    assert kinds == ["x", "gateway.unreadable", "gateway.hidden", "gateway.hidden", "x"]
    nothing = host.upstream({**host.log([]), "/history": {"data": [], "hasMore": True}})
    assert (await nothing.read_log(CREDENTIAL, host.ref, 0, 10)).entries == ()


async def test_a_request_that_cannot_be_read_costs_neither_the_others_nor_the_log() -> None:
    host = HOSTS["opencode"]
    permissions = {"/permission": {"data": [7, {"id": "per_1", "action": "bash"}]}}
    answers = {**permissions, **host.log([{**host.entry(0), "type": "tool.called", "data": {"callID": "c"}}])}
    upstream = host.upstream(answers)
    assert isinstance(upstream, OpencodeUpstream)
    assert (await upstream.read_log(CREDENTIAL, host.ref, 0, 10)).run.status is RunStatus.WAITING
    assert [each.id for each in await upstream.pending(CREDENTIAL, host.ref)] == ["per_1"]
    answers["/question"] = {"data": [None]}
    with pytest.raises(errors.UpstreamError):
        await upstream.pending(CREDENTIAL, host.ref)


# -- openhands: pages begin at events that are known by their ids -----------------------------------------------------


@pytest.mark.parametrize("limit", [1, 7, 100])
async def test_pages_go_on_at_an_event_whose_id_cannot_be_read(limit: int) -> None:
    host = HOSTS["openhands"]
    events: list[Any] = [7 if number % 10 == 0 else host.entry(number) for number in range(25)]

    def search(request: httpx.Request) -> object:
        start = int(request.url.params.get("page_id", "evt_0").removeprefix("evt_"))
        end = start + int(request.url.params["limit"])
        return {"items": events[start:end], "next_page_id": f"evt_{end}" if end < len(events) else None}

    upstream = host.upstream({"/events/search": search, "": openhands_run(0)})
    whole = (await host.page(events)).entries
    entries = [
        entry
        for after in range(0, 25, limit)
        for entry in (await upstream.read_log(CREDENTIAL, host.ref, after, limit)).entries
    ]
    assert tuple(entries) == whole


async def test_nobody_approves_what_cannot_be_read() -> None:
    """The host takes one decision on all calls that wait."""
    host = HOSTS["openhands"]
    call = {"id": "evt_1", "kind": "ActionEvent", "action": {}, "tool_name": "terminal"}
    for events in ([call, 7], [{**call, "id": 7}]):
        upstream = host.upstream(
            {
                "/events/search": {"items": events, "next_page_id": None},
                "": {**openhands_run(0), "execution_status": "waiting_for_confirmation"},
            }
        )
        assert isinstance(upstream, OpenHandsUpstream)
        assert (await upstream.get_run(CREDENTIAL, host.ref)).status is RunStatus.WAITING
        with pytest.raises(errors.UpstreamError):
            await upstream.pending(CREDENTIAL, host.ref)
