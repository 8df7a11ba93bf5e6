"""The MCP endpoint and its methods, and the metadata that tells clients where to get tokens for it."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Body, Depends, Request
from starlette.responses import Response

from codegen_api.dialects.mcp import protocol
from codegen_api.dialects.mcp.protocol import McpCall, Outcome, Result, RpcError, ToolProgress
from codegen_api.dialects.mcp.runs import LOG, TASK_METHODS, read_resource
from codegen_api.dialects.mcp.tools import INSTRUCTIONS, TOOLS
from codegen_api.errors import GatewayError, InsufficientScope, NotAuthenticated, NotFound
from codegen_api.http import web
from codegen_api.http.openapi import ANYWHERE, Answers
from codegen_api.http.parts import parts_of
from codegen_api.http.request_bodies import Authenticator, CallerFirst
from codegen_api.http.sse import HEARTBEAT, frame, lasting
from codegen_api.identity import READ, WRITE, Caller
from codegen_api.runs import to_json

if TYPE_CHECKING:  # loaded only if the deployment accepts JWTs
    from codegen_api.auth.jwts import Jwts

PATH = "/mcp"
METADATA = "/.well-known/oauth-protected-resource"
EVENTS = "text/event-stream"
ABLE: Result = {"tools": {}, "resources": {}}
WITH_TASKS: Result = {"extensions": {protocol.TASKS: {}}}

LISTS_MS = 300_000
"""How long clients may cache lists, which change only with a release."""

_answers = Answers(None, lambda error: protocol.failure_of(protocol.as_rpc_error(error)))
ANSWERED = _answers(200, None, "What it is answered with.")
DESCRIBED: web.Responses = {200: {"description": "The metadata."}, **_answers.errors(*ANYWHERE, 404)}
MESSAGE = {"jsonrpc": "2.0", "id": 1, "method": "ping"}

router = APIRouter(route_class=CallerFirst, tags=["MCP"], generate_unique_id_function=web.named("mcp_"))


@Authenticator
async def authenticate_client(request: Request) -> Caller:
    """As ``authenticate_lenient``, but requests from pages of other sites are always refused."""
    if request.scope[web.CROSS_SITE]:
        raise web.CorsRefused
    try:
        return await web.authenticate_lenient(request)
    except GatewayError as error:
        _say_where(request, error)
        raise


def _say_where(request: Request, error: Exception) -> None:
    """If a request lacks a token or a scope, add to the error where the client can get one."""
    jwts = _issuer(request)
    if jwts is not None and isinstance(error, NotAuthenticated | InsufficientScope):
        error.resource_metadata = f"{web.base_url(request)}{METADATA}{PATH}"
        if isinstance(error, InsufficientScope) and error.scope is not None:
            error.scope = jwts.claims.prefix + error.scope


def _issuer(request: Request) -> "Jwts | None":
    """The issuer of users' tokens, if there is one with a URL."""
    jwts = parts_of(request).callers.jwts
    return jwts if jwts is not None and jwts.issuer.lower().startswith(("http://", "https://")) else None


@router.post(PATH, **web.operation("Send an MCP message", None, ANSWERED), dependencies=[Depends(web.bearer)])
async def send_message(
    request: Request,
    caller: Annotated[Caller, Depends(authenticate_client)],
    wanted: web.WantedOrganization,
    body: Annotated[Any, Body(examples=[MESSAGE], description="A request, or a notification.")],
) -> Response:
    """Send a JSON-RPC message of the Model Context Protocol, of any version.

    There are no sessions: each request stands alone. It is answered with JSON, or, where it waits and the client
    wants to know of progress, with a stream of events. Notifications have no effect.
    """
    modern = True
    try:
        call = protocol.call_of(body, request, caller, wanted)
        if call.id is None:
            return Response(status_code=202)
        modern = call.modern
        outcome = await _dispatch(call)
        if not isinstance(outcome, Mapping):
            if call.progress_token is not None and EVENTS in request.headers.get("accept", ""):
                return lasting(request, _frames(call, outcome), f"{EVENTS}; charset=utf-8")
            async with aclosing(outcome):
                *_, outcome = [item async for item in outcome if isinstance(item, Mapping)]
        return web.json_response(to_json(protocol.result_of(call, outcome)))
    except (RpcError, GatewayError) as error:
        _say_where(request, error)
        return protocol.refusal(error, protocol.id_of(body), modern=modern)


