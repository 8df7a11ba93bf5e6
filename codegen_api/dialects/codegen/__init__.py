"""The hosted Codegen API's own paths: its clients only change their base URL. See docs/clients.md."""

from codegen_api.dialects import Dialect
from codegen_api.dialects.codegen.routes import router
from codegen_api.dialects.codegen.wire import render_error

DIALECT = Dialect(
    routes=router.routes,
    render_error=render_error,
    prefixes=(
        "/v1/organizations",
        "/v1/users",
        "/v1/alpha",
        "/v1/beta",
        "/v1/mcp-providers",
        "/v1/oauth",
        "/v1/slack-connect",
    ),
)
