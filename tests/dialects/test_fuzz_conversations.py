"""Odd headers, parameters, bodies and ids on every route of the dialects that keep conversations, several after each
other: no fault of ours, no header that repeats them, no silence for ever, and nothing of somebody else.

The routes, and what each of them listens to, come from the application's own table.
"""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from fastapi.dependencies.models import Dependant
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from codegen_api.errors import InvalidToken
from codegen_api.identity import Credential
from tests.auth.issuer import Issuer
from tests.dialects.people import CONVERSATIONS, KINDS, OPENAI, ROUTES, SERVED, Person
from tests.dialects.site import gateway_app, lifespan, request_scope
from tests.dialects.test_fuzz import BYTES, ISSUER, MARKER, MODES, SHAPED
from tests.fakehost import FakeHost
from tests.leaks import WATCH
from tests.stores.model import ModelStore
from tests.virtual import run

HEARTBEAT, AGE = 15.0, 40.0


def parameters(dependant: Dependant, where: str) -> Iterator[str]:
    """What a route listens to in its ``query`` or its ``header``."""
    for each in getattr(dependant, f"{where}_params"):
        kind = each.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from kind.model_fields
        else:
            yield each.alias
    for beneath in dependant.dependencies:
        yield from parameters(beneath, where)


OWN = ["x-auth-scheme", "prefer", "accept", "everruns-change-reason", "x-request-id"]
HEADERS = sorted({*OWN, *(name.lower() for route in ROUTES.values() for name in parameters(route.dependant, "header"))})
QUERY = sorted({name for route in ROUTES.values() for name in parameters(route.dependant, "query")})
THINGS = ("session", "prefixed", "turn", "running", "checkpoint", "agent", "event", "number", "elsewhere")
NAMES = [f"@{whose}.{kind}" for whose in ("mine", "theirs") for kind in THINGS]
"""What stands for an id that there is."""

TOKENS = {
    "token": ("alice", "bob"),
    "jwt": (ISSUER.token("ann", exp=timedelta(hours=1)), ISSUER.token("eve", exp=timedelta(hours=1))),
}
FORGED = Issuer("second").token("ann")
SENT = [
    *(b"%b", b"Bearer %b", b"ApiKey %b", b"Basic %b", b"bearer  %b"),
    *(b"evr_x", b"lsv2_x", b"ApiKey", b"Bearer", f"ApiKey {FORGED}".encode(), FORGED.encode()),
    *(b"text/event-stream", b"application/json;q=0, text/event-stream;q=nan", b"return=minimal", b"12-2", b"0", b"-0"),
    *(b"event_" + b"0" * 32, b"org_" + b"0" * 31 + b"9", b"9", b"org_9", b"9" * 5000, b"9007199254740993"),
]
"""``%b``: the caller's own token."""

VALUES = st.builds(lambda before, after: before + MARKER + after, BYTES, BYTES) | st.sampled_from(SENT) | SHAPED | BYTES
NAMED = st.sampled_from([name.encode() for name in NAMES]) | VALUES
SIGNING = st.tuples(st.sampled_from(["authorization", "x-api-key"]), VALUES)
"""What is shown for a token is secret, so it is none of the ids."""

SUITABLE = (b"@mine.*", b"@theirs.*")
"""What the name in the path asks for."""

IDS = (
    st.sampled_from(SUITABLE)
    | st.sampled_from(SUITABLE)
    | st.sampled_from(NAMES).map(str.encode)
    | st.sampled_from(
        [b"agent", b"x", b"-1", b"\xff", b"..", b"%2e%2e", b"\0", b"1" * 300, b"a.b", b".input", b"session_", b"0" * 32]
    )
)
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        -1,
        2**63,
        10**400,
        1.5,
        "",
        " ",
        "x",
        "\0",
        "\ud800",
        "\u2028",
        "x" * 5000,
        [],
        {},
        [{}],
        [None],
        [[]],
    ]
) | st.sampled_from(NAMES)


def names_in_bodies() -> list[str]:
    found: set[str] = set()
    for route in ROUTES.values():
        for each in route.dependant.body_params:
            found |= set(getattr(each.field_info.annotation, "model_fields", ()))
    return sorted(found)


CONTENT = [{"type": "text", "text": "Tell me of the harbour"}]
GOOD: dict[str, Any] = {"name": "n", "system_prompt": "s", "title": "t", "graph_id": "agent", "assistant_id": "agent"}
MESSAGES: dict[str, Any] = {
    "/v1/responses": {"input": "Tell me of the harbour"},
    "/v1/conversations": {"items": [], "metadata": {}},
    "/v1": {"message": {"content": CONTENT}},
    "/api": {"message": "Tell me of the harbour", "agent_id": "@mine.agent"},
    "/ui": {"id": "@mine.session", "messages": [{"id": "m", "role": "user", "parts": CONTENT}]},
    "": {"input": {"messages": [{"role": "user", "content": CONTENT}]}, "namespace": ["a"], "key": "k", "value": {}},
}
JSON = st.dictionaries(st.sampled_from(names_in_bodies()), ODD, max_size=3)


