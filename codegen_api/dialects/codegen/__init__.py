"""The hosted Codegen API's own paths, so that what was made for it only changes its base URL: docs/clients.md."""

from codegen_api.dialects.codegen import missing, routes
from codegen_api.dialects.codegen.wire import render_error

PREFIXES: tuple[str, ...] = (
    "/v1/organizations",
    "/v1/users",
    "/v1/alpha",
    "/v1/mcp-providers",
    "/v1/oauth",
    "/v1/slack-connect",
)

ROUTES = [*routes.router.routes, *missing.router.routes]

__all__ = ["PREFIXES", "ROUTES", "render_error"]
