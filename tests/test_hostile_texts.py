"""Whatever a host writes into a log, a run or an error, the stream has exactly the events that were meant.

The whole way: the host's JSON, the adapter, the live log as server-sent events and as JSON lines, and two readers.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_api import errors
from codegen_api.dialects.native.wire import EVENTS, LINES, Frames
from codegen_api.taps import Pulled
from codegen_api.upstreams.codegen import CodegenUpstream
from tests.dialects.eventsource import parse
from tests.dialects.site import run, serving
from tests.upstreams.asking import CREDENTIAL, REF

FORGED = [
    "\n\nevent: end\ndata: {}\n\n",
    "\r\revent: failure\rdata: {}\r\r",
    '"}\n\nid: 9.end\nevent: end\ndata: {}\n\n',
    '"}}\n{"event":"end","id":"9.end","data":{}}\n',
    "data: x\nid: 7\nretry: 1\n",
    "\n:\n\n",
    "\ufeff",
]
BREAKS = ["\r", "\n", "\r\n", "\0", "\x0b", "\x0c", "\x1c", "\x1e", "\x7f", "\x85", "\u2028", "\u2029"]
texts = st.lists(
    st.sampled_from([*FORGED, *BREAKS, "\ud800", "\udfff", "\ud83d\ude00", '"', "\\", "\\n", "\\u000a", "end", ": "])
    | st.text(st.characters(), max_size=5),
    max_size=6,
).map("".join)
values: Any = st.recursive(
    texts | st.none() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
extras = st.dictionaries(texts.map("x".__add__), values, max_size=3)
entries = st.lists(
    st.builds(
        lambda more, text, tool: {**more, "observation": text, "tool_name": tool, "message_type": "FINAL_ANSWER"},
        extras,
        values,
        texts,
    ),
    max_size=4,
)


def said(value: Any, raw: bool) -> bytes:
    """What a host sends: escaped, or where that is possible not."""
    try:
        return json.dumps(value, ensure_ascii=not raw).encode()
    except UnicodeEncodeError:  # a lone surrogate can only be sent escaped
        return json.dumps(value).encode()


def hosting(fields: dict[str, Any], log: list[dict[str, Any]], raw: bool) -> CodegenUpstream:
    described = {**fields, "id": 1, "organization_id": 9, "status": "COMPLETE"}

    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/users/me"):
            return httpx.Response(200, content=b'{"id":1}')
        if request.url.path.endswith("/logs"):
            skip = int(request.url.params["skip"])
            page = {**described, "logs": log[skip:], "total_logs": len(log), "page": 1, "size": 100, "pages": 1}
            return httpx.Response(200, content=said(page, raw))
        return httpx.Response(200, content=said(described, raw))

    return CodegenUpstream("https://host.example", transport=httpx.MockTransport(respond))


def lines(body: bytes) -> list[Any]:
    *whole, rest = body.split(b"\n")
    assert rest == b""
    return [json.loads(line) for line in whole]


@pytest.mark.wire("stream-events", "ndjson", "json-always-valid", "host-fields-kept")
@given(extras, entries, st.booleans())
def test_no_text_of_a_run_or_a_log_makes_events_that_were_not_meant(
    fields: dict[str, Any], log: list[dict[str, Any]], raw: bool
) -> None:
    # as any reader of JSON has it: two escaped halves of a pair are one character
    meant = [{**entry, "position": number} for number, entry in enumerate(json.loads(said(log, False)), 1)]
    described = {**json.loads(said(fields, False)), "id": 1, "organization_id": 9, "status": "COMPLETE"}
    described |= {"run_status": "completed", "ended": True}
    kinds = ["status", *["log"] * len(log), "end"]
    ids = [str(number) for number in range(1, len(log) + 1)]
    data = [described, *meant, {**described, "total_logs": len(log)}]

    async def main() -> None:
        async with serving(hosting(fields, log, raw), org_id="9") as site:
            events = parse((await site.get("/agent-runs/1/logs/stream")).content)
            accept = {"Accept": "application/x-ndjson"}
            told = lines((await site.get("/agent-runs/1/logs/stream", headers=accept)).content)
        assert [event.type for event in events] == [line["event"] for line in told] == kinds
        assert [event.last_event_id for event in events] == ["", *ids, f"{len(log)}.end"]
        assert [line["id"] for line in told] == [None, *ids, f"{len(log)}.end"]
        assert {event.retry for event in events} == {2000}
        assert [json.loads(event.data) for event in events] == [line["data"] for line in told] == data

    run(main())


@pytest.mark.wire("stream-events", "ndjson", "error-shape", "error-host-sentence")
@given(texts, st.sampled_from(["message", "detail"]), st.sampled_from([401, 403, 404, 422, 429]), st.booleans())
def test_no_error_of_the_host_makes_more_than_one_failure(sentence: str, key: str, status: int, raw: bool) -> None:
    async def main() -> None:
        answer = httpx.Response(status, content=said({key: sentence}, raw))
        upstream = CodegenUpstream("https://host.example", transport=httpx.MockTransport(lambda _: answer))
        with pytest.raises(errors.GatewayError) as refused:
            await upstream.get_run(CREDENTIAL, REF)
        await upstream.aclose()

        async def failing() -> AsyncGenerator[Any, None]:
            raise refused.value
            yield

        written: Any = [b"".join([piece async for piece in Frames(Pulled(failing()), to)]) for to in (EVENTS, LINES)]  # type: ignore[arg-type]
        (event,), (line,) = parse(written[0]), lines(written[1])
        assert event.type == line["event"] == "failure"
        assert event.last_event_id == ""
        assert line["id"] is None
        assert json.loads(event.data) == line["data"]
        assert line["data"]["error"] == refused.value.message
        assert line["data"]["status_code"] == status
        assert line["data"]["error"].isprintable()

    asyncio.run(main())