@dataclass(frozen=True)
class Sent:
    """A request, with names in it that stand for ids."""

    route: tuple[str, str]
    ids: list[bytes]
    headers: list[tuple[str, bytes]]
    query: list[tuple[str, bytes]]
    body: bytes | dict[str, Any]

    def encoded(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        path = self.route[1]
        own = next(message for prefix, message in MESSAGES.items() if path.startswith(prefix))
        return json.dumps({**GOOD, **own, **self.body}).encode()


REQUESTS = st.builds(
    Sent,
    st.sampled_from(sorted(ROUTES)),
    st.lists(IDS, min_size=3, max_size=3),
    st.lists(SIGNING | st.tuples(st.sampled_from(HEADERS), NAMED), max_size=4),
    st.lists(st.tuples(st.sampled_from(QUERY), NAMED), max_size=3),
    JSON | st.binary(max_size=10),
)


class Host(FakeHost):
    """What it does not know as a token is none, and so no secret."""

    async def _called(self, operation: str, credential: Credential) -> None:
        if credential.token not in self.tokens:
            raise InvalidToken
        await super()._called(operation, credential)


class Client:
    """Sends a request as a server would hand it in, or as no server should, and stays until all of it is answered."""

    def __init__(self, state: Any, names: Mapping[bytes, bytes], token: str) -> None:
        SERVED.state = state
        self._names = names
        self._token = token.encode()

    def _filled(self, value: bytes) -> bytes:
        for name in sorted(self._names, key=len, reverse=True):
            value = value.replace(name, self._names[name])
        return value.replace(b"%b", self._token)

    def mentions(self, sent: Sent, what: bytes) -> bool:
        """Whether the client has said this itself."""
        values = [*sent.ids, *(value for _, value in [*sent.headers, *sent.query]), sent.encoded()]
        suits = any(each == b"@theirs.*" for each in sent.ids)
        return suits or any(what in self._filled(value) for value in values)

    async def ask(self, sent: Sent, *, signed: bool) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        loop, messages, last = asyncio.get_running_loop(), list[Any](), 0.0
        method, template = sent.route
        left = iter(sent.ids)

        def filled(named: re.Match[bytes]) -> bytes:
            kind = KINDS.get(named[1].decode(), "session")
            return self._filled(next(left).replace(b"*", kind.encode()))

        path = re.sub(rb"{(\w+)[:\w]*}", filled, template.encode())
        headers = [(name.encode(), self._filled(value)) for name, value in sent.headers]
        if signed:
            headers.append((b"authorization", b"Bearer " + self._token))
        query = [
            (name.encode(), self._filled(value).replace(b"&", b"%26").replace(b"#", b"")) for name, value in sent.query
        ]
        asked = b"&".join(name + b"=" + value for name, value in query)
        scope = request_scope(method, path, asked, [*headers, (b"content-type", b"application/json")])
        inbox = [{"type": "http.request", "body": self._filled(sent.encoded()), "more_body": False}]

        async def receive() -> Any:
            if not inbox:
                await asyncio.Event().wait()
            return inbox.pop()

        async def send(message: Any) -> None:
            nonlocal last
            assert not messages or loop.time() - last <= HEARTBEAT + 1, "it was silent for long"
            last = loop.time()
            messages.append(message)

        begun = loop.time()
        await SERVED(scope, receive, send)
        assert loop.time() - begun <= 2 * AGE, "it goes on for ever"
        head, *rest = messages
        return head["status"], head["headers"], b"".join(message["body"] for message in rest)


@pytest.mark.parametrize("mode", sorted(MODES))
@settings(max_examples=settings().max_examples // 2)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=6), signed=st.sampled_from([True, True, True, False]))
def test_nothing_that_is_sent_breaks_anything_or_gets_something_of_somebody_else(
    mode: str, requests: list[Sent], signed: bool
) -> None:
    async def main() -> None:
        host, store = Host(), ModelStore()
        host.latency = 0
        more = {"secret_key": "a key that is long enough to be one", **MODES[mode]}
        more |= {"stream_max_age_seconds": AGE, "stream_heartbeat_seconds": HEARTBEAT, "org_id": "9"}
        app = gateway_app(host, store=store, dialects=CONVERSATIONS, **more)
        mine, theirs = (Person(*each) for each in zip(TOKENS[mode], ("bread", "xylophones"), strict=True))
        async with lifespan(app):
            await mine.settle(app, host, "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222")
            await theirs.settle(
                app, host, "33333333-3333-4333-8333-333333333333", "44444444-4444-4444-8444-444444444444"
            )
            before = theirs.has(store, host)
            people = {"mine": mine, "theirs": theirs}
            names = {f"@{whose}.{kind}": id_ for whose, who in people.items() for kind, id_ in who.names.items()}
            client = Client(app.state, {name.encode(): id_.encode() for name, id_ in names.items()}, mine.token)
            for sent in requests:
                status, headers, body = await client.ask(sent, signed=signed)
                assert status < 500 or status == 501, (sent, body)
                for name, value in headers:
                    assert b"\r" not in value
                    assert b"\n" not in value
                    assert MARKER not in value or (name == b"x-request-id" and value.isascii()), (sent, name, value)
                if status >= 400 and sent.route[1].startswith("/ui/"):
                    assert {b"x-error-code", b"x-request-id"} <= {name for name, _ in headers}
                    WATCH.answer(status, body.decode())
                elif status >= 400 and sent.route[1].startswith(OPENAI):
                    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
                    WATCH.answer(status, body.decode())
                elif status >= 400:
                    told = json.loads(body)
                    assert {"code", "status_code", "request_id"} <= set(told)
                    assert told["status_code"] == status
                    WATCH.answer(status, json.dumps({**told, "request_id": None}))  # that one is as the client has it
                assert theirs.word.encode() not in body, sent
                for kind in ("session", "turn", "running", "agent"):
                    id_ = theirs.names[kind].encode()
                    assert id_ not in body or client.mentions(sent, id_), (sent, kind)
            assert theirs.has(store, host) == before

    run(main())
