"""An MCP server for hosts such as Claude Code, Codex and VS Code: docs/clients.md. Stateless, for both eras."""

from codegen_api.dialects import Dialect
from codegen_api.dialects.mcp.routes import METADATA, PATH, routes_of
from codegen_api.dialects.mcp.rpc import render_error
from codegen_api.dialects.mcp.runs import LOGS, read_resource
from codegen_api.dialects.mcp.server import McpServer
from codegen_api.dialects.mcp.tasks import TASK_METHODS
from codegen_api.dialects.mcp.tools import INSTRUCTIONS, TOOLS

SERVER = McpServer(instructions=INSTRUCTIONS, tools=TOOLS, templates=LOGS, read=read_resource, tasks=TASK_METHODS)


def dialect_of(server: McpServer) -> Dialect:
    """The dialect that serves this. ``server`` may have other tools than the gateway's."""
    return Dialect(
        routes=routes_of(server),
        render_error=render_error,
        prefixes=(PATH, METADATA),
        exposed_headers=("WWW-Authenticate",),
        lenient=True,
    )


DIALECT = dialect_of(SERVER)
