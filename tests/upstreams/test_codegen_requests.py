"""What exactly the Codegen adapter sends."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator
from contextvars import copy_context
from functools import partial
from typing import Any

import httpx
import pytest
import respx

from codegen_api import errors
from codegen_api.identity import Credential
from codegen_api.runs import RunRef, RunStatus
from codegen_api.telemetry import Trace, trace
from codegen_api.upstreams import NewRun, RunFilter
from codegen_api.upstreams.codegen import CodegenUpstream

from .asking import CREDENTIAL, REF, RUN, TOKEN, ask_upstream, get_run

HOST = "https://host.example"
RUNS = f"{HOST}/v1/organizations/323/agent/run"
LOGS = f"{HOST}/v1/alpha/organizations/323/agent/run/41894/logs"
PAGE: dict[str, object] = {"items": [], "total": 0, "page": 1, "size": 100, "pages": 0}

Call = Callable[[CodegenUpstream], Awaitable[object]]


@pytest.fixture
def router() -> Iterator[respx.MockRouter]:
    with respx.MockRouter(assert_all_called=False, using=None) as router:
        yield router


def upstream(router: respx.MockRouter, base_url: str = HOST, **more: Any) -> CodegenUpstream:
    return CodegenUpstream(base_url, transport=httpx.MockTransport(router.async_handler), **more)


def sent(router: respx.MockRouter) -> list[str]:
    """The requests in order, as text."""
    return [f"{call.request.method} {call.request.url}" for call in router.calls]


def test_a_question_bears_the_token_and_asks_for_json(router: respx.MockRouter) -> None:
    router.get(f"{HOST}/v1/users/me").respond(json={"id": 1001})
    ask_upstream(upstream(router), lambda upstream: upstream.identify(CREDENTIAL))
    headers = router.calls.last.request.headers
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["accept"] == "application/json"
    assert headers["user-agent"].startswith("codegen_api/")
    assert len(headers["user-agent"]) > len("codegen_api/")
    assert not {"x-request-id", "via", "cookie", "content-type"} & set(headers)


@pytest.mark.parametrize(
    "base_url",
    [
        "https://host.example",
        "https://host.example/",
        "https://host.example///",
        "https://host.example/v1",
        "https://host.example/v1//",
        "  HTTPS://Host.Example/v1/ ",
    ],
)
def test_a_base_url_means_the_same_with_and_without_its_version(router: respx.MockRouter, base_url: str) -> None:
    router.get(f"{RUNS}/41894").respond(content=RUN)
    ask_upstream(upstream(router, base_url), get_run)
    assert sent(router) == [f"GET {RUNS}/41894"]


def test_a_base_url_may_have_a_port_and_a_path_before_the_version(router: respx.MockRouter) -> None:
    router.get(path="/agents/v1/organizations/323/agent/run/41894").respond(content=RUN)
    ask_upstream(upstream(router, "http://127.0.0.1:8900/agents/v1/"), get_run)
    assert sent(router) == ["GET http://127.0.0.1:8900/agents/v1/organizations/323/agent/run/41894"]


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "host.example",
        "/v1",
        "ftp://host.example",
        "https://",
        "https:///v1",
        "http://host.example:port",
        "http://a..b",
        "http://" + "x" * 64 + ".example",
        "https://user:hunter2@host.example",
        "https://host.example/v1?key=hunter2",
        "https://host.example/#hunter2",
        "http://host\n.example",
    ],
)
def test_an_unusable_base_url_is_refused_with_a_sentence_that_does_not_quote_it(base_url: str) -> None:
    with pytest.raises(ValueError, match=r"^The base URL .*\.$") as caught:
        CodegenUpstream(base_url)
    assert "hunter2" not in str(caught.value)


def test_the_gateway_can_be_named_in_via(router: respx.MockRouter) -> None:
    router.get(f"{RUNS}/41894").respond(content=RUN)
    ask_upstream(upstream(router, via="codegen_api-7f3a"), get_run)
    assert router.calls.last.request.headers["via"] == "1.1 codegen_api-7f3a"


def headers_sent(router: respx.MockRouter, of: Trace) -> httpx.Headers:
    def ask() -> None:
        trace.set(of)
        ask_upstream(upstream(router), get_run)

    router.get(f"{RUNS}/41894").respond(content=RUN)
    copy_context().run(ask)
    headers: httpx.Headers = router.calls.last.request.headers
    return headers


def test_the_request_being_served_is_told_to_the_host(router: respx.MockRouter) -> None:
    pairs = (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("tracestate", "a=1"))
    headers = headers_sent(router, Trace("req-1", (*pairs, ("baggage", "k=v"))))
    assert headers["x-request-id"] == "req-1"
    assert {name: headers[name] for name, _ in pairs} == dict(pairs)
    assert headers["baggage"] == "k=v"


def test_what_no_header_can_carry_is_left_out(router: respx.MockRouter) -> None:
    headers = headers_sent(router, Trace("a\r\nX-Evil: 1", (("baggage", "käse=1"), ("tracestate", "a=1"))))
    assert "x-request-id" not in headers
    assert "x-evil" not in headers
    assert "baggage" not in headers
    assert headers["tracestate"] == "a=1"


@pytest.mark.parametrize("token", ["", " ", "a b", "tökén", "a\r\nX-Evil: 1", "\ud800"])
def test_a_token_that_no_header_can_carry_is_not_good_and_not_sent(router: respx.MockRouter, token: str) -> None:
    asked = upstream(router)
    with pytest.raises(errors.InvalidToken):
        ask_upstream(asked, lambda upstream: upstream.identify(Credential(token, "digest")))
    assert sent(router) == []
    assert asked.observation is None


def body_sent(router: respx.MockRouter, url: str, call: Call) -> Any:
    router.post(url).respond(content=RUN)
    ask_upstream(upstream(router), call)
    request = router.calls.last.request
    assert request.headers["content-type"] == "application/json"
    assert int(request.headers["content-length"]) == len(request.content)
    return json.loads(request.content)


def test_a_new_run_says_only_what_was_given(router: respx.MockRouter) -> None:
    new = NewRun("Say hello")
    assert body_sent(router, RUNS, lambda upstream: upstream.create_run(CREDENTIAL, "323", new)) == {
        "prompt": "Say hello"
    }
    assert sent(router) == [f"POST {RUNS}"]


def test_a_new_run_says_all_that_was_given(router: respx.MockRouter) -> None:
    new = NewRun("Look", {"a": [1, None]}, ("data:image/png;base64,AA==",), 7, "some-model", "claude_code")
    assert body_sent(router, RUNS, lambda upstream: upstream.create_run(CREDENTIAL, "323", new)) == {
        "prompt": "Look",
        "metadata": {"a": [1, None]},
        "images": ["data:image/png;base64,AA=="],
        "repo_id": 7,
        "model": "some-model",
        "agent_type": "claude_code",
    }


def test_nothing_given_is_not_the_same_as_something_empty(router: respx.MockRouter) -> None:
    new = NewRun("", {}, (), 0, "", "")
    assert body_sent(router, RUNS, lambda upstream: upstream.create_run(CREDENTIAL, "323", new)) == {
        "prompt": "",
        "metadata": {},
        "images": [],
        "repo_id": 0,
        "model": "",
        "agent_type": "",
    }


def test_marks_are_kept_in_the_metadata(router: respx.MockRouter) -> None:
    for metadata in (None, {}, {"a": 1}):
        new = NewRun("Say hello", metadata, marks={"owner": "x"})
        body = body_sent(
            router, RUNS, partial(CodegenUpstream.create_run, credential=CREDENTIAL, organization="323", new=new)
        )
        assert body["metadata"] == {**(metadata or {}), "codegen_gateway": {"owner": "x"}}


@pytest.mark.wire("metadata-reserved")
@pytest.mark.parametrize("marks", [{}, {"owner": "x"}])
def test_metadata_that_would_pass_for_marks_is_rejected_and_not_sent(
    router: respx.MockRouter, marks: dict[str, str]
) -> None:
    new = NewRun("Say hello", {"a": 1, "codegen_gateway": {"owner": "me"}}, marks=marks)
    with pytest.raises(errors.Rejected) as caught:
        ask_upstream(upstream(router), lambda each: each.create_run(CREDENTIAL, "323", new))
    (detail,) = caught.value.details
    assert isinstance(detail, errors.Detail)
    assert detail.loc == ("body", "metadata", "codegen_gateway")
    assert not router.calls


def test_a_prompt_that_is_no_unicode_is_sent_escaped(router: respx.MockRouter) -> None:
    new = NewRun("half a pair: \ud800")
    assert body_sent(router, RUNS, lambda upstream: upstream.create_run(CREDENTIAL, "323", new)) == {
        "prompt": "half a pair: \ud800"
    }


def test_metadata_nested_too_deeply_is_rejected_and_not_sent(router: respx.MockRouter) -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(errors.Rejected) as caught:
        ask_upstream(upstream(router), lambda each: each.create_run(CREDENTIAL, "323", NewRun("Hi", {"a": nested})))
    assert isinstance(caught.value.details[0], errors.Detail)
    assert sent(router) == []


def test_a_resume_names_the_run_in_its_body(router: respx.MockRouter) -> None:
    body = body_sent(router, f"{RUNS}/resume", lambda upstream: upstream.resume_run(CREDENTIAL, REF, "Go on", None))
    assert body == {"agent_run_id": 41894, "prompt": "Go on"}
    assert sent(router) == [f"POST {RUNS}/resume"]


def test_a_resume_may_bring_images(router: respx.MockRouter) -> None:
    body = body_sent(router, f"{RUNS}/resume", lambda upstream: upstream.resume_run(CREDENTIAL, REF, "Go on", ("i",)))
    assert body == {"agent_run_id": 41894, "prompt": "Go on", "images": ["i"]}


@pytest.mark.parametrize("content", [b"{}", b"null", b"[]", b'"ok"', b"1"])
@pytest.mark.parametrize("order", ["ban", "unban"])
def test_a_cancel_is_a_ban_that_can_be_lifted(router: respx.MockRouter, order: str, content: bytes) -> None:
    route = router.post(f"{RUNS}/{order}").respond(content=content)
    call = CodegenUpstream.cancel_run if order == "ban" else CodegenUpstream.uncancel_run
    ask_upstream(upstream(router), lambda upstream: call(upstream, CREDENTIAL, REF))
    assert sent(router) == [f"POST {RUNS}/{order}"]
    assert json.loads(route.calls.last.request.content) == {"agent_run_id": 41894}


@pytest.mark.parametrize(
    ("status", "content"), [(204, b""), (200, b""), (200, b"OK"), (202, b"<html>"), (201, b'{"id":')]
)
@pytest.mark.parametrize("order", ["ban", "unban"])
def test_any_answer_of_success_to_an_order_of_which_nothing_is_read_is_success(
    router: respx.MockRouter, order: str, content: bytes, status: int
) -> None:
    router.post(f"{RUNS}/{order}").respond(status, content=content)
    call = CodegenUpstream.cancel_run if order == "ban" else CodegenUpstream.uncancel_run
    asked = upstream(router)
    ask_upstream(asked, lambda upstream: call(upstream, CREDENTIAL, REF))
    assert asked.observation is not None
    assert (asked.observation.reachable, asked.observation.trouble) == (True, None)


@pytest.mark.parametrize("status", [301, 400, 503])
@pytest.mark.parametrize("order", ["ban", "unban"])
def test_an_order_that_is_answered_otherwise_is_an_error(router: respx.MockRouter, order: str, status: int) -> None:
    router.post(f"{RUNS}/{order}").respond(status)
    call = CodegenUpstream.cancel_run if order == "ban" else CodegenUpstream.uncancel_run
    with pytest.raises(errors.UpstreamError):
        ask_upstream(upstream(router), lambda upstream: call(upstream, CREDENTIAL, REF))


@pytest.mark.parametrize("content", [b"", b"OK", b"null", b'{"ok":true}', b'{"id":7}', b"[]"])
def test_a_resume_that_is_answered_without_the_run_shows_it_all_the_same(
    router: respx.MockRouter, content: bytes
) -> None:
    router.post(f"{RUNS}/resume").respond(202, content=content)
    router.get(f"{RUNS}/41894").respond(json={"id": 41894, "organization_id": 323, "status": "ACTIVE"})
    run = ask_upstream(upstream(router), lambda upstream: upstream.resume_run(CREDENTIAL, REF, "Go on", None))
    assert (run.ref, run.status) == (REF, RunStatus.RUNNING)
    assert sent(router) == [f"POST {RUNS}/resume", f"GET {RUNS}/41894"]


@pytest.mark.parametrize("status", [404, 429, 500])
def test_a_resume_that_was_heard_is_no_error_when_the_run_cannot_be_shown(
    router: respx.MockRouter, status: int
) -> None:
    router.post(f"{RUNS}/resume").respond(204)
    router.get(f"{RUNS}/41894").respond(status, json={})
    run = ask_upstream(upstream(router), lambda upstream: upstream.resume_run(CREDENTIAL, REF, "Go on", None))
    assert (run.ref, run.status) == (REF, RunStatus.UNKNOWN)
    assert run.fields == {"id": 41894, "organization_id": 323, "status": None}


def test_a_refused_ban_is_told(router: respx.MockRouter) -> None:
    router.post(f"{RUNS}/ban").respond(404, json={"message": "Agent run not found."})
    with pytest.raises(errors.NotFound):
        ask_upstream(upstream(router), lambda upstream: upstream.cancel_run(CREDENTIAL, REF))
    assert sent(router) == [f"POST {RUNS}/ban"]


@pytest.mark.parametrize(
    ("only", "query"),
    [
        (RunFilter(), "skip=0&limit=20"),
        (RunFilter(source_type="API"), "skip=0&limit=20&source_type=API"),
        (RunFilter(user_id="0"), "skip=0&limit=20&user_id=0"),
        (RunFilter(user_id="-07"), "skip=0&limit=20&user_id=-7"),
        (RunFilter("a b&c=d/é", "7"), "skip=0&limit=20&source_type=a%20b%26c%3Dd%2F%C3%A9&user_id=7"),
    ],
)
def test_runs_are_listed_under_a_plural_with_the_filters_given(
    router: respx.MockRouter, only: RunFilter, query: str
) -> None:
    router.get(f"{RUNS}s").respond(json=PAGE)
    ask_upstream(upstream(router), lambda upstream: upstream.list_runs(CREDENTIAL, "323", 0, 20, only))
    (request,) = sent(router)
    assert request.replace("+", "%20") == f"GET {RUNS}s?{query}"


@pytest.mark.parametrize(
    ("newest_first", "query"), [(False, "skip=25&limit=100"), (True, "skip=25&limit=100&reverse=true")]
)
def test_a_log_is_read_under_alpha_from_the_cursor(router: respx.MockRouter, newest_first: bool, query: str) -> None:
    router.get(LOGS).respond(json={"id": 41894, "organization_id": 323, "logs": []})
    ask_upstream(
        upstream(router),
        lambda upstream: upstream.read_log(CREDENTIAL, REF, 25, 100, newest_first=newest_first),
    )
    assert sent(router) == [f"GET {LOGS}?{query}"]


def test_organizations_are_asked_for_in_pages(router: respx.MockRouter) -> None:
    router.get(f"{HOST}/v1/organizations").respond(json=PAGE)
    ask_upstream(upstream(router), lambda upstream: upstream.organizations(CREDENTIAL, 5, 10))
    assert sent(router) == [f"GET {HOST}/v1/organizations?skip=5&limit=10"]


def test_users_are_asked_for_below_their_organization(router: respx.MockRouter) -> None:
    router.get(f"{HOST}/v1/organizations/323/users").respond(json=PAGE)
    router.get(f"{HOST}/v1/organizations/323/users/7").respond(json={"id": 7})
    ask_upstream(upstream(router), lambda upstream: upstream.users(CREDENTIAL, "0323", 5, 10))
    ask_upstream(upstream(router), lambda upstream: upstream.user(CREDENTIAL, "323", "007"))
    users = f"GET {HOST}/v1/organizations/323/users"
    assert sent(router) == [f"{users}?skip=5&limit=10", f"{users}/7"]


def test_repositories_are_asked_for_by_the_name_in_the_host_s_document(router: respx.MockRouter) -> None:
    router.get(f"{HOST}/v1/organizations/323/repos").respond(json=PAGE)
    ask_upstream(upstream(router), lambda upstream: upstream.repositories(CREDENTIAL, "0323", 5, 10))
    assert sent(router) == [f"GET {HOST}/v1/organizations/323/repos?skip=5&limit=10"]


@pytest.mark.parametrize(("skip", "limit"), [(0, 101), (0, 0), (0, -1), (-1, 10)])
def test_a_page_beyond_the_host_s_bounds_is_the_caller_s_mistake(
    router: respx.MockRouter, skip: int, limit: int
) -> None:
    calls: tuple[Call, ...] = (
        lambda upstream: upstream.read_log(CREDENTIAL, REF, skip, limit),
        lambda upstream: upstream.list_runs(CREDENTIAL, "323", skip, limit, RunFilter()),
        lambda upstream: upstream.organizations(CREDENTIAL, skip, limit),
        lambda upstream: upstream.users(CREDENTIAL, "323", skip, limit),
        lambda upstream: upstream.repositories(CREDENTIAL, "323", skip, limit),
    )
    for call in calls:
        with pytest.raises(ValueError, match="limit from 1 to 100"):
            ask_upstream(upstream(router), call)
    assert sent(router) == []


@pytest.mark.parametrize(
    ("text", "form"), [("323", "323"), ("0323", "323"), ("0", "0"), ("000", "0"), ("9" * 18, "9" * 18)]
)
def test_ids_have_one_form(router: respx.MockRouter, text: str, form: str) -> None:
    assert upstream(router).organization_id(text) == form
    assert upstream(router).run_id(text) == form


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "1\n", "+1", "-1", "1.0", "1e3", "0x1", "1_000", "abc", "٣", "³", "9" * 19, "../41895", "1/2"],
)
def test_anything_else_is_no_id_and_never_becomes_part_of_a_url(router: respx.MockRouter, text: str) -> None:
    for what, check in (("organization_id", upstream(router).organization_id), ("run_id", upstream(router).run_id)):
        with pytest.raises(errors.Rejected) as caught:
            check(text)
        (detail,) = caught.value.details
        assert isinstance(detail, errors.Detail)
        assert (detail.loc, detail.type) == ((what,), "int_parsing")
        assert detail.msg
    for ref in (RunRef(text, "1"), RunRef("1", text)):
        for ask in (CodegenUpstream.get_run, CodegenUpstream.cancel_run):
            with pytest.raises(errors.Rejected):
                ask_upstream(upstream(router), partial(ask, credential=CREDENTIAL, ref=ref))
    for organization, user in ((text, "1"), ("1", text)):
        with pytest.raises(errors.Rejected):
            ask_upstream(
                upstream(router),
                partial(CodegenUpstream.user, credential=CREDENTIAL, organization=organization, user_id=user),
            )
    assert sent(router) == []


def test_nothing_is_asked_twice(router: respx.MockRouter) -> None:
    router.route().mock(side_effect=[httpx.ConnectError("no"), httpx.Response(503), httpx.Response(429)])

    async def thrice() -> None:
        asked = upstream(router)
        for _ in range(3):
            with contextlib.suppress(errors.GatewayError):
                await get_run(asked)
        await asked.aclose()

    asyncio.run(thrice())
    assert len(router.calls) == 3


def test_a_version_that_is_not_installed_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.meta_path", [])
    client = CodegenUpstream(HOST, transport=httpx.MockTransport(lambda request: httpx.Response(200)))
    assert client.name == "codegen"
