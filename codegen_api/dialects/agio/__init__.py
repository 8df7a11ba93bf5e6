"""Agio's API, as its documents and its user interface speak it: docs/clients.md."""

from fastapi import APIRouter, Depends

from codegen_api.dialects.agio import agents, chat, checkpoints, health, runs
from codegen_api.dialects.agio.wire import render_error
from codegen_api.web import bearer

PREFIXES = ("/api",)

CONVERSATIONS = True

# other dialects may call what they do the same
router = APIRouter(generate_unique_id_function=lambda route: f"agio_{route.name}")
router.include_router(health.router)
for part in (agents, chat, runs, checkpoints):
    router.include_router(part.router, dependencies=[Depends(bearer)])

__all__ = ["CONVERSATIONS", "PREFIXES", "render_error", "router"]
