"""The host's operations: what each is called here, its method and its path.

One table serves both the routes and the recognition of a request before it is routed, so that limits, faults
and counts speak of the same things. `unknown` is every request that is none of them.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from starlette.routing import compile_path

ORGANIZATION = "/v1/organizations/{org_id}"
UNKNOWN = "unknown"


class Operation(NamedTuple):
    """One operation of the host: HTTP method and path template."""

    method: str
    path: str


OPERATIONS: Mapping[str, Operation] = {
    "logs": Operation("GET", "/v1/alpha/organizations/{org_id}/agent/run/{agent_run_id}/logs"),
    "get": Operation("GET", f"{ORGANIZATION}/agent/run/{{agent_run_id}}"),
    "list": Operation("GET", f"{ORGANIZATION}/agent/runs"),
    "create": Operation("POST", f"{ORGANIZATION}/agent/run"),
    "resume": Operation("POST", f"{ORGANIZATION}/agent/run/resume"),
    "ban": Operation("POST", f"{ORGANIZATION}/agent/run/ban"),
    "unban": Operation("POST", f"{ORGANIZATION}/agent/run/unban"),
    "remove_from_pr": Operation("POST", f"{ORGANIZATION}/agent/run/remove-from-pr"),
    "me": Operation("GET", "/v1/users/me"),
    "organizations": Operation("GET", "/v1/organizations"),
    "org_users": Operation("GET", f"{ORGANIZATION}/users"),
    "org_user": Operation("GET", f"{ORGANIZATION}/users/{{user_id}}"),
    "org_repos": Operation("GET", f"{ORGANIZATION}/repos"),
}


def operation_of(method: str, path: str) -> str:
    """The name in OPERATIONS of what a request asks for, or `unknown`."""
    for name, operation in OPERATIONS.items():
        if method == operation.method and _pattern(operation.path).match(path):
            return name
    return UNKNOWN


@cache
def _pattern(path: str) -> re.Pattern[str]:
    return compile_path(path)[0]
