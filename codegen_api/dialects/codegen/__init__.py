"""The hosted Codegen API's own paths: its clients only change their base URL. See docs/clients.md."""

from codegen_api.dialects import Dialect
from codegen_api.dialects.codegen.routes import router
from codegen_api.dialects.codegen.wire import render_error

DIALECT = Dialect(
    routes=router.routes,
    render_error=render_error,
    prefixes=tuple(
        f"/v1/{name}" for name in ("organizations", "users", "alpha", "beta", "mcp-providers", "oauth", "slack-connect")
    ),
)
