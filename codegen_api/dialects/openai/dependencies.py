"""Who is calling, and the routers of this API."""

from typing import Annotated

from fastapi import APIRouter, Depends

from codegen_api.conversations import CallerConversations
from codegen_api.parts import conversations_of
from codegen_api.request_bodies import CallerFirst
from codegen_api.web import authenticate_lenient, bearer, named

MyConversations = Annotated[CallerConversations, conversations_of(authenticate_lenient)]


def routes_about(what: str) -> APIRouter:
    """A router for the routes about ``what``."""
    return APIRouter(
        route_class=CallerFirst,
        tags=[f"OpenAI: {what}"],
        dependencies=[Depends(bearer)],
        generate_unique_id_function=named("openai_"),
    )
