"""What the server can: methods, and the tools and resources behind them. It decides nothing about runs."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from codegen_api.dialects.mcp.rpc import (
    HANDSHAKE,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_CAPABILITY,
    TASKS,
    VERSIONS,
    RpcError,
    RpcRequest,
    as_rpc_error,
)
from codegen_api.errors import Detail, GatewayError, InsufficientScope, NotAuthenticated, Rejected
from codegen_api.gateway import Gateway
from codegen_api.identity import READ, WRITE, Caller
from codegen_api.parts import Parts
from codegen_api.runs import Json, to_json
from codegen_api.telemetry import note
from codegen_api.web import MOST_PLACES

Result = Mapping[str, Json]

LISTS_MS = 300_000
"""How long clients need not ask again for what is the same for all, and changes with a release only."""


@dataclass(frozen=True, slots=True)
class Progressed:
    """Something has come, for who watches. ``progress`` grows."""

    progress: int
    message: str


Outcome = Result | AsyncGenerator[Progressed | Result | None, None]
"""A result; or what comes while it is waited for (None is a sign of life), and the result last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class McpCall:
    """A request and who makes it. ``wanted`` is the organization that they name; ``server`` is the gateway, and
    ``base_url`` where it is.
    """

    request: RpcRequest
    caller: Caller
    wanted: str | None
    parts: Parts
    server: Result
    base_url: str

    @property
    def gateway(self) -> Gateway:
        return self.parts.gateway

    async def organization(self) -> str:
        return await self.gateway.accounts.organization(self.caller, self.wanted)

    def require(self, scope: str) -> None:
        """
        Raises:
            InsufficientScope: the caller may not do this.
        """
        if not self.caller.may(scope):
            raise InsufficientScope.lacking(scope)

    def require_tasks(self) -> None:
        """
        Raises:
            RpcError: the client does not know what a task is.
        """
        if not self.request.has(TASKS):
            needed: Result = {"requiredCapabilities": {"extensions": {TASKS: {}}}}
            raise RpcError(MISSING_CAPABILITY, f"This needs the extension {TASKS}.", needed)


