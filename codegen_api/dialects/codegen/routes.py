"""The hosted API's routes, under its own paths and names. Those that the gateway does not serve explain why."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, TypeVar

from fastapi import Body, Depends, Path, Query
from starlette.responses import Response

from codegen_api.dialects import not_offered
from codegen_api.dialects.codegen import schemas
from codegen_api.dialects.codegen.wire import log_page, page_of, run_fields, runs_page, user_fields
from codegen_api.errors import Rejected, Unsupported, UpstreamError
from codegen_api.http.parts import Door, Idempotent
from codegen_api.http.web import Asker, IdempotencyKey, Limit, Skip, json_response, operation, replayed, router_of
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Run, to_json
from codegen_api.upstreams import Listing, NewRun, RunFilter

T = TypeVar("T")

router = router_of("Hosted API")

ORGANIZATION = "/v1/organizations/{org_id}"
"""Path of an organization's resources, except logs."""

NO_NUMBERS = "This API needs a host whose ids are numbers, and those of this host are none."

RunId = Annotated[int, Path(alias="agent_run_id", ge=0, lt=10**18, description="Which run.", examples=[12345])]


async def path_organization(
    gateway: Door,
    caller: Asker,
    org_id: Annotated[int, Path(ge=0, lt=10**18, description="Which organization.", examples=[323])],
) -> str:
    """The organization in the path, if the caller may use it.

    Raises:
        Unsupported: the ids of this host are not numbers.
    """
    try:
        return await gateway.accounts.organization(caller, str(org_id))
    except Rejected as error:
        raise Unsupported(NO_NUMBERS) from error


Organization = Annotated[str, Depends(path_organization)]


async def whole_page(
    read: Callable[[int, int], Awaitable[Listing[T]]], skip: int, limit: int, first: Listing[T] | None = None
) -> Listing[T]:
    """A full page, even at the price of a second request to the host: clients would skip what a short page lacks."""
    page = first or await read(skip, limit)
    next_skip = page.next(skip)
    if page.length < limit and next_skip is not None:
        rest = await read(next_skip, limit - page.length)
        gaps = page.gaps + tuple(page.length + gap for gap in rest.gaps)
        page = replace(rest, items=page.items + rest.items, paging=page.paging, gaps=gaps)
        require_whole_page(page.length, limit, at_end=page.next(skip) is None)
    return page


def require_whole_page(length: int, limit: int, *, at_end: bool) -> None:
    """Raises ``UpstreamError`` if a page is incomplete, and more follows."""
    if length < limit and not at_end:
        why = f"Only {length} of {limit} came, because the host gives little at once, and more follow"
        raise UpstreamError(f"{why}: ask for a limit of {length} or less.")


@router.get("/v1/users/me", **operation("Get the current user", None, schemas.ME))
async def get_current_user_info(gateway: Door, caller: Asker) -> Response:
    """The user behind the token. Who is no user of the host has a number here all the same, which stays theirs."""
    fields = user_fields(caller.principal) if caller.shared else (await gateway.accounts.me(caller)).fields
    return json_response(to_json(fields))


@router.get("/v1/organizations", **operation("List organizations", READ, schemas.ORGANIZATIONS))
async def get_organizations(gateway: Door, caller: Asker, skip: Skip = 0, limit: Limit = 100) -> Response:
    """The organizations that the token opens."""
    listing = await whole_page(lambda *stretch: gateway.accounts.organizations(caller, *stretch), skip, limit)
    if not all(each.id.isdecimal() for each in listing.items):
        raise Unsupported(NO_NUMBERS)
    return json_response(page_of([each.fields for each in listing.items], listing.paging, skip, limit))


@router.get(ORGANIZATION + "/users", **operation("List users", READ, schemas.USERS))
async def get_users(
    gateway: Door, caller: Asker, organization: Organization, skip: Skip = 0, limit: Limit = 100
) -> Response:
    """Who is in the organization; not for those who share the deployment's account."""
    listing = await whole_page(lambda *stretch: gateway.accounts.users(caller, organization, *stretch), skip, limit)
    return json_response(page_of([each.fields for each in listing.items], listing.paging, skip, limit))


@router.get(ORGANIZATION + "/users/{user_id}", **operation("Get a user", READ, schemas.USER))
async def get_user(
    gateway: Door,
    caller: Asker,
    organization: Organization,
    user_id: Annotated[int, Path(ge=0, lt=10**18, description="Which user.")],
) -> Response:
    """Somebody in the organization; not for those who share the deployment's account."""
    return json_response(to_json((await gateway.accounts.user(caller, organization, str(user_id))).fields))


