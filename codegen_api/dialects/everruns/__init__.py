"""The Everruns API: agents, sessions nested below them or beside them, messages, and events turn after turn.

Two generations of clients are served, each in its own words. What the host keeps of a session is told as theirs:
docs/clients.md.
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
