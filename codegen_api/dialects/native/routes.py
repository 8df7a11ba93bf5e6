"""The gateway's own routes: runs and their logs over REST. The streams are in ``streams``."""

import time
from typing import Annotated

from fastapi import APIRouter, Body, Path, Query, Request
from starlette.responses import Response

from codegen_api.dialects import pending_fields
from codegen_api.dialects.native import schemas
from codegen_api.dialects.native.streams import RunId, feed, logs
from codegen_api.dialects.native.wire import entry_json, paging_fields, run_fields, run_path
from codegen_api.http.parts import Door, Idempotent, parts_of
from codegen_api.http.unknown_names import warn
from codegen_api.http.web import (
    Asker,
    IdempotencyKey,
    Limit,
    Skip,
    WantedOrganization,
    json_response,
    named,
    operation,
    replayed,
    router_of,
    timestamp,
)
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Json, RunStatus, to_json
from codegen_api.telemetry import Observation
from codegen_api.upstreams import Decision, NewRun, RunFilter

runs = router_of()
REDIS_AWAY = "unavailable (fallback to memory)"

system = APIRouter(tags=["System"], generate_unique_id_function=named())


@system.get("/health", summary="Health check", responses=schemas.HEALTH)
async def health(request: Request, gateway: Door) -> Response:
    """How the process is, and what was last seen of the host, the issuer and the store. Asks nobody, so it answers at
    once.
    """
    host, store, now = gateway.observation, _store_observation(request), time.time()
    redis = parts_of(request).redis
    jwts = parts_of(request).callers.jwts
    issuer = None if jwts is None else jwts.source.observation
    healthy = all(each is None or each.reachable for each in (host, issuer, store))
    body: dict[str, Json] = {
        "status": "healthy" if healthy and (redis is None or redis.usable) else "degraded",
        "version": request.app.version,
        "timestamp": timestamp(now),
        "uptime_seconds": round(now - parts_of(request).started, 3),
        "upstream": {"name": gateway.upstream_name, **_observed(host), **_trouble(host)},
        "issuer": "not configured" if jwts is None else {"name": jwts.issuer, **_observed(issuer)},
        "store": "not configured" if store is None else {**_observed(store), **_trouble(store)},
        "redis": "not configured" if redis is None else "connected" if redis.usable else REDIS_AWAY,
        "runs_followed": gateway.runs_followed,
        "viewers": gateway.viewers,
        "http_version": request.scope["http_version"],
        "stream_heartbeat_seconds": parts_of(request).heartbeat_seconds,
    }
    return json_response(to_json(body))


@system.get("/livez", summary="Liveness check", responses=schemas.READY)
async def live(request: Request) -> Response:
    """Whether the process should be left alone."""
    return _readiness(request)


@system.get("/readyz", summary="Readiness check", responses=schemas.READY)
async def ready(request: Request) -> Response:
    """Whether requests should be sent here."""
    store = _store_observation(request)
    response = _readiness(request)
    if response.status_code == 200 and store is not None and not store.reachable:
        return json_response(b'{"status":"store_unavailable"}', 503, {"Retry-After": "10"})
    return response


def _store_observation(request: Request) -> Observation | None:
    """The last observation of the store, if there is one."""
    conversations = parts_of(request).conversations
    return None if conversations is None else conversations.observation


def _observed(seen: Observation | None) -> dict[str, Json]:
    return {
        "reachable": seen.reachable if seen else None,
        "checked_at": timestamp(seen.checked_at) if seen else None,
    }


def _trouble(seen: Observation | None) -> dict[str, Json]:
    return {
        "trouble": seen.trouble if seen else None,
        "since": timestamp(seen.since) if seen and seen.since is not None else None,
    }


def _readiness(request: Request) -> Response:
    phase = parts_of(request).drain.phase
    if phase != "ready":
        return json_response(to_json({"status": phase}), 503, {"Retry-After": "1"})
    return json_response(b'{"status":"ready"}')


