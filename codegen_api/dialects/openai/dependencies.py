"""Dependencies of routes: the caller's conversations, and repeats of requests. Makes the routers of this API."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from codegen_api.conversations import CallerConversations, Once
from codegen_api.http.parts import Idempotent, conversations_of
from codegen_api.http.request_bodies import CallerFirst
from codegen_api.http.web import IdempotencyKey, authenticate_lenient, bearer, named
from codegen_api.idempotency.keys import Attempt

MyConversations = Annotated[CallerConversations, conversations_of(authenticate_lenient)]


async def once(
    request: Request, conversations: MyConversations, idempotency: Idempotent, key: IdempotencyKey = None
) -> Once:
    """Begins the turn of a request that may be repeated. SDKs retry by themselves, and send only the retry's number."""
    repeat = key or Attempt.of(request.headers.get("x-stainless-retry-count"))
    return Once(conversations, idempotency, request.scope["route"].path, repeat)


OnlyOnce = Annotated[Once, Depends(once)]


def routes_about(what: str) -> APIRouter:
    return APIRouter(
        route_class=CallerFirst,
        tags=[f"OpenAI: {what}"],
        dependencies=[Depends(bearer)],
        generate_unique_id_function=named("openai_"),
    )
