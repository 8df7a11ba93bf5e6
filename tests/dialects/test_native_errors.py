"""Every way in which a request can fail, as the client sees it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_api import errors
from codegen_api.dialects.native.wire import render_error
from codegen_api.http.web import (
    CorsRefused,
    HeadersTooLarge,
    MethodNotAllowed,
    PayloadTooLarge,
    RequestTimeout,
    UntrustedHost,
    UriTooLong,
    status_of,
)
from tests.dialects.rich import RichHost
from tests.dialects.site import run, serving

TABLE: dict[type[errors.GatewayError], int] = {
    errors.GatewayError: 500,
    errors.InvalidRequest: 400,
    errors.InvalidCursor: 400,
    errors.InvalidIdempotencyKey: 400,
    errors.OrganizationRequired: 400,
    errors.TokenInUrl: 400,
    errors.Rejected: 422,
    errors.IdempotencyKeyReused: 422,
    errors.NotOffered: 422,
    errors.NotAuthenticated: 401,
    errors.InvalidToken: 401,
    errors.InvalidTicket: 401,
    errors.Forbidden: 403,
    errors.InsufficientScope: 403,
    errors.QuotaExhausted: 402,
    errors.TokenTooLong: 431,
    errors.NotFound: 404,
    errors.Unsupported: 501,
    errors.TicketsNotConfigured: 501,
    errors.Conflict: 409,
    errors.AlreadyExists: 409,
    errors.RunEnded: 409,
    errors.RunFinal: 409,
    errors.ConversationBusy: 409,
    errors.QueueFull: 409,
    errors.InProgress: 409,
    errors.OutcomeUnknown: 409,
    errors.RunFailed: 500,
    errors.LoopDetected: 508,
    errors.StoreFull: 413,
    errors.Unavailable: 503,
    errors.AuthUnavailable: 503,
    errors.StoreUnavailable: 503,
    errors.ShuttingDown: 503,
    errors.AtCapacity: 503,
    errors.RateLimited: 429,
    errors.UpstreamRateLimited: 429,
    errors.UpstreamFailure: 502,
    errors.UpstreamError: 502,
    errors.AnswerCut: 502,
    errors.AnswerTooLong: 502,
    errors.UpstreamUnreachable: 502,
    errors.UpstreamTimeout: 504,
    errors.Interrupted: 504,
    MethodNotAllowed: 405,
    RequestTimeout: 408,
    PayloadTooLarge: 413,
    UriTooLong: 414,
    HeadersTooLarge: 431,
    CorsRefused: 400,
    UntrustedHost: 400,
}
KINDS = sorted(TABLE, key=lambda kind: kind.__name__)


def family(kind: type[errors.GatewayError]) -> set[type[errors.GatewayError]]:
    return {kind}.union(*(family(child) for child in kind.__subclasses__()))


def test_every_error_there_is_stands_in_the_table_above() -> None:
    assert {kind for kind in family(errors.GatewayError) if kind.__module__.startswith("codegen_api")} == set(TABLE)


def test_every_error_has_a_code_and_a_sentence_of_its_own() -> None:
    alike = {
        errors.NotOffered,  # `unsupported` as well: what the gateway does not do, beside what the host cannot
        *(errors.AnswerCut, errors.AnswerTooLong),  # what is wrong with an answer is for who asks again
    }
    assert len({kind.code for kind in KINDS}) == len(KINDS) - len(alike)
    assert len({kind.default_message for kind in KINDS}) == len(KINDS)
    for kind in KINDS:
        assert kind.code == kind.code.lower().replace(" ", "_")
        assert kind.default_message.endswith(".")


@pytest.mark.wire("error-shape", "error-codes", "error-retry-after")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("retry_after", [None, 0, 0.2, 7, 7.1])
def test_an_error_becomes_a_status_headers_and_the_one_body(
    kind: type[errors.GatewayError], retry_after: float | None
) -> None:
    response = render_error(kind("Just so.", retry_after=retry_after))
    body = json.loads(bytes(response.body))
    assert response.status_code == status_of(kind()) == TABLE[kind]
    assert response.headers["content-type"] == "application/json"
    assert {key: body[key] for key in ("error", "code", "status_code")} == {
        "error": "Just so.",
        "code": kind.code,
        "status_code": TABLE[kind],
    }
    waits = TABLE[kind] in (409, 429, 503)
    assert ("retry-after" in response.headers) == waits
    assert ("retry_after" in body) == waits
    if waits:
        assert body["retry_after"] == int(response.headers["retry-after"])
        assert body["retry_after"] >= max(1, retry_after or 0)
        assert body["retry_after"] <= (10 if retry_after is None else retry_after + 1)
    assert set(body) - {"retry_after"} == {"error", "code", "status_code", "request_id"}


@pytest.mark.wire("auth-challenge")
@pytest.mark.parametrize("kind", KINDS)
def test_a_challenge_says_what_rfc_6750_says(kind: type[errors.GatewayError]) -> None:
    challenge = render_error(kind()).headers.get("www-authenticate")
    challenges: dict[type[errors.GatewayError], str] = {
        errors.NotAuthenticated: "Bearer",  # no error code when no credentials came
        errors.InvalidToken: 'Bearer error="invalid_token"',
        errors.InvalidTicket: "Bearer",
    }
    assert challenge == challenges.get(kind)


def test_details_are_choices_or_places() -> None:
    choices = json.loads(bytes(render_error(errors.OrganizationRequired(details=[{"id": 9}])).body))
    assert choices["details"] == [{"id": 9}]
    places = json.loads(bytes(render_error(errors.Rejected(details=[errors.Detail(("body", 3), "Bad.", "t")])).body))
    assert places["details"] == [{"loc": ["body", 3], "msg": "Bad.", "type": "t"}]


# -- over the wire ----------------------------------------------------------------------------------------------------


@pytest.mark.wire("error-shape", "error-from-host", "error-host-failed", "error-host-unreachable", "request-id")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.__module__ == "codegen_api.errors"])
async def test_an_error_of_the_host_is_answered_with_the_request_s_id(kind: type[errors.GatewayError]) -> None:
    host = RichHost()
    host.add()

    async def fail(operation: str) -> None:
        if operation == "get":
            raise kind("As the host says.", retry_after=3)

    host.before = fail
    async with serving(host) as site:
        answer = await site.get("/agent-runs/1", headers={"X-Request-ID": "abc"})
    assert answer.status_code == TABLE[kind]
    assert answer.headers["x-request-id"] == "abc"
    assert answer.json()["request_id"] == "abc"
    assert answer.json()["code"] == kind.code
    assert answer.json()["error"] == "As the host says."


@pytest.mark.parametrize("kind", [errors.NotFound, errors.NotAuthenticated, errors.Rejected, errors.UpstreamError])
def test_an_error_that_is_understood_is_no_fault_of_the_gateway(
    kind: type[errors.GatewayError], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        host = RichHost()

        async def fail(operation: str) -> None:
            if operation == "get":
                raise kind

        host.before = fail
        async with serving(host) as site:
            await site.get("/agent-runs/1")

    run(main())
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.wire("error-unknown-route")
@pytest.mark.parametrize(
    "path", ["/console/nothing", "/nothing", "/agent-runs/", "/agent-runs/1/logs/", "/v1/users/me", "/docs/assets/x"]
)
async def test_what_is_not_there_is_404(path: str) -> None:
    async with serving() as site:
        answer = await site.get(path, token=None)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.wire("error-unknown-route")
@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/agent-runs", {"GET", "POST"}),
        ("PUT", "/agent-runs/1", {"GET"}),
        ("POST", "/agent-runs/1/logs/stream", {"GET"}),
        ("GET", "/agent-runs/1/resume", {"POST"}),
        ("PATCH", "/health", {"GET"}),
        ("POST", "/docs", {"GET"}),
        ("POST", "/docs/assets/swagger-ui.css", {"GET", "HEAD"}),
        ("OPTIONS", "/agent-runs", {"GET", "POST"}),
    ],
)
async def test_a_method_that_is_not_known_is_405_and_says_which_are(method: str, path: str, allowed: set[str]) -> None:
    async with serving() as site:
        answer = await site.ask(method, path, token=None)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert {name.strip() for name in answer.headers["allow"].split(",")} - {"HEAD"} == allowed - {"HEAD"}


# -- requests that are wrong ------------------------------------------------------------------------------------------

DEEP = b'{"prompt":"x","metadata":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}"

BODIES: dict[str, tuple[bytes, set[int]]] = {
    "none at all": (b"", {422}),
    "no JSON": (b"{prompt", {422}),
    "half of it": (b'{"prompt":"secret-', {422}),
    "no object": (b'["secret-input"]', {422}),
    "null": (b"null", {422}),
    "no prompt": (b'{"metadata":{"a":"secret-input"}}', {422}),
    "a prompt of another kind": (b'{"prompt":{"a":"secret-input"}}', {422}),
    "images that are none": (b'{"prompt":"x","images":"secret-input"}', {422}),
    "metadata that is a list": (b'{"prompt":"x","metadata":["secret-input"]}', {422}),
    "a number that is none": (b'{"prompt":"x","repo_id":"secret-input"}', {422}),
    "a broken number": (b'{"prompt":"x","repo_id":1.5}', {422}),
    "not UTF-8": (b'{"prompt":"secret-\xff\xfe"}', {400, 422}),
    "too deep": (DEEP, {400, 422}),
    "a huge integer": (b'{"prompt":"x","metadata":{"n":' + b"9" * 10_000 + b"}}", {422}),
}


@pytest.mark.wire("error-validation", "error-shape")
@pytest.mark.parametrize("name", sorted(BODIES))
@pytest.mark.parametrize("path", ["/agent-runs", "/agent-runs/1/resume"])
def test_a_body_of_the_wrong_shape_is_refused_without_being_quoted(
    name: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    content, statuses = BODIES[name]
    if path.endswith("resume"):  # which knows none of these, and ignores what it does not know
        content = content.replace(b'"metadata":[', b'"images":{').replace(b'"metadata"', b'"images"')
        content = content.replace(b'"repo_id"', b'"images"').replace(b'input"]}', b'input":1}}')

    async def main() -> None:
        host = RichHost()
        host.add()
        async with serving(host) as site:
            answer = await site.ask("POST", path, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code in statuses, answer.text
        body = answer.json()
        assert body["code"] == ("validation_error" if answer.status_code == 422 else "invalid_request")
        if answer.status_code == 422:
            assert body["details"]
            for detail in body["details"]:
                assert set(detail) == {"loc", "msg", "type"}
                assert isinstance(detail["loc"], list)
        assert "secret-" not in answer.text
        assert host.calls["create"] == host.calls["resume"] == 0

    run(main())
    assert "secret-" not in caplog.text
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.wire("paging-parameters", "error-validation")
@pytest.mark.parametrize("path", ["/agent-runs", "/organizations", "/agent-runs/1/logs"])
@pytest.mark.parametrize(
    "query",
    [
        "skip=-1", "skip=x", "skip=1.5", "skip=" + "9" * 30, "skip=" + "9" * 5000, "limit=0", "limit=101",
        "limit=-5", "limit=all", "limit=%FF", "limit=" + "1" * 5000,
    ],
)  # fmt: skip
async def test_a_window_that_makes_no_sense_is_422(path: str, query: str) -> None:
    host = RichHost()
    host.add()
    async with serving(host) as site:
        answer = await site.get(f"{path}?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    assert answer.json()["details"][0]["loc"] == ["query", query.split("=", maxsplit=1)[0]]
    assert host.calls["list"] == host.calls["log"] == 0


@pytest.mark.wire("id-form")
@pytest.mark.parametrize("run_id", ["abc", "1.5", "-1", "%20", "1%00", "٣", "9" * 40, "%FF", "1;2"])
@pytest.mark.parametrize("route", ["", "/logs", "/logs/stream"])
async def test_an_id_that_cannot_be_one_is_422_and_nobody_is_asked(run_id: str, route: str) -> None:
    host = RichHost()
    async with serving(host, org_id="9") as site:
        for headers in ({}, {"Last-Event-ID": "3"}):
            answer = await site.get(f"/agent-runs/{run_id}{route}", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (422, "validation_error"), answer.text
    assert set(host.calls) <= {"identify"}


@pytest.mark.wire("id-form")
@pytest.mark.parametrize("organization", ["acme", "1 2", "-1", "9" * 40, "1,2"])
async def test_an_organization_that_cannot_be_one_is_422(organization: str) -> None:
    host = RichHost()
    async with serving(host) as site:
        answer = await site.get("/agent-runs", headers={"X-Organization-ID": organization})
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    assert set(host.calls) <= {"identify"}


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
bodies = st.one_of(
    json_values.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from(["prompt", "metadata", "images", "repo_id", "model", "x"]), json_values).map(
        lambda value: json.dumps(value).encode()
    ),
    st.binary(max_size=50),
)


@given(bodies)
def test_no_body_at_all_makes_the_gateway_fail(content: bytes) -> None:
    async def main() -> None:
        async with serving(RichHost()) as site:
            answer = await site.ask(
                "POST", "/agent-runs", content=content, headers={"Content-Type": "application/json"}
            )
        assert answer.status_code in (201, 400, 422)
        assert isinstance(answer.json(), dict)

    run(main())


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.wire("error-internal", "logs-hold-no-secrets", "cors-every-answer", "request-id")
@pytest.mark.parametrize("path", ["/agent-runs/1", "/agent-runs/1/logs/stream"])
def test_the_text_of_an_unexpected_fault_stays_in_the_process(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        host = RichHost()
        host.add()
        host.unexpected = RuntimeError("secret-prompt")
        async with serving(host, cors_origins="https://a.example") as site:
            answer = await site.get(path, headers={"Origin": "https://a.example", "X-Request-ID": "abc"})
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert "origin" in answer.headers["vary"].lower()
        assert answer.headers["x-request-id"] == answer.json()["request_id"] == "abc"
        assert "secret-" not in answer.text

    run(main())
    faults = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(faults) == 1
    assert "RuntimeError" in faults[0].getMessage()
    assert "rich.py" in faults[0].getMessage()  # where it happened
    assert "secret-" not in caplog.text
