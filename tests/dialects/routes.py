"""The routes of all dialects, from the application's own table, and how to ask each of them about a run.

A route that is added is found here without anybody thinking of it. A dialect with names of its own for a run or an
organization enters them.
"""

import re
from typing import Any

import httpx
from fastapi.routing import APIRoute

from codegen_api.build_parts import DIALECTS
from tests.dialects.site import Site, gateway_app

EVERY = tuple(DIALECTS)
PUBLIC = {"/info", "/ok", "/health", "/api/health", "/livez", "/readyz", "/metrics", "/docs", "/redoc", "/openapi.json"}
PUBLIC |= {"/.well-known/oauth-protected-resource/mcp"}

RUNS = ("id", "agent_run_id")
"""What a run is called, in a path or in a body."""

ORGANIZATIONS = ("org_id",)
"""What an organization is called in a path. The header that names it where the path does not is always sent."""


def routes(within: Any = None) -> list[APIRoute]:
    """All that the application answers to."""
    return [route for route in (within or gateway_app(dialects=EVERY)).routes if isinstance(route, APIRoute)]


def methods(route: APIRoute) -> list[str]:
    return sorted(route.methods or ())


def wants_caller(route: APIRoute) -> bool:
    return route.path not in PUBLIC and route.include_in_schema


def takes_run(route: APIRoute) -> bool:
    """Whether the route is about one run, be it named in the path or in the body."""
    bodies = [field.field_info.annotation for field in route.dependant.body_params]
    in_body = {name for body in bodies for name in getattr(body, "model_fields", {})}
    return bool({*re.findall(r"{(\w+)}", route.path), *in_body} & set(RUNS))


OF_RUNS = tuple(name for name, dialect in DIALECTS.items() if not dialect.load().conversations)
"""The others have things with ids of their own: ``test_conversation_strangers.py`` asks for them."""

ON_A_RUN = sorted(
    (method, route.path)
    for route in routes(gateway_app(dialects=OF_RUNS))
    for method in methods(route)
    if takes_run(route)
)


def filled(path: str, run: str, organization: str) -> str:
    """The path for this run; whatever else it names is number 1."""
    names = {**dict.fromkeys(RUNS, run), **dict.fromkeys(ORGANIZATIONS, organization)}
    return re.sub(r"{(\w+)}", lambda found: names.get(found[1], "1"), path)


async def ask(
    site: Site,
    method: str,
    path: str,
    run: str,
    token: str | None,
    headers: Any = None,
    organization: str | None = None,
) -> httpx.Response:
    """Ask a route about a run, as it wants to be asked; in the deployment's organization unless another is named."""
    named = {} if organization is None else {"X-Organization-ID": organization}
    order = {"prompt": "Go on", "decision": "approve", **dict.fromkeys(RUNS, run)}
    body = {"json": order} if method == "POST" else {}
    return await site.ask(
        method, filled(path, run, organization or "9"), token=token, headers={**(headers or {}), **named}, **body
    )
