"""Errors, agents and runs as JSON, and pages of lists. Pure functions. Events are in ``events``."""

from collections.abc import Sequence

from starlette.responses import Response

from codegen_api.dialects.agio.executions import Execution, own, user_of
from codegen_api.errors import Detail, GatewayError
from codegen_api.http.web import (
    WAITS,
    MethodNotAllowed,
    error_headers,
    json_response,
    retry_after,
    status_of,
    timestamp,
)
from codegen_api.runs import Json, to_json
from codegen_api.stores import Agent
from codegen_api.telemetry import request_id

DEFAULT_MODEL = "default"
"""The name that stands for the host's choice of a model."""

ONLY_GET = " A browser's EventSource can only GET, and a chat begins with POST: read the answer with fetch."


def error_fields(error: GatewayError) -> dict[str, Json]:
    """An error in FastAPI's form (``detail``), with the gateway's own fields."""
    message = error.message + ONLY_GET if isinstance(error, MethodNotAllowed) else error.message
    details = [item for item in error.details if isinstance(item, Detail)]
    faults: list[Json] = [{"type": each.type, "loc": list(each.loc), "msg": each.msg} for each in details]
    fields: dict[str, Json] = {
        "detail": faults or message,
        "error": message,
        "code": error.code,
        "status_code": status_of(error),
        "request_id": request_id(),
    }
    if error.details and not faults:
        fields["details"] = [item for item in error.details if not isinstance(item, Detail)]
    if status_of(error) in WAITS:
        fields["retry_after"] = retry_after(error)
    return fields


def render_error(error: GatewayError) -> Response:
    return json_response(to_json(error_fields(error)), status_of(error), error_headers(error))


def page(items: Sequence[Json], total: int, limit: int, offset: int) -> Response:
    """A page of a list. ``total`` counts the whole list."""
    return json_response(to_json({"total": total, "items": items, "limit": limit, "offset": offset}))


def agent_fields(agent: Agent) -> dict[str, Json]:
    """An agent as JSON. Built-in agents have no time of creation."""
    configured = own(agent.configuration)
    return {
        "id": agent.id,
        "name": agent.name,
        "description": agent.description,
        "model": agent.model or DEFAULT_MODEL,
        "tools": configured.get("tools", []),
        "enabled": configured.get("enabled", True),
        "tags": list(agent.tags),
        "system_prompt": agent.system_prompt,
        "created_at": timestamp(agent.created) if agent.created else None,
    }


def run_fields(run: Execution, response: str | None, metrics: Json) -> dict[str, Json]:
    """A run as JSON. ``response`` and ``metrics`` come from its log."""
    latest = run.latest
    return {
        "id": run.id,
        "agent_id": run.first.agent,
        "user_id": user_of(run.first),
        "session_id": run.first.conversation,
        "status": run.status,
        "input_query": run.query,
        "response_content": response,
        "metrics": metrics,
        "error": latest.error,
        "created_at": timestamp(run.first.created),
        "updated_at": timestamp(latest.updated),
    }


def metrics_fields(seconds: float | None, tool_calls: int | None, steps: int) -> dict[str, Json]:
    """The metrics of a run. The host does not count tokens."""
    return {
        "duration": None if seconds is None else round(seconds, 3),
        "tool_calls_count": tool_calls,
        "total_steps": steps,
        "total_tokens": None,
    }
