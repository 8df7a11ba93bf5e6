"""Whether the gateway is well, as clients of this API ask it."""

import time

from fastapi import Request
from starlette.responses import Response

from codegen_api.dialects.agio import answers
from codegen_api.dialects.agio.asking import routes_about
from codegen_api.parts import Door
from codegen_api.runs import to_json
from codegen_api.web import json_response, timestamp

router = routes_about("health", public=True)


@router.get("/api/health", summary="How is it", responses=answers.HEALTH)
async def health(request: Request, gateway: Door) -> Response:
    """How the process is: `degraded` when the host was not there when it was last asked. Asks nobody."""
    seen = gateway.observation
    status = "healthy" if seen is None or seen.reachable else "degraded"
    body = {"status": status, "version": request.app.version, "timestamp": timestamp(time.time())}
    return json_response(to_json(body))
