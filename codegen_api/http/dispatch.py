"""Finds the route of a request by the first segment of its path.

FastAPI's router tries all routes in turn (hundreds, with all dialects), inside contexts that few of them need. It still
serves everything else, such as the pages of the documentation.
"""

from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import APIRoute, APIRouter
from starlette._utils import get_route_path
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from codegen_api.http.request_bodies import CallerFirst


class Dispatch:
    """Dispatches requests in front of ``router``. Routes that are added to it later come after all others."""

    def __init__(self, router: APIRouter) -> None:
        self._router = AsyncExitStackMiddleware(router)
        keyed = [(_segment_of(route), route) for route in router.routes]
        self._candidates = {  # the routes that may match a path, by its first segment, in their order
            first: [route for segment, route in keyed if segment in (first, None)]
            for first in {segment for segment, _ in keyed if segment is not None}
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._route_for(scope) if scope["type"] == "http" else None
        await (app or self._router)(scope, receive, send)

    def _route_for(self, scope: Scope) -> ASGIApp | None:
        """The application of the first matching route, if that is a ``CallerFirst`` route."""
        path = get_route_path(scope)
        for route in self._candidates.get(_first_segment(path), ()):
            if not isinstance(route, CallerFirst):
                if route.matches(scope)[0] is Match.FULL:
                    return None
            elif scope["method"] in (route.methods or ()) and (found := route.path_regex.match(path)):
                params = {name: route.param_convertors[name].convert(text) for name, text in found.groupdict().items()}
                scope["route"], scope["endpoint"], scope["path_params"] = route, route.endpoint, params
                return route.lean_app or AsyncExitStackMiddleware(route.app)
        return None


def _segment_of(route: BaseRoute) -> str | None:
    """The first segment of every path that ``route`` matches; None if they differ."""
    segment = _first_segment(route.path) if isinstance(route, APIRoute) else "{"
    return None if "{" in segment else segment


def _first_segment(path: str) -> str:
    return path[1:].partition("/")[0]
