"""The protocol: requests, tools, and their results and errors.

Up to version 2025-11-25 clients begin with a handshake, to which later requests do not refer. From 2026-07-28 on, each
request names the client and its capabilities in ``_meta``, and repeats some of its fields in headers, which must agree.
"""

import inspect
from base64 import b64encode
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from codegen_api.errors import Detail, GatewayError, InsufficientScope, NotAuthenticated, Rejected
from codegen_api.gateway import Gateway
from codegen_api.http.parts import Parts, parts_of
from codegen_api.http.web import CorsRefused, as_gateway_error, error_headers, json_response, status_of
from codegen_api.identity import WRITE, Caller
from codegen_api.runs import Json, to_json
from codegen_api.telemetry import note, request_id

T = TypeVar("T")
Result = Mapping[str, Json]

MODERN = "2026-07-28"
HANDSHAKE = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
VERSIONS = (MODERN, *HANDSHAKE)

TASKS = "io.modelcontextprotocol/tasks"
"""The extension for tools that take long."""

VERSION, CAPABILITIES, SERVER = (
    f"io.modelcontextprotocol/{name}" for name in ("protocolVersion", "clientCapabilities", "serverInfo")
)

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL = -32700, -32600, -32601, -32602, -32603
HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION = -32020, -32021, -32022

_STATUSES = {INTERNAL: 200, METHOD_NOT_FOUND: 404}
_NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_NAMED_BY |= dict.fromkeys(("tasks/get", "tasks/update", "tasks/cancel"), "taskId")


