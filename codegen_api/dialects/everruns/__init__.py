"""The Everruns API: agents, sessions nested below them or beside them, messages, and events turn after turn.

Two generations of clients are served, each in its own words. What the host keeps of a session is told as theirs:
docs/clients.md.
"""

from fastapi import APIRouter, Depends

from codegen_api.dialects.everruns import agents, flat, nested
from codegen_api.dialects.everruns.answers import describe
from codegen_api.dialects.everruns.asking import credentials
from codegen_api.dialects.everruns.wire import render_error
from codegen_api.web import bearer

PREFIXES = ("/v1/agents", "/v1/sessions", "/swagger-ui")
REQUEST_HEADERS = ("X-Org-Id", "Everruns-Change-Reason")
CONVERSATIONS = True

# other dialects may call what they do the same
router = APIRouter(
    dependencies=[Depends(bearer), Depends(credentials)],
    generate_unique_id_function=lambda route: f"everruns_{route.name}",
)
for part in (agents, nested, flat):
    router.include_router(part.router)

__all__ = ["CONVERSATIONS", "PREFIXES", "REQUEST_HEADERS", "describe", "render_error", "router"]
