"""The stream of messages that the AI SDK's `useChat` speaks: docs/clients.md."""

from codegen_api.dialects import Dialect
from codegen_api.dialects.ai_sdk import routes
from codegen_api.dialects.ai_sdk.wire import ERROR_CODE, render_error

DIALECT = Dialect(
    routes=routes.router.routes,
    render_error=render_error,
    prefixes=("/ui",),
    exposed_headers=(ERROR_CODE,),
    conversations=True,
)
