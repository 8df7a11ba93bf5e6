"""What this is, and that it is well, for clients who ask whether there is anybody; and what of the protocol it does not
do, said by name instead of as a route that is not there.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request
from starlette.responses import Response

from codegen_api.dialects.agent_protocol import responses
from codegen_api.dialects.agent_protocol.dependencies import Asker, MyConversations, routes_about
from codegen_api.dialects.agent_protocol.schemas import IgnoredQuery
from codegen_api.dialects.agent_protocol.threads import ThreadId, thread_of
from codegen_api.errors import Unsupported
from codegen_api.identity import READ, WRITE
from codegen_api.runs import to_json
from codegen_api.web import json_response, operation

about = routes_about("about", public=True)
router = routes_about("not offered")

LANGGRAPH = "1.0.0"
"""Clients ask it for what to expect. No graph runs here; this is the version whose messages and events these are."""


@about.get(
    "/info",
    summary="Server information",
    responses={200: {"model": responses.Info, "description": "What it is."}, **responses.PUBLIC_ERRORS},
)
async def info(request: Request) -> Response:
    """What this is, and what of the protocol it has. Wants no token and asks nobody."""
    body = {
        "name": request.app.title,
        "version": request.app.version,
        "description": "The Agent Protocol in front of a hosted agent API.",
        "status": "running",
        "langgraph_py_version": LANGGRAPH,
        "flags": {"assistants": True, "crons": False, "langsmith": False},
        "metadata": {},
    }
    return json_response(to_json(body))


@about.get(
    "/ok",
    summary="Health check",
    responses={200: {"model": responses.Ok, "description": "Yes."}, **responses.PUBLIC_ERRORS, **responses.UNREADABLE},
)
async def ok(check_db: IgnoredQuery = None) -> Response:
    """Whether anybody answers. Wants no token and asks nobody."""
    return json_response(b'{"ok":true}')


# -- not offered ------------------------------------------------------------------------------------------------------


async def in_a_thread(conversations: MyConversations, thread_id: ThreadId) -> None:
    await thread_of(conversations, thread_id)


async def in_one_to_be_made(caller: Asker, thread_id: ThreadId) -> None: ...


async def anywhere(caller: Asker) -> None: ...


async def of_one(caller: Asker, cron_id: str) -> None: ...


def _refusing(about: Callable[..., Awaitable[None]], why: str) -> Callable[..., Awaitable[Response]]:
    async def refuse(_: Annotated[None, Depends(about)]) -> Response:
        raise Unsupported(why)

    return refuse


IN, NEW = ("/threads/{thread_id}", in_a_thread), ("/threads/{thread_id}", in_one_to_be_made)
ANY, ONE = ("/runs/crons", anywhere), ("/runs/crons/{cron_id}", of_one)

NO_COPIES = "Threads cannot be copied: the host has no copies of runs."
NO_UPDATES = "The state of a thread cannot be changed: the host keeps it, and only adds to it."
NO_SIZES = "What a thread takes is not counted: the host keeps it."
NO_CRONS = "Nothing is run by the clock here."
NO_THREAD_STREAMS = "A thread cannot be followed as a whole: each of its runs has a stream of its own."
NO_COMMANDS = "Commands and their events are not spoken here: runs are started and followed under `/threads/{id}/runs`."

for (_place, _about), _why, _scope, _method, _path, _name, _summary in (
    (IN, NO_COPIES, WRITE, "POST", "/copy", "copy_thread", "Copy a thread"),
    (IN, NO_UPDATES, WRITE, "POST", "/state", "update_thread_state", "Update the state of a thread"),
    (IN, NO_UPDATES, WRITE, "PATCH", "/state", "patch_thread_state", "Update the metadata of a thread's state"),
    (IN, NO_THREAD_STREAMS, READ, "GET", "/stream", "join_thread_stream", "Stream a thread"),
    (IN, NO_SIZES, READ, "GET", "/storage", "get_thread_storage", "Get a thread's storage size"),
    (NEW, NO_COMMANDS, WRITE, "POST", "/commands", "command_thread", "Send a command"),
    (NEW, NO_COMMANDS, READ, "POST", "/stream", "stream_thread", "Stream a thread's channels"),
    (NEW, NO_COMMANDS, READ, "POST", "/stream/events", "follow_thread_events", "Stream the events of commands"),
    (IN, NO_CRONS, WRITE, "POST", "/runs/crons", "create_cron_for_thread", "Create a cron job for a thread"),
    (ANY, NO_CRONS, WRITE, "POST", "", "create_cron", "Create a cron job"),
    (ANY, NO_CRONS, READ, "POST", "/search", "search_crons", "Search cron jobs"),
    (ANY, NO_CRONS, READ, "POST", "/count", "count_crons", "Count cron jobs"),
    (ONE, NO_CRONS, READ, "GET", "", "get_cron", "Get a cron job"),
    (ONE, NO_CRONS, WRITE, "PATCH", "", "update_cron", "Update a cron job"),
    (ONE, NO_CRONS, WRITE, "DELETE", "", "delete_cron", "Delete a cron job"),
):
    router.add_api_route(
        _place + _path,
        _refusing(_about, _why),
        methods=[_method],
        name=_name,
        description="Not offered.",
        status_code=501,
        **operation(_summary, _scope, responses.answers.never(_why)),
    )
