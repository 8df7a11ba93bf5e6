"""Agio's API, as its documents and its user interface speak it: docs/clients.md."""

from codegen_api.dialects import Absent
from codegen_api.dialects.agio import agents, chat, checkpoints, health, runs
from codegen_api.dialects.agio.wire import render_error

PREFIXES = ("/api",)

CONVERSATIONS = True

ABSENT = Absent("/api/config", "/api/metrics")

ROUTES = [*(route for part in (health, agents, chat, runs, checkpoints) for route in part.router.routes), ABSENT]

__all__ = ["CONVERSATIONS", "PREFIXES", "ROUTES", "render_error"]
