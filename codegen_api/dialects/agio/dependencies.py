"""Who is calling. Clients of this API send no credentials: they are let in where the deployment has a demo user."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from codegen_api.conversations import CallerConversations
from codegen_api.identity import Caller
from codegen_api.parts import conversations_of
from codegen_api.request_bodies import Asking, CallerFirst
from codegen_api.web import bearer, bearer_token, identify_lenient, named


@Asking
async def asking(request: Request) -> Caller:
    """Who is calling, by the Authorization header; without one, the deployment's demo user.

    Raises:
        NotAuthenticated: nobody says who.
        InvalidToken: somebody does, and it is not true.
        InsufficientScope: this route is not for them.
        AuthUnavailable: it cannot be found out just now.
        RateLimited: they have asked often enough.
    """
    return await identify_lenient(request, bearer_token(request))


Asker = Annotated[Caller, Depends(asking)]
MyConversations = Annotated[CallerConversations, conversations_of(asking)]


def routes_about(what: str, *, public: bool = False) -> APIRouter:
    """A router for the routes about ``what``."""
    return APIRouter(
        route_class=CallerFirst,
        tags=[f"Agio: {what}"],
        dependencies=None if public else [Depends(bearer)],
        generate_unique_id_function=named("agio_"),
    )
