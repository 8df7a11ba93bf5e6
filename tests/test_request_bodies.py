"""Who asks is found out before what they say is received; and what they say is bounded, each and all together."""

import asyncio
import json
from typing import Any, get_args

import pytest
from fastapi import APIRouter, Body
from fastapi.routing import APIRoute

from codegen_api.http.edge import Edge
from codegen_api.http.request_bodies import (
    BODY_SECONDS,
    BYTES_PER_SECOND,
    MAX_DEPTH,
    MAX_HELD,
    MAX_VALUES,
    SMALL_BODY,
    BoundedRequest,
    CallerFirst,
)
from codegen_api.http.web import as_gateway_error
from tests import virtual
from tests.dialects.routes import EVERY, filled, methods, routes
from tests.dialects.site import CALLER, Connection, gateway_app, refusal, refused, request_scope, serving
from tests.fakehost import FakeHost

MIB = 1024 * 1024
JSON = {"Content-Type": "application/json"}


class Sender(Connection):
    """Somebody who sends ``pieces`` and then no more, unless told so. ``taken``: how many were received."""

    def __init__(self, app: Any, path: str, *pieces: bytes, token: str | None = CALLER, method: str = "POST") -> None:
        self.taken = 0
        self._pieces = pieces
        self._more = asyncio.Event()
        super().__init__(app, path, {**JSON, **({} if token is None else {"Authorization": f"Bearer {token}"})}, method)

    async def receive(self) -> dict[str, Any]:
        if self.taken == len(self._pieces):
            await self._more.wait()
            return {"type": "http.request", "body": b"", "more_body": False}
        self.taken += 1
        return {"type": "http.request", "body": self._pieces[self.taken - 1], "more_body": True}

    def end(self) -> None:
        self._more.set()

    async def answered(self) -> tuple[int, dict[str, Any]]:
        await self.task
        return self.status, refusal(self.status, self.headers, self.body)


def with_bodies() -> list[APIRoute]:
    return [route for route in routes() if route.body_field is not None]


# -- the caller first -------------------------------------------------------------------------------------------------


@pytest.mark.wire("auth-first")
@pytest.mark.parametrize("token", [None, "sk-nobody", "bob smith"])
async def test_no_route_of_any_dialect_receives_a_body_before_it_knows_its_caller(token: str | None) -> None:
    async with serving(dialects=EVERY) as site:
        assert len(with_bodies()) > 30
        for route in with_bodies():
            (method,) = methods(route)
            sender = Sender(site.app, filled(route.path, "1", "9"), b"[" * MIB, token=token, method=method)
            status, _ = await sender.answered()
            assert (status, sender.taken) == (401, 0), route.path


@pytest.mark.wire("auth-first", "rate-limit")
async def test_who_may_not_do_it_now_is_told_so_before_they_have_said_what() -> None:
    async with serving(dialects=EVERY, requests_per_minute=1) as site:
        await site.get("/users/me")
        for route in with_bodies():
            (method,) = methods(route)
            sender = Sender(site.app, filled(route.path, "1", "9"), b"[" * MIB, method=method)
            status, _ = await sender.answered()
            assert (status, sender.taken) == (429, 0), route.path


@pytest.mark.wire("auth-first", "rate-limit")
async def test_a_caller_is_asked_and_counted_once() -> None:
    async with serving(dialects=EVERY, requests_per_minute=100, org_id="9") as site:
        for count, route in enumerate(with_bodies(), 1):
            (method,) = methods(route)
            answer = await site.ask(method, filled(route.path, "1", "9"), json=[])
            assert f"r={100 - count};" in answer.headers["ratelimit"], route.path
        assert site.host.calls["identify"] == 1


@pytest.mark.wire("auth-first")
async def test_a_host_that_cannot_say_who_it_is_leaves_the_body_where_it_is() -> None:
    async with serving(FakeHost()) as site:
        site.host.tokens.clear()
        sender = Sender(site.app, "/agent-runs", b"[" * MIB)
        assert (await sender.answered())[0] == 401
        assert sender.taken == 0
        assert site.host.calls["identify"] == 1


@pytest.mark.wire("auth-first")
async def test_the_demo_user_is_known_by_saying_nothing_and_bounded_like_everybody() -> None:
    async with serving(dialects=EVERY, demo_token="alice") as site:
        sender = Sender(site.app, "/threads", b"[", *[b"[]," * 64 * 1024] * 9, token=None)
        status, said = await sender.answered()
        assert (status, said["code"]) == (413, "payload_too_large")
        assert sender.taken == 2


