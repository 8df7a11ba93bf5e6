"""MCP's SDK for Python, in a thread of this process."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

import httpx2
from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import Client, ClientSession, ErrorData, MCPError
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, Request, Result

from tests.end_to_end.mcp_clients import NEWER, TASKS, McpFailure
from tests.end_to_end.processes import WAIT

T = TypeVar("T")


class CreatedTask(Result):
    """What the SDK is told that a tool may also give."""

    result_type: Literal["task"]
    task_id: str


class AboutTask(Request[dict[str, Any], str]):
    name_param = "taskId"


class AnyResult(Result, extra="allow"):
    """What is said of a task."""


@dataclass
class TaskWatch(ClientExtension):
    """The extension for tasks, as a host would write it. ``answer`` is given to whatever is asked."""

    identifier = TASKS
    answer: Mapping[str, Any] | None = None
    states: list[str] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)

    def claims(self) -> list[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=CreatedTask, resolve=self._resolve)]

    async def _resolve(self, task: CreatedTask, context: ClaimContext) -> CallToolResult:
        return await self.settled(context.session, task.task_id)

    async def settled(self, session: ClientSession, task: str) -> CallToolResult:
        async with asyncio.timeout(WAIT):
            return await self._settled(session, task)

    async def _settled(self, session: ClientSession, task: str) -> CallToolResult:
        async def ask(method: str, **more: Any) -> dict[str, Any]:
            request = AboutTask(method=f"tasks/{method}", params={"taskId": task, **more})
            return dump(await session.send_request(request, AnyResult))

        while True:
            now = await ask("get")
            if now["status"] not in self.states[-1:]:
                self.states.append(now["status"])
            if now["status"] == "input_required":
                self.asked += [each["params"] for each in now["inputRequests"].values()]
                answers = {key: {"action": "accept", "content": self.answer} for key in now["inputRequests"]}
                await ask("update", inputResponses=answers)
            elif now["status"] != "working":
                return CallToolResult.model_validate(now["result"])
            await asyncio.sleep(0.05)  # a host waits for as long as it is told


async def nobody(context: Any, params: Any) -> ErrorData:
    """Says that the client can ask its user, which only tasks make use of here."""
    raise AssertionError


def dump(model: Any) -> dict[str, Any]:
    """As it came over the wire."""
    found: dict[str, Any] = model.model_dump(by_alias=True, mode="json", exclude_none=True)
    return found


class PythonClient:
    """The package ``mcp``."""

    outlasts = False

    def __init__(self, version: str, url: str, portal: BlockingPortal) -> None:
        self.version = version
        self._url = url
        self._portal = portal
        self._connection = ExitStack()
        self._token = ""
        self._client: Client | None = None

    def do(self, command: str, /, **given: Any) -> Any:
        try:
            if command == "connect":
                return self._connect(**given)
            if command == "task":
                return self._task(**given)
            if command == "watch":
                return self._watch(**given)
            return self._portal.call(partial(getattr(self, f"_{command}"), **given))
        except MCPError as error:
            raise McpFailure(error.code, error.message) from error

    @property
    def client(self) -> Client:
        assert self._client is not None
        return self._client

    def _open(self, *extensions: ClientExtension) -> Client:
        """A client in a task of its own, for as long as it is connected."""
        headers = {"Authorization": f"Bearer {self._token}"}
        http = self._enter(httpx2.AsyncClient(headers=headers, timeout=WAIT))
        mode = "auto" if self.version == NEWER else "legacy"
        client = Client(
            streamable_http_client(self._url, http_client=http),
            mode=mode,
            extensions=extensions,
            elicitation_callback=nobody,
        )
        return self._enter(client)

    def _enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        return self._connection.enter_context(self._portal.wrap_async_context_manager(manager))

    def close(self) -> None:
        """Leave. What is broken says so once more."""
        with suppress(ExceptionGroup):
            self._connection.close()

    def _connect(self, token: str) -> dict[str, Any]:
        self.close()
        self._token = token
        self._client = self._open()
        about = self._client
        return {
            "version": about.protocol_version,
            "server": about.server_info and dump(about.server_info),
            "capabilities": dump(about.server_capabilities),
            "instructions": about.instructions,
        }

    async def _tools(self) -> Any:
        return dump(await self.client.list_tools())

    async def _templates(self) -> Any:
        return dump(await self.client.list_resource_templates())

    async def _read(self, uri: str) -> Any:
        return dump(await self.client.read_resource(uri))

    async def _call(
        self, name: str, arguments: dict[str, Any], progress: bool = False, within: float | None = None
    ) -> Any:
        seen: list[Any] = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            seen.append({"progress": progress, "message": message})

        told = note if progress else None
        result = await self.client.call_tool(name, arguments, within, told)
        return {"result": dump(result), "progress": seen}

    def _task(self, name: str, arguments: dict[str, Any], answer: Any = None) -> Any:
        watch = TaskWatch(answer)
        return self._watched(watch, self._portal.call(self._open(watch).call_tool, name, arguments))

    def _watch(self, task: str, answer: Any) -> Any:
        watch = TaskWatch(answer)
        return self._watched(watch, self._portal.call(watch.settled, self._open(watch).session, task))

    def _watched(self, watch: TaskWatch, result: CallToolResult) -> Any:
        kind = "task" if watch.states else "immediate"
        return {"kind": kind, "states": watch.states, "asked": watch.asked, "result": dump(result)}


@contextmanager
def in_python(version: str, url: str) -> Iterator[PythonClient]:
    with start_blocking_portal() as portal:
        client = PythonClient(version, url, portal)
        try:
            yield client
        finally:
            client.close()
