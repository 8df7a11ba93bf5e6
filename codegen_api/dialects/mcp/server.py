"""What the server can: methods, and the tools and resources behind them. It decides nothing about runs."""

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from codegen_api.dialects.mcp import rpc
from codegen_api.dialects.mcp.rpc import RpcError, RpcRequest
from codegen_api.errors import Detail, GatewayError, InsufficientScope, NotAuthenticated, Rejected
from codegen_api.gateway import Gateway
from codegen_api.identity import READ, Caller
from codegen_api.parts import Parts
from codegen_api.runs import Json, to_json
from codegen_api.telemetry import note

Result = Mapping[str, Json]

LISTS_MS = 300_000
"""For how long clients need not ask again for what changes with a release only."""


@dataclass(frozen=True, slots=True)
class Progressed:
    """Something has come, for who watches. ``progress`` grows."""

    progress: int
    message: str


Coming = AsyncGenerator[Progressed | Result | None, None]
"""What comes while a result is waited for (None is a sign of life), and the result last."""

Outcome = Result | Coming


@dataclass(frozen=True, kw_only=True, slots=True)
class McpCall:
    """A request and who makes it. ``wanted`` is the organization that they name; ``server`` is the gateway."""

    request: RpcRequest
    caller: Caller
    wanted: str | None
    parts: Parts
    server: Result

    @property
    def gateway(self) -> Gateway:
        return self.parts.gateway

    async def organization(self) -> str:
        return await self.gateway.accounts.organization(self.caller, self.wanted)

    def require(self, scope: str) -> None:
        if not self.caller.may(scope):
            raise InsufficientScope.lacking(scope)


@dataclass(frozen=True)
class Tool:
    """What a model can call: a function whose docstring is the description, and whose keyword-only parameters are the
    arguments. ``scope`` is what the caller needs, and ``hints`` are for the host.
    """

    run: Callable[..., Awaitable[Outcome]]
    scope: str
    hints: Result

    @property
    def name(self) -> str:
        return self.run.__name__

    @cached_property
    def arguments(self) -> type[BaseModel]:
        fields: Any = {
            each.name: (each.annotation, ... if each.default is each.empty else each.default)
            for each in inspect.signature(self.run).parameters.values()
            if each.kind is each.KEYWORD_ONLY
        }
        return create_model(self.name, __config__=ConfigDict(extra="forbid"), **fields)

    @cached_property
    def described(self) -> Result:
        schema = self.arguments.model_json_schema()
        for each in (schema, *schema.get("properties", {}).values()):
            del each["title"]  # it only repeats the name, and stands in a model's context
        return {
            "name": self.name,
            "title": self.name.replace("_", " ").capitalize(),
            "description": " ".join((self.run.__doc__ or "").split()),
            "inputSchema": schema,
            "annotations": self.hints,
        }

    async def called(self, call: McpCall, given: Result) -> Outcome:
        call.require(self.scope)
        model = self._parsed(given)
        return await self.run(call, **{name: getattr(model, name) for name in type(model).model_fields})

    def _parsed(self, given: Result) -> BaseModel:
        try:
            return self.arguments.model_validate(given)
        except ValidationError as error:  # which quotes what was given
            places = error.errors(include_url=False, include_context=False, include_input=False)
        raise Rejected(details=[Detail(("arguments", *each["loc"]), each["msg"], each["type"]) for each in places])


Method = Callable[[McpCall], Awaitable[Outcome]]


