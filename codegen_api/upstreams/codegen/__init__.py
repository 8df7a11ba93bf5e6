"""The adapter for the hosted Codegen agent API.

Statements about the host name their source: its OpenAPI document of October 2025, or payloads seen on the wire in June
and August 2025.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import ClassVar, TypeVar, Unpack

from codegen_api import errors
from codegen_api.identity import Credential
from codegen_api.runs import Cursor, Json, LogEntry, LogPage, Run, RunRef
from codegen_api.upstreams import Images, Listing, NewRun, Organization, Repository, RunFilter, User
from codegen_api.upstreams.codegen.answers import at_end, entry_of, id_of, paging_of, run_of, step_of, unreadable
from codegen_api.upstreams.host_json import Object, as_object, listing_of, marked, member, not_none, nothing
from codegen_api.upstreams.over_http import REFUSALS, ConnectArguments, HttpUpstream

T = TypeVar("T")


class CodegenUpstream(HttpUpstream):
    """The Codegen API as an ``Upstream`` that also ``Bans``, and lists ``Members`` and ``Repositories``.

    ``base_url`` may end in ``/v1`` and slashes. A ``limit`` is from 1 to 100 (OpenAPI document).
    """

    name = "codegen"
    page_size = 100
    requests_per_minute = 60
    # errors have three shapes: ``message`` for the host's own, ``detail`` as a text (401, seen on the wire; unknown
    # routes), and ``detail`` as a list (422)
    refusals: ClassVar = {status: error for status, error in REFUSALS.items() if status not in (400, 409)}
    step = staticmethod(step_of)

    def __init__(self, base_url: str, **arguments: Unpack[ConnectArguments]) -> None:
        super().__init__(base_url.strip().rstrip("/").removesuffix("/v1"), "/v1", **arguments)

    def placeholder(self, ref: RunRef) -> LogEntry:
        return unreadable(ref)

    def organization_id(self, text: str) -> str:
        """``"0323"`` -> ``"323"``: the host's ids are JSON integers. Raises ``Rejected`` for anything else."""
        return _identifier(text, "organization_id")

    def run_id(self, text: str) -> str:
        return _identifier(text, "run_id")

    async def identify(self, credential: Credential) -> User:
        """The user to whom the token belongs: the host gives tokens to users, not to organizations."""
        return await self.ask(credential, "identify", "GET", "/users/me", partial(_record_of, User))

    async def organizations(self, credential: Credential, skip: int, limit: int) -> Listing[Organization]:
        read = partial(_record_of, Organization)
        return await self._list(credential, "organizations", "/organizations", skip, limit, read)

    async def users(self, credential: Credential, organization: str, skip: int, limit: int) -> Listing[User]:
        path = self._within(organization, "users")
        return await self._list(credential, "users", path, skip, limit, partial(_record_of, User))

    async def user(self, credential: Credential, organization: str, user_id: str) -> User:
        """One user; those of other organizations are not found."""
        path = self._within(organization, f"users/{_identifier(user_id, 'user_id')}")
        return await self.ask(credential, "user", "GET", path, partial(_record_of, User))

    async def repositories(
        self, credential: Credential, organization: str, skip: int, limit: int
    ) -> Listing[Repository]:
        path = self._within(organization, "repos")
        return await self._list(credential, "repositories", path, skip, limit, partial(_record_of, Repository))

    async def create_run(self, credential: Credential, organization: str, new: NewRun) -> Run:
        """Start a run; fields that ``new`` lacks are not sent. The host answers 200, never 201 (OpenAPI document).

        The host returns metadata unchanged with every description of the run (OpenAPI document).
        """
        body: Object = not_none(
            prompt=new.prompt,
            metadata=marked(new.metadata, new.marks),
            images=new.images,
            repo_id=new.repo_id,
            model=new.model,
            agent_type=new.agent_type,
        )
        path = self._within(organization, "agent/run")
        return await self.ask(credential, "create_run", "POST", path, run_of, body=body)

    async def get_run(self, credential: Credential, ref: RunRef) -> Run:
        return await self.ask(credential, "get_run", "GET", self._path(ref), run_of)

    async def list_runs(
        self, credential: Credential, organization: str, skip: int, limit: int, only: RunFilter
    ) -> Listing[Run]:
        """Runs, newest first. Only this path has ``runs`` in the plural (OpenAPI document)."""
        path = self._within(organization, "agent/runs")
        user_id = None if only.user_id is None else _integer(only.user_id, "user_id")
        filters = {"source_type": only.source_type, "user_id": user_id}
        return await self._list(credential, "list_runs", path, skip, limit, run_of, **filters)

    async def resume_run(
        self, credential: Credential, ref: RunRef, prompt: str, images: Images, *, key: str | None = None
    ) -> Run:
        """Continue a run under the same id. If the answer does not contain the run, it is fetched."""
        run = await self._order(credential, "resume_run", ref, "resume", _run_if_shown, prompt=prompt, images=images)
        if run is not None:
            return run
        try:
            return await self.get_run(credential, ref)
        except errors.GatewayError:  # the resume has succeeded nevertheless
            return run_of({"id": int(ref.id), "organization_id": int(ref.organization), "status": None})

    async def cancel_run(self, credential: Credential, ref: RunRef) -> None:
        """Ban the run, the only way to stop it. This also stops the checks of its pull request."""
        await self._order(credential, "cancel_run", ref, "ban", nothing)

    async def uncancel_run(self, credential: Credential, ref: RunRef) -> None:
        """Lift the ban. The run stays stopped until it is resumed."""
        await self._order(credential, "uncancel_run", ref, "unban", nothing)

    async def read_log(
        self, credential: Credential, ref: RunRef, after: Cursor, limit: int, *, newest_first: bool = False
    ) -> LogPage:
        """A page of the log, whose run lacks summary, source_type and github_pull_requests.

        Only logs are under ``/v1/alpha`` (OpenAPI document; the host's prose omits ``alpha``, and is wrong).
        """

        def page_of(answer: Json) -> LogPage:
            fields = as_object(answer)
            logs, paging = member(fields, "logs", list)[:limit], paging_of(fields, "total_logs")
            of_page = ("logs", "total_logs", "page", "size", "pages")
            run = run_of({key: value for key, value in fields.items() if key not in of_page})
            entries = tuple(entry_of(item, run.ref) for item in logs)
            return LogPage(run, after, entries, at_end(after, len(logs), limit, paging), paging, newest_first)

        query = _window(after, limit) | ({"reverse": "true"} if newest_first else {})
        return await self.ask(credential, "read_log", "GET", f"/alpha{self._path(ref)}/logs", page_of, query)

    def _within(self, organization: str, rest: str) -> str:
        return f"/organizations/{self.organization_id(organization)}/{rest}"

    def _path(self, ref: RunRef) -> str:
        return self._within(ref.organization, f"agent/run/{self.run_id(ref.id)}")

    async def _list(
        self,
        credential: Credential,
        operation: str,
        path: str,
        skip: int,
        limit: int,
        read: Callable[[Object], T],
        **filters: str | None,
    ) -> Listing[T]:
        def listed(answer: Json) -> Listing[T]:
            fields = as_object(answer)
            items, paging = member(fields, "items", list)[:limit], paging_of(fields, "total")
            return listing_of(items, read, paging, at_end=at_end(skip, len(items), limit, paging))

        query = _window(skip, limit) | {name: value for name, value in filters.items() if value is not None}
        return await self.ask(credential, operation, "GET", path, listed, query)

    async def _order(
        self, credential: Credential, operation: str, ref: RunRef, order: str, read: Callable[[Json], T], **more: Json
    ) -> T:
        """Send an order about a run. Any 2xx is a success; ``read`` gets None if the body is not JSON."""
        body: Object = not_none(agent_run_id=int(self.run_id(ref.id)), **more)
        path = self._within(ref.organization, f"agent/run/{order}")
        return await self.ask(credential, operation, "POST", path, read, body=body, order=True)


def _record_of(kind: Callable[[str, Object], T], answer: Json) -> T:
    fields = as_object(answer)
    return kind(id_of(fields), fields)


def _run_if_shown(answer: Json) -> Run | None:
    try:
        return run_of(answer)
    except errors.UpstreamError:
        return None


def _identifier(text: str, name: str) -> str:
    return _integer(text, name, r"[0-9]{1,18}", "Must be a number of 1 to 18 digits.")


def _integer(text: str, name: str, pattern: str = r"-?[0-9]{1,400}", message: str = "Must be a number.") -> str:
    """``"007"`` -> ``"7"``. Raises ``Rejected`` for the parameter ``name`` if ``text`` does not match."""
    if re.fullmatch(pattern, text):
        return str(int(text))
    raise errors.rejected(message, "int_parsing", name)


def _window(skip: int, limit: int) -> dict[str, str | int]:
    if skip < 0 or not 1 <= limit <= CodegenUpstream.page_size:
        raise ValueError(f"skip must be at least 0 and limit from 1 to 100, not {skip} and {limit}")
    return {"skip": skip, "limit": limit}
