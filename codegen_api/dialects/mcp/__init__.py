"""An MCP server for hosts such as Claude Code, Codex and VS Code: docs/clients.md. Stateless, for all versions."""

from codegen_api.dialects import Dialect
from codegen_api.dialects.mcp import routes
from codegen_api.dialects.mcp.protocol import render_error

DIALECT = Dialect(
    routes=routes.router.routes,
    render_error=render_error,
    prefixes=(routes.PATH, routes.METADATA),
    exposed_headers=("WWW-Authenticate",),
    lenient=True,
)
