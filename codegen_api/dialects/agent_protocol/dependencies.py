"""Authentication: by a bearer token, or by the same token in ``x-api-key``, where this protocol's SDKs send it."""

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.security import APIKeyHeader

from codegen_api.conversations import CallerConversations
from codegen_api.errors import InvalidToken
from codegen_api.http.parts import conversations_of
from codegen_api.http.request_bodies import Authenticator, CallerFirst
from codegen_api.http.web import bearer, bearer_token, identify, identify_lenient, named
from codegen_api.identity import Caller

api_key = APIKeyHeader(
    name="x-api-key",
    scheme_name="ApiKey",
    auto_error=False,
    description="The same token, for clients that send it here. Keys for LangSmith are ignored.",
)

_FOREIGN = re.compile(r"lsv2_|ls__")
"""The prefix of keys for LangSmith. SDKs take them from the environment and send them to every server."""


@Authenticator
async def asking(request: Request) -> Caller:
    """Authenticate the caller. A key for LangSmith is never sent to a host; in ``x-api-key`` it is ignored.

    Raises:
        InvalidToken: the bearer token is a key for LangSmith.
        GatewayError: as ``identify_lenient``.
    """
    token = bearer_token(request)
    if token is not None:
        if _FOREIGN.match(token):
            raise InvalidToken("This is a key for LangSmith, which the host behind this gateway does not know.")
        return await identify(request, token)
    key = request.headers.get("x-api-key", "").strip()
    return await identify_lenient(request, None if not key or _FOREIGN.match(key) else key)


Asker = Annotated[Caller, Depends(asking)]
MyConversations = Annotated[CallerConversations, conversations_of(asking)]


def routes_about(what: str, *, public: bool = False) -> APIRouter:
    return APIRouter(
        route_class=CallerFirst,
        tags=[f"Agent Protocol: {what}"],
        dependencies=None if public else [Depends(bearer), Depends(api_key)],
        generate_unique_id_function=named("agent_protocol_"),
    )
