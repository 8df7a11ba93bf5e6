"""The routes: the endpoint, and where clients read who gives them tokens for it."""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Body, Depends, Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from codegen_api.dialects.mcp import rpc
from codegen_api.dialects.mcp.rpc import RpcError, RpcRequest, failure_of, refusal, result_of
from codegen_api.dialects.mcp.server import Coming, McpCall, McpServer, Outcome, Result
from codegen_api.errors import GatewayError, InsufficientScope, NotAuthenticated, NotFound
from codegen_api.identity import READ, WRITE, Caller
from codegen_api.openapi import ANYWHERE, Answers
from codegen_api.parts import parts_of
from codegen_api.request_bodies import Asking, CallerFirst
from codegen_api.runs import to_json
from codegen_api.sse import HEARTBEAT, frame, lasting
from codegen_api.telemetry import note
from codegen_api.web import (
    CROSS_SITE,
    CorsRefused,
    Responses,
    WantedOrganization,
    authenticate_lenient,
    base_url,
    bearer,
    json_response,
    named,
    operation,
)

if TYPE_CHECKING:  # loaded only where there are some
    from codegen_api.auth.jwts import Jwts

PATH = "/mcp"
METADATA = "/.well-known/oauth-protected-resource"
EVENTS = "text/event-stream"

_answers = Answers(None, lambda error: failure_of(None, rpc.as_rpc_error(error)))
ANSWERED = _answers(200, None, "What it is answered with.")
DESCRIBED: Responses = {200: {"description": "The metadata."}, **_answers.errors(*ANYWHERE, 404)}
MESSAGE = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


@Asking
async def authenticate_client(request: Request) -> Caller:
    """As ``authenticate_lenient``, but pages of other sites are refused whatever they send."""
    if request.scope[CROSS_SITE]:
        raise CorsRefused
    with _challenging(request):
        return await authenticate_lenient(request)


@contextmanager
def _challenging(request: Request) -> Iterator[None]:
    """Clients that are refused for want of a token are told where to get one, and for what."""
    try:
        yield
    except (NotAuthenticated, InsufficientScope) as error:
        jwts = _issuer(request)
        if jwts is not None:
            error.resource_metadata = f"{base_url(request)}{METADATA}{PATH}"
            if isinstance(error, InsufficientScope) and error.scope is not None:
                error.scope = jwts.scope_prefix + error.scope
        raise


def _issuer(request: Request) -> "Jwts | None":
    """Who gives users their tokens, if clients can ask them."""
    jwts = parts_of(request).callers.jwts
    return jwts if jwts is not None and jwts.issuer.lower().startswith(("http://", "https://")) else None


def routes_of(server: McpServer) -> Sequence[BaseRoute]:
    router = APIRouter(route_class=CallerFirst, tags=["MCP"], generate_unique_id_function=named("mcp_"))

    @router.post(PATH, **operation("Send an MCP message", None, ANSWERED), dependencies=[Depends(bearer)])
    async def send_message(
        request: Request,
        caller: Annotated[Caller, Depends(authenticate_client)],
        wanted: WantedOrganization,
        body: Annotated[Any, Body(examples=[MESSAGE], description="A request, or a notification.")],
    ) -> Response:
        """Send a JSON-RPC message of the Model Context Protocol, of any version.

        There are no sessions: each request stands alone. It is answered with JSON, or, where it waits and the client
        wants to know of progress, with a stream of events. Notifications have no effect.
        """
        about: Result = {"name": request.app.title, "version": request.app.version}
        try:
            asked = rpc.parsed(body, request.headers)
        except RpcError as error:
            return refusal(rpc.id_of(body), error, modern=True)
        if asked.id is None:
            return Response(status_code=202)
        is_streamed = asked.progress_token is not None and EVENTS in request.headers.get("accept", "")
        try:
            with _challenging(request):
                call = McpCall(request=asked, caller=caller, wanted=wanted, parts=parts_of(request), server=about)
                outcome = await server.answer(call)
                if not is_streamed or isinstance(outcome, Mapping):
                    return json_response(to_json(result_of(asked, await _last(outcome), about)))
        except RpcError as error:
            return refusal(asked.id, error, modern=asked.modern)
        except GatewayError as error:
            note(error.code, error.root_reason)
            return rpc.render_error(error, asked.id)
        return lasting(request, _frames(asked, outcome, about), f"{EVENTS}; charset=utf-8")

    @router.get(METADATA + PATH, summary="Get the metadata of the MCP endpoint", responses=DESCRIBED)
    async def get_metadata(request: Request) -> Response:
        """Where clients get tokens for the MCP endpoint, as RFC 9728 has it. Only where JWTs are taken."""
        jwts = _issuer(request)
        if jwts is None:
            raise NotFound("This deployment gives no tokens.")
        about: Result = {
            "resource": f"{base_url(request)}{PATH}",
            "resource_name": request.app.title,
            "authorization_servers": [jwts.issuer],
            "scopes_supported": [jwts.scope_prefix + scope for scope in (READ, WRITE)],
            "bearer_methods_supported": ["header"],
        }
        return json_response(to_json(about))

    return router.routes


async def _last(outcome: Outcome) -> Result:
    """The result, for a client that is told nothing of what comes before it."""
    if isinstance(outcome, Mapping):
        return outcome
    async with aclosing(outcome):
        return [item async for item in outcome if isinstance(item, Mapping)][-1]


async def _frames(request: RpcRequest, outcome: Coming, about: Result) -> AsyncGenerator[bytes, None]:
    """What comes, as notifications, and the answer to the request last."""
    said: Result = {"jsonrpc": "2.0", "method": "notifications/progress"}
    async with aclosing(outcome):
        try:
            async for item in outcome:
                if isinstance(item, Mapping):
                    yield frame("message", to_json(result_of(request, item, about)))
                elif item is None:
                    yield HEARTBEAT
                else:
                    params = {"progressToken": request.progress_token, "progress": item.progress}
                    yield frame("message", to_json({**said, "params": {**params, "message": item.message}}))
        except RpcError as error:
            yield frame("message", to_json(failure_of(request.id, error)))
