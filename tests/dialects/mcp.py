"""A client of MCP, of either era, that sends what a test says."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from codegen_api.dialects.mcp.protocol import CAPABILITIES, MODERN, TASKS, VERSION
from tests.dialects.eventsource import parse
from tests.dialects.site import CALLER, Site

NAMED_BY = {"tools/call": "name", "resources/read": "uri"}
ABLE: Mapping[str, Any] = {"elicitation": {}, "extensions": {TASKS: {}}}
"""The capabilities of a client that knows tasks, and asks somebody for what they need."""


def message(method: str, params: Mapping[str, Any] | None = None, number: Any = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": dict(params or {})}


def called(tool: str, **arguments: Any) -> dict[str, Any]:
    """The message of a call, of the era of the handshake."""
    return message("tools/call", {"name": tool, "arguments": arguments})


@dataclass
class McpClient:
    """``capabilities`` of the era without a handshake; None for one with."""

    site: Site
    capabilities: Mapping[str, Any] | None = None
    token: str | None = CALLER
    headers: dict[str, str] = field(default_factory=dict)

    async def send(self, method: str, params: Mapping[str, Any] | None = None, **headers: str) -> httpx.Response:
        params, said = dict(params or {}), {**self.headers}
        if self.capabilities is not None:
            meta = {VERSION: MODERN, CAPABILITIES: self.capabilities, **params.get("_meta", {})}
            params["_meta"] = meta
            name = params.get(NAMED_BY.get(method, "taskId"))
            said |= {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
            said |= {"Mcp-Name": name} if isinstance(name, str) else {}
        return await self.site.post("/mcp", message(method, params), token=self.token, headers={**said, **headers})

    async def result(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        answer = await self.send(method, params)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert (body["jsonrpc"], body["id"]) == ("2.0", 1)
        assert "error" not in body, body
        return body["result"]

    async def error(self, method: str, params: Mapping[str, Any] | None = None, **headers: str) -> tuple[int, Any]:
        """The status and the error of a request that fails."""
        answer = await self.send(method, params, **headers)
        body = answer.json()
        assert set(body) == {"jsonrpc", "id", "error"}, body
        return answer.status_code, body["error"]

    async def call(self, tool: str, **arguments: Any) -> Any:
        """The result of a tool."""
        return await self.result("tools/call", {"name": tool, "arguments": arguments})

    async def told(self, tool: str, **arguments: Any) -> Any:
        """What a tool says that does what it should."""
        result = await self.call(tool, **arguments)
        assert not result.get("isError"), result
        assert json.loads(result["content"][0]["text"]) == result["structuredContent"]
        return result["structuredContent"]

    async def refused(self, tool: str, **arguments: Any) -> str:
        """The words of a tool that does not."""
        result = await self.call(tool, **arguments)
        assert result["isError"], result
        text: str = result["content"][0]["text"]
        assert text.startswith(f"{result['structuredContent']['code']}: ")
        return text

    async def watched(self, tool: str, **arguments: Any) -> tuple[list[Any], Any]:
        """The notifications of a tool that waits, and its result."""
        params = {"name": tool, "arguments": arguments, "_meta": {"progressToken": "p"}}
        answer = await self.send("tools/call", params, Accept="application/json, text/event-stream")
        assert answer.headers["content-type"].startswith("text/event-stream")
        came = [json.loads(event.data) for event in parse(answer.content)]
        *notifications, last = came
        assert {each["method"] for each in notifications} <= {"notifications/progress"}
        assert {each["params"]["progressToken"] for each in notifications} <= {"p"}
        return [each["params"] for each in notifications], last["result"]
