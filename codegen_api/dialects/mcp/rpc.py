"""JSON-RPC as MCP has it: requests of both eras, and what answers them. Pure functions.

Up to 2025-11-25 clients shake hands first, and the request that does so knows nothing of later ones. From 2026-07-28 on
each request stands alone: it says who asks and what they can in ``_meta``, and repeats some of itself in headers, which
must agree.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import Response

from codegen_api.errors import Detail, GatewayError, Rejected
from codegen_api.runs import Json, to_json
from codegen_api.telemetry import trace
from codegen_api.web import CorsRefused, error_headers, json_response, status_of

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

_MODERN_STATUSES = {INTERNAL: 200, METHOD_NOT_FOUND: 404}
_NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_BASE64 = re.compile(r"=\?base64\?(.*)\?=")


class RpcError(Exception):
    """What a request is answered with instead of a result."""

    def __init__(self, code: int, message: str, data: Mapping[str, Json] | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


@dataclass(frozen=True, kw_only=True, slots=True)
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

    def has(self, extension: str) -> bool:
        """Whether the client can this."""
        return isinstance(extensions := self.capabilities.get("extensions"), Mapping) and extension in extensions

    def text(self, name: str) -> str:
        """A parameter that is a text.

        Raises:
            RpcError: it is not.
        """
        value = self.params.get(name)
        if not isinstance(value, str):
            raise RpcError(INVALID_PARAMS, f"params.{name} must be a string.")
        return value

    def mapping(self, name: str) -> Mapping[str, Json]:
        """A parameter that is an object, empty if it is not given.

        Raises:
            RpcError: it is something else.
        """
        value = self.params.get(name, {})
        if not isinstance(value, Mapping):
            raise RpcError(INVALID_PARAMS, f"params.{name} must be an object.")
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
    method, params = body.get("method"), body.get("params", {})
    if body.get("jsonrpc") != "2.0" or not isinstance(method, str) or ("id" in body and id_of(body) is None):
        raise RpcError(INVALID_REQUEST, "A request has jsonrpc 2.0, a method, and an id that is a string or a number.")
    if not isinstance(params, Mapping):
        raise RpcError(INVALID_PARAMS, "params must be an object.")
    meta = params.get("_meta")
    meta = meta if isinstance(meta, Mapping) else {}
    version = headers.get("mcp-protocol-version")
    modern = VERSION in meta or version not in (None, *HANDSHAKE)
    if modern:
        _check_modern(method, params, meta, headers, is_request="id" in body)
    capabilities = meta.get(CAPABILITIES)
    token = meta.get("progressToken")
    return RpcRequest(
        method=method,
        params=params,
        id=id_of(body),
        modern=modern,
        capabilities=capabilities if modern and isinstance(capabilities, Mapping) else {},
        progress_token=token if isinstance(token, str | int) and not isinstance(token, bool) else None,
    )


def _check_modern(
    method: str, params: Mapping[str, Json], meta: Mapping[str, Json], headers: Headers, *, is_request: bool
) -> None:
    version = headers.get("mcp-protocol-version")
    if version != MODERN and VERSION not in meta:
        raise _unsupported(version)
    if not is_request:
        return
    for header in ("MCP-Protocol-Version", "Mcp-Method", "Mcp-Name"):
        if len(headers.getlist(header)) > 1:
            raise RpcError(HEADER_MISMATCH, f"The header {header} is there twice.")
    if headers.get("mcp-method") != method:
        raise RpcError(HEADER_MISMATCH, "The header Mcp-Method must say what the method in the body says.")
    named_by = "taskId" if method.startswith("tasks/") else _NAMED_BY.get(method, "")
    name = params.get(named_by)
    if name is not None and _decoded(headers.get("mcp-name")) != name:
        raise RpcError(HEADER_MISMATCH, f"The header Mcp-Name must say what {named_by} in the body says.")
    if VERSION not in meta or not isinstance(meta.get(CAPABILITIES), Mapping):
        raise RpcError(INVALID_PARAMS, f"params._meta must have {VERSION} and {CAPABILITIES}.")
    if version != meta[VERSION]:
        raise RpcError(HEADER_MISMATCH, f"The header MCP-Protocol-Version must say what {VERSION} in the body says.")
    if version != MODERN:
        raise _unsupported(version)


def _unsupported(version: str | None) -> RpcError:
    data: Mapping[str, Json] = {"supported": VERSIONS, "requested": version}
    return RpcError(UNSUPPORTED_VERSION, f"There are the versions {', '.join(VERSIONS)}.", data)


def _decoded(header: str | None) -> str | None:
    """What a header says that may be in base64, as what is not ASCII has to be."""
    found = _BASE64.fullmatch(header or "")
    if found is None:
        return header
    try:
        return base64.b64decode(found[1], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


# -- answers ----------------------------------------------------------------------------------------------------------


def result_of(request: RpcRequest, result: Mapping[str, Json], server: Mapping[str, Json]) -> bytes:
    """The answer to a request: its result, and for clients that want to know, of which kind it is and whose."""
    if request.modern:
        meta = result.get("_meta")
        said = {SERVER: server, **(meta if isinstance(meta, Mapping) else {})}
        result = {"resultType": "complete", **result, "_meta": said}
    return to_json({"jsonrpc": "2.0", "id": request.id, "result": result})


def failure_fields(request_id: Json, error: RpcError) -> Mapping[str, Json]:
    said: dict[str, Json] = {"code": error.code, "message": error.message}
    said |= {} if error.data is None else {"data": error.data}
    return {"jsonrpc": "2.0", "id": request_id, "error": said}


def failure_of(request_id: Json, error: RpcError) -> bytes:
    return to_json(failure_fields(request_id, error))


def refusal(request_id: Json, error: RpcError, *, modern: bool) -> Response:
    """An error of the protocol. Older clients take a status other than 200 for trouble with the connection."""
    return json_response(failure_of(request_id, error), _MODERN_STATUSES.get(error.code, 400) if modern else 200)


def as_rpc_error(error: GatewayError) -> RpcError:
    """An error of the gateway, where there is no tool whose result could tell it."""
    current = trace.get()
    data: dict[str, Json] = {
        "code": error.code,
        "status_code": http_status(error),
        "request_id": current.request_id if current else None,
    }
    if error.retry_after is not None:
        data["retry_after"] = error.retry_after
    choices = [each for each in error.details if not isinstance(each, Detail)]
    if choices:
        data["details"] = choices
    code = {400: INVALID_REQUEST, 404: INVALID_PARAMS, 422: INVALID_PARAMS}.get(status_of(error), INTERNAL)
    if isinstance(error, Rejected) and any(isinstance(d, Detail) and d.type == "json_invalid" for d in error.details):
        code = PARSE_ERROR
    return RpcError(code, f"{error.code}: {error.message}", data)


def http_status(error: GatewayError) -> int:
    """As everywhere, but for what the protocol has a status of its own."""
    return 403 if isinstance(error, CorsRefused) else 400 if isinstance(error, Rejected) else status_of(error)


def render_error(error: GatewayError) -> Response:
    """An error of HTTP, for which no request of JSON-RPC is known."""
    return json_response(failure_of(None, as_rpc_error(error)), http_status(error), error_headers(error))