@dataclass(frozen=True, kw_only=True)
class McpServer:
    """Answers requests with these tools, with resources under URIs of these ``templates``, and with the ``tasks``
    methods for clients that know the extension. ``read`` gives None for a URI under which there is nothing. ``methods``
    are further ones, and ``capabilities`` what is said of them.
    """

    instructions: str
    tools: Sequence[Tool]
    templates: Sequence[Result]
    read: Callable[[McpCall, str], Awaitable[Result | None]]
    tasks: Mapping[str, Callable[[McpCall, str], Awaitable[Result]]]
    methods: Mapping[str, Method] = field(default_factory=dict)
    capabilities: Result = field(default_factory=dict)

    async def answer(self, call: McpCall) -> Outcome:
        """
        Raises:
            RpcError: there is no such thing, or it cannot be.
            NotAuthenticated, InsufficientScope: the caller may not.
        """
        try:
            return await self._answer(call)
        except (NotAuthenticated, InsufficientScope):
            raise
        except GatewayError as error:
            if call.request.method == "tools/call":
                return failed(error)  # for the model to read
            note(error.code, error.root_reason)
            raise rpc.as_rpc_error(error) from error

    async def _answer(self, call: McpCall) -> Outcome:  # noqa: C901, PLR0911 - a case for each method
        request, capabilities = call.request, {"tools": {}, "resources": {}, **self.capabilities}
        if (method := self.methods.get(request.method)) is not None:
            return await method(call)
        match request.modern, request.method:
            case True, "server/discover":
                known: Json = {**capabilities, "extensions": {rpc.TASKS: {}}}
                said: Result = {"supportedVersions": rpc.VERSIONS, "capabilities": known}
                return cached(call, {**said, "instructions": self.instructions})
            case False, "initialize":
                version = request.param("protocolVersion", "")
                said = {"protocolVersion": version if version in rpc.HANDSHAKE else rpc.HANDSHAKE[0]}
                said = {**said, "capabilities": capabilities, "serverInfo": call.server}
                return {**said, "instructions": self.instructions}
            case False, "ping":
                return {}
            case _, "tools/list":
                return cached(call, {"tools": [tool.described for tool in self.tools]})
            case _, "tools/call":
                name = request.param("name", "")
                tool = next((tool for tool in self.tools if tool.name == name), None)
                if tool is None:
                    raise RpcError(rpc.INVALID_PARAMS, "There is no such tool.")
                return await tool.called(call, request.param("arguments", {}))
            case _, "resources/list":
                return cached(call, {"resources": []})
            case _, "resources/templates/list":
                return cached(call, {"resourceTemplates": self.templates})
            case _, "resources/read":
                call.require(READ)
                uri = request.param("uri", "")
                found = await self.read(call, uri)
                if found is None:
                    code = rpc.INVALID_PARAMS if request.modern else -32002
                    raise RpcError(code, "There is no such resource.", {"uri": uri})
                return cached(call, {"contents": [{"uri": uri, **found}]}, ms=0, scope="private")
            case True, name if name in self.tasks:
                if not request.takes_tasks:
                    needed: Result = {"requiredCapabilities": {"extensions": {rpc.TASKS: {}}}}
                    raise RpcError(rpc.MISSING_CAPABILITY, f"This needs the extension {rpc.TASKS}.", needed)
                return await self.tasks[name](call, request.param("taskId", ""))
        raise RpcError(rpc.METHOD_NOT_FOUND, "There is no such method.")


def told(said: Result, *, is_error: bool = False) -> Result:
    """The result of a tool: for programs, and in the same words for models."""
    content: Json = [{"type": "text", "text": to_json(said).decode()}]
    return {"content": content, "structuredContent": said, **({"isError": True} if is_error else {})}


def failed(error: GatewayError) -> Result:
    """The result of a tool that could not do what it was asked for."""
    note(error.code, error.root_reason)
    choices = rpc.choices_in(error)
    words = f"{error.code}: {error.message}{f' {to_json(choices).decode()}' if choices else ''}"
    said: Json = {"code": error.code, "message": error.message, "retry_after": error.retry_after}
    return {"content": [{"type": "text", "text": words}], "structuredContent": said, "isError": True}


def cached(call: McpCall, result: Result, ms: int = LISTS_MS, scope: str = "public") -> Result:
    """A result that says for how long it is good, and for whom, to clients that want to know."""
    return {**result, "ttlMs": ms, "cacheScope": scope} if call.request.modern else result
