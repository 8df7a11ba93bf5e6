"""The Agent Protocol, as the LangGraph SDKs and their user interfaces speak it: docs/clients.md."""

from fastapi import APIRouter, Depends

from codegen_api.dialects.agent_protocol import (
    about,
    assistants,
    graphs,
    items,
    missing,
    runs,
    started,
    states,
    threads,
)
from codegen_api.dialects.agent_protocol.asking import api_key
from codegen_api.dialects.agent_protocol.wire import render_error
from codegen_api.web import bearer

PREFIXES = ("/assistants", "/threads", "/runs", "/store", "/info", "/ok")

CONVERSATIONS = True

REQUEST_HEADERS = ("X-Api-Key", "X-Auth-Scheme", "Prefer")
"""What the SDK in browsers sends, and Agent Chat UI."""

EXPOSED_HEADERS = ("X-Pagination-Next", "X-Pagination-Total")

# other dialects may call what they do the same
router = APIRouter(generate_unique_id_function=lambda route: f"agent_protocol_{route.name}")
router.include_router(about.router)
for part in (assistants, graphs, missing, threads, states, runs, started, items):
    router.include_router(part.router, dependencies=[Depends(bearer), Depends(api_key)])

__all__ = ["CONVERSATIONS", "EXPOSED_HEADERS", "PREFIXES", "REQUEST_HEADERS", "render_error", "router"]
