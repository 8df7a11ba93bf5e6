"""What clients ask to see whether there is anybody: who this is, and that it is well."""

from fastapi import Request
from starlette.responses import Response

from codegen_api.dialects.agent_protocol import answers
from codegen_api.dialects.agent_protocol.asking import routes_about
from codegen_api.runs import to_json
from codegen_api.web import json_response

router = routes_about("about", public=True)


@router.get(
    "/info",
    summary="What is it",
    responses={200: {"model": answers.Info, "description": "What it is."}, **answers.PUBLIC_ERRORS},
)
async def info(request: Request) -> Response:
    """What this is, and what of the protocol it has. Wants no token and asks nobody."""
    body = {
        "name": request.app.title,
        "version": request.app.version,
        "description": "The Agent Protocol in front of a hosted agent API.",
        "status": "running",
        "flags": {"assistants": True, "crons": False, "langsmith": False},
    }
    return json_response(to_json(body))


@router.get(
    "/ok",
    summary="Is it well",
    responses={200: {"model": answers.Ok, "description": "Yes."}, **answers.PUBLIC_ERRORS},
)
async def ok() -> Response:
    """Whether anybody answers. Wants no token and asks nobody."""
    return json_response(b'{"ok":true}')