@router.get(
    ORGANIZATION + "/repositories",
    **operation("List repositories (the CLI's path)", READ, schemas.REPOSITORIES),
    name="get_repositories_for_cli",
    description="The same as `repos`. Where this path is not there, the `codegen` package shows repositories that it"
    " made up.",
)
@router.get(ORGANIZATION + "/repos", **operation("List repositories", READ, schemas.REPOSITORIES))
async def get_repositories(
    gateway: Door, caller: Asker, organization: Organization, skip: Skip = 0, limit: Limit = 100
) -> Response:
    """What the organization's agents can work in; not for those who share the deployment's account."""
    listing = await whole_page(
        lambda *stretch: gateway.accounts.repositories(caller, organization, *stretch), skip, limit
    )
    return json_response(page_of([each.fields for each in listing.items], listing.paging, skip, limit))


@router.post(ORGANIZATION + "/agent/run", **operation("Start a run", WRITE, schemas.DONE))
async def create_agent_run(
    gateway: Door,
    idempotency: Idempotent,
    caller: Asker,
    organization: Organization,
    body: Annotated[schemas.CreateAgentRunInput, Body()],
    key: IdempotencyKey = None,
) -> Response:
    """Start an agent run."""
    not_offered(webhooks=body.webhooks)
    images = None if body.images is None else tuple(body.images)
    new = NewRun(body.prompt, body.metadata, images, body.repo_id, body.model, body.agent_type)
    outcome = await idempotency.create(caller, organization, new, key)
    return json_response(to_json(run_fields(outcome.run)), headers=replayed(outcome))


@router.get(ORGANIZATION + "/agent/runs", **operation("List runs", READ, schemas.RUNS))
async def list_agent_runs(
    gateway: Door,
    caller: Asker,
    organization: Organization,
    user_id: Annotated[int | None, Query(description="Only runs that this user started.")] = None,
    source_type: Annotated[str | None, Query(description="Only runs from this source, `API` for instance.")] = None,
    skip: Skip = 0,
    limit: Limit = 100,
) -> Response:
    """Runs, newest first. Who shares the deployment's account is shown their own, and means them with their own number.

    How many these are is not known: `total` then counts what was passed over and what is here, and one more when there
    may be more.
    """
    only = RunFilter(source_type, None if user_id is None else str(user_id))

    async def read(start: int, amount: int) -> Listing[Run]:
        return (await gateway.list(caller, organization, start, amount, only, None)).listing

    found = await gateway.list(caller, organization, skip, limit, only, None)
    if not found.searched:
        listing = await whole_page(read, skip, limit, found.listing)
        found = replace(found, listing=listing, next_skip=listing.next(skip))
    return json_response(runs_page(found, skip, limit))


@router.get(ORGANIZATION + "/agent/run/{agent_run_id}", **operation("Get a run", READ, schemas.RUN))
async def get_agent_run(gateway: Door, caller: Asker, organization: Organization, run_id: RunId) -> Response:
    """A run as it is now."""
    return json_response(to_json(run_fields(await gateway.get(caller, organization, str(run_id)))))


@router.post(ORGANIZATION + "/agent/run/resume", **operation("Resume a run", WRITE, schemas.DONE))
async def resume_agent_run(
    gateway: Door,
    idempotency: Idempotent,
    caller: Asker,
    organization: Organization,
    body: Annotated[schemas.ResumeAgentRunInput, Body()],
    key: IdempotencyKey = None,
) -> Response:
    """Give a run another prompt. It goes on under the same id; the ban of a cancelled run is lifted."""
    not_offered(model=body.model, webhooks=body.webhooks)
    images = None if body.images is None else tuple(body.images)
    outcome = await idempotency.resume(caller, organization, str(body.agent_run_id), body.prompt, images, key)
    return json_response(to_json(run_fields(outcome.run)), headers=replayed(outcome))


@router.post(ORGANIZATION + "/agent/run/ban", **operation("Ban a run", WRITE, schemas.BAN))
async def ban_all_checks_for_agent_run(
    gateway: Door, caller: Asker, organization: Organization, body: Annotated[schemas.StopAgentRunInput, Body()]
) -> Response:
    """Stop a run, and the checks of its pull request, also when the run is over."""
    await gateway.cancel(caller, organization, str(body.agent_run_id), anyway=True)
    return json_response(to_json({"agent_run_id": body.agent_run_id, "banned": True}))


@router.post(ORGANIZATION + "/agent/run/unban", **operation("Unban a run", WRITE, schemas.BAN))
async def unban_all_checks_for_agent_run(
    gateway: Door, caller: Asker, organization: Organization, body: Annotated[schemas.StopAgentRunInput, Body()]
) -> Response:
    """Let the checks of a run's pull request go on. The run itself stays stopped until it is resumed."""
    await gateway.uncancel(caller, organization, str(body.agent_run_id))
    return json_response(to_json({"agent_run_id": body.agent_run_id, "banned": False}))