@runs.get("/users/me", **operation("Get the current user", None, schemas.ME), tags=["Users and organizations"])
async def me(gateway: Door, caller: Asker) -> Response:
    """The user behind the token, as the host knows them, or as whoever gave it out does."""
    return json_response(to_json((await gateway.accounts.me(caller)).fields))


@runs.get(
    "/organizations", **operation("List organizations", READ, schemas.ORGANIZATIONS), tags=["Users and organizations"]
)
async def organizations(gateway: Door, caller: Asker, skip: Skip = 0, limit: Limit = 100) -> Response:
    """The organizations that the token opens."""
    listing = await gateway.accounts.organizations(caller, skip, limit)
    items: list[Json] = [item.fields for item in listing.items]
    return json_response(to_json({"items": items, **paging_fields(listing.paging), "next_skip": listing.next(skip)}))


@runs.post("/agent-runs", **operation("Start a run", WRITE, schemas.CREATED), status_code=201, tags=["Runs"])
async def create_run(
    request: Request,
    gateway: Door,
    idempotency: Idempotent,
    caller: Asker,
    wanted: WantedOrganization,
    body: Annotated[schemas.CreateRun, Body()],
    key: IdempotencyKey = None,
) -> Response:
    """Start an agent run."""
    organization = await gateway.accounts.organization(caller, wanted)
    images = None if body.images is None else tuple(body.images)
    new = NewRun(body.prompt, body.metadata, images, body.repo_id, body.model, body.agent_type)
    outcome = await idempotency.create(caller, organization, new, key)
    location = f"{request.scope.get('root_path', '')}{run_path(outcome.run.ref.id)}"
    return json_response(to_json(run_fields(outcome.run)), 201, {"Location": location, **replayed(outcome)})


@runs.get("/agent-runs", **operation("List runs", READ, schemas.RUNS), tags=["Runs"])
async def list_runs(
    request: Request,
    gateway: Door,
    caller: Asker,
    wanted: WantedOrganization,
    skip: Skip = 0,
    limit: Limit = 100,
    status: Annotated[str | None, Query(description="Only runs with this status, in the host's words or ours.")] = None,
    source_type: Annotated[str | None, Query(description="Only runs from this source, `API` for instance.")] = None,
    user_id: Annotated[str | None, Query(description="Only runs that this user started.")] = None,
) -> Response:
    """Runs, newest first.

    `next_skip` says where to go on; it is `null` at the end of the list. The host cannot filter by `status`: the
    gateway reads on until `limit` runs match or it has looked far enough. `total` and `pages` are the host's, of the
    whole list.
    """
    organization = await gateway.accounts.organization(caller, wanted)
    found = await gateway.list(caller, organization, skip, limit, RunFilter(source_type, user_id), status)
    if status is not None and not found.listing.items and status.lower() not in list(RunStatus):
        words = ", ".join(RunStatus)
        warn(request, f"no run was found with this status; the gateway's words are {words}", "query", "status")
    items: list[Json] = [run_fields(run) for run in found.listing.items]
    return json_response(to_json({"items": items, **paging_fields(found.listing.paging), "next_skip": found.next_skip}))


@runs.get("/agent-runs/{id}", **operation("Get a run", READ, schemas.RUN), tags=["Runs"])
async def get_run(gateway: Door, caller: Asker, wanted: WantedOrganization, run_id: RunId) -> Response:
    """A run as it is now."""
    organization = await gateway.accounts.organization(caller, wanted)
    return json_response(to_json(run_fields(await gateway.get(caller, organization, run_id))))


