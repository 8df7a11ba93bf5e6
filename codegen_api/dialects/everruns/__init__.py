"""The Everruns API: agents, sessions nested below them or beside them, messages, and events turn after turn.

Two generations of clients are served, each in its own words. What the host keeps of a session is told as theirs.
"""

from fastapi import APIRouter, Depends

from codegen_api.dialects.everruns import agents, flat, nested
from codegen_api.dialects.everruns.asking import credentials
from codegen_api.dialects.everruns.wire import render_error
from codegen_api.web import bearer

PREFIXES = ("/v1/agents", "/v1/sessions", "/swagger-ui")
REQUEST_HEADERS = ("X-Org-Id", "Everruns-Change-Reason")
CONVERSATIONS = True

router = APIRouter(dependencies=[Depends(bearer), Depends(credentials)])
for part in (agents, nested, flat):
    router.include_router(part.router)

__all__ = ["CONVERSATIONS", "PREFIXES", "REQUEST_HEADERS", "render_error", "router"]