class RpcError(Exception):
    """An error that answers a request. ``status`` is for versions in which the HTTP status matters."""

    def __init__(self, code: int, message: str, data: Result | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data or {}
        self.status = status or _STATUSES.get(code, 400)


@dataclass(frozen=True, slots=True)
class McpCall:
    """A request with its caller. ``wanted`` is the organization that it names. ``capabilities`` are those that the
    client declares in this request. Notifications of progress carry the ``progress_token``. Without an ``id`` it is a
    notification.
    """

    caller: Caller
    wanted: str | None
    parts: Parts
    server: Result
    method: str
    params: Result
    id: str | int | float | None
    modern: bool
    capabilities: Result
    progress_token: str | int | None

    @property
    def takes_tasks(self) -> bool:
        extensions = self.capabilities.get("extensions")
        return isinstance(extensions, Mapping) and TASKS in extensions

    def param(self, name: str, kind: type[T]) -> T:
        """A parameter of ``kind`` ``str``, which is required, or ``dict``, which is optional."""
        value = self.params.get(name)
        value = {} if value is None else value
        if not isinstance(value, kind):
            raise RpcError(INVALID_PARAMS, f"params.{name} must be {'a string' if kind is str else 'an object'}.")
        return value

    @property
    def gateway(self) -> Gateway:
        return self.parts.gateway

    async def organization(self) -> str:
        return await self.gateway.accounts.organization(self.caller, self.wanted)

    def require(self, scope: str) -> None:
        if not self.caller.may(scope):
            raise InsufficientScope.lacking(scope)


def id_of(body: object) -> str | int | float | None:
    """The id of a request, if it has one."""
    given = body.get("id") if isinstance(body, Mapping) else None
    return given if isinstance(given, str | int | float) and not isinstance(given, bool) else None


def call_of(body: object, request: Request, caller: Caller, wanted: str | None) -> McpCall:
    """Parse a request. Raises ``RpcError`` if it is malformed, of an unknown version, or contradicts its headers."""
    if not isinstance(body, Mapping):
        raise RpcError(INVALID_REQUEST, "The body must be one request or notification; there are no batches.")
    method, params, number, headers = body.get("method"), body.get("params", {}), id_of(body), request.headers
    if body.get("jsonrpc") != "2.0" or not isinstance(method, str) or ("id" in body and number is None):
        raise RpcError(INVALID_REQUEST, "A request has jsonrpc 2.0, a method, and an id that is a string or a number.")
    if not isinstance(params, Mapping):
        raise RpcError(INVALID_PARAMS, "params must be an object.")
    meta = params.get("_meta")
    meta = meta if isinstance(meta, Mapping) else {}
    modern = VERSION in meta or headers.get("mcp-protocol-version") not in (None, *HANDSHAKE)
    if modern:
        _check_modern(method if number is not None else None, params, meta, headers)
    capabilities, token = meta[CAPABILITIES] if modern and number is not None else {}, meta.get("progressToken")
    token = token if isinstance(token, str | int) and not isinstance(token, bool) else None
    server: Result = {"name": request.app.title, "version": request.app.version}
    return McpCall(caller, wanted, parts_of(request), server, method, params, number, modern, capabilities, token)


def _check_modern(method: str | None, params: Result, meta: Result, headers: Headers) -> None:
    """Check the headers and ``_meta`` of a request; without a ``method``, for a notification, only the version."""
    version = headers.get("mcp-protocol-version")
    if method is not None and (version == MODERN or VERSION in meta):
        named_by = _NAMED_BY.get(method, "")
        name = params.get(named_by)
        if headers.get("mcp-method", "").strip() != method:
            raise RpcError(HEADER_MISMATCH, "The header Mcp-Method must say what the method in the body says.")
        if isinstance(name, str):  # names that are not ASCII are sent in base64
            encoded = f"=?base64?{b64encode(name.encode(errors='surrogatepass')).decode()}?="
            if headers.get("mcp-name", "").strip() not in (name, encoded):
                raise RpcError(HEADER_MISMATCH, f"The header Mcp-Name must say what {named_by} in the body says.")
        if VERSION not in meta or not isinstance(meta.get(CAPABILITIES), Mapping):
            raise RpcError(INVALID_PARAMS, f"params._meta must have {VERSION} and {CAPABILITIES}.")
        if version != meta[VERSION]:
            raise RpcError(HEADER_MISMATCH, f"The header MCP-Protocol-Version must say what {VERSION} says.")
    if version != MODERN:
        data: Result = {"supported": VERSIONS, "requested": version}
        raise RpcError(UNSUPPORTED_VERSION, f"There are the versions {', '.join(VERSIONS)}.", data)


ToolProgress = AsyncGenerator[tuple[int, str] | Result | None, None]
"""Progress while a tool works, as a number and a line about it; None as a sign of life; and at last the result."""

Outcome = Result | ToolProgress
Function = Callable[..., Awaitable[Outcome]]


@dataclass(frozen=True)
class Tool:
    """A tool for models, made from a function: its docstring is the description, and its keyword-only parameters are
    the arguments. Callers need the ``scope``.
    """

    run: Function
    scope: str

    @property
    def name(self) -> str:
        return self.run.__name__

    @cached_property
    def arguments(self) -> type[BaseModel]:
        spec = inspect.getfullargspec(self.run)
        defaults = spec.kwonlydefaults or {}
        fields: Any = {name: (spec.annotations[name], defaults.get(name, ...)) for name in spec.kwonlyargs}
        return create_model(self.name, __config__=ConfigDict(extra="forbid"), **fields)

    @cached_property
    def described(self) -> Result:
        schema, orders = self.arguments.model_json_schema(), self.scope == WRITE
        for each in (schema, *schema.get("properties", {}).values()):
            del each["title"]  # it only repeats the name, and takes room in a model's context
        return {
            "name": self.name,
            "title": self.name.replace("_", " ").capitalize(),
            "description": " ".join((self.run.__doc__ or "").split()),
            "inputSchema": schema,
            "annotations": {"readOnlyHint": not orders, "destructiveHint": orders, "openWorldHint": orders},
        }

    async def invoke(self, call: McpCall, given: Result) -> Outcome:
        """Call the tool. Errors become results that the model reads, except for missing authentication or scopes: these
        are raised for the client.
        """
        call.require(self.scope)
        try:
            arguments = self.arguments.model_validate(given)
        except ValidationError as error:
            places = [{**each, "loc": ("arguments", *each["loc"])} for each in error.errors()]
            return tool_error(as_gateway_error(RequestValidationError(places)))
        try:
            return await self.run(call, **dict(arguments))
        except (NotAuthenticated, InsufficientScope):
            raise
        except GatewayError as error:
            return tool_error(error)


def tool_result(said: Result, *, is_error: bool = False) -> Result:
    """The result of a tool, as structured content for programs and as the same JSON in a text for models."""
    content: Json = [{"type": "text", "text": to_json(said).decode()}]
    return {"content": content, "structuredContent": said, **({"isError": True} if is_error else {})}


def tool_error(error: GatewayError) -> Result:
    """The result of a tool that failed."""
    note(error.code, error.root_reason)
    failure = as_rpc_error(error)
    choices = failure.data["details"]
    words = f"{failure.message} {to_json(choices).decode()}" if choices else failure.message
    return {"content": [{"type": "text", "text": words}], "structuredContent": failure.data, "isError": True}


def result_of(call: McpCall, result: Result) -> Result:
    """The JSON-RPC answer to a request. Modern clients also get the type of the result and the server's name."""
    if call.modern:
        result = {"resultType": "complete", **result, "_meta": {SERVER: call.server}}
    return {"jsonrpc": "2.0", "id": call.id, "result": result}


def failure_of(error: RpcError, number: Json = None) -> Result:
    said: dict[str, Json] = {"code": error.code, "message": error.message}
    said |= {"data": error.data} if error.data else {}
    return {"jsonrpc": "2.0", "id": number, "error": said}


def refusal(error: RpcError | GatewayError, number: Json, *, modern: bool) -> Response:
    """The answer to a request that fails. Older clients take statuses other than 200 for a broken connection, but all
    expect one for missing authentication or scopes.
    """
    if isinstance(error, GatewayError):
        note(error.code, error.root_reason)
        if isinstance(error, NotAuthenticated | InsufficientScope):
            return render_error(error, number)
        error = as_rpc_error(error)
    return json_response(to_json(failure_of(error, number)), _STATUSES.get(error.code, 400) if modern else 200)


def render_error(error: GatewayError, number: Json = None) -> Response:
    """The answer with an error whose HTTP status counts."""
    failure = as_rpc_error(error)
    return json_response(to_json(failure_of(failure, number)), failure.status, error_headers(error))


def as_rpc_error(error: GatewayError) -> RpcError:
    """An error of the gateway as one of JSON-RPC. Its ``details`` list valid choices, if the error is about one."""
    status = 403 if isinstance(error, CorsRefused) else 400 if isinstance(error, Rejected) else status_of(error)
    choices = [each for each in error.details if not isinstance(each, Detail)]
    data: dict[str, Json] = {"code": error.code, "message": error.message, "status_code": status, "details": choices}
    data |= {"request_id": request_id(), "retry_after": error.retry_after}
    is_no_json = any(isinstance(each, Detail) and each.type == "json_invalid" for each in error.details)
    code = PARSE_ERROR if is_no_json else {400: INVALID_REQUEST, 404: INVALID_PARAMS}.get(status, INTERNAL)
    return RpcError(code, f"{error.code}: {error.message}", data, status)
