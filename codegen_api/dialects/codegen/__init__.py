"""The hosted Codegen API's own paths, so that what was made for it only changes its base URL: docs/clients.md."""

from codegen_api.dialects.codegen.routes import router
from codegen_api.dialects.codegen.wire import render_error

PREFIXES: tuple[str, ...] = ("/v1/organizations", "/v1/users", "/v1/alpha")

ROUTES = router.routes

__all__ = ["PREFIXES", "ROUTES", "render_error"]
