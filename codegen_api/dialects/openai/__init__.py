"""OpenAI's Responses API, as its SDKs speak it: docs/clients.md."""

from codegen_api.dialects import Absent, Dialect
from codegen_api.dialects.openai import conversation_routes, routes
from codegen_api.dialects.openai.wire import render_error

ABSENT = Absent("/v1/responses/compact", "/v1/responses/input_tokens", "/v1/conversations/{id}/items/{item}")

DIALECT = Dialect(
    routes=[ABSENT, *routes.router.routes, *conversation_routes.router.routes],
    render_error=render_error,
    prefixes=("/v1/responses", "/v1/conversations"),
    conversations=True,
)
