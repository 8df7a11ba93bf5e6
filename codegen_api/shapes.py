"""Which dialect's shape an error is told in."""

from collections.abc import Callable, Mapping

from starlette.responses import Response
from starlette.types import Scope

from codegen_api.errors import GatewayError, NotAuthenticated
from codegen_api.telemetry import note

RenderError = Callable[[GatewayError], Response]


class Shapes:
    """In which shape an error is told: that of the longest of ``prefixes`` (whole segments) that its path begins with,
    also where no route is there or none was looked for; else that of ``otherwise``.
    """

    def __init__(self, otherwise: RenderError, prefixes: Mapping[str, RenderError]) -> None:
        self._otherwise = otherwise
        self._longest_first = sorted(prefixes.items(), key=lambda each: len(each[0]), reverse=True)

    def render(self, scope: Scope, error: GatewayError) -> Response:
        """The answer to a request that failed, and a word on it in the log."""
        # why a token is not taken stands in lines of their own, of which strangers cannot make many
        note(error.code, None if isinstance(error, NotAuthenticated) else error.root_reason)
        path = f"{_route_path(scope)}/"
        render = next((render for prefix, render in self._longest_first if path.startswith(f"{prefix}/")), None)
        return (render or self._otherwise)(error)


def _route_path(scope: Scope) -> str:
    """The path below that under which a proxy serves the gateway; the proxy may have cut that off, or not."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if f"{path}/".startswith(f"{root}/") else path
