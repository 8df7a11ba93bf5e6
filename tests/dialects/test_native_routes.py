"""The routes that give a whole answer."""

import asyncio
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_api.conversations import chores
from codegen_api.dialects.native.wire import entry_json
from codegen_api.errors import StoreUnavailable
from codegen_api.runs import Paging, to_json
from codegen_api.telemetry import Observation
from codegen_api.upstreams import Listing, NewRun, Organization, RunFilter
from tests.dialects.rich import RichHost
from tests.dialects.site import serving
from tests.fakehost import STATUSES
from tests.stores.model import ModelStore

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

GIF = "data:image/gif;base64,QUJD"


def a_host(status: str = "ACTIVE", length: int = 0, **more: Any) -> RichHost:
    host = RichHost(**more)
    host.add(status=status, result="42").append(length)
    return host


# -- how it is --------------------------------------------------------------------------------------------------------


@pytest.mark.wire("health", "answer-json", "times-are-utc")
@pytest.mark.parametrize(
    ("seen", "status"),
    [
        (None, "healthy"),
        (Observation(True, 1_800_000_000.25), "healthy"),
        (Observation(False, 1_800_000_000.25, "status 502, text/html", 1_799_999_940.0), "degraded"),
    ],
)
async def test_health_says_what_was_seen_last_and_asks_nobody(seen: Observation | None, status: str) -> None:
    host = RichHost()
    host.seen = seen
    async with serving(host, version="9.8.7") as site:
        answer = await site.get("/health", token=None)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {
        "status", "version", "timestamp", "uptime_seconds", "upstream", "issuer", "store", "redis", "runs_followed",
        "viewers", "http_version", "stream_heartbeat_seconds",
    }  # fmt: skip
    assert body["issuer"] == "not configured"
    assert body["status"] == status
    assert body["version"] == "9.8.7"
    assert TIME.fullmatch(body["timestamp"])
    assert 0 <= body["uptime_seconds"] < 60
    assert body["upstream"] == {
        "name": "fake",
        "reachable": seen and seen.reachable,
        "checked_at": seen and "2027-01-15T08:00:00.250Z",
        "trouble": seen and seen.trouble,
        "since": seen and seen.since and "2027-01-15T07:59:00.000Z",
    }
    assert (body["store"], body["redis"]) == ("not configured", "not configured")
    assert (body["runs_followed"], body["viewers"]) == (0, 0)
    assert (body["http_version"], body["stream_heartbeat_seconds"]) == ("1.1", 15)
    assert not host.calls


@pytest.mark.wire("readiness", "drain-refuses")
@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_it_is_ready_between_its_start_and_its_drain(path: str) -> None:
    async with serving(RichHost()) as site:
        answer = await site.get(path, token=None)
        assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
        drain = site.app.state.parts.drain
        drain.phase = "starting"
        answer = await site.get(path, token=None)
        assert (answer.status_code, answer.json()["status"], answer.headers["retry-after"]) == (
            503,
            "starting",
            "1",
        )
        drain.phase = "draining"
        answer = await site.get(path, token=None)
        assert (answer.status_code, answer.json()["status"], answer.headers["retry-after"]) == (
            503,
            "draining",
            "1",
        )


class Lost(ModelStore):
    """A store that goes and comes back."""

    gone = False

    def __init__(self) -> None:
        super().__init__()
        self.looked = asyncio.Event()

    async def check(self) -> None:
        self.looked.set()
        self.observation = Observation(not self.gone, 1_800_000_000.25, "OperationalError" if self.gone else None)
        if self.gone:
            raise StoreUnavailable


@pytest.mark.wire("health", "readiness")
async def test_a_store_that_has_gone_is_told_and_what_needs_none_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chores, "WATCH_EVERY", 0.0001)
    store, host = Lost(), RichHost()
    host.add()

    async with serving(host, store=store, dialects=("native", "agio")) as site:
        for gone in (False, True, False):
            store.gone = gone
            expected = (503, "store_unavailable") if gone else (200, "ready")
            store.looked.clear()
            await store.looked.wait()
            answer = await site.get("/readyz", token=None)
            assert (answer.status_code, answer.json()) == (expected[0], {"status": expected[1]})
            health = (await site.get("/health", token=None)).json()
            assert health["status"] == ("degraded" if gone else "healthy")
            assert health["store"] == {
                "reachable": not gone,
                "checked_at": "2027-01-15T08:00:00.250Z",
                "trouble": "OperationalError" if gone else None,
                "since": None,
            }
            assert (await site.get("/api/health", token=None)).json()["status"] == health["status"]
            assert (await site.get("/livez", token=None)).status_code == 200
            assert (await site.get("/agent-runs/1")).status_code == 200


# -- users and organizations ------------------------------------------------------------------------------------------


