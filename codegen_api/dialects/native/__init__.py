"""The gateway's own dialect, the contract of docs/wire.md."""

from codegen_api.dialects.native.routes import ROUTES
from codegen_api.dialects.native.schemas import describe
from codegen_api.dialects.native.wire import render_error

PREFIXES: tuple[str, ...] = ()
"""Its errors are those of every path that is nobody else's."""

__all__ = ["PREFIXES", "ROUTES", "describe", "render_error"]
