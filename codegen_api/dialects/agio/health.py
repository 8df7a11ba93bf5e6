"""The health check of this API."""

import time

from fastapi import Request
from starlette.responses import Response

from codegen_api.dialects.agio import responses
from codegen_api.dialects.agio.dependencies import routes_about
from codegen_api.http.parts import Door, parts_of
from codegen_api.http.web import json_response, timestamp
from codegen_api.runs import to_json

router = routes_about("health", public=True)


@router.get("/api/health", summary="Health check", responses=responses.HEALTH)
async def health(request: Request, gateway: Door) -> Response:
    """How the process is: `degraded` when the host was not there when it was last asked, or the database fails. Asks
    nobody.
    """
    conversations = parts_of(request).conversations
    seen = (gateway.observation, None if conversations is None else conversations.observation)
    status = "healthy" if all(each is None or each.reachable for each in seen) else "degraded"
    body = {"status": status, "version": request.app.version, "timestamp": timestamp(time.time())}
    return json_response(to_json(body))
