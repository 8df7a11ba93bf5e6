"""What clients ask to see whether there is anybody: who this is, and that it is well."""

from fastapi import Request
from starlette.responses import Response

from codegen_api.dialects.agent_protocol import responses
from codegen_api.dialects.agent_protocol.dependencies import routes_about
from codegen_api.dialects.agent_protocol.schemas import IgnoredQuery
from codegen_api.runs import to_json
from codegen_api.web import json_response

LANGGRAPH = "1.0.0"
"""Clients ask it for what to expect. No graph runs here; this is the version whose messages and events these are."""

router = routes_about("about", public=True)


@router.get(
    "/info",
    summary="Server information",
    responses={200: {"model": responses.Info, "description": "What it is."}, **responses.PUBLIC_ERRORS},
)
async def info(request: Request) -> Response:
    """What this is, and what of the protocol it has. Wants no token and asks nobody."""
    body = {
        "name": request.app.title,
        "version": request.app.version,
        "description": "The Agent Protocol in front of a hosted agent API.",
        "status": "running",
        "langgraph_py_version": LANGGRAPH,
        "flags": {"assistants": True, "crons": False, "langsmith": False},
        "metadata": {},
    }
    return json_response(to_json(body))


@router.get(
    "/ok",
    summary="Health check",
    responses={200: {"model": responses.Ok, "description": "Yes."}, **responses.PUBLIC_ERRORS, **responses.UNREADABLE},
)
async def ok(check_db: IgnoredQuery = None) -> Response:
    """Whether anybody answers. Wants no token and asks nobody."""
    return json_response(b'{"ok":true}')
