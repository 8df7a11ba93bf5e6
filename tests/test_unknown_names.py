"""What a route does not know is told, with the nearest name that it does; errors say what is wrong, and where."""

from typing import Any

import pytest
from starlette.requests import Request

from codegen_api.http.request_bodies import CallerFirst
from codegen_api.http.unknown_names import MAX_NAME, MAX_WARNINGS, drop_empty
from codegen_api.runs import RunStatus
from tests.dialects.routes import EVERY, filled, methods, routes
from tests.dialects.site import Site, request_scope, run, serving
from tests.fakehost import FakeHost

THREAD = "7c2e0a52-6a5e-4c56-9d0c-0a3f2b8b7f11"
IDENTITY = {"Content-Encoding": "identity"}
JSON = {"Content-Type": "application/json"}


def told(answer: Any) -> list[tuple[str, str]]:
    """Where, and what, of each warning in a body."""
    return [(".".join(item["loc"]), item["msg"]) for item in answer.json()["warnings"]]


def asking(*calls: Any, **settings: Any) -> Any:
    """What ``calls``, functions of a site, are answered one after another."""

    async def main() -> list[Any]:
        async with serving(**settings) as site:
            return [await call(site) for call in calls]

    return run(main())


# -- names that are not known -----------------------------------------------------------------------------------------


@pytest.mark.wire("names-unknown")
@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("metdata", "metadata"),
        ("repoId", "repo_id"),
        ("AGENT_TYPE", "agent_type"),
        ("image", "images"),
        ("temperature", None),
        ("Überschrift", None),
    ],
)
def test_a_field_that_is_not_known_is_told_with_the_one_that_was_meant(sent: str, meant: str | None) -> None:
    (answer,) = asking(lambda site: site.post("/agent-runs", {"prompt": "Go on.", sent: {"a": 1}}))
    assert answer.status_code == 201
    text = "is not known here, and was ignored" + (f"; was {meant} meant?" if meant else "")
    assert told(answer) == [(f"body.{sent}", text)]
    shown = sent.replace("Ü", "?")
    assert answer.headers["warning"] == f'299 - "body.{shown}: {text}"'


@pytest.mark.wire("names-unknown")
def test_every_route_of_every_dialect_tells_which_parameter_it_does_not_know() -> None:
    async def main() -> int:
        host = FakeHost()
        host.add().append(2)
        host.runs["1"].status = "COMPLETE"
        heard = 0
        async with serving(host, dialects=EVERY, stream_max_age_seconds=0.1) as site:  # a feed ends only with its age
            for route in routes(site.app):
                if isinstance(route, CallerFirst) and "GET" in methods(route):
                    answer = await site.get(filled(route.path, "1", "3"), params={"verbosse": "yes"})
                    if answer.status_code < 400:
                        assert answer.headers["warning"].startswith('299 - "query.verbosse: '), route.path
                        heard += 1
        return heard

    assert run(main()) > 20


@pytest.mark.wire("names-unknown")
def test_lists_and_streams_tell_it_in_the_header() -> None:
    message = {"assistant_id": "agent", "input": {"messages": [{"role": "user", "content": "Go on."}]}, "inpt": 1}
    found, streamed = asking(
        lambda site: site.post("/threads/search", {"limt": 3}),
        lambda site: site.post("/runs", message),
        dialects=["agent_protocol"],
    )
    assert found.json() == []
    assert found.headers["warning"] == '299 - "body.limt: is not known here, and was ignored; was limit meant?"'
    assert streamed.headers["warning"] == '299 - "body.inpt: is not known here, and was ignored; was input meant?"'


def test_what_is_known_is_not_told_nor_are_the_names_of_a_position() -> None:
    created, listed, followed = asking(
        lambda site: site.post("/agent-runs", {"prompt": "Go on.", "model": "large"}),
        lambda site: site.get("/agent-runs?skip=0&limit=3&status=running&source_type=API"),
        lambda site: site.get("/agent-runs/1/logs/stream?LASTEVENTID=2.end&last-event-id=1&skip=0", headers=JSON),
        host=ended(),
    )
    for answer in (created, listed, followed):
        assert answer.status_code < 300
        assert "warning" not in answer.headers
    assert "warnings" not in created.json()
    assert "warnings" not in listed.json()


def ended() -> FakeHost:
    host = FakeHost()
    host.add().append(2)
    host.runs["1"].status = "COMPLETE"
    return host


