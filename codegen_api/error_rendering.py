"""Chooses the dialect in whose shape an error is rendered."""

from collections.abc import Callable, Mapping

from starlette.responses import Response
from starlette.types import Scope

from codegen_api.errors import GatewayError, NotAuthenticated
from codegen_api.telemetry import note

RenderError = Callable[[GatewayError], Response]


class ErrorRenderer:
    """Renders an error in the shape of its path's longest prefix (whole segments), route or not; else ``otherwise``."""

    def __init__(self, otherwise: RenderError, prefixes: Mapping[str, RenderError]) -> None:
        self._otherwise = otherwise
        self._longest_first = sorted(prefixes.items(), key=lambda each: len(each[0]), reverse=True)

    def render(self, scope: Scope, error: GatewayError) -> Response:
        """Render the response to a failed request, and note the error for its log line."""
        # why a token was refused has log lines of its own, which are rate-limited: anybody can cause them
        note(error.code, None if isinstance(error, NotAuthenticated) else error.root_reason)
        path = f"{_route_path(scope)}/"
        render = next((render for prefix, render in self._longest_first if path.startswith(f"{prefix}/")), None)
        return (render or self._otherwise)(error)


def _route_path(scope: Scope) -> str:
    """The path below ``root_path``, which a proxy may or may not have stripped."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if f"{path}/".startswith(f"{root}/") else path