@pytest.mark.wire("host-fields-kept")
async def test_the_user_is_the_host_s_with_all_its_fields() -> None:
    async with serving(RichHost()) as site:
        answer = await site.get("/users/me")
    assert answer.json() == {"id": 1, "email": "a@example.com", "unheard_of": {"deep": [1, None]}}


@pytest.mark.wire("paging-shape")
async def test_organizations_come_with_the_host_s_account_of_them() -> None:
    async with serving(RichHost()) as site:
        answer = await site.get("/organizations?limit=7")
    assert answer.json() == {"items": [{"id": 9}], "total": 1, "page": 1, "size": 7, "pages": 1, "next_skip": None}


@pytest.mark.wire("pages-filled", "list-next")
async def test_a_page_of_organizations_that_is_short_says_where_to_go_on() -> None:
    class Many(RichHost):
        async def organizations(self, credential: Any, skip: int, limit: int) -> Any:
            items = tuple(Organization(str(number), {"id": number}) for number in range(1, 31)[skip : skip + 1])
            return Listing(items, Paging(30, 1, limit, 1), at_end=not items)

    async with serving(Many(), upstream_requests_per_minute=1_000_000) as site:
        ids, skip = [], 0
        while skip is not None:
            answer = (await site.get(f"/organizations?skip={skip}")).json()
            ids += [each["id"] for each in answer["items"]]
            skip = answer["next_skip"]
        assert ids == list(range(1, 31))


@pytest.mark.wire("org-choice", "org-required")
async def test_the_header_names_the_organization() -> None:
    host = a_host()
    asked = []
    original = host.list_runs

    async def list_runs(credential: Any, organization: str, *more: Any) -> Any:
        asked.append(organization)
        return await original(credential, organization, *more)

    host.list_runs = list_runs  # type: ignore[assignment,method-assign]
    async with serving(host, org_id="5") as with_default, serving(host) as without:
        await with_default.get("/agent-runs", headers={"X-Organization-ID": "0323"})
        await with_default.get("/agent-runs")
        await with_default.get("/agent-runs", headers={"X-Organization-ID": ""})
        await without.get("/agent-runs")
    assert asked == ["323", "5", "5", "9"]


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.wire("create", "root-path", "run-status")
@pytest.mark.parametrize("root_path", ["", "/codegen"])
@pytest.mark.filterwarnings("default:The `root_path`")  # reported as a fault of its own below
async def test_a_new_run_is_answered_with_its_place(root_path: str) -> None:
    host = RichHost()
    async with serving(host, root_path=root_path) as site:
        body = {
            "prompt": "Say hello", "metadata": {"a": [1, {"b": None}]}, "images": ["data:image/png;base64,AA=="],
            "repo_id": 7, "model": "m", "agent_type": "t",
        }  # fmt: skip
        answer = await site.post("/agent-runs", body)
        assert answer.status_code == 201
        assert answer.headers["location"] == f"{root_path}/agent-runs/1"
        assert answer.json() == {
            "id": 1,
            "status": "ACTIVE",
            "result": None,
            "run_status": "running",
            "ended": False,
        }
        await site.post("/agent-runs", {"prompt": "x"})
    images = ("data:image/png;base64,AA==",)
    assert host.created == [NewRun("Say hello", {"a": [1, {"b": None}]}, images, 7, "m", "t"), NewRun("x")]


@pytest.mark.wire("root-path")
async def test_a_root_path_is_no_reason_to_complain() -> None:
    async with serving(RichHost(), root_path="/codegen") as site:
        assert (await site.get("/users/me")).status_code == 200


async def test_a_prompt_may_hold_whatever_text_can_hold() -> None:
    host = RichHost()
    async with serving(host) as site:
        headers = {"Content-Type": "application/json"}
        for text in (r"\ud800", r"\u0000", "ü\\n\U0001f600", ""):
            content = f'{{"prompt":"{text}"}}'.encode()
            answer = await site.ask("POST", "/agent-runs", content=content, headers=headers)
            assert answer.status_code in (201, 422)
            if answer.status_code == 201:
                assert host.created[-1].prompt == json.loads(content)["prompt"]


@pytest.mark.wire("run-status", "host-fields-kept")
@pytest.mark.parametrize(("raw", "status"), [*STATUSES.items(), ("UNHEARD_OF", "unknown")])
async def test_a_run_says_its_status_in_both_words(raw: str, status: str) -> None:
    async with serving(a_host(raw)) as site:
        answer = await site.get("/agent-runs/1")
        assert (await site.get("/agent-runs/001")).json() == answer.json()
    assert answer.json() == {
        "id": 1, "status": raw, "result": "42", "summary": "whole", "run_status": status,
        "ended": status in ("completed", "failed", "cancelled"),
    }  # fmt: skip


