"""The Everruns API: agents, sessions, messages, and events across turns: docs/clients.md.

Two generations of clients are served, each with its own paths and names.
"""

from codegen_api.dialects import Dialect
from codegen_api.dialects.everruns import agents, message_routes, missing
from codegen_api.dialects.everruns.responses import describe
from codegen_api.dialects.everruns.wire import render_error

DIALECT = Dialect(
    routes=[missing.FIRST, *agents.router.routes, *message_routes.ROUTES, missing.REST],
    render_error=render_error,
    prefixes=("/v1", "/swagger-ui"),
    conversations=True,
    describe=describe,
)