@runs.post("/agent-runs/{id}/resume", **operation("Resume a run", WRITE, schemas.RESUMED), tags=["Runs"])
async def resume_run(
    gateway: Door,
    idempotency: Idempotent,
    caller: Asker,
    wanted: WantedOrganization,
    run_id: RunId,
    body: Annotated[schemas.ResumeRun, Body()],
    key: IdempotencyKey = None,
) -> Response:
    """Give a run another prompt. It goes on under the same id, and its log behind the last entry.

    The ban of a cancelled run is lifted.
    """
    organization = await gateway.accounts.organization(caller, wanted)
    images = None if body.images is None else tuple(body.images)
    outcome = await idempotency.resume(caller, organization, run_id, body.prompt, images, key)
    return json_response(to_json(run_fields(outcome.run)), headers=replayed(outcome))


@runs.post("/agent-runs/{id}/cancel", **operation("Cancel a run", WRITE, schemas.CANCELLED), tags=["Runs"])
async def cancel_run(gateway: Door, caller: Asker, wanted: WantedOrganization, run_id: RunId) -> Response:
    """Stop a run, where the host can.

    For Codegen this is its *ban*: besides stopping the run it stops the checks of the run's pull request. A resume
    lifts it.
    """
    organization = await gateway.accounts.organization(caller, wanted)
    return json_response(to_json(run_fields(await gateway.cancel(caller, organization, run_id))))


@runs.get("/agent-runs/{id}/pending", **operation("List what a run waits for", READ, schemas.PENDING), tags=["Runs"])
async def list_pending(gateway: Door, caller: Asker, wanted: WantedOrganization, run_id: RunId) -> Response:
    """What a waiting run waits for now, oldest first; nothing if it does not wait."""
    organization = await gateway.accounts.organization(caller, wanted)
    items: list[Json] = [pending_fields(item) for item in await gateway.pending(caller, organization, run_id)]
    return json_response(to_json({"items": items}))


@runs.post(
    "/agent-runs/{id}/pending/{request_id}",
    **operation("Decide what a run waits for", WRITE, schemas.DECIDED),
    tags=["Runs"],
)
async def decide(
    gateway: Door,
    caller: Asker,
    wanted: WantedOrganization,
    run_id: RunId,
    request_id: Annotated[str, Path(description="Which of what the run waits for.", examples=["req_1"])],
    body: Annotated[schemas.Decide, Body()],
) -> Response:
    """Approve or reject what the agent wants to do, or answer its question. The run goes on."""
    organization = await gateway.accounts.organization(caller, wanted)
    decision = Decision(body.decision, body.text)
    return json_response(to_json(run_fields(await gateway.decide(caller, organization, run_id, request_id, decision))))


@runs.get("/agent-runs/{id}/logs", **operation("Read a run's log", READ, schemas.LOGS), tags=["Logs"])
async def read_logs(
    request: Request,
    gateway: Door,
    caller: Asker,
    wanted: WantedOrganization,
    run_id: RunId,
    skip: Skip = 0,
    limit: Limit = 100,
    reverse: Annotated[bool, Query(description="Newest first; `skip` then counts from the end.")] = False,
) -> Response:
    """A stretch of the log, with the run as it is now. Each entry says its `position`, counted from 1."""
    organization = await gateway.accounts.organization(caller, wanted)
    page = await gateway.read_log(caller, organization, run_id, skip, limit, newest_first=reverse)
    entries = b",".join(entry_json(entry.json, page.position(index)) for index, entry in enumerate(page.entries))
    paging = paging_fields(page.paging)
    rest = to_json({**run_fields(page.run), "total_logs": paging.pop("total"), **paging})
    headers = {}
    next_skip = skip + len(page.entries)
    if not page.at_end and next_skip != page.paging.total:
        path = f"{request.scope.get('root_path', '')}{run_path(page.run.ref.id)}/logs"
        headers["Link"] = f'<{path}?skip={next_skip}&limit={limit}&reverse={str(reverse).lower()}>; rel="next"'
    return json_response(b'%b,"logs":[%b]}' % (rest[:-1], entries), headers=headers)


ROUTES = [*system.routes, *feed.routes, *runs.routes, *logs.routes]