def test_names_cannot_break_out_of_the_header_and_are_bounded() -> None:
    hostile = 'x"\\\r\nSet-Cookie: a=b, 299 - "'
    many = {f"field_{number}": 1 for number in range(1000)}
    injected, crowded, long = asking(
        lambda site: site.post("/agent-runs", {"prompt": "Go on.", hostile: 1}),
        lambda site: site.post("/agent-runs", {"prompt": "Go on.", **many}),
        lambda site: site.post("/agent-runs", {"prompt": "Go on.", "n" * 100_000: 1}),
    )
    assert "set-cookie" not in injected.headers
    assert injected.headers["warning"].startswith('299 - "body.x\\"\\\\??Set-Cookie: a=b, 299 - \\": is not')
    assert len(crowded.json()["warnings"]) == MAX_WARNINGS
    assert told(long)[0][0] == f"body.{'n' * MAX_NAME}..."


# -- what is missing, empty or no JSON --------------------------------------------------------------------------------


@pytest.mark.wire("error-validation")
@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"promt": "Go on."}', "prompt: field required; promt is not known here."),
        (b'{"prompt": " "}', "prompt: must not be empty."),
        (b'{"prompt": "x", "images": ["http://a/b.png"]}', "images.0: must be a data URI: the host fetches no images."),
        (
            b'{"prompt": "x", "repo_id": "one"}',
            "repo_id: input should be a valid integer, unable to parse string as an integer.",
        ),
        (b'{"prompt": "", "metadata": 1}', "prompt: must not be empty (and 1 more: see the details)."),
        (b'{"prompt": yes}', "the body at 11: not valid JSON: Expecting value."),
        (b"", "the body: field required."),
        (b"[1]", "the body: must be an object."),
    ],
)
def test_the_sentence_of_an_error_names_the_field_and_what_is_wrong_with_it(body: bytes, sentence: str) -> None:
    (answer,) = asking(lambda site: site.ask("POST", "/agent-runs", content=body, headers=JSON))
    assert answer.status_code == 422
    assert answer.json()["error"] == sentence


@pytest.mark.wire("content-type")
@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "json"])
@pytest.mark.parametrize("path", ["/agent-runs", "/threads", "/v1/sessions", "/api/agents"])
def test_a_body_that_is_not_said_to_be_json_is_refused_by_that_name(kind: str | None, path: str) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    (answer,) = asking(lambda site: site.ask("POST", path, content=b'{"prompt": "x"}', headers=headers), dialects=EVERY)
    assert answer.status_code == 422
    assert "must be application/json, and is " + (kind or "missing") in answer.text


@pytest.mark.wire("content-type")
@pytest.mark.parametrize("path", ["/agent-runs", "/threads", "/v1/agents", "/api/agents"])
@pytest.mark.parametrize(
    "body", ['{"prompt":"\xf6"}'.encode("latin-1"), '{"a":1}'.encode("utf-16"), '{"a":1}'.encode("utf-16-le")]
)
def test_a_body_that_is_not_in_utf_8_is_refused_by_that_name(path: str, body: bytes) -> None:
    (answer,) = asking(lambda site: site.ask("POST", path, content=body, headers=JSON), dialects=EVERY)
    assert answer.status_code == 422
    assert "UTF-8" in answer.text


@pytest.mark.wire("content-type")
@pytest.mark.parametrize("coding", ["gzip", "br", "gzip, identity"])
def test_a_packed_body_is_refused_by_that_name(coding: str) -> None:
    def packed(site: Site) -> Any:
        return site.ask("POST", "/agent-runs", content=b"{}", headers={**JSON, "Content-Encoding": coding})

    plain, refused = asking(lambda site: site.post("/agent-runs", {"prompt": "x"}, headers=IDENTITY), packed)
    assert plain.status_code == 201
    assert refused.status_code == 422
    assert refused.json()["error"].startswith(f"Content-Encoding: must be identity, and is {coding}")


@pytest.mark.wire("headers-single")
@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("Authorization", "Bearer alice", "Bearer bob"),
        ("Content-Type", "application/json", "text/plain"),
        ("Idempotency-Key", "a", "b"),
        ("X-Organization-ID", "9", "8"),
    ],
)
def test_two_headers_that_differ_where_one_is_meant_are_refused(name: str, first: str, second: str) -> None:
    def twice(site: Site, then: str) -> Any:
        return site.ask(
            "POST", "/agent-runs", token=None, content=b'{"prompt":"x"}', headers=[(name, first), (name, then)]
        )

    same, other = asking(lambda site: twice(site, first), lambda site: twice(site, second))
    assert same.status_code != 400
    assert (other.status_code, other.json()["code"]) == (400, "invalid_request")
    assert name.lower() in other.json()["error"]


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"]
)
def test_what_is_json_by_any_name_is_read(kind: str) -> None:
    (answer,) = asking(
        lambda site: site.ask("POST", "/agent-runs", content=b'{"prompt": "x"}', headers={"Content-Type": kind})
    )
    assert answer.status_code == 201


