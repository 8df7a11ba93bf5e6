"""The Agent Protocol, as the LangGraph SDKs and their user interfaces speak it: docs/clients.md."""

from codegen_api.dialects.agent_protocol import (
    about,
    assistants,
    graphs,
    items,
    missing,
    published,
    runs,
    started,
    states,
    threads,
)
from codegen_api.dialects.agent_protocol.wire import render_error

PREFIXES = ("/agents", "/assistants", "/threads", "/runs", "/store", "/info", "/ok")

CONVERSATIONS = True

EXPOSED_HEADERS = ("X-Pagination-Next", "X-Pagination-Total")

PARTS = (about, assistants, graphs, missing, threads, states, runs, started, published, items)
ROUTES = [route for part in PARTS for route in part.router.routes]

__all__ = ["CONVERSATIONS", "EXPOSED_HEADERS", "PREFIXES", "ROUTES", "render_error"]
