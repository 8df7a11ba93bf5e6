"""The caller's conversations, and routers. Clients of this API send no credentials: they need a demo user."""

from typing import Annotated

from fastapi import APIRouter, Depends

from codegen_api.conversations import CallerConversations
from codegen_api.http.parts import conversations_of
from codegen_api.http.request_bodies import CallerFirst
from codegen_api.http.web import authenticate_lenient, bearer, named

MyConversations = Annotated[CallerConversations, conversations_of(authenticate_lenient)]


def routes_about(what: str, *, public: bool = False) -> APIRouter:
    return APIRouter(
        route_class=CallerFirst,
        tags=[f"Agio: {what}"],
        dependencies=None if public else [Depends(bearer)],
        generate_unique_id_function=named("agio_"),
    )
