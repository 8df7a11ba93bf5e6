"""The feed of runs over HTTP: one stream for a page that shows many."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from codegen_api import errors
from codegen_api.auth.tickets import FEED
from codegen_api.dialects.native import schemas
from codegen_api.dialects.native.streaming import event_stream, ticket_fields, tickets_of, usable, viewer, writer_for
from codegen_api.dialects.native.wire import feed_frames, try_again
from codegen_api.following import MOST_RUNS, FeedPosition
from codegen_api.identity import READ
from codegen_api.parts import Door
from codegen_api.request_bodies import CallerFirst
from codegen_api.runs import RunRef, to_json
from codegen_api.sse import HEAD_ONLY, LastEventId, nothing
from codegen_api.web import Asker, WantedOrganization, bearer, json_response, named, needs, operation

PATH = "/agent-runs/stream"

feed = APIRouter(
    route_class=CallerFirst, tags=["Runs"], dependencies=[Depends(bearer)], generate_unique_id_function=named()
)


@feed.post("/agent-runs/stream-ticket", **operation("Create a feed ticket", READ, schemas.TICKET), status_code=201)
async def create_feed_ticket(request: Request, gateway: Door, caller: Asker, wanted: WantedOrganization) -> Response:
    """A URL under which the caller's `EventSource`, which cannot send headers, reads the feed of runs for an hour.

    Keep it as secret as a token: whoever has it can see the caller's runs. `ids` or `limit` may be appended to it.
    """
    tickets_of(request)
    organization = await gateway.accounts.organization(caller, wanted)
    await gateway.feeds.check(caller, organization)
    return json_response(to_json(ticket_fields(request, PATH, RunRef(organization, FEED), caller)), 201)


@feed.get(
    PATH,
    summary="Stream the list of runs",
    responses=schemas.FEED,
    response_class=Response,
    openapi_extra={"security": [{}], **needs(READ)},  # the empty alternative stands for a ticket
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
    writer, ticket = writer_for(request), usable(request, ticket)
    try:
        caller, wanted = await viewer(request, ticket, wanted, FEED)
        position = FeedPosition() if last_event_id is None else FeedPosition.parse(last_event_id)
        organization = await gateway.accounts.organization(caller, wanted)
        chosen = None if ids is None else gateway.feeds.named(organization, _separated(ids))
        if request.scope.get(HEAD_ONLY):
            await gateway.feeds.check(caller, organization)
            return event_stream(request, nothing(), writer)
        updates = gateway.feeds.updates(caller, organization, chosen, limit, position)
        first = await anext(updates)
    except (errors.Unavailable, errors.UpstreamFailure) as error:
        if last_event_id is None and ticket is None:
            raise
        # an EventSource gives up for good on any other status
        return event_stream(request, try_again(error, writer), writer)
    return event_stream(request, feed_frames(first, updates, writer), writer, updates)


def _separated(ids: str) -> list[str]:
    """
    Raises:
        Rejected: there are too many.
    """
    found = list(dict.fromkeys(each.strip() for each in ids.split(",") if each.strip()))
    if len(found) > MOST_RUNS:
        raise errors.Rejected(details=[errors.Detail(("query", "ids"), f"Must be at most {MOST_RUNS}.", "too_long")])
    return found
