"""The gateway's own dialect, specified in docs/wire.md. It also renders the errors of paths that no dialect has."""

from codegen_api.dialects import Dialect
from codegen_api.dialects.native.routes import ROUTES
from codegen_api.dialects.native.schemas import describe
from codegen_api.dialects.native.wire import render_error

DIALECT = Dialect(routes=ROUTES, render_error=render_error, describe=describe)
