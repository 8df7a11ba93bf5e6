"""The gateway's own dialect, the contract of docs/wire.md."""

from codegen_api.dialects.native.routes import router
from codegen_api.dialects.native.schemas import describe
from codegen_api.dialects.native.wire import render_error

__all__ = ["describe", "render_error", "router"]
