"""A complete small dialect: create a job, get it, and follow its log as JSON lines."""

from collections.abc import AsyncGenerator
from typing import Annotated, assert_never
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from codegen_api import following, telemetry
from codegen_api.brokers import Batch
from codegen_api.dialects import Dialect, Prompt, rejected
from codegen_api.errors import GatewayError
from codegen_api.gateway.viewing import Stream
from codegen_api.http.openapi import COMMON, Answers
from codegen_api.http.parts import Door, Idempotent
from codegen_api.http.request_bodies import CallerFirst
from codegen_api.http.sse import HEAD_ONLY, lasting, line, parse_position
from codegen_api.http.web import (
    Asker,
    IdempotencyKey,
    Responses,
    WantedOrganization,
    bearer,
    error_headers,
    json_response,
    named,
    operation,
    replayed,
    status_of,
)
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Appended, Changed, Json, Run, to_json
from codegen_api.taps import Tap
from codegen_api.upstreams import NewRun

LINES = "application/x-ndjson"


class ToyNewJob(BaseModel):
    text: Prompt


class ToyJob(BaseModel):
    job: str
    state: str
    answer: str | None


class ToyError(BaseModel):
    oops: str
    why: str


# -- wire: from the gateway's data to bytes ---------------------------------------------------------------------------


def error_fields(error: GatewayError) -> dict[str, Json]:
    return {"oops": error.code, "why": error.message}


def render_error(error: GatewayError) -> Response:
    return json_response(to_json(error_fields(error)), status_of(error), error_headers(error))


def job_json(run: Run, answer: str | None) -> bytes:
    return to_json({"job": run.ref.id, "state": run.status.value, "answer": answer})


_written: WeakKeyDictionary[Batch, bytes] = WeakKeyDictionary()


def batch_lines(batch: Batch) -> bytes:
    """The entries of a batch, encoded once for all viewers."""
    if batch not in _written:
        _written[batch] = b"".join(
            line("entry" if isinstance(event, Appended) else "amended", event.entry.json, str(position))
            for event, position in zip(batch.entries, batch.positions, strict=True)
        )
    return _written[batch]


def lines_of(update: following.Update) -> bytes:
    match update:
        case Batch():
            telemetry.count_entries(len(update.entries))
            return batch_lines(update)
        case Changed():
            return line("state", to_json(update.run.status.value))
        case following.Notice():
            telemetry.record_notice(update.code)
            return line("late", to_json(update.code))
        case following.Resync():
            return line("elsewhere", b"null", update.cursor)
        case following.Quiet():
            return line("quiet", b"null")
        case following.Current():
            return b""
        case following.Leaving():
            telemetry.record_ending("reconnect")
            return line("reconnect", b"null", str(update.position))
        case following.Ended():
            telemetry.record_ending("end")
            return line("end", to_json(update.run.status.value), f"{update.length}.end")
        case _:
            assert_never(update)


async def frames(stream: Stream) -> AsyncGenerator[bytes, None]:
    try:
        async for update in stream:
            if lines := lines_of(update):
                yield lines
    except GatewayError as error:
        telemetry.note(error.code, error.root_reason)
        yield line("error", to_json(error_fields(error)))


# -- routes -----------------------------------------------------------------------------------------------------------

MISSING = rejected("Field required", "missing", "body", "text")
answers = Answers(ToyError, error_fields, {422: (MISSING, "There is no text, or a parameter is wrong.")})
CREATED = answers(201, ToyJob, "The job.", 402, 409)
STREAM: Responses = {
    200: {"description": "The log, an event per line.", "content": {LINES: {"schema": {"type": "string"}}}},
    204: {"description": "The log still ends where you have read to."},
    **answers.errors(*COMMON),
}
router = APIRouter(
    route_class=CallerFirst, tags=["Toy"], dependencies=[Depends(bearer)], generate_unique_id_function=named("toy_")
)


@router.post("/toy/jobs", **operation("Start a job", WRITE, CREATED), status_code=201)
async def create_job(
    gateway: Door,
    idempotency: Idempotent,
    caller: Asker,
    wanted: WantedOrganization,
    body: ToyNewJob,
    key: IdempotencyKey = None,
) -> Response:
    organization = await gateway.accounts.organization(caller, wanted)
    outcome = await idempotency.create(caller, organization, NewRun(body.text), key)
    return json_response(job_json(outcome.run, gateway.answer(outcome.run)), 201, replayed(outcome))


@router.get("/toy/jobs/{job}", **operation("Get a job", READ, answers(200, ToyJob, "The job.")))
async def get_job(gateway: Door, caller: Asker, wanted: WantedOrganization, job: str) -> Response:
    organization = await gateway.accounts.organization(caller, wanted)
    run = await gateway.get(caller, organization, job)
    return json_response(job_json(run, gateway.answer(run)))


@router.get("/toy/jobs/{job}/log", **operation("Follow a job", READ, STREAM), response_class=Response)
async def follow_job(
    request: Request,
    gateway: Door,
    caller: Asker,
    wanted: WantedOrganization,
    job: str,
    after: Annotated[str, Query(description="The last `id` received.")] = "0",
) -> Response:
    position = parse_position(after)
    organization = await gateway.accounts.organization(caller, wanted)
    if request.scope.get(HEAD_ONLY):  # check the right, and start no follower
        await gateway.view(caller, organization, job)
        return lasting(request, Tap(), LINES)
    stream = await gateway.follow(caller, organization, job, position)
    if stream is None:  # only for a position that ends in .end
        return Response(status_code=204)
    return lasting(request, frames(stream), LINES, source=stream)


DIALECT = Dialect(routes=router.routes, render_error=render_error, prefixes=("/toy",))
