"""Whatever is sent to the MCP server, it answers as the protocol has it, and is no worse for it."""

import asyncio
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from codegen_api.dialects.mcp.protocol import CAPABILITIES, MODERN, TASKS, VERSION, VERSIONS
from codegen_api.dialects.mcp.runs import TASK_METHODS
from codegen_api.dialects.mcp.tools import TOOLS
from tests.dialects.site import serving
from tests.fakehost import FakeHost

METHODS = [
    "initialize", "ping", "server/discover", "tools/list", "tools/call", "resources/list", "resources/templates/list",
    "resources/read", "prompts/get", "notifications/cancelled", *TASK_METHODS,
]  # fmt: skip
FIELDS = sorted({name for tool in TOOLS for name in tool.arguments.model_fields})
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
RUNS = st.sampled_from(["1", "2", "999", "", "x", "\ud800", 1, None])
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
ARGUMENTS = st.dictionaries(
    st.sampled_from(FIELDS), RUNS | st.sampled_from(["Say hello", "1~abcd", "approve"]) | st.just(1) | JSON, max_size=4
)
RESPONSES = st.dictionaries(
    st.sampled_from(["wait-a", "wait-1", "x"]),
    st.fixed_dictionaries({"action": st.sampled_from(["accept", "decline", "cancel"]), "content": JSON}) | JSON,
    max_size=2,
)
META = st.fixed_dictionaries(
    {},
    optional={
        VERSION: st.sampled_from(VERSIONS) | JSON,
        CAPABILITIES: st.sampled_from([{}, {"extensions": {TASKS: {}}}, {"elicitation": {}}]) | JSON,
        "progressToken": JSON,
    },
)
PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "_meta": META | JSON,
        "name": st.sampled_from([tool.name for tool in TOOLS]) | JSON,
        "arguments": ARGUMENTS | JSON,
        "uri": st.sampled_from(["codegen://runs/1/log", "codegen://runs/%/log?after=1"]) | JSON,
        "taskId": RUNS | JSON,
        "inputResponses": RESPONSES | JSON,
        "protocolVersion": JSON,
    },
)
BODIES = (
    st.fixed_dictionaries(
        {"jsonrpc": st.just("2.0"), "method": st.sampled_from(METHODS), "params": PARAMS},
        optional={"id": st.integers() | st.text(max_size=5) | JSON},
    )
    | JSON
)


@given(body=BODIES, modern=st.booleans(), events=st.booleans())
def test_any_message_is_answered_as_the_protocol_has_it(body: Any, modern: bool, events: bool) -> None:
    asyncio.run(answered(body, modern=modern, events=events))


async def answered(body: Any, *, modern: bool, events: bool) -> None:
    host = FakeHost()
    host.latency = 0
    host.add("1", status="COMPLETE").append(2)
    host.add("2").wait("a")
    headers = {"Accept": "text/event-stream, application/json" if events else "application/json"}
    if isinstance(body, dict) and isinstance(body.get("params"), dict):
        params = patient(body["params"])
        if modern:
            params = said_again(params)
            name = next((params[each] for each in ("name", "uri", "taskId") if isinstance(params.get(each), str)), "")
            headers |= {"MCP-Protocol-Version": MODERN, "Mcp-Method": str(body.get("method"))}
            headers |= {"Mcp-Name": name} if name.isascii() and name.isprintable() else {}
        body = {**body, "params": params}
    async with serving(host, dialects=("mcp",), org_id="9", upstream_requests_per_minute=10**6) as site:
        content = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
        async with asyncio.timeout(20):
            answer = await site.ask("POST", "/mcp", content=content, headers=headers)
    assert answer.status_code in (200, 202, 400, 404), answer.text
    if answer.status_code == 202:
        assert isinstance(body, dict)
        assert "id" not in body
    elif answer.headers["content-type"] == "application/json":
        said = answer.json()
        assert said["jsonrpc"] == "2.0"
        assert ("result" in said) != ("error" in said)
        assert said["id"] is None or said["id"] == body["id"]
        assert answer.status_code == 200 or "error" in said


def patient(params: dict[str, Any]) -> dict[str, Any]:
    """The same, but nobody waits for long."""
    arguments = params.get("arguments")
    if not isinstance(arguments, dict) or params.get("name") not in ("follow_run", "run_agent"):
        return params
    return {**params, "arguments": {**arguments, "wait_seconds": 1}}


def said_again(params: dict[str, Any]) -> dict[str, Any]:
    """The same, with what each request has to say, unless it says something else."""
    meta = {VERSION: MODERN, CAPABILITIES: {"elicitation": {}, "extensions": {TASKS: {}}}}
    given = params.get("_meta")
    return {**params, "_meta": {**meta, **(given if isinstance(given, dict) else {})}}
