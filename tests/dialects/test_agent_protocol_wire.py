"""The Agent Protocol's errors, in the words of all its clients; and whatever is sent, an answer of that shape."""

import json
import re
from typing import Any, get_args

import pytest
from langgraph_sdk.errors import _extract_error_message

from codegen_api import errors
from codegen_api.dialects.agent_protocol.wire import KINDS, STATUSES, render_error
from codegen_api.http.web import STATUSES as HTTP_STATUSES
from codegen_api.stores import TurnState
from tests.dialects.eventsource import parse
from tests.dialects.routes import methods, routes
from tests.dialects.sdk import client_of, say, speaking
from tests.dialects.site import Site, gateway_app, run
from tests.dialects.test_native_errors import KINDS as EVERY
from tests.dialects.test_native_errors import TABLE

# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EVERY)
def test_every_error_can_be_read_by_every_client(kind: type[errors.GatewayError]) -> None:
    response = render_error(kind("Just so.", retry_after=3))
    body = json.loads(bytes(response.body))
    status = TABLE[kind]
    assert response.status_code == body["status_code"] == status
    assert (body["error"], body["code"]) == (KINDS[status], kind.code)
    assert body["message"] == body["detail"] == _extract_error_message(body, "") == "Just so."
    assert body["details"] is None
    assert ("retry_after" in body) == ("retry-after" in response.headers) == (status in (409, 429, 503))
    assert ("www-authenticate" in response.headers) >= (status == 401)


def test_every_status_that_there_is_has_a_name() -> None:
    assert set(HTTP_STATUSES.values()) <= set(KINDS)
    assert len(set(KINDS.values())) == len(KINDS)


def test_every_state_of_a_turn_is_a_status_of_its_thread() -> None:
    told = [state for states in STATUSES.values() for state in states]
    assert sorted(told, key=str) == sorted([None, *TurnState], key=str)


async def test_the_places_that_are_wrong_are_told_without_what_was_there() -> None:
    async with speaking() as site:
        answer = await site.post("/assistants", {"graph_id": 5, "metadata": "sk-pasted-here"})
        body = answer.json()
        assert (answer.status_code, body["error"]) == (422, "validation_error")
        assert [item["loc"] for item in body["details"]] == [["body", "graph_id"], ["body", "metadata"]]
        assert "sk-pasted" not in answer.text


@pytest.mark.parametrize("modes", ['["values",1]', '[["values"]]', "[null]", "[" * 2000])
async def test_what_is_no_list_of_modes_is_refused_wherever_it_stands(modes: str) -> None:
    given = {"input": {"messages": [{"role": "user", "content": "Count the boats"}]}}
    async with speaking() as site:
        made = (await site.post("/threads/t/runs", given)).json()
        for path in (f"/threads/t/runs/{made['run_id']}/stream", f"/runs/{made['run_id']}/stream"):
            assert (await site.get(f"{path}?stream_mode={modes}")).status_code == 422
        assert (await site.post("/threads/t/runs/stream", {**given, "stream_mode": modes})).status_code == 422


@pytest.mark.parametrize(("method", "path"), [("GET", "/threads"), ("GET", "/runs/x/y"), ("DELETE", "/store/nothing")])
async def test_below_its_paths_errors_have_its_shape_also_where_nothing_is(method: str, path: str) -> None:
    async with speaking() as site:
        body = (await site.ask(method, path)).json()
        assert body["error"] in ("not_found", "method_not_allowed")
        assert body["detail"] == body["message"]


# -- odd input --------------------------------------------------------------------------------------------------------

ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    10**30,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "a\0b",
    "\ud800",
    "\U0001f600",
    "../..",
    "x" * 2000,
    [],
    [None],
    [[["a"]]],
    {},
    {"\0": 1},
    {"a": "\ud800"},
    {"a": 10**400, "b": float("nan")},
]


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": value}
    return value


FITTING: dict[str, Any] = {
    "graph_id": "agent",
    "version": 1,
    "namespace": ["a"],
    "key": "k",
    "value": {"a": 1},
    "thread_ids": ["t"],
}
"""What makes every body here whole."""

MINE = ("assistants", "threads", "store", "not offered")


def mine() -> dict[tuple[str, str], list[str]]:
    """The routes but those for runs and states, whose bodies are others; and the fields of their bodies."""
    tags = {f"Agent Protocol: {name}" for name in MINE}
    found = [route for route in routes(gateway_app(dialects=("agent_protocol",))) if tags & set(route.tags or ())]
    return {
        (method, route.path): sorted(
            field
            for body in route.dependant.body_params
            for model in (body.field_info.annotation, *get_args(body.field_info.annotation))
            for field in getattr(model, "model_fields", ())
        )
        for route in found
        for method in methods(route)
        if "/state" not in route.path and "/history" not in route.path
    }