class _WithoutTitles(GenerateJsonSchema):
    """Schemas stand in a model's context: a title that repeats the name is left out."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """What a model can call. ``run`` gets the ``arguments``, validated; ``annotations`` are hints for the host."""

    name: str
    title: str
    description: str
    arguments: type[BaseModel]
    scope: str
    annotations: Result
    run: Callable[[McpCall, Any], Awaitable[Outcome]]

    def described(self) -> Result:
        schema = self.arguments.model_json_schema(schema_generator=_WithoutTitles)
        shown = {name: value for name, value in schema.items() if name not in ("title", "description")}
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "inputSchema": shown,
            "annotations": {"title": self.title, **self.annotations},
        }

    async def called(self, call: McpCall, given: Result) -> Outcome:
        """What comes of it. Whatever goes wrong is for the model to read, but for what the client must act upon.

        Raises:
            NotAuthenticated, InsufficientScope, RpcError: such things.
        """
        call.require(self.scope)
        try:
            return await self.run(call, self._parsed(given))
        except (NotAuthenticated, InsufficientScope):
            raise
        except GatewayError as error:
            return failed(error)

    def _parsed(self, given: Result) -> BaseModel:
        try:
            return self.arguments.model_validate(given)
        except ValidationError as error:
            places = error.errors(include_url=False, include_context=False, include_input=False)[:MOST_PLACES]
            found = [Detail(("arguments", *item["loc"]), str(item["msg"]), str(item["type"])) for item in places]
            raise Rejected(details=found) from None  # the error quotes what was given


class Resources(Protocol):
    """What can be read by its URI."""

    templates: Sequence[Result]

    async def read(self, call: McpCall, uri: str) -> Result | None:
        """None if there is nothing under this URI."""
        ...


class Tasks(Protocol):
    """What goes on behind the ids of tasks. Each raises ``NotFound`` where there is none, or not for this caller."""

    async def get(self, call: McpCall, task_id: str) -> Result: ...

    async def update(self, call: McpCall, task_id: str, responses: Result) -> None: ...

    async def cancel(self, call: McpCall, task_id: str) -> None: ...


Method = Callable[[McpCall], Awaitable[Outcome]]


@dataclass(frozen=True, kw_only=True)
class McpServer:
    """Answers requests with these tools, resources and tasks. ``methods`` are further ones, and ``capabilities`` what
    is said of them.
    """

    tools: Sequence[Tool]
    resources: Resources
    tasks: Tasks
    instructions: str
    methods: Mapping[str, Method] = field(default_factory=dict)
    capabilities: Result = field(default_factory=dict)

    async def answer(self, call: McpCall) -> Outcome:
        """
        Raises:
            RpcError: there is no such thing, or it cannot be.
            NotAuthenticated, InsufficientScope: the caller may not.
        """
        request = call.request
        of_era = self._modern() if request.modern else self._handshake()
        method = {**self._of_both(), **of_era, **self.methods}.get(request.method)
        if method is None:
            raise RpcError(METHOD_NOT_FOUND, "There is no such method.")
        try:
            outcome: Outcome = await method(call)
        except (NotAuthenticated, InsufficientScope):
            raise
        except GatewayError as error:
            note(error.code, error.root_reason)
            raise as_rpc_error(error) from error
        return outcome

    def _of_both(self) -> dict[str, Method]:
        async def tools(call: McpCall) -> Outcome:
            return _cached(call, {"tools": [tool.described() for tool in self.tools]})

        async def templates(call: McpCall) -> Outcome:
            return _cached(call, {"resourceTemplates": self.resources.templates})

        async def resources(call: McpCall) -> Outcome:
            return _cached(call, {"resources": []})

        return {
            "tools/list": tools,
            "tools/call": self._call,
            "resources/list": resources,
            "resources/templates/list": templates,
            "resources/read": self._read,
        }

    def _handshake(self) -> dict[str, Method]:
        async def initialize(call: McpCall) -> Outcome:
            wanted = call.request.text("protocolVersion")
            return {
                "protocolVersion": wanted if wanted in HANDSHAKE else HANDSHAKE[0],
                "capabilities": {"tools": {}, "resources": {}, **self.capabilities},
                "serverInfo": call.server,
                "instructions": self.instructions,
            }

        async def ping(_: McpCall) -> Outcome:
            return {}

        return {"initialize": initialize, "ping": ping}

    def _modern(self) -> dict[str, Method]:
        async def discover(call: McpCall) -> Outcome:
            capabilities: Json = {"tools": {}, "resources": {}, "extensions": {TASKS: {}}, **self.capabilities}
            said = {"supportedVersions": VERSIONS, "capabilities": capabilities, "instructions": self.instructions}
            return _cached(call, said)

        async def get(call: McpCall) -> Outcome:
            return await self.tasks.get(call, _task_of(call, READ))

        async def update(call: McpCall) -> Outcome:
            await self.tasks.update(call, _task_of(call, WRITE), call.request.mapping("inputResponses"))
            return {}

        async def cancel(call: McpCall) -> Outcome:
            await self.tasks.cancel(call, _task_of(call, WRITE))
            return {}

        return {"server/discover": discover, "tasks/get": get, "tasks/update": update, "tasks/cancel": cancel}

    async def _call(self, call: McpCall) -> Outcome:
        name, given = call.request.text("name"), call.request.mapping("arguments")
        tool = next((tool for tool in self.tools if tool.name == name), None)
        if tool is None:
            raise RpcError(INVALID_PARAMS, "There is no such tool.")
        return await tool.called(call, given)

    async def _read(self, call: McpCall) -> Outcome:
        call.require(READ)
        uri = call.request.text("uri")
        found = await self.resources.read(call, uri)
        if found is None:
            raise RpcError(INVALID_PARAMS if call.request.modern else -32002, "Resource not found", {"uri": uri})
        return _cached(call, {"contents": [{"uri": uri, **found}]}, ms=0, scope="private")


def failed(error: GatewayError) -> Result:
    """The result of a tool that could not do what it was asked for."""
    note(error.code, error.root_reason)
    said: dict[str, Json] = {"code": error.code, "message": error.message}
    if error.retry_after is not None:
        said["retry_after"] = error.retry_after
    choices = [each for each in error.details if not isinstance(each, Detail)]
    words = f"{error.code}: {error.message}{f' {to_json(choices).decode()}' if choices else ''}"
    return {"content": [{"type": "text", "text": words}], "structuredContent": said, "isError": True}


def _task_of(call: McpCall, scope: str) -> str:
    call.require_tasks()
    call.require(scope)
    return call.request.text("taskId")


def _cached(call: McpCall, result: Result, ms: int = LISTS_MS, scope: str = "public") -> Result:
    return {**result, "ttlMs": ms, "cacheScope": scope} if call.request.modern else result
