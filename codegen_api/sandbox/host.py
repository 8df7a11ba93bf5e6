"""The host's routes over a world.

Success is always 200. Members and shapes follow the host's OpenAPI document of October 2025 and, where payloads
seen on the wire say more, those: naive times with a space, 401 with `detail`, a first log entry that names a tool.
The answers of ban, unban and remove-from-pr are untyped in that document; the one given here is invented.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from .bodies import CreateBody, ResumeBody, StopBody
from .directory import HostedOrganization, HostedUser
from .encoding import json_response
from .errors import NO_ACCESS, NO_USER, Refusal
from .front import USER
from .operations import OPERATIONS
from .run import HostedRun
from .world import World


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


async def _caller(request: Request) -> HostedUser:
    """The user whom the front has let in."""
    user: HostedUser = request.scope[USER]
    return user


Caller = Annotated[HostedUser, Depends(_caller)]
Skip = Annotated[int, Query(ge=0)]
Limit = Annotated[int, Query(ge=1, le=100)]


class Host:
    """The operations of the table. Tokens and rates are the front's business; organizations are looked at here."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._directory = world.directory

    def router(self) -> APIRouter:
        """Each operation of the table at its method and path."""
        endpoints: Mapping[str, Callable[..., Awaitable[Response]]] = {
            "logs": self.logs,
            "get": self.get_run,
            "list": self.list_runs,
            "create": self.create_run,
            "resume": self.resume_run,
            "ban": self.ban_run,
            "unban": self.unban_run,
            "remove_from_pr": self.ban_run,
            "me": self.me,
            "organizations": self.organizations,
            "org_users": self.org_users,
            "org_user": self.org_user,
            "org_repos": self.org_repos,
        }
        router = APIRouter()
        for name, operation in OPERATIONS.items():
            router.add_api_route(
                operation.path, endpoints[name], methods=[operation.method], name=name, response_model=None
            )
        return router

    async def logs(
        self,
        org_id: int,
        agent_run_id: int,
        user: Caller,
        *,
        skip: Skip = 0,
        limit: Limit = 100,
        reverse: bool = False,
    ) -> Response:
        run = self._find(agent_run_id, org_id, user)
        body = run.log_page(self._world.now(), skip, limit, reverse)
        return Response(body, media_type="application/json")

    async def get_run(self, org_id: int, agent_run_id: int, user: Caller) -> Response:
        return self._show(self._find(agent_run_id, org_id, user))

    async def list_runs(
        self,
        org_id: int,
        user: Caller,
        *,
        user_id: int | None = None,
        source_type: SourceType | None = None,
        skip: Skip = 0,
        limit: Limit = 100,
    ) -> Response:
        self._enter(org_id, user)
        runs = self._world.runs(org_id, user_id, source_type)
        now = self._world.now()
        newest = [runs[-1 - place] for place in range(skip, min(skip + limit, len(runs)))]
        return _page([run.to_wire(now) for run in newest], len(runs), skip, limit)

    async def create_run(self, org_id: int, body: CreateBody, user: Caller) -> Response:
        self._enter(org_id, user)
        return self._show(self._world.create(org_id, user, body.prompt, len(body.images or ()), body.metadata))

    async def resume_run(self, org_id: int, body: ResumeBody, user: Caller) -> Response:
        run = self._find(body.agent_run_id, org_id, user)
        self._world.resume(run, body.prompt, len(body.images or ()))
        # who writes sees what was written; it is reads that may lag
        return json_response({**run.to_wire(self._world.now()), "status": "ACTIVE"})

    async def ban_run(self, org_id: int, body: StopBody, user: Caller) -> Response:
        """Also remove-from-pr: the same under a friendlier name."""
        run = self._find(body.agent_run_id, org_id, user)
        self._world.ban(run)
        return _ban_state(run)

    async def unban_run(self, org_id: int, body: StopBody, user: Caller) -> Response:
        run = self._find(body.agent_run_id, org_id, user)
        self._world.unban(run)
        return _ban_state(run)

    async def me(self, user: Caller) -> Response:
        return json_response(user.to_wire())

    async def organizations(self, user: Caller, skip: Skip = 0, limit: Limit = 100) -> Response:
        return _list([each.to_wire() for each in self._directory.organizations_of(user)], skip, limit)

    async def org_users(self, org_id: int, user: Caller, skip: Skip = 0, limit: Limit = 100) -> Response:
        return _list([each.to_wire() for each in self._enter(org_id, user).members], skip, limit)

    async def org_user(self, org_id: int, user_id: int, user: Caller) -> Response:
        for member in self._enter(org_id, user).members:
            if member.id == user_id:
                return json_response(member.to_wire())
        raise Refusal(*NO_USER)

    async def org_repos(self, org_id: int, user: Caller, skip: Skip = 0, limit: Limit = 100) -> Response:
        return _list(self._enter(org_id, user).repositories_to_wire(), skip, limit)

    def _enter(self, organization_id: int, user: HostedUser) -> HostedOrganization:
        """The organization, if `user` is in it. The host does not tell a foreign one from one that is not there."""
        organization = self._directory.organizations.get(organization_id)
        if organization is None or user not in organization.members:
            raise Refusal(*NO_ACCESS)
        return organization

    def _find(self, run_id: int, organization_id: int, user: HostedUser) -> HostedRun:
        self._enter(organization_id, user)
        return self._world.run(run_id, organization_id)

    def _show(self, run: HostedRun) -> Response:
        return json_response(run.to_wire(self._world.now()))


def _ban_state(run: HostedRun) -> Response:
    return json_response({"agent_run_id": run.id, "banned": run.banned})


def _list(every: Sequence[dict[str, object]], skip: int, limit: int) -> Response:
    return _page(every[skip : skip + limit], len(every), skip, limit)


def _page(items: Sequence[dict[str, object]], total: int, skip: int, limit: int) -> Response:
    """The host's page shape: asked for by skip and limit, answered with page and size."""
    page, pages = skip // limit + 1, -(-total // limit)
    return json_response({"items": items, "total": total, "page": page, "size": limit, "pages": pages})
