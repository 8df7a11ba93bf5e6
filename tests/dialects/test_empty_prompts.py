"""A run costs money: none is started or resumed with nothing to do, in any dialect, and the answer names the field."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from codegen_api.dialects import MAX_EXAMINED, MAX_ITEMS, image_fault, is_blank
from tests.dialects.sdk import speaking
from tests.dialects.site import Site

ALL = ("codegen", "agent_protocol", "everruns", "agio")
EMPTY = ["", " ", "\n\t ", "\u00a0\u2003", "\u200b\ufeff", "\u3164", " \u0301\ufe0f"]
UNSEEN = [
    "\x00", "\x7f\x85", "\u00ad", "\u061c", "\u180e", "\u202e\u202c", "\u2060\u2063", "\u2028\u2029", "\ufff9",
    "\u115f", "\u1160", "\u3164\u3164", "\uffa0", "\u2800 \u2800", "\ufffc", "\U0001d159", "\U00013441",
    "\u0301", "\u034f", "\u0903", "\u20dd", "\u17b4\u17b5", "\u180b", "\u3099", "\U00016fe4",
    "\ufe0f", "\u200d\ufe0f", "\U000e0100", "\U000e0001\U000e0020", "\U000e0fff", "\u2065", "\ufff0",
    "\ue000", "\U0010fffd", "\ufdd0", "\uffff", "\U0004fffe",
]  # fmt: skip
SEEN = [
    "?", "0", "^", "\u00b4", "\ufffd", "\u0e01\u0e33", "\u0915\u093e", "\u05e9\u05c1", "\uac00", "\u1112\u1161",
    "\u2801",
    "\u2764\ufe0f", "1\ufe0f\u20e3", "\U0001f469\u200d\U0001f4bb", "\U0001f1e9\U0001f1ea", "\U0001f3fb", "\U0001fae9",
    "\U0001f3f4\U000e0067\U000e0062\U000e007f", "e\u0301", "\u3164x", "\u4e00\ufe00", "\U00013440\U00013000",
]  # fmt: skip

Body = Callable[[Any], Any]
Way = tuple[str, Body, str]
RESUMED = "/v1/organizations/9/agent/run/resume"

PROMPTS: dict[str, Way] = {
    "native, create": ("/agent-runs", lambda text: {"prompt": text}, "prompt"),
    "native, create with an image": (
        "/agent-runs",
        lambda text: {"prompt": text, "images": ["data:image/png;base64,AA=="]},
        "prompt",
    ),
    "native, resume": ("/agent-runs/1/resume", lambda text: {"prompt": text}, "prompt"),
    "codegen, create": ("/v1/organizations/9/agent/run", lambda text: {"prompt": text}, "prompt"),
    "codegen, resume": (RESUMED, lambda text: {"agent_run_id": 1, "prompt": text}, "prompt"),
    "agent_protocol, text": ("/runs", lambda text: says([{"role": "user", "content": text}]), "content"),
    "agent_protocol, one message": ("/runs", lambda text: says({"type": "human", "content": text}), "content"),
    "agent_protocol, bare text": ("/runs", lambda text: says([text]), "content"),
    "agent_protocol, part": (
        "/threads/t/runs/wait",
        lambda text: says([{"type": "human", "content": [{"type": "text", "text": text}]}]),
        "content",
    ),
    "agent_protocol, answer": (
        "/threads/waits/runs",
        lambda text: {"assistant_id": "agent", "command": {"resume": text}},
        "resume",
    ),
    "everruns": (
        "/v1/sessions/{session}/messages",
        lambda text: {"message": {"content": [{"type": "text", "text": text}]}},
        "content",
    ),
    "agio, chat": ("/api/chat", lambda text: {"agent_id": "assistant", "message": text}, "message"),
    "agio, resume": ("/api/runs/{run}/resume", lambda text: {"message": text}, "message"),
    "agio, restore": (
        "/api/checkpoints/{run}.1/restore",
        lambda text: {"modifications": {"modified_query": text}},
        "modified_query",
    ),
    "agio, fork": (
        "/api/checkpoints/{run}.1/fork",
        lambda text: {"modifications": {"modified_messages": [{"role": "user", "content": text}]}},
        "modified_messages",
    ),
}


def says(messages: Any) -> Any:
    return {"assistant_id": "agent", "input": {"messages": messages}}


NOTHING: dict[str, tuple[str, Any, str]] = {
    "agent_protocol, no message": ("/runs", says([]), "messages"),
    "agent_protocol, no part": ("/runs", says([{"content": []}]), "content"),
    "agent_protocol, no content": ("/runs", says([{"role": "user"}]), "content"),
    "agent_protocol, no input": ("/runs", {"assistant_id": "agent"}, "messages"),
    "everruns, no part": ("/v1/sessions/{session}/messages", {"message": {"content": []}}, "content"),
    "agio, no message": (
        "/api/checkpoints/{run}.1/fork",
        {"modifications": {"modified_messages": []}},
        "modified_messages",
    ),
    "agio, no part": (
        "/api/checkpoints/{run}.1/fork",
        {"modifications": {"modified_messages": [{"role": "user", "content": []}]}},
        "modified_messages",
    ),
}

PART = {"type": "text", "text": "x"}

MANY: dict[str, Way] = {
    "agent_protocol, messages": ("/runs", lambda count: says(["x"] * count), "messages"),
    "agent_protocol, parts": ("/runs", lambda count: says([{"content": [PART] * count}]), "parts"),
    "agio, messages": (
        "/api/checkpoints/{run}.1/fork",
        lambda count: {"modifications": {"modified_messages": [{"role": "user", "content": "x"}] * count}},
        "modified_messages",
    ),
}

IMAGES: dict[str, tuple[str, Body]] = {
    "native, create": ("/agent-runs", lambda url: {"prompt": "Look at it", "images": [url]}),
    "native, resume": ("/agent-runs/1/resume", lambda url: {"prompt": "Look at it", "images": [url]}),
    "codegen, create": ("/v1/organizations/9/agent/run", lambda url: {"prompt": "Look at it", "images": [url]}),
    "codegen, resume": (RESUMED, lambda url: {"agent_run_id": 1, "prompt": "Look at it", "images": [url]}),
    "agent_protocol": (
        "/runs",
        lambda url: says([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]),
    ),
    "everruns": (
        "/v1/sessions/{session}/messages",
        lambda url: {"message": {"content": [{"type": "image", "url": url}]}},
    ),
}


@asynccontextmanager
async def begun() -> AsyncIterator[tuple[Site, str]]:
    """A gateway with all dialects, in front of a host with a run, and a session."""
    async with speaking(dialects=ALL, sandbox=True) as site:
        site.host.add("1")
        yield site, (await site.post("/v1/sessions", {})).json()["id"]


async def refused(site: Site, session: str, path: str, body: Any, field: str) -> bool:
    answer = await site.post(path.format(session=session, run="none"), body)
    return answer.status_code == 422 and field in answer.text


def spent(site: Site) -> int:
    return int(site.host.calls["create"] + site.host.calls["resume"])


@pytest.mark.wire("prompt-not-empty")
@pytest.mark.parametrize("text", EMPTY)
async def test_nothing_is_asked_of_an_agent_by_a_text_in_which_nothing_can_be_seen(text: str) -> None:
    async with begun() as (site, session):
        taken = [
            name
            for name, (path, body, field) in PROMPTS.items()
            if not await refused(site, session, path, body(text), field)
        ]
        assert taken == []
        assert spent(site) == 0


@pytest.mark.wire("prompt-not-empty")
async def test_nothing_is_asked_of_an_agent_by_a_message_without_anything_in_it() -> None:
    async with begun() as (site, session):
        taken = [name for name, each in NOTHING.items() if not await refused(site, session, *each)]
        assert taken == []
        assert spent(site) == 0


async def test_there_are_so_many_messages_in_a_request_and_so_many_parts_in_a_message() -> None:
    async with begun() as (site, session):
        for name, (path, body, field) in MANY.items():
            assert await refused(site, session, path, body(MAX_ITEMS + 1), field), name
        assert spent(site) == 0
        for name, (path, body, field) in MANY.items():
            assert not await refused(site, session, path, body(MAX_ITEMS), field), name


@pytest.mark.wire("images-inline")
@pytest.mark.parametrize(
    "url", ["http://example.com/a.png", "https://example.com/?data:,", "cid:1", "", " data:,a", "data:"]
)
async def test_an_image_that_the_host_would_have_to_fetch_is_refused(url: str) -> None:
    async with begun() as (site, session):
        taken = [
            name for name, (path, body) in IMAGES.items() if not await refused(site, session, path, body(url), "image")
        ]
        assert taken == []
        assert spent(site) == 0


@pytest.mark.wire("images-inline")
@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,", "data:image/png;base64,=", "data:image/png;base64,A", "data:image/png,AAAA",
        "data:image/png;base64,AA AA", "data:image/png;base64,AAA\u0660", "data:image/png;base64,<svg/>",
        "data:image/png;base64,data:image/png;base64,AAAA", "data:image/svg+xml;utf8,AAAA", "data:;base64,AAAA",
        "data:text/html;base64,AAAA", "data:image;base64,AAAA", "data:image/;base64,AAAA",
        "data:imagex/png;base64,AAAA", "data:application/pdf;base64,AAAA", "data:None;base64,AAAA",
    ],
)  # fmt: skip
async def test_an_image_that_is_none_is_refused(url: str) -> None:
    async with begun() as (site, session):
        taken = [
            name for name, (path, body) in IMAGES.items() if not await refused(site, session, path, body(url), "image")
        ]
        assert taken == []
        assert spent(site) == 0


@pytest.mark.wire("images-inline")
def test_an_image_may_say_more_of_itself_and_its_end() -> None:
    for url in (
        "data:image/png;base64,AA==", "data:image/jpeg;base64,AA", "DATA:IMAGE/PNG;BASE64,AAAA",
        "data:image/svg+xml;charset=utf-8;base64,AAA=", "data:image/vnd.x-1;name=a.png;base64,+/+/",
    ):  # fmt: skip
        assert image_fault(url) is None, url


@pytest.mark.wire("images-inline")
async def test_the_answer_says_which_image_it_is_and_what_is_wrong_with_it() -> None:
    async with begun() as (site, _):
        images = ["data:image/png;base64,AA==", "data:text/html;base64,AA=="]
        answer = await site.post("/agent-runs", {"prompt": "Look", "images": images})
        assert answer.status_code == 422
        assert answer.json()["error"].startswith("images.1: must be an image")


@pytest.mark.wire("prompt-not-empty")
def test_what_is_seen_of_a_text_is_what_has_ink() -> None:
    assert [text for text in UNSEEN if not is_blank(text)] == []
    assert [text for text in SEEN if is_blank(text)] == []


async def test_what_says_something_is_taken_as_it_is() -> None:
    async with begun() as (site, session):
        for text in (" a ", "\u200bb", "0", "\U0001f642", "."):
            before = spent(site)
            made = await site.post("/agent-runs", {"prompt": text, "images": ["DATA:image/png;base64,AA=="]})
            assert made.status_code == 201, made.text
            assert spent(site) == before + 1
        image = {"type": "image", "base64": "QUJD", "media_type": "image/gif"}
        said = await site.post(f"/v1/sessions/{session}/messages", {"message": {"content": [image]}})
        assert said.status_code == 201, said.text


def test_of_a_long_text_that_begins_with_nothing_only_so_much_is_looked_at() -> None:
    assert is_blank("\u200b" * MAX_EXAMINED + "x")
    assert not is_blank(" " * 10 * MAX_EXAMINED + "\u200b" * (MAX_EXAMINED - 1) + "x")
