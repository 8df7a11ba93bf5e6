"""OpenAI's Responses API, as its SDKs speak it, and Chat Completions: docs/clients.md."""

from codegen_api.dialects import Absent, Dialect
from codegen_api.dialects.openai import completions
from codegen_api.dialects.openai.routes import router, talks
from codegen_api.dialects.openai.wire import render_error

ABSENT = Absent("/v1/responses/compact", "/v1/responses/input_tokens", "/v1/conversations/{id}/items/{item}")

DIALECT = Dialect(
    routes=[ABSENT, *router.routes, *talks.routes, *completions.router.routes],
    render_error=render_error,
    prefixes=("/v1/responses", "/v1/conversations", "/v1/chat", "/v1/models"),
    conversations=True,
)
