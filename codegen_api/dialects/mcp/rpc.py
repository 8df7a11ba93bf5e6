"""JSON-RPC as MCP has it: requests, their results and errors. Pure functions.

Up to 2025-11-25 clients shake hands, in a request of which later ones say nothing. From 2026-07-28 on each request says
in ``_meta`` who asks and what they can, and repeats some of itself in headers, which must agree.
"""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.responses import Response

from codegen_api.errors import Detail, GatewayError, InsufficientScope, NotAuthenticated, Rejected
from codegen_api.runs import Json, to_json
from codegen_api.telemetry import note, trace
from codegen_api.web import CorsRefused, error_headers, json_response, status_of

T = TypeVar("T")

MODERN = "2026-07-28"
HANDSHAKE = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
VERSIONS = (MODERN, *HANDSHAKE)

TASKS = "io.modelcontextprotocol/tasks"
"""The extension for what takes long."""

VERSION, CAPABILITIES, SERVER = (
    f"io.modelcontextprotocol/{name}" for name in ("protocolVersion", "clientCapabilities", "serverInfo")
)

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL = -32700, -32600, -32601, -32602, -32603
HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION = -32020, -32021, -32022

_STATUSES = {INTERNAL: 200, METHOD_NOT_FOUND: 404}
_NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_NAMED_BY |= dict.fromkeys(("tasks/get", "tasks/update", "tasks/cancel"), "taskId")


class RpcError(Exception):
    """What a request is answered with instead of a result."""

    def __init__(self, code: int, message: str, data: Mapping[str, Json] | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data or {}


@dataclass(frozen=True, slots=True)
class RpcRequest:
    """A request, or where ``id`` is None a notification. ``capabilities`` are the client's, as far as it said so with
    this request, and ``progress_token`` is what notifications of progress are to bear.
    """

    method: str
    params: Mapping[str, Json]
    id: str | int | float | None
    modern: bool
    capabilities: Mapping[str, Json]
    progress_token: str | int | None

    @property
    def takes_tasks(self) -> bool:
        extensions = self.capabilities.get("extensions")
        return isinstance(extensions, Mapping) and TASKS in extensions

    def param(self, name: str, kind: type[T]) -> T:
        """A parameter: a ``str``, or a ``dict``, which may be left out."""
        value = self.params.get(name)
        value = {} if value is None else value
        if not isinstance(value, kind):
            raise RpcError(INVALID_PARAMS, f"params.{name} must be {'a string' if kind is str else 'an object'}.")
        return value


def id_of(body: object) -> str | int | float | None:
    """The id under which a request is answered, if it has one."""
    given = body.get("id") if isinstance(body, Mapping) else None
    return given if isinstance(given, str | int | float) and not isinstance(given, bool) else None


def parsed(body: object, headers: Headers) -> RpcRequest:
    """
    Raises:
        RpcError: it is no request, of no version that is served, or its headers say something else.
    """
    if not isinstance(body, Mapping):
        raise RpcError(INVALID_REQUEST, "The body must be one request or notification; there are no batches.")
    method, params, number = body.get("method"), body.get("params", {}), id_of(body)
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
    return RpcRequest(method, params, number, modern, capabilities, token)


def _check_modern(method: str | None, params: Mapping[str, Json], meta: Mapping[str, Json], headers: Headers) -> None:
    """Of a notification, which has no ``method`` here, only the version counts."""
    version = headers.get("mcp-protocol-version")
    if method is not None and (version == MODERN or VERSION in meta):
        named_by = _NAMED_BY.get(method, "")
        name = params.get(named_by)
        if headers.get("mcp-method", "").strip() != method:
            raise RpcError(HEADER_MISMATCH, "The header Mcp-Method must say what the method in the body says.")
        if isinstance(name, str) and headers.get("mcp-name", "").strip() not in _in_header(name):
            raise RpcError(HEADER_MISMATCH, f"The header Mcp-Name must say what {named_by} in the body says.")
        if VERSION not in meta or not isinstance(meta.get(CAPABILITIES), Mapping):
            raise RpcError(INVALID_PARAMS, f"params._meta must have {VERSION} and {CAPABILITIES}.")
        if version != meta[VERSION]:
            raise RpcError(HEADER_MISMATCH, f"The header MCP-Protocol-Version must say what {VERSION} says.")
    if version != MODERN:
        data: Mapping[str, Json] = {"supported": VERSIONS, "requested": version}
        raise RpcError(UNSUPPORTED_VERSION, f"There are the versions {', '.join(VERSIONS)}.", data)


def _in_header(name: str) -> tuple[str, str]:
    """A name as it is, and in base64, as what is not ASCII has to be."""
    return name, f"=?base64?{b64encode(name.encode(errors='surrogatepass')).decode()}?="


# -- answers ----------------------------------------------------------------------------------------------------------


def result_of(request: RpcRequest, result: Mapping[str, Json], server: Mapping[str, Json]) -> Mapping[str, Json]:
    """The answer to a request: its result, and for clients that want to know, of which kind it is and whose."""
    if request.modern:
        result = {"resultType": "complete", **result, "_meta": {SERVER: server}}
    return {"jsonrpc": "2.0", "id": request.id, "result": result}


def failure_of(error: RpcError, number: Json = None) -> Mapping[str, Json]:
    said: dict[str, Json] = {"code": error.code, "message": error.message}
    said |= {"data": error.data} if error.data else {}
    return {"jsonrpc": "2.0", "id": number, "error": said}


def refusal(error: RpcError | GatewayError, number: Json, *, modern: bool) -> Response:
    """The answer to a request that fails. Older clients take a status other than 200 for trouble with the connection,
    and all want to hear by one that the caller may not.
    """
    if isinstance(error, GatewayError):
        note(error.code, error.root_reason)
        if isinstance(error, NotAuthenticated | InsufficientScope):
            return render_error(error, number)
        error = as_rpc_error(error)
    return json_response(to_json(failure_of(error, number)), _STATUSES.get(error.code, 400) if modern else 200)


def render_error(error: GatewayError, number: Json = None) -> Response:
    """An error that has a status of HTTP."""
    fields = failure_of(as_rpc_error(error), number)
    return json_response(to_json(fields), _status_of(error), error_headers(error))


def as_rpc_error(error: GatewayError) -> RpcError:
    """An error of the gateway. Its ``details`` are what can be chosen instead, if the error is about that."""
    current, status, details = trace.get(), _status_of(error), error.details
    choices: Json = [each for each in details if not isinstance(each, Detail)]
    data: dict[str, Json] = {
        "code": error.code,
        "message": error.message,
        "status_code": status,
        "request_id": None if current is None else current.request_id,
        "retry_after": error.retry_after,
        "details": choices,
    }
    is_no_json = any(isinstance(each, Detail) and each.type == "json_invalid" for each in details)
    code = PARSE_ERROR if is_no_json else {400: INVALID_REQUEST, 404: INVALID_PARAMS}.get(status, INTERNAL)
    return RpcError(code, f"{error.code}: {error.message}", data)


def _status_of(error: GatewayError) -> int:
    """As everywhere, but for what the protocol has a status of its own."""
    return 403 if isinstance(error, CorsRefused) else 400 if isinstance(error, Rejected) else status_of(error)
