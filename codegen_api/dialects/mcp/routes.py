"""The two routes of MCP: the endpoint, and where clients read who signs their users in."""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from codegen_api.dialects.mcp import responses
from codegen_api.dialects.mcp.rpc import (
    RpcError,
    RpcRequest,
    as_rpc_error,
    failure_of,
    http_status,
    id_of,
    parsed,
    refusal,
    result_of,
)
from codegen_api.dialects.mcp.server import McpCall, McpServer, Progressed, Result
from codegen_api.errors import GatewayError, InsufficientScope, NotAuthenticated, NotFound
from codegen_api.identity import READ, WRITE, Caller
from codegen_api.parts import parts_of
from codegen_api.request_bodies import Asking, CallerFirst
from codegen_api.runs import Json, to_json
from codegen_api.sse import HEARTBEAT, frame, lasting
from codegen_api.telemetry import note
from codegen_api.web import (
    CROSS_SITE,
    CorsRefused,
    WantedOrganization,
    authenticate_lenient,
    base_url,
    bearer,
    error_headers,
    json_response,
    named,
    operation,
)

PATH = "/mcp"
METADATA = "/.well-known/oauth-protected-resource"


@Asking
async def authenticate_client(request: Request) -> Caller:
    """As ``authenticate_lenient``. A page of another site is refused, whatever it sends; and who is refused for want of
    a token is told where to get one.
    """
    if request.scope[CROSS_SITE]:
        raise CorsRefused
    with _challenging(request):
        return await authenticate_lenient(request)


@contextmanager
def _challenging(request: Request) -> Iterator[None]:
    try:
        yield
    except (NotAuthenticated, InsufficientScope) as error:
        if _issuer(request) is not None:
            error.resource_metadata = f"{base_url(request)}{METADATA}{PATH}"
        raise


def _issuer(request: Request) -> str | None:
    """Who signs users in, if that is somebody whom a client can ask."""
    jwts = parts_of(request).callers.jwts
    return jwts.issuer if jwts is not None and jwts.issuer.lower().startswith(("http://", "https://")) else None


def routes_of(server: McpServer) -> Sequence[BaseRoute]:
    """The routes under which a server is served."""
    router = APIRouter(route_class=CallerFirst, tags=["MCP"], generate_unique_id_function=named("mcp_"))

    @router.post(
        PATH,
        **operation("Send an MCP message", None, responses.ANSWERED),
        dependencies=[Depends(bearer)],
    )
    async def send_mcp_message(
        request: Request,
        caller: Annotated[Caller, Depends(authenticate_client)],
        wanted: WantedOrganization,
        body: Annotated[Any, Body(examples=[responses.EXAMPLE], description="A request, or a notification.")],
    ) -> Response:
        """Send a JSON-RPC message of the Model Context Protocol, of any of its versions.

        There are no sessions: each request stands alone. The answer is JSON; a tool that waits answers with an event
        stream if it is to report progress. A notification is answered with 202, and has no effect.
        """
        try:
            asked = parsed(body, request.headers)
        except RpcError as error:
            return refusal(id_of(body), error, modern=True)
        if asked.id is None:
            return Response(status_code=202)
        about: Result = {"name": request.app.title, "version": request.app.version}
        call = McpCall(
            request=asked,
            caller=caller,
            wanted=wanted,
            parts=parts_of(request),
            server=about,
            base_url=base_url(request),
        )
        try:
            with _challenging(request):
                outcome = await server.answer(call)
        except RpcError as error:
            return refusal(asked.id, error, modern=asked.modern)
        except GatewayError as error:  # which only HTTP can say
            note(error.code, error.root_reason)
            body = failure_of(asked.id, as_rpc_error(error))
            return json_response(body, http_status(error), error_headers(error))
        if isinstance(outcome, AsyncGenerator):
            if asked.progress_token is not None and "text/event-stream" in request.headers.get("accept", ""):
                return lasting(request, _frames(asked, outcome, about), "text/event-stream; charset=utf-8")
            outcome = await _last(outcome)
        return json_response(result_of(asked, outcome, about))

    @router.get(
        METADATA + PATH,
        summary="Get the metadata of the MCP endpoint",
        responses=responses.METADATA,
    )
    async def get_mcp_metadata(request: Request) -> Response:
        """Where clients get tokens for the MCP endpoint, as RFC 9728 has it. Only there where JWTs are taken."""
        issuer = _issuer(request)
        if issuer is None:
            raise NotFound("No issuer of tokens is configured here.")
        jwts = parts_of(request).callers.jwts
        scopes: Json = [] if jwts is None else [jwts.scope_prefix + scope for scope in (READ, WRITE)]
        return json_response(
            to_json(
                {
                    "resource": f"{base_url(request)}{PATH}",
                    "authorization_servers": [issuer],
                    "scopes_supported": scopes,
                    "bearer_methods_supported": ["header"],
                    "resource_name": request.app.title,
                }
            )
        )

    return router.routes


async def _last(outcome: AsyncGenerator[Progressed | Result | None, None]) -> Result:
    """The result, for a client that is told nothing of what comes before it."""
    async with aclosing(outcome):
        async for item in outcome:
            if isinstance(item, Mapping):
                return item
    raise GatewayError


async def _frames(
    request: RpcRequest, outcome: AsyncGenerator[Progressed | Result | None, None], about: Result
) -> AsyncGenerator[bytes, None]:
    """What comes, as notifications, and the answer to the request last."""
    try:
        async with aclosing(outcome):
            async for item in outcome:
                if item is None:
                    yield HEARTBEAT
                elif isinstance(item, Progressed):
                    said: Json = {
                        "progressToken": request.progress_token,
                        "progress": item.progress,
                        "message": item.message,
                    }
                    method = "notifications/progress"
                    yield frame("message", to_json({"jsonrpc": "2.0", "method": method, "params": said}))
                else:
                    yield frame("message", result_of(request, item, about))
    except RpcError as error:
        yield frame("message", failure_of(request.id, error))
