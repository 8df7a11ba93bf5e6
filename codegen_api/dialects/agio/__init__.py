"""Agio's API, as its documents and its user interface speak it: docs/clients.md."""

from codegen_api.dialects import Absent, Dialect
from codegen_api.dialects.agio import agents, checkpoints, health, runs
from codegen_api.dialects.agio.wire import render_error

ABSENT = Absent("/api/config", "/api/metrics")

ROUTERS = (health.router, agents.router, runs.chats, runs.router, checkpoints.router)

DIALECT = Dialect(
    routes=[*(route for part in ROUTERS for route in part.routes), ABSENT],
    render_error=render_error,
    prefixes=("/api",),
    conversations=True,
)
