"""The native dialect's live logs and feed of runs, as server-sent events or JSON lines, by token or ticket."""

import time
from dataclasses import replace
from typing import Annotated

from fastapi import Path, Query, Request
from starlette.responses import Response

from codegen_api import errors
from codegen_api.auth.tickets import FEED, Tickets
from codegen_api.dialects.native import schemas
from codegen_api.dialects.native.wire import EVENTS, LINES, Frames, Writer, feed_frames, run_path, try_again
from codegen_api.following import MOST_RUNS, FeedPosition, Position
from codegen_api.http.parts import Door, parts_of
from codegen_api.http.sse import HEAD_ONLY, LastEventId, lasting, parse_position
from codegen_api.http.web import (
    Asker,
    WantedOrganization,
    address_of,
    admit,
    authenticate,
    bears_token,
    json_response,
    operation,
    router_of,
    timestamp,
)
from codegen_api.identity import READ, Caller
from codegen_api.runs import Json, RunRef, to_json
from codegen_api.taps import Tap

feed, logs = router_of("Runs"), router_of("Logs")

FEED_PATH = "/agent-runs/stream"
RunId = Annotated[str, Path(alias="id", description="The run's id, as the host has it.", examples=["12345"])]
BY_TICKET: list[dict[str, list[str]]] = [{}]
"""Security of the OpenAPI document besides a token: a URL with a ticket needs no credentials."""
LINE_TYPES = ("application/x-ndjson", "application/jsonl")


def writer_for(request: Request) -> Writer:
    """The writer of JSON lines if the client accepts them, else of server-sent events."""
    accepts_lines = any(kind in request.headers.get("accept", "") for kind in LINE_TYPES)
    return LINES if accepts_lines else EVENTS


async def authenticate_viewer(
    request: Request, ticket: str | None, wanted: str | None, run_id: str
) -> tuple[Caller, str | None]:
    """Authenticate by ``ticket`` if there is one, else by the token. Returns the caller and the organization."""
    if ticket is None:
        return await authenticate(request), wanted
    opened = tickets_of(request).open(ticket, time.time())
    if RunRef(wanted or opened.run.organization, run_id) != opened.run:
        raise errors.InvalidTicket
    caller = await admit(request, await parts_of(request).callers.ticket_holder(opened, address_of(request)))
    return caller, opened.run.organization


def ticket_response(request: Request, path: str, run: RunRef, caller: Caller) -> Response:
    """A new ticket for the stream at ``path``."""
    ticket, expires = tickets_of(request).seal(run, caller, time.time())
    url = f"{request.scope.get('root_path', '')}{path}?ticket={ticket}"
    fields: dict[str, Json] = {"ticket": ticket, "url": url, "expires_at": timestamp(expires, "seconds")}
    return json_response(to_json(fields), 201)


def tickets_of(request: Request) -> Tickets:
    tickets = parts_of(request).tickets
    if tickets is None:
        raise errors.TicketsNotConfigured
    return tickets


def _split_ids(text: str) -> list[str]:
    """Raises ``Rejected`` if there are too many."""
    ids = list(dict.fromkeys(each.strip() for each in text.split(",") if each.strip()))
    if len(ids) > MOST_RUNS:
        raise errors.rejected(f"Must be at most {MOST_RUNS}.", "too_long", "query", "ids")
    return ids


@feed.post("/agent-runs/stream-ticket", **operation("Create a feed ticket", READ, schemas.TICKET), status_code=201)
async def create_feed_ticket(request: Request, gateway: Door, caller: Asker, wanted: WantedOrganization) -> Response:
    """A URL under which the caller's `EventSource`, which cannot send headers, reads the feed of runs for an hour.

    Keep it as secret as a token: whoever has it can see the caller's runs. `ids` or `limit` may be appended to it.
    """
    tickets_of(request)
    organization = await gateway.accounts.organization(caller, wanted)
    await gateway.feeds.check(caller, organization)
    return ticket_response(request, FEED_PATH, RunRef(organization, FEED), caller)


