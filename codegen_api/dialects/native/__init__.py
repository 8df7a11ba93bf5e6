"""The gateway's own dialect, the contract of docs/wire.md. Its errors are those of every path that is nobody else's."""

from codegen_api.dialects import Dialect
from codegen_api.dialects.native.routes import ROUTES
from codegen_api.dialects.native.schemas import describe
from codegen_api.dialects.native.wire import render_error

DIALECT = Dialect(routes=ROUTES, render_error=render_error, describe=describe)
