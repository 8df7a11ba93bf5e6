"""The Agent Protocol, as the LangGraph SDKs and their user interfaces speak it: docs/clients.md."""

from codegen_api.dialects import Dialect
from codegen_api.dialects.agent_protocol import (
    assistants,
    create_runs,
    graphs,
    info,
    items,
    missing,
    published,
    runs,
    state_routes,
    threads,
)
from codegen_api.dialects.agent_protocol.wire import render_error

PARTS = (info, assistants, graphs, missing, threads, state_routes, create_runs, runs, published, items)

DIALECT = Dialect(
    routes=[route for part in PARTS for route in part.router.routes],
    render_error=render_error,
    prefixes=("/agents", "/assistants", "/threads", "/runs", "/store", "/info", "/ok"),
    exposed_headers=("X-Pagination-Next", "X-Pagination-Total"),
    conversations=True,
)