router.post(
    ORGANIZATION + "/agent/run/remove-from-pr",
    **operation("Remove the agent from a pull request", WRITE, schemas.BAN),
    name="remove_codegen_from_pr",
    description="The same as a ban, under a friendlier name.",
)(ban_all_checks_for_agent_run)


@router.get(
    "/v1/alpha/organizations/{org_id}/agent/run/{agent_run_id}/logs",
    **operation("Read a run's log", READ, schemas.LOGS),
)
async def get_agent_run_logs(
    gateway: Door,
    caller: Asker,
    organization: Organization,
    run_id: RunId,
    skip: Skip = 0,
    limit: Limit = 100,
    reverse: Annotated[bool, Query(description="Newest first; `skip` then counts from the end.")] = False,
) -> Response:
    """A stretch of the log, with the run as it is now."""
    page = await gateway.read_log(caller, organization, str(run_id), skip, limit, newest_first=reverse)
    length = len(page.entries)
    if length < limit and not page.at_end:
        on, missing = skip + length, limit - length
        rest = await gateway.read_log(caller, organization, str(run_id), on, missing, newest_first=reverse)
        page = replace(rest, after=skip, entries=page.entries + rest.entries, paging=page.paging)
        require_whole_page(len(page.entries), limit, at_end=page.at_end)
    return json_response(log_page(page))


NOT_OFFERED = (
    ("GET", f"{ORGANIZATION}/repos/check-suite-settings", "get_check_suite_settings", "Get check suite settings"),
    ("PUT", f"{ORGANIZATION}/repos/check-suite-settings", "update_check_suite_settings", "Change check suite settings"),
    ("PATCH", f"{ORGANIZATION}/prs/{{pr_id}}", "edit_pull_request_simple", "Edit a pull request"),
    (
        "PATCH",
        f"{ORGANIZATION}/repos/{{repo_id}}/prs/{{pr_id}}",
        "edit_pull_request",
        "Edit a pull request of a repository",
    ),
    ("GET", f"{ORGANIZATION}/integrations", "get_organization_integrations", "List integrations"),
    ("POST", f"{ORGANIZATION}/setup-commands/generate", "generate_setup_commands", "Generate setup commands"),
    ("POST", f"{ORGANIZATION}/sandbox/{{sandbox_id}}/analyze-logs", "analyze_sandbox_logs", "Analyze a sandbox's logs"),
    ("GET", f"{ORGANIZATION}/cli/rules", "get_cli_rules", "Get the rules for the CLI"),
    ("GET", f"{ORGANIZATION}/models", "get_models", "List models"),
    ("GET", f"{ORGANIZATION}/webhooks/agent-run", "get_webhook", "Get the webhook"),
    ("POST", f"{ORGANIZATION}/webhooks/agent-run", "set_webhook", "Set the webhook"),
    ("DELETE", f"{ORGANIZATION}/webhooks/agent-run", "delete_webhook", "Delete the webhook"),
    ("POST", f"{ORGANIZATION}/webhooks/agent-run/test", "test_webhook", "Test the webhook"),
    ("GET", "/v1/mcp-providers", "get_mcp_providers", "List MCP providers"),
    ("GET", "/v1/oauth/tokens/status", "get_oauth_token_status", "Get the status of OAuth tokens"),
    ("POST", "/v1/oauth/tokens/revoke", "revoke_oauth_token", "Revoke an OAuth token"),
    ("POST", "/v1/slack-connect/generate-token", "generate_slack_connect_token", "Create a Slack token"),
)
"""Method, path, name and summary of the routes that the gateway does not offer, for which clients get an explanation
instead of a 404: settings of the host, and operations on pull requests that bypass any run.
"""


def _refusing(why: str) -> Callable[..., Awaitable[Response]]:
    async def refuse(caller: Asker) -> Response:
        raise Unsupported(why)

    return refuse


for _method, _path, _name, _summary in NOT_OFFERED:
    _why = f"Not offered by the gateway: {_summary[0].lower()}{_summary[1:]}. Ask the host itself."
    _ids = [
        {"name": each, "in": "path", "required": True, "schema": {"type": "integer"}, "description": "Not read."}
        for each in re.findall(r"{(\w+)}", _path)
    ]
    router.add_api_route(
        _path,
        _refusing(_why),
        methods=[_method],
        name=_name,
        description="Not offered.",
        status_code=501,
        **operation(_summary, READ if _method == "GET" else WRITE, schemas.answers.never(_why), parameters=_ids),
    )
