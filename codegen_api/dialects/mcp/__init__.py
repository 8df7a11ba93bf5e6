"""An MCP server for hosts such as Claude Code, Codex and VS Code: docs/clients.md. Stateless, for both eras.

``dialect_of`` serves any other table of tools with the same code.
"""

from codegen_api.dialects import Dialect
from codegen_api.dialects.mcp.routes import METADATA, PATH, routes_of
from codegen_api.dialects.mcp.rpc import render_error
from codegen_api.dialects.mcp.runs import Logs
from codegen_api.dialects.mcp.server import McpServer
from codegen_api.dialects.mcp.tasks import RunTasks
from codegen_api.dialects.mcp.tools import INSTRUCTIONS, TOOLS


def dialect_of(server: McpServer) -> Dialect:
    return Dialect(
        routes=routes_of(server),
        render_error=render_error,
        prefixes=(PATH, METADATA),
        exposed_headers=("WWW-Authenticate",),
        lenient=True,
    )


SERVER = McpServer(tools=TOOLS, resources=Logs(), tasks=RunTasks(), instructions=INSTRUCTIONS)

DIALECT = dialect_of(SERVER)
