"""What clients get, as the OpenAPI document tells it."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field

from codegen_api.dialects.mcp.rpc import as_rpc_error, failure_fields
from codegen_api.errors import GatewayError
from codegen_api.openapi import ANYWHERE, COMMON, Answers
from codegen_api.runs import Json
from codegen_api.web import Responses

EXAMPLE: Mapping[str, Json] = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


class RpcResult(BaseModel):
    """What a request is answered with."""

    jsonrpc: Literal["2.0"]
    id: str | int | float
    result: dict[str, Any]


class RpcErrorBody(BaseModel):
    """What went wrong. ``data`` has the gateway's own code, where there is one."""

    code: int
    message: str
    data: dict[str, Any] | None = None


class RpcFailure(BaseModel):
    """What a request is answered with that fails."""

    jsonrpc: Literal["2.0"]
    id: str | int | float | None
    error: RpcErrorBody


class McpMetadata(BaseModel):
    """Of a protected resource, as RFC 9728 has it."""

    resource: str
    authorization_servers: list[str] = Field(description="Issuers of the tokens that are taken.")
    scopes_supported: list[str]
    bearer_methods_supported: list[str]
    resource_name: str


def _fields(error: GatewayError) -> Mapping[str, Json]:
    return failure_fields(None, as_rpc_error(error))


_answers = Answers(RpcFailure, _fields)

ANSWERED: Responses = {
    200: {
        "description": "The result, or an error of the method.",
        "model": RpcResult,
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    202: {"description": "A notification was taken."},
    **_answers.errors(*(status for status in COMMON if status != 422)),
}

METADATA: Responses = {
    200: {"description": "The metadata.", "model": McpMetadata},
    **_answers.errors(*ANYWHERE, 404),
}
