"""The host's operations: the path of each and its answer. Limits, faults and counts go by their names.

Success is always 200. Members and shapes follow the host's OpenAPI document of October 2025 and, where payloads
seen on the wire say more, those: naive times with a space, 401 with `detail`, a first log entry that names a tool.
The answers of ban, unban and remove-from-pr are untyped in that document; the one given here is invented.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from .answers import NO_ACCESS, NO_USER, Refusal, json_response, page_numbers
from .bodies import CreateBody, ResumeBody, StopBody
from .directory import ORGANIZATIONS, HostedOrganization, HostedUser, organizations_of
from .run import HostedRun
from .state import SandboxState

ORGANIZATION = "/v1/organizations/{org_id}"
RUN = "/v1/organizations/{org_id}/agent/run"
UNKNOWN = "unknown"
"""The operation of a request that the host does not have."""


class SourceType(StrEnum):
    """Where a run came from; the values the host accepts as a filter."""

    LOCAL = "LOCAL"
    SLACK = "SLACK"
    GITHUB = "GITHUB"
    GITHUB_CHECK_SUITE = "GITHUB_CHECK_SUITE"
    GITHUB_PR_REVIEW = "GITHUB_PR_REVIEW"
    LINEAR = "LINEAR"
    API = "API"
    CHAT = "CHAT"
    JIRA = "JIRA"
    CLICKUP = "CLICKUP"
    MONDAY = "MONDAY"
    SETUP_COMMANDS = "SETUP_COMMANDS"


@dataclass(frozen=True, slots=True)
class UserView:
    """The sandbox as one user sees it. The middleware found the user's token in the request."""

    user: HostedUser
    state: SandboxState

    def organization(self, org_id: int) -> HostedOrganization:
        """The organization, if the user is in it. The host answers alike for a foreign one and a missing one."""
        organization = ORGANIZATIONS.get(org_id)
        if organization is None or self.user not in organization.members:
            raise Refusal(*NO_ACCESS)
        return organization

    def run(self, org_id: int, run_id: int) -> HostedRun:
        return self.state.run(run_id, self.organization(org_id).id)


async def _view(request: Request) -> UserView:
    return UserView(request.user, request.app.state.sandbox)


View = Annotated[UserView, Depends(_view)]
Skip = Annotated[int, Query(ge=0)]
Limit = Annotated[int, Query(ge=1, le=100)]

router = APIRouter()


@router.get("/v1/alpha/organizations/{org_id}/agent/run/{agent_run_id}/logs")
async def logs(
    org_id: int, agent_run_id: int, view: View, skip: Skip = 0, limit: Limit = 100, *, reverse: bool = False
) -> Response:
    run = view.run(org_id, agent_run_id)
    return Response(run.log_page(view.state.now(), skip, limit, reverse), media_type="application/json")


@router.get(RUN + "/{agent_run_id}", name="get")
async def get_run(org_id: int, agent_run_id: int, view: View) -> Response:
    return json_response(view.run(org_id, agent_run_id).to_wire(view.state.now()))


@router.get(RUN + "s", name="list")
async def list_runs(
    org_id: int,
    view: View,
    user_id: int | None = None,
    source_type: SourceType | None = None,
    skip: Skip = 0,
    limit: Limit = 100,
) -> Response:
    organization, now = view.organization(org_id).id, view.state.now()
    newest_first = [
        run
        for run in reversed(view.state.runs.values())
        if run.organization_id == organization
        and user_id in (None, run.user.id)
        and source_type in (None, run.source_type)
    ]
    items = [run.to_wire(now) for run in newest_first[skip : skip + limit]]
    return _page(items, len(newest_first), skip, limit)


@router.post(RUN, name="create")
async def create_run(org_id: int, body: CreateBody, view: View) -> Response:
    view.organization(org_id)
    run = view.state.create(org_id, view.user, body.prompt, len(body.images or ()), body.metadata)
    return json_response(run.to_wire(view.state.now()))


@router.post(RUN + "/resume", name="resume")
async def resume_run(org_id: int, body: ResumeBody, view: View) -> Response:
    run = view.run(org_id, body.agent_run_id)
    view.state.resume(run, body.prompt, len(body.images or ()))
    # the writer sees the change at once; only reads may lag
    return json_response({**run.to_wire(view.state.now()), "status": "ACTIVE"})


@router.post(RUN + "/ban", name="ban")
async def ban_run(org_id: int, body: StopBody, view: View) -> Response:
    run = view.run(org_id, body.agent_run_id)
    run.ban(view.state.now())
    return _banned(run)


@router.post(RUN + "/unban", name="unban")
async def unban_run(org_id: int, body: StopBody, view: View) -> Response:
    """Take the flag back. The run stays stopped: the host has resume for that."""
    run = view.run(org_id, body.agent_run_id)
    run.banned = False
    return _banned(run)


@router.post(RUN + "/remove-from-pr")
async def remove_from_pr(org_id: int, body: StopBody, view: View) -> Response:
    """A ban under a friendlier name."""
    return await ban_run(org_id, body, view)


@router.get("/v1/users/me")
async def me(view: View) -> Response:
    return json_response(view.user.to_wire())


@router.get("/v1/organizations")
async def organizations(view: View, skip: Skip = 0, limit: Limit = 100) -> Response:
    return _list([each.to_wire() for each in organizations_of(view.user)], skip, limit)


@router.get(ORGANIZATION + "/users")
async def org_users(org_id: int, view: View, skip: Skip = 0, limit: Limit = 100) -> Response:
    return _list([each.to_wire() for each in view.organization(org_id).members], skip, limit)


@router.get(ORGANIZATION + "/users/{user_id}")
async def org_user(org_id: int, user_id: int, view: View) -> Response:
    for member in view.organization(org_id).members:
        if member.id == user_id:
            return json_response(member.to_wire())
    raise Refusal(*NO_USER)


@router.get(ORGANIZATION + "/repos")
async def org_repos(org_id: int, view: View, skip: Skip = 0, limit: Limit = 100) -> Response:
    return _list(view.organization(org_id).repositories_to_wire(), skip, limit)


OPERATIONS: Mapping[str, APIRoute] = {route.name: route for route in router.routes if isinstance(route, APIRoute)}


def operation_of(method: str, path: str) -> str:
    """The request's name in OPERATIONS, or `unknown`. It is needed before the request is routed."""
    for name, route in OPERATIONS.items():
        if method in (route.methods or ()) and route.path_regex.match(path):
            return name
    return UNKNOWN


def _banned(run: HostedRun) -> Response:
    return json_response({"agent_run_id": run.id, "banned": run.banned})


def _list(every: Sequence[dict[str, object]], skip: int, limit: int) -> Response:
    return _page(every[skip : skip + limit], len(every), skip, limit)


def _page(items: Sequence[dict[str, object]], total: int, skip: int, limit: int) -> Response:
    return json_response({"items": items, "total": total, **page_numbers(total, skip, limit)})
