"""Authentication: these clients send a token with ``Bearer``, with ``ApiKey``, or without a scheme."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from fastapi.security import APIKeyHeader

from codegen_api.conversations import CallerConversations
from codegen_api.dialects.everruns.wire import EverrunsClient, parse_organization
from codegen_api.errors import InvalidToken, NotOffered
from codegen_api.http.parts import conversations_of
from codegen_api.http.request_bodies import Authenticator, CallerFirst
from codegen_api.http.web import bearer, identify_lenient, named
from codegen_api.identity import Caller

credentials = APIKeyHeader(
    name="Authorization",
    scheme_name="Authorization",
    auto_error=False,
    description="The token, with `Bearer` or `ApiKey` before it, or as it is. Keys of Everruns are not taken.",
)

SCHEMES = ("bearer", "apikey")

END_USER = "End-User"
"""With this header an application tells apart its users, who share its token."""

FOREIGN = "evr_"
"""The prefix of keys for Everruns. Its SDKs take them from the environment and send them to every server."""


@Authenticator
async def asking(request: Request) -> Caller:
    """Authenticate the caller. A key for Everruns is never sent to a host.

    Raises:
        NotOffered: the request names an end user, but here all who share a token are one user.
        InvalidToken: the token is a key for Everruns, or has an unknown scheme.
        GatewayError: as ``identify_lenient``.
    """
    if END_USER in request.headers:
        raise NotOffered("The gateway knows users by their tokens, and not by `End-User`: give each their own.")
    scheme, _, rest = request.headers.get("authorization", "").strip().partition(" ")
    with_scheme = scheme.lower() in SCHEMES
    if rest and not with_scheme:
        raise InvalidToken("The token comes with Bearer, with ApiKey, or with no scheme at all.")
    token = rest.strip() if with_scheme else scheme
    if token.startswith(FOREIGN):
        raise InvalidToken("This is a key for Everruns, which the host behind this gateway does not know.")
    return await identify_lenient(request, token or None)


async def wanted_organization(
    name: Annotated[
        str | None,
        Header(alias="X-Org-Id", description="The organization that is meant; else the deployment's."),
    ] = None,
    same: Annotated[str | None, Header(alias="X-Organization-ID", description="The same.")] = None,
) -> str | None:
    """The organization that the request names, if any."""
    named = name or same
    return parse_organization(named) if named else None


def routes_about(what: str, prefix: str = "") -> APIRouter:
    return APIRouter(
        route_class=CallerFirst,
        prefix=prefix,
        tags=[f"Everruns: {what}"],
        dependencies=[Depends(bearer), Depends(credentials)],
        generate_unique_id_function=named("everruns_"),
    )


MyConversations = Annotated[CallerConversations, conversations_of(asking)]


async def client_of(request: Request, conversations: MyConversations) -> EverrunsClient:
    """The client of this request."""
    return EverrunsClient(conversations, str(request.base_url).rstrip("/"), request.path_params.get("agent_id"))


CurrentClient = Annotated[EverrunsClient, Depends(client_of)]
WantedOrganization = Annotated[str | None, Depends(wanted_organization)]