@feed.get(
    FEED_PATH, **operation("Stream the list of runs", READ, schemas.FEED, security=BY_TICKET), response_class=Response
)
async def stream_runs(
    request: Request,
    gateway: Door,
    wanted: WantedOrganization,
    last_event_id: LastEventId,
    ids: Annotated[
        str | None, Query(description=f"Only these runs: up to {MOST_RUNS} ids, separated by commas.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_RUNS, description="Else: how many of the newest runs.")] = 50,
    ticket: Annotated[
        str | None, Query(description="A ticket for the feed, in place of the `Authorization` header.")
    ] = None,
) -> Response:
    """The caller's newest runs, or those named by `ids`, and each of them again whenever its description changes.

    `list` comes first and says which runs these are; then `run` for each that the client does not have as it is, as
    far as its last event id tells. For runs that are in the feed no more there is `removed`. The stream has no end of
    its own: come back with the last id.

    A browser's `EventSource` comes with a `ticket`. A bearer token goes before it.
    """
    writer, ticket = writer_for(request), None if bears_token(request) else ticket
    try:
        caller, wanted = await authenticate_viewer(request, ticket, wanted, FEED)
        position = FeedPosition() if last_event_id is None else FeedPosition.parse(last_event_id)
        organization = await gateway.accounts.organization(caller, wanted)
        chosen = None if ids is None else gateway.feeds.named(organization, _split_ids(ids))
        if request.scope.get(HEAD_ONLY):
            await gateway.feeds.check(caller, organization)
            return lasting(request, Tap(), writer.media_type)  # only its head is sent
        updates = gateway.feeds.updates(caller, organization, chosen, limit, position)
        first = await anext(updates)
    except (errors.Unavailable, errors.UpstreamFailure) as error:
        if last_event_id is None and ticket is None:
            raise
        # any other status would make an EventSource give up for good
        return lasting(request, try_again(error, writer), writer.media_type)
    return lasting(request, feed_frames(first, updates, writer), writer.media_type, source=updates)


@logs.post(
    "/agent-runs/{id}/logs/stream-ticket", **operation("Create a stream ticket", READ, schemas.TICKET), status_code=201
)
async def create_stream_ticket(
    request: Request, gateway: Door, caller: Asker, wanted: WantedOrganization, run_id: RunId
) -> Response:
    """A URL under which the caller's `EventSource`, which cannot send headers, reads this run's live log for an hour.

    Keep it as secret as a token: whoever has it can read that log.
    """
    tickets_of(request)
    organization = await gateway.accounts.organization(caller, wanted)
    run = (await gateway.get(caller, organization, run_id)).ref
    return ticket_response(request, f"{run_path(run.id)}/logs/stream", run, caller)


@logs.get(
    "/agent-runs/{id}/logs/stream",
    **operation("Stream a run's log", READ, schemas.STREAM, security=BY_TICKET),
    response_class=Response,
)
async def stream_logs(
    request: Request,
    gateway: Door,
    wanted: WantedOrganization,
    run_id: RunId,
    last_event_id: LastEventId,
    skip: Annotated[int | None, Query(ge=0, le=10**18, description="Where to go on: how many entries to skip.")] = None,
    ticket: Annotated[
        str | None, Query(description="A ticket for this run's live log, in place of the `Authorization` header.")
    ] = None,
) -> Response:
    """The log from a position on, entry by entry as they come, until the run has ended and everything was sent.

    The position is given as `Last-Event-ID`, as `lastEventId`, as `last_event_id` or as `skip`, in this order. A stream
    without `end` or `failure` is unfinished: come back with the last id. `204` answers who was told the end already and
    has missed nothing.

    A browser's `EventSource` comes with a `ticket`. A bearer token goes before it.
    """
    start = last_event_id or (None if skip is None else str(skip))
    writer, ticket = writer_for(request), None if bears_token(request) else ticket
    try:
        caller, wanted = await authenticate_viewer(request, ticket, wanted, run_id)
        position = Position(0) if start is None else parse_position(start)
        organization = await gateway.accounts.organization(caller, wanted)
        if request.scope.get(HEAD_ONLY):
            await gateway.view(caller, organization, run_id)
            return lasting(request, Tap(), writer.media_type)  # only its head is sent
        position = replace(position, over=position.over and writer is not LINES)
        stream = await gateway.follow(caller, organization, run_id, position)
    except (errors.Unavailable, errors.UpstreamFailure) as error:
        if start is None and ticket is None:
            raise
        # any other status would make an EventSource give up for good
        return lasting(request, try_again(error, writer), writer.media_type)
    if stream is None:
        return Response(status_code=204)
    return lasting(request, Frames(stream, writer, position.cursor if position.over else None), writer.media_type)