@pytest.mark.wire("query-empty")
@pytest.mark.parametrize(
    "query", ["limit=", "limit", "limit=&skip=", "status=&limit=", "user_id=&source_type=", "&&limit="]
)
def test_a_parameter_that_is_left_empty_is_as_good_as_none(query: str) -> None:
    async def main() -> tuple[Any, Any]:
        host = FakeHost()
        for _ in range(3):
            host.add()
        async with serving(host) as site:
            return await site.get(f"/agent-runs?{query}"), await site.get("/agent-runs")

    empty, none = run(main())
    assert empty.status_code == 200
    assert empty.json() == none.json()


def test_what_stands_beside_an_empty_parameter_stays_as_it_came() -> None:
    query = b"source_type=%C3%84%26%3D%25+b&status=&place=%FF&limit=7"
    request = Request(request_scope("GET", b"/agent-runs", query, []))
    drop_empty(request)
    assert request.scope["query_string"] == query.replace(b"status=&", b"")
    assert request.query_params["source_type"] == "Ä&=% b"


@pytest.mark.wire("list-status")
@pytest.mark.parametrize(("word", "known"), [("foo", False), ("runing", False), ("running", True), ("Completed", True)])
def test_a_status_that_nothing_can_have_is_told_with_the_words_there_are(word: str, known: bool) -> None:
    (answer,) = asking(lambda site: site.get("/agent-runs", params={"status": word}))
    assert answer.json()["items"] == []
    if known:
        assert "warning" not in answer.headers
    else:
        ((place, text),) = told(answer)
        assert place == "query.status"
        assert all(status in text for status in RunStatus)


@pytest.mark.parametrize("path", ["/agent-runs", "/api/runs"])
def test_a_status_is_told_in_every_dialect_that_filters_by_one(path: str) -> None:
    known, other = asking(
        lambda site: site.get(path, params={"status": "running"}),
        lambda site: site.get(path, params={"status": "foo"}),
        dialects=EVERY,
    )
    assert "warning" not in known.headers
    assert known.json()["items"] == other.json()["items"] == []
    assert "running" in other.headers["warning"]


def test_a_status_that_no_run_of_a_thread_has_is_refused_with_the_words_there_are() -> None:
    made, listed, searched, timed_out = asking(
        lambda site: site.post("/threads", {"thread_id": THREAD}),
        lambda site: site.get(f"/threads/{THREAD}/runs?status=foo"),
        lambda site: site.post("/runs/search", {"status": "foo"}),
        lambda site: site.get(f"/threads/{THREAD}/runs?status=timeout"),
        dialects=["agent_protocol"],
    )
    assert made.status_code == 200
    assert listed.status_code == searched.status_code == 422
    assert "interrupted" in listed.text
    assert timed_out.json() == []


def test_a_word_of_the_hosts_that_a_run_has_is_not_told() -> None:
    async def main() -> Any:
        host = FakeHost()
        host.add()
        host.runs["1"].status = "BREWING"
        async with serving(host) as site:
            return await site.get("/agent-runs", params={"status": "brewing"})

    answer = run(main())
    assert len(answer.json()["items"]) == 1
    assert "warning" not in answer.headers


# -- pages that are not let in ----------------------------------------------------------------------------------------


@pytest.mark.wire("cors-headers")
@pytest.mark.parametrize("asked", ["a,,b", " ,a , b,", "a,b"])
def test_names_of_headers_that_are_empty_are_passed_over(asked: str) -> None:
    async def preflight(site: Site) -> Any:
        headers = {"Origin": "https://ui.example", "Access-Control-Request-Method": "POST"}
        return await site.ask(
            "OPTIONS", "/agent-runs", headers={**headers, "Access-Control-Request-Headers": asked}, token=None
        )

    (answer,) = asking(preflight, cors_origins=["https://ui.example"])
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-headers"] == "a, b"


@pytest.mark.wire("cors-preflight")
@pytest.mark.parametrize(
    ("headers", "said"),
    [
        (
            {"Origin": "https://evil.example"},
            "Pages of https://evil.example may not ask here, unless CODEGEN_CORS_ORIGINS",
        ),
        ({"Origin": "https://ui.example", "Access-Control-Request-Method": "BREW"}, "Pages may ask with DELETE, GET,"),
        (
            {"Origin": "https://ui.example", "Access-Control-Request-Headers": "a b"},
            "Names of headers are not well formed",
        ),
    ],
)
def test_a_refused_preflight_says_what_was_refused(headers: dict[str, str], said: str) -> None:
    async def preflight(site: Site) -> Any:
        asked = {"Access-Control-Request-Method": "POST", **headers}
        return await site.ask("OPTIONS", "/agent-runs", headers=asked, token=None)

    (answer,) = asking(preflight, cors_origins=["https://ui.example"])
    assert answer.status_code == 400
    assert answer.json()["code"] == "cors_refused"
    assert answer.json()["error"].startswith(said)
