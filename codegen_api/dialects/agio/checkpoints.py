"""Checkpoints, as clients ask for them. Their list is under a path that says the word twice."""

from typing import Annotated

from fastapi import Body, Path
from starlette.responses import Response

from codegen_api.dialects.agio import responses, schemas
from codegen_api.dialects.agio.agents import Known, Limit, Offset
from codegen_api.dialects.agio.branches import fork, restore
from codegen_api.dialects.agio.dependencies import MyConversations, routes_about
from codegen_api.dialects.agio.executions import find_run
from codegen_api.dialects.agio.run_checkpoints import describe, find_place, places_of
from codegen_api.dialects.agio.runs import RunId
from codegen_api.dialects.agio.wire import page
from codegen_api.errors import NotOffered
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Json, to_json
from codegen_api.web import WantedOrganization, json_response, operation

router = routes_about("checkpoints")

CheckpointId = Annotated[str, Path(description="The id of a checkpoint: the run and how many steps of it, `{run}.3`.")]
ONE = responses.answers(200, responses.Checkpoint, "The checkpoint.")
GOES_ON = responses.answers(200, responses.Restored, "A run goes on from there.", 402, 409)


@router.get(
    "/api/checkpoints/runs/{run_id}/checkpoints",
    **operation(
        "List the checkpoints of a run", READ, responses.answers(200, responses.CheckpointPage, "The checkpoints.")
    ),
)
async def list_checkpoints(
    conversations: MyConversations, run_id: RunId, limit: Limit = 20, offset: Offset = 0
) -> Response:
    """One behind each step of the run, and one before the first."""
    places = await places_of(conversations, await find_run(conversations, run_id))
    return page([place.fields for place in places[offset : offset + limit]], len(places), limit, offset)


@router.post(
    "/api/checkpoints/runs/{run_id}/checkpoints",
    **operation(
        "Create a checkpoint",
        WRITE,
        responses.answers(201, responses.NamedCheckpoint, "The checkpoint.", 409),
    ),
    status_code=201,
)
async def create_checkpoint(
    conversations: MyConversations, run_id: RunId, body: Annotated[schemas.NewCheckpoint | None, Body()] = None
) -> Response:
    """The checkpoint behind the latest step, with a description if one is given. It would be there without, too."""
    place = (await places_of(conversations, await find_run(conversations, run_id)))[-1]
    if body is not None and (body.description or body.tags):
        place = await describe(conversations, place, body.description, body.tags)
    done: dict[str, Json] = {"success": True, "message": f"Checkpoint '{place.checkpoint}' created successfully"}
    return json_response(to_json({**done, **place.fields}), 201)


@router.get("/api/checkpoints/{checkpoint_id}", **operation("Get a checkpoint", READ, ONE))
async def get_checkpoint(conversations: MyConversations, checkpoint_id: CheckpointId) -> Response:
    """A place in a run."""
    return json_response(to_json((await find_place(conversations, checkpoint_id)).fields))


@router.post("/api/checkpoints/{checkpoint_id}/restore", **operation("Restore a checkpoint", WRITE, GOES_ON))
async def restore_checkpoint(
    wanted: WantedOrganization,
    agents: Known,
    checkpoint_id: CheckpointId,
    body: Annotated[schemas.Restore | None, Body()] = None,
) -> Response:
    """Take the session back to a checkpoint and go on from there, with a new run or the same one."""
    place = await find_place(agents.conversations, checkpoint_id)
    return json_response(to_json(await restore(agents, wanted, place, body or schemas.Restore())))


@router.post("/api/checkpoints/{checkpoint_id}/fork", **operation("Fork from a checkpoint", WRITE, GOES_ON))
async def fork_checkpoint(
    wanted: WantedOrganization,
    agents: Known,
    checkpoint_id: CheckpointId,
    body: Annotated[schemas.Fork | None, Body()] = None,
) -> Response:
    """Go on from a checkpoint in a new session, with a new run. The old ones stay as they are, also if they go on."""
    if body is not None and not body.create_new_run:
        raise NotOffered(
            "A fork makes a new run: `create_new_run` cannot be false here. Restore the checkpoint for that."
        )
    place = await find_place(agents.conversations, checkpoint_id)
    return json_response(to_json(await fork(agents, wanted, place, body or schemas.Fork())))