ROUTES = mine()
BODIES = sorted(route for route, fields in ROUTES.items() if fields and route[1] not in ("/store", "/store/search"))


async def sent(site: Site, method: str, path: str, body: Any) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await site.ask(method, path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code < 500 or answer.status_code == 501, (method, path, content[:200], answer.text)
    if answer.status_code >= 400:
        assert {"error", "message", "detail", "code", "status_code", "request_id"} <= answer.json().keys()
    return answer


@pytest.mark.parametrize(("method", "path"), BODIES)
async def test_no_field_breaks_anything_whatever_is_in_it(method: str, path: str) -> None:
    async with speaking() as site:
        fields = ROUTES[method, path]
        asked = re.sub("{.*?}", "t", path)
        for odd in (*ODD, nested(90), nested(110), nested(300)):
            if asked != path:
                await site.post("/threads", {"thread_id": "t", "if_exists": "do_nothing"})
                given = {"graph_id": "agent", "assistant_id": "t", "if_exists": "do_nothing"}
                await site.post("/assistants", given)
            await sent(site, method, asked, {**FITTING, **dict.fromkeys(fields, odd)})
            for name in fields:
                await sent(site, method, asked, {**FITTING, name: odd})
        for kept in ("/threads/search", "/assistants/search", "/store/items/search", "/store/namespaces"):
            assert (await site.post(kept, {"limit": 1000})).status_code == 200


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b'"a"', b"\xff\xfe", b'{"a":' + b"9" * 5000 + b"}", b"[" * 50_000, b"{}" * 2],
)
async def test_no_body_breaks_anything(body: bytes) -> None:
    async with speaking() as site:
        for method, path in ROUTES:
            await sent(site, method, path.replace("{", "").replace("}", ""), body)


@pytest.mark.parametrize("id", ["%00", "a%00b", "%ED%A0%80", "%FF", "x" * 2000, "%F0%9F%98%80", "%20", "-1"])
async def test_no_id_in_a_path_breaks_anything(id: str) -> None:  # noqa: A002
    async with speaking() as site:
        for method, path in ROUTES:
            if "{" in path:
                asked = path.replace("{namespace}", "x").replace("{cron_id}", id)
                for name in ("{thread_id}", "{assistant_id}"):
                    asked = asked.replace(name, id)
                answer = await sent(site, method, asked, FITTING)
                assert answer.status_code in (404, 405, 501), (method, asked, answer.text)


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "limit=99999999999999999999", "offset=1e9"])
async def test_no_query_breaks_anything(query: str) -> None:
    async with speaking() as site:
        for path in (f"/assistants?{query}", f"/store/items?key=%00&namespace=%ED%A0%80&{query}", "/store/items"):
            await sent(site, "GET", path, b"")


@pytest.mark.wire("position-names")
@pytest.mark.parametrize("path", ["GET /threads/t/runs/{run}/stream", "POST /runs/{run}/stream"])
async def test_a_stream_goes_on_behind_the_last_event_wherever_a_library_writes_its_id(path: str) -> None:
    async with speaking() as site, client_of(site) as client:
        await client.threads.create(thread_id="t")
        turn = await say(site, "t", "Say it")
        assert turn.run is not None
        hosted = site.host.runs[turn.run.id]
        hosted.append(3, text="I think.")
        hosted.status = "COMPLETE"
        method, _, place = path.format(run=turn.id).partition(" ")
        whole = parse((await site.ask(method, place)).content)
        last = whole[2].last_event_id
        for query in (f"lastEventId={last}", f"last_event_id={whole[0].last_event_id}&lastEventID={last}"):
            assert parse((await site.ask(method, f"{place}?{query}")).content) == whole[3:]
        by_header = await site.ask(method, f"{place}?lastEventId=x", headers={"Last-Event-ID": last})
        assert parse(by_header.content) == whole[3:]


@pytest.mark.parametrize("path", ["/threads/t/runs/stream", "/runs/stream"])
@pytest.mark.parametrize(
    "given", [{"headers": {"Last-Event-ID": "x_event_2"}}, {"params": {"lastEventId": "x_event_2"}}]
)
def test_who_asks_for_a_run_again_because_its_stream_was_cut_begins_no_other(path: str, given: dict[str, Any]) -> None:
    async def main() -> None:
        async with speaking() as site:
            body = {"assistant_id": "agent", "input": {"messages": [{"role": "user", "content": "Hello!"}]}}
            answer = await site.ask("POST", path, json=body, **given)
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
            assert not site.host.runs

    run(main())