def test_a_route_that_takes_a_body_from_anybody_cannot_be_made() -> None:
    async def post(body: dict[str, Any] = Body()) -> None:  # noqa: B008 - as FastAPI wants it
        raise AssertionError

    router = APIRouter(route_class=CallerFirst)
    with pytest.raises(TypeError, match="/anybody takes a body from anybody"):
        router.post("/anybody")(post)
    assert all(isinstance(route, CallerFirst) for route in with_bodies())


# -- how much it is ---------------------------------------------------------------------------------------------------


def created(metadata: str) -> bytes:
    return f'{{"prompt":"Say hello","metadata":{{"a":{metadata}}}}}'.encode()


def nested(depth: int) -> bytes:
    return created("[" * (depth - 2) + "]" * (depth - 2))  # and the two objects around it


AROUND = 4
"""The values of ``created`` beside those that it is given."""


@pytest.mark.wire("body-extent", "error-shape")
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (nested(MAX_DEPTH), 201, None),
        (nested(MAX_DEPTH + 1), 422, "validation_error"),
        (created(f"[{','.join('0' * (MAX_VALUES - AROUND))}]"), 201, None),
        (created(f"[{','.join('0' * (MAX_VALUES - AROUND + 2))}]"), 413, "payload_too_large"),
        (created("{" + ",".join(f'"{key}":0' for key in range(MAX_VALUES)) + "}"), 413, "payload_too_large"),
        (created("[" + "[]," * MAX_VALUES + "0]"), 413, "payload_too_large"),
        (b"[" * MIB, 422, "validation_error"),
        (created(json.dumps("[{,:" * (MIB // 32))), 201, None),  # it is all one text
        (created("[]").decode().encode("utf-16"), 422, "validation_error"),
        (b"\xef\xbb\xbf" + created("[]"), 201, None),
        (created('"\\ud800"'), 201, None),
        (created("[0,]"), 422, "validation_error"),
    ],
)
async def test_json_has_so_many_values_and_is_so_deep(body: bytes, status: int, code: str | None) -> None:
    async with serving(org_id="9") as site:
        answer = await site.ask("POST", "/agent-runs", content=body, headers=JSON)
        assert answer.status_code == status, answer.text
        assert answer.json().get("code") == code
        assert (status == 413) == answer.json().get("error", "").endswith(": its JSON may have 10,000 values.")
        assert (site.host.calls["create"] == 1) == (status == 201)


@pytest.mark.wire("body-extent")
async def test_too_much_is_refused_as_soon_as_it_has_come() -> None:
    async with serving(org_id="9") as site:
        for pieces, code, taken in (
            ([b"[", *[b"0," * 1024] * 1000], "payload_too_large", 1 + MAX_VALUES // 1024 + 1),
            ([b"[" * 10] * 1000, "validation_error", MAX_DEPTH // 10 + 1),
            ([b"x" * MIB] * 100, "payload_too_large", 26),
        ):
            sender = Sender(site.app, "/agent-runs", *pieces)
            assert (await sender.answered())[1]["code"] == code
            assert sender.taken == taken


@pytest.mark.wire("error-validation")
async def test_a_list_of_what_is_wrong_is_bounded_for_every_field_of_every_body() -> None:
    lists = 0
    async with serving(dialects=EVERY, org_id="9") as site:
        for route in with_bodies():
            (method,) = methods(route)
            assert route.body_field is not None
            model = route.body_field.field_info.annotation
            shapes = [model, *get_args(model)]
            for name in {name for shape in shapes for name in getattr(shape, "model_fields", ())}:
                body = {name: [3.5] * 3000}
                answer = await site.ask(method, filled(route.path, "1", "9"), json=body)
                if answer.status_code == 422:
                    said = refused(answer)
                    if answer.headers["content-type"].startswith("text/plain"):
                        assert said["error"].count(f"{name}.") <= 3, (route.path, name)
                        lists += f"{name}.0" in said["error"]
                        continue
                    if "param" in said:  # it names the first
                        assert len(said["message"]) < 1000, (route.path, name)
                        continue
                    found = said["details"] if isinstance(said.get("details"), list) else said["detail"]
                    if isinstance(found, str):  # it is refused by its name
                        assert len(found) < 200, (route.path, name)
                        continue
                    places = [tuple(each["loc"]) for each in found if name in each["loc"]]
                    assert len(places) <= 3, (route.path, name)
                    lists += any(0 in place for place in places)
    assert lists > 5


# -- how much all of them hold ----------------------------------------------------------------------------------------


def edge_of(app: Any) -> Edge:
    edge: Edge = app.middleware_stack
    return edge


@pytest.mark.wire("bodies-together", "error-retry-after")
async def test_all_bodies_together_may_take_so_much_and_small_ones_have_room() -> None:
    async with serving(org_id="9", max_body_mib=1) as site:
        bodies = edge_of(site.app)._bodies
        piece = b'"' + b"x" * (MIB // 2) + b'"'
        senders = [Sender(site.app, "/agent-runs", b'{"prompt":', piece) for _ in range(2 * MAX_HELD - 1)]
        while any(sender.taken < 2 for sender in senders):  # noqa: ASYNC110 - bounded by `run`
            await asyncio.sleep(0)
        assert bodies.held == (len(piece) + 10) * len(senders)
        status, said = await Sender(site.app, "/agent-runs", *[piece] * 2).answered()
        assert (status, said["code"], said["retry_after"]) == (503, "at_capacity", 1)
        assert bodies.held == (len(piece) + 10) * len(senders)
        assert (await site.post("/agent-runs", {"prompt": "x" * (SMALL_BODY - 100)})).status_code == 201
        for sender in senders:
            sender.end()
        assert {status for status, _ in [await sender.answered() for sender in senders]} == {422}
        assert bodies.held == 0


@pytest.mark.wire("bodies-together")
async def test_what_was_held_is_let_go_whatever_becomes_of_the_request() -> None:
    async with serving(org_id="9", max_body_mib=1) as site:
        bodies = edge_of(site.app)._bodies
        whole = json.dumps({"prompt": "x" * (MIB - 100)}).encode()
        assert (await site.ask("POST", "/agent-runs", content=whole, headers=JSON)).status_code == 201
        assert bodies.held == 0
        left = Sender(site.app, "/agent-runs", whole[: MIB // 2])
        while not bodies.held:  # noqa: ASYNC110 - bounded by `run`
            await asyncio.sleep(0)
        left.task.cancel()
        await left.task
        assert (bodies.held, left.status) == (0, 503)  # nothing was begun that it could have been in the middle of


# -- how long it takes ------------------------------------------------------------------------------------------------


async def told_late(seconds: float, size: int, times: int) -> tuple[Any, float]:
    """What is answered, and when, where a piece of ``size`` bytes comes after so many ``seconds`` each, so often."""
    answers: list[Any] = []
    sent = 0

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if sent == times:
            await asyncio.Event().wait()
        await asyncio.sleep(seconds)
        sent += 1
        return {"type": "http.request", "body": b" " * size, "more_body": True}

    async def send(message: Any) -> None:
        answers.append(message)

    async def read(scope: Any, receive: Any, send: Any) -> None:
        try:
            await BoundedRequest(scope, receive).body()
        except Exception as error:
            await edge.render(scope, as_gateway_error(error))(scope, receive, send)

    edge = edge_of_nobody(read)
    await edge(request_scope("POST", b"/agent-runs", b"", []), receive, send)
    return answers[0], asyncio.get_running_loop().time()


def edge_of_nobody(app: Any) -> Edge:
    """The edge of the gateway around another application."""
    gateway = gateway_app()
    gateway.middleware_stack = gateway.build_middleware_stack()
    edge = edge_of(gateway)
    edge.app = app
    return edge


@pytest.mark.wire("body-time")
@pytest.mark.parametrize(
    ("seconds", "size", "times", "at"),
    [
        (0, 0, 0, BODY_SECONDS),  # nothing comes at all
        (0, 24 * MIB, 1, BODY_SECONDS),  # all comes at once but for the end
        (1, 1, 1000, BODY_SECONDS),  # a byte a second
        (1, BYTES_PER_SECOND, 1000, 1000 + BODY_SECONDS),  # slow, and fast enough
        (10, BYTES_PER_SECOND, 1000, BODY_SECONDS + 3),  # a tenth of that
        (29, 64 * BYTES_PER_SECOND, 100, 29 * 100 + BODY_SECONDS),  # in bursts
    ],
)
def test_a_body_that_keeps_us_waiting_for_too_long_is_given_up(
    seconds: float, size: int, times: int, at: float
) -> None:
    async def main() -> None:
        answer, when = await told_late(seconds, size, times)
        assert answer["status"] == 408
        assert dict(answer["headers"])[b"connection"] == b"close"
        assert when == pytest.approx(at, abs=0.1)

    virtual.run(main(), at_most=10_000)


@pytest.mark.wire("body-time", "error-shape")
async def test_a_slow_body_is_told_so_in_the_shape_of_its_dialect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codegen_api.http.request_bodies.BODY_SECONDS", 0.01)

    async with serving(dialects=EVERY, org_id="9") as site:
        for route in with_bodies():
            (method,) = methods(route)
            status, said = await Sender(site.app, filled(route.path, "1", "9"), b"{", method=method).answered()
            assert (status, said["code"]) == (408, "request_timeout"), route.path