async def _dispatch(call: McpCall) -> Outcome:  # noqa: PLR0911 - a case for each method
    match call.modern, call.method:
        case True, "server/discover":
            said: Result = {"supportedVersions": protocol.VERSIONS, "capabilities": {**ABLE, **WITH_TASKS}}
            return _cached(call, {**said, "instructions": INSTRUCTIONS})
        case False, "initialize":
            version = call.param("protocolVersion", str)
            said = {"protocolVersion": version if version in protocol.HANDSHAKE else protocol.HANDSHAKE[0]}
            return {**said, "capabilities": ABLE, "serverInfo": call.server, "instructions": INSTRUCTIONS}
        case False, "ping":
            return {}
        case _, "tools/list":
            return _cached(call, {"tools": [tool.described for tool in TOOLS]})
        case _, "tools/call":
            name = call.param("name", str)
            tool = next((tool for tool in TOOLS if tool.name == name), None)
            if tool is None:
                raise RpcError(protocol.INVALID_PARAMS, "There is no such tool.")
            return await tool.invoke(call, call.param("arguments", dict))
        case _, "resources/list":
            return _cached(call, {"resources": []})
        case _, "resources/templates/list":
            return _cached(call, {"resourceTemplates": [LOG]})
        case _, "resources/read":
            call.require(READ)
            uri = call.param("uri", str)
            found = await read_resource(call, uri)
            if found is None:
                code = protocol.INVALID_PARAMS if call.modern else -32002
                raise RpcError(code, "There is no such resource.", {"uri": uri})
            return _cached(call, {"contents": [{"uri": uri, **found}]}, ms=0, scope="private")
        case True, name if name in TASK_METHODS:
            if not call.takes_tasks:
                needed: Result = {"requiredCapabilities": WITH_TASKS}
                raise RpcError(protocol.MISSING_CAPABILITY, f"This needs the extension {protocol.TASKS}.", needed)
            return await TASK_METHODS[name](call, call.param("taskId", str))
    raise RpcError(protocol.METHOD_NOT_FOUND, "There is no such method.")


def _cached(call: McpCall, result: Result, ms: int = LISTS_MS, scope: str = "public") -> Result:
    """A result that tells modern clients how long, and for whom, they may cache it."""
    return {**result, "ttlMs": ms, "cacheScope": scope} if call.modern else result


async def _frames(call: McpCall, outcome: ToolProgress) -> AsyncGenerator[bytes, None]:
    """Progress as notifications, and at last the answer to the request, as server-sent events."""
    async with aclosing(outcome):
        async for item in outcome:
            match item:
                case None:
                    yield HEARTBEAT
                case progress, words:
                    params: Result = {"progressToken": call.progress_token, "progress": progress, "message": words}
                    said: Result = {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
                    yield frame("message", to_json(said))
                case _:
                    yield frame("message", to_json(protocol.result_of(call, item)))


@router.get(METADATA + PATH, summary="Get the metadata of the MCP endpoint", responses=DESCRIBED)
async def get_metadata(request: Request) -> Response:
    """Where clients get tokens for the MCP endpoint, as RFC 9728 has it. Only where JWTs are taken."""
    jwts = _issuer(request)
    if jwts is None:
        raise NotFound("This deployment gives no tokens.")
    about: Result = {
        "resource": f"{web.base_url(request)}{PATH}",
        "resource_name": request.app.title,
        "authorization_servers": [jwts.issuer],
        "scopes_supported": [jwts.claims.prefix + scope for scope in (READ, WRITE)],
        "bearer_methods_supported": ["header"],
    }
    return web.json_response(to_json(about))