@pytest.mark.wire("resume", "cancel")
async def test_a_run_can_be_cancelled_and_resumed() -> None:
    host = a_host(length=2)
    async with serving(host) as site:
        answer = await site.post("/agent-runs/1/cancel")
        assert (answer.status_code, answer.json()["run_status"], answer.json()["ended"]) == (200, "cancelled", True)
        answer = await site.post("/agent-runs/1/resume", {"prompt": "Go on", "images": [GIF]})
        assert (answer.status_code, answer.json()["run_status"], answer.json()["id"]) == (200, "running", 1)
        await site.post("/agent-runs/1/resume", {"prompt": "On"})
    assert host.resumed == [("Go on", (GIF,)), ("On", None)]


@pytest.mark.wire("cancel", "error-codes")
@pytest.mark.parametrize("status", ["COMPLETE", "ERROR"])
async def test_a_run_that_is_over_is_not_cancelled(status: str) -> None:
    async with serving(a_host(status, length=2)) as site:
        answer = await site.post("/agent-runs/1/cancel")
        assert (answer.status_code, answer.json()["code"]) == (409, "run_ended")
        assert (await site.get("/agent-runs/1")).json()["status"] == status
        assert site.host.calls["cancel"] == 0


@pytest.mark.wire("create", "error-validation")
@pytest.mark.parametrize(("path", "dialect"), [("/agent-runs", "native"), ("/v1/organizations/9/agent/run", "codegen")])
async def test_metadata_that_would_weigh_on_everybody_s_lists_is_refused(path: str, dialect: str) -> None:
    async with serving(a_host(), dialects=(dialect,)) as site:
        answer = await site.post(path, {"prompt": "Say hello", "metadata": {"a": ["x" * 1000] * 300}})
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
        (place,) = answer.json()["details" if dialect == "native" else "detail"]
        assert (place["loc"], place["type"]) == (["body", "metadata"], "too_long")
        assert site.host.calls["create"] == 0
        assert (await site.post(path, {"prompt": "Hi", "metadata": {"a": "x" * 250_000}})).is_success


@pytest.mark.wire("create", "error-validation")
@pytest.mark.parametrize(
    ("path", "body", "fields"),
    [
        (
            "/threads/t/runs",
            {"assistant_id": "agent", "input": {"messages": [{"role": "user", "content": "Say hello"}]}},
            ("metadata", "config", "context"),
        ),
        ("/api/chat", {"agent_id": "a", "message": "Say hello"}, ("metadata",)),
    ],
)
async def test_so_is_that_of_runs_in_conversations(path: str, body: dict[str, Any], fields: tuple[str, ...]) -> None:
    async with serving(a_host(), dialects=("agent_protocol", "agio")) as site:
        agent = (await site.post("/api/agents", {"name": "a", "system_prompt": "Be brief."})).json()["id"]
        given = {**body, **({"agent_id": agent} if "agent_id" in body else {})}
        for field in fields:
            answer = await site.post(path, {**given, field: {"a": ["x" * 1000] * 300}})
            assert answer.status_code == 422, answer.text
            assert f"{256 * 1024} bytes" in answer.text
        assert site.host.calls["create"] == 0
        assert (await site.get("/threads/t")).status_code == 404


@pytest.mark.wire("list-filters", "paging-shape", "paging-parameters")
async def test_a_list_is_the_host_s_page_newest_first() -> None:
    host = RichHost()
    for number in range(1, 151):
        host.add(str(number))
    async with serving(host) as site:
        whole = (await site.get("/agent-runs")).json()
        assert [item["id"] for item in whole["items"]] == list(range(150, 50, -1))
        assert set(whole) == {"items", "total", "page", "size", "pages", "next_skip"}
        assert (whole["total"], whole["page"], whole["next_skip"]) == (150, None, 100)
        some = (await site.get("/agent-runs?skip=145&limit=3&source_type=API&user_id=7&unheard_of=1")).json()
        assert [item["id"] for item in some["items"]] == [5, 4, 3]
        assert some["items"][0]["run_status"] == "running"
    assert host.filters == [RunFilter(), RunFilter("API", "7")]


@pytest.mark.wire("list-status")
@pytest.mark.parametrize("word", ["COMPLETE", "complete", "completed", "Completed"])
async def test_a_list_can_be_narrowed_by_status_in_any_word_and_case(word: str) -> None:
    host = RichHost()
    for number in range(1, 11):
        host.add(str(number), status="COMPLETE" if number % 2 else "ACTIVE")
    async with serving(host) as site:
        first = (await site.get(f"/agent-runs?status={word}&limit=3")).json()
        rest = (await site.get(f"/agent-runs?status={word}&limit=3&skip={first['next_skip']}")).json()
        nothing = (await site.get("/agent-runs?status=UNHEARD_OF")).json()
    assert [item["id"] for item in first["items"]] == [9, 7, 5]
    assert first["total"] == 10
    assert [item["id"] for item in rest["items"]] == [3, 1]
    assert rest["next_skip"] is None
    assert (nothing["items"], nothing["next_skip"], nothing["total"]) == ([], None, 10)


