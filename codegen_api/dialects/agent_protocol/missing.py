"""What the protocol has and this gateway does not do, said by name instead of as a route that is not there."""

from typing import Any

from starlette.responses import Response

from codegen_api.dialects.agent_protocol import answers
from codegen_api.dialects.agent_protocol.asking import Asker, routes_about
from codegen_api.dialects.agent_protocol.threads import ThreadId, thread_of
from codegen_api.errors import Unsupported
from codegen_api.identity import READ, WRITE
from codegen_api.parts import Keeper
from codegen_api.web import needs

router = routes_about("not offered")

NO_COPIES = "Threads cannot be copied: the host has no copies of runs."
NO_UPDATES = "The state of a thread cannot be changed: the host keeps it, and only adds to it."
NO_SIZES = "What a thread takes is not counted: the host keeps it."
NO_CRONS = "Nothing is run by the clock here."
NO_THREAD_STREAMS = "A thread cannot be followed as a whole: each of its runs has a stream of its own."
NO_COMMANDS = "Commands and their events are not spoken here: runs are started and followed under `/threads/{id}/runs`."


def _never(why: str, scope: str) -> dict[str, Any]:
    """What the document says of such a route."""
    return {"status_code": 501, "responses": answers.not_offered(why), "openapi_extra": needs(scope)}


@router.post("/threads/{thread_id}/copy", summary="Copy a thread", **_never(NO_COPIES, WRITE))
async def copy_thread(talk: Keeper, caller: Asker, thread_id: ThreadId) -> Response:
    """Not offered."""
    await thread_of(talk, caller, thread_id)
    raise Unsupported(NO_COPIES)


@router.post("/threads/{thread_id}/state", summary="Change the state of a thread", **_never(NO_UPDATES, WRITE))
async def update_thread_state(talk: Keeper, caller: Asker, thread_id: ThreadId) -> Response:
    """Not offered."""
    await thread_of(talk, caller, thread_id)
    raise Unsupported(NO_UPDATES)


@router.patch("/threads/{thread_id}/state", summary="Change the metadata of a state", **_never(NO_UPDATES, WRITE))
async def patch_thread_state(talk: Keeper, caller: Asker, thread_id: ThreadId) -> Response:
    """Not offered."""
    await thread_of(talk, caller, thread_id)
    raise Unsupported(NO_UPDATES)


@router.get("/threads/{thread_id}/stream", summary="Follow a thread", **_never(NO_THREAD_STREAMS, READ))
async def join_thread_stream(talk: Keeper, caller: Asker, thread_id: ThreadId) -> Response:
    """Not offered."""
    await thread_of(talk, caller, thread_id)
    raise Unsupported(NO_THREAD_STREAMS)


@router.get("/threads/{thread_id}/storage", summary="What a thread takes", **_never(NO_SIZES, READ))
async def get_thread_storage(talk: Keeper, caller: Asker, thread_id: ThreadId) -> Response:
    """Not offered."""
    await thread_of(talk, caller, thread_id)
    raise Unsupported(NO_SIZES)


# the next three may be asked for a thread that the first command is to make


@router.post("/threads/{thread_id}/commands", summary="Give a command", **_never(NO_COMMANDS, WRITE))
async def command_thread(caller: Asker, thread_id: ThreadId) -> Response:
    """Not offered."""
    raise Unsupported(NO_COMMANDS)


@router.post("/threads/{thread_id}/stream", summary="Follow a thread by channels", **_never(NO_COMMANDS, READ))
async def stream_thread(caller: Asker, thread_id: ThreadId) -> Response:
    """Not offered."""
    raise Unsupported(NO_COMMANDS)


@router.post("/threads/{thread_id}/stream/events", summary="Follow what commands do", **_never(NO_COMMANDS, READ))
async def follow_thread_events(caller: Asker, thread_id: ThreadId) -> Response:
    """Not offered."""
    raise Unsupported(NO_COMMANDS)


@router.post("/threads/{thread_id}/runs/crons", summary="Run in a thread by the clock", **_never(NO_CRONS, WRITE))
async def create_cron_for_thread(talk: Keeper, caller: Asker, thread_id: ThreadId) -> Response:
    """Not offered."""
    await thread_of(talk, caller, thread_id)
    raise Unsupported(NO_CRONS)


@router.post("/runs/crons", summary="Run by the clock", **_never(NO_CRONS, WRITE))
async def create_cron(caller: Asker) -> Response:
    """Not offered."""
    raise Unsupported(NO_CRONS)


@router.post("/runs/crons/search", summary="Search what runs by the clock", **_never(NO_CRONS, READ))
async def search_crons(caller: Asker) -> Response:
    """Not offered."""
    raise Unsupported(NO_CRONS)


@router.post("/runs/crons/count", summary="Count what runs by the clock", **_never(NO_CRONS, READ))
async def count_crons(caller: Asker) -> Response:
    """Not offered."""
    raise Unsupported(NO_CRONS)


@router.get("/runs/crons/{cron_id}", summary="Get what runs by the clock", **_never(NO_CRONS, READ))
async def get_cron(caller: Asker, cron_id: str) -> Response:
    """Not offered."""
    raise Unsupported(NO_CRONS)


@router.patch("/runs/crons/{cron_id}", summary="Change what runs by the clock", **_never(NO_CRONS, WRITE))
async def update_cron(caller: Asker, cron_id: str) -> Response:
    """Not offered."""
    raise Unsupported(NO_CRONS)


@router.delete("/runs/crons/{cron_id}", summary="Delete what runs by the clock", **_never(NO_CRONS, WRITE))
async def delete_cron(caller: Asker, cron_id: str) -> Response:
    """Not offered."""
    raise Unsupported(NO_CRONS)
