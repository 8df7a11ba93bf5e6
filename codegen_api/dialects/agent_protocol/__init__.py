"""The Agent Protocol, as the LangGraph SDKs and their user interfaces speak it: docs/clients.md."""

from codegen_api.dialects import Dialect
from codegen_api.dialects.agent_protocol import assistants, create_runs, items, missing, runs, threads
from codegen_api.dialects.agent_protocol.wire import render_error

ROUTERS = (
    missing.about,
    assistants.router,
    missing.router,
    threads.router,
    create_runs.router,
    runs.router,
    assistants.published,
    runs.published,
    items.router,
)

DIALECT = Dialect(
    routes=[route for router in ROUTERS for route in router.routes],
    render_error=render_error,
    prefixes=("/agents", "/assistants", "/threads", "/runs", "/store", "/info", "/ok"),
    exposed_headers=("X-Pagination-Next", "X-Pagination-Total"),
    conversations=True,
)