async def test_an_empty_status_is_none() -> None:
    async with serving(a_host()) as site:
        assert (await site.get("/agent-runs?status=")).json() == (await site.get("/agent-runs")).json()


# -- logs -------------------------------------------------------------------------------------------------------------


def next_of(link: str | None) -> str | None:
    if link is None:
        return None
    match = re.fullmatch(r'<([^<>"]+)>; rel="next"', link)
    assert match is not None
    return match[1]


@pytest.mark.wire("logs-page", "logs-reverse", "entry-position")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("with_totals", [False, True])
@pytest.mark.parametrize("length", [0, 1, 99, 100, 101, 250])
@pytest.mark.parametrize("limit", [100, 7, 1])
async def test_following_the_links_gives_the_whole_log_with_its_positions(
    length: int, limit: int, with_totals: bool, reverse: bool
) -> None:
    host = a_host("COMPLETE", length, with_totals=with_totals)
    async with serving(host) as site:
        path: str | None = f"/agent-runs/1/logs?limit={limit}&reverse={str(reverse).lower()}"
        entries: list[Any] = []
        pages = 0
        while path is not None:
            answer = await site.get(path)
            body = answer.json()
            assert len(body["logs"]) <= limit
            assert body["total_logs"] == (length if with_totals else None)
            assert (body["page"], body["size"], body["pages"]) == (None, limit, None)
            assert (body["id"], body["run_status"], body["ended"], "total" in body) == (1, "completed", True, False)
            entries += body["logs"]
            path = next_of(answer.headers.get("link"))
            pages += 1
    numbers = list(range(length, 0, -1)) if reverse else list(range(1, length + 1))
    assert [entry["n"] for entry in entries] == numbers
    assert [entry["position"] for entry in entries] == (numbers if with_totals or not reverse else [None] * length)
    if with_totals:
        assert pages == max(1, -(-length // limit))


@pytest.mark.wire("root-path", "logs-page")
@pytest.mark.filterwarnings("default:The `root_path`")
async def test_a_link_is_a_path_under_the_root() -> None:
    async with serving(a_host(length=250), root_path="/codegen") as site:
        answer = await site.get("/agent-runs/001/logs?skip=50&limit=100", headers={"Host": "evil.example"})
    assert next_of(answer.headers["link"]) == "/codegen/agent-runs/1/logs?skip=150&limit=100&reverse=false"


async def test_behind_the_end_there_is_nothing() -> None:
    async with serving(a_host(length=5)) as site:
        for query in ("skip=5", "skip=500", f"skip={10**18}"):
            answer = await site.get(f"/agent-runs/1/logs?{query}")
            assert answer.status_code == 200
            assert answer.json()["logs"] == []
            assert "link" not in answer.headers


@pytest.mark.wire("entry-position", "json-always-valid")
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=()), max_size=8),
        st.text(st.characters(exclude_categories=()), max_size=8),
        max_size=3,
    ),
    st.none() | st.integers(1, 10**18),
)
def test_a_position_is_added_to_an_entry_without_reading_it(fields: dict[str, str], position: int | None) -> None:
    fields.pop("position", None)
    assert json.loads(entry_json(to_json(fields), position)) == {**fields, "position": position}


def test_a_position_of_the_host_s_own_does_not_win() -> None:
    """JSON allows a name twice; readers take the last."""
    assert json.loads(entry_json(b'{"position":7}', 3))["position"] == 3


# -- bad tokens -------------------------------------------------------------------------------------------------------


@pytest.mark.wire("auth-strangers", "error-retry-after")
async def test_bad_tokens_are_told_to_wait_and_the_host_is_left_alone() -> None:
    async with serving(RichHost()) as site:
        assert (await site.get("/users/me", token="alice")).status_code == 200
        before = site.host.calls["identify"]
        answers = [await site.get("/users/me", token=f"token-of-nobody-{number}") for number in range(40)]
        assert {answer.status_code for answer in answers[:10]} == {401}
        assert {(answer.status_code, answer.json()["code"]) for answer in answers[10:]} == {(429, "rate_limited")}
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 6
        assert site.host.calls["identify"] == before + 10
        known = await site.get("/users/me", token="token-of-nobody-3")
        assert known.status_code == 401  # which needs no call
        assert (await site.get("/users/me", token="alice")).status_code == 200
