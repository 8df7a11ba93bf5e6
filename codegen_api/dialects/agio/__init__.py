"""Agio's API, as its documents and its user interface speak it: docs/clients.md."""

from codegen_api.dialects import Absent, Dialect
from codegen_api.dialects.agio import agents, chat, checkpoints, health, runs
from codegen_api.dialects.agio.wire import render_error

ABSENT = Absent("/api/config", "/api/metrics")

DIALECT = Dialect(
    routes=[*(route for part in (health, agents, chat, runs, checkpoints) for route in part.router.routes), ABSENT],
    render_error=render_error,
    prefixes=("/api",),
    conversations=True,
)
