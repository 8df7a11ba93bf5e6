"""Information and health, and the parts of the protocol that are not offered: each has a route that says so by name."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request
from starlette.responses import Response

from codegen_api.dialects.agent_protocol import responses
from codegen_api.dialects.agent_protocol.dependencies import Asker, MyConversations, routes_about
from codegen_api.dialects.agent_protocol.schemas import IgnoredQuery
from codegen_api.dialects.agent_protocol.threads import ThreadId, find_thread
from codegen_api.errors import Unsupported
from codegen_api.http.web import json_response, operation
from codegen_api.identity import READ, WRITE
from codegen_api.runs import to_json

about = routes_about("about", public=True)
router = routes_about("not offered")

LANGGRAPH_VERSION = "1.0.0"
"""Clients infer features from it. No graph runs here: messages and events are those of this version."""


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
        "langgraph_py_version": LANGGRAPH_VERSION,
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


async def in_existing_thread(conversations: MyConversations, thread_id: ThreadId) -> None:
    await find_thread(conversations, thread_id)


async def in_any_thread(caller: Asker, thread_id: ThreadId) -> None: ...


async def outside_threads(caller: Asker) -> None: ...


async def of_cron(caller: Asker, cron_id: str) -> None: ...


def _refusing(checks: Callable[..., Awaitable[None]], why: str) -> Callable[..., Awaitable[Response]]:
    async def refuse(_: Annotated[None, Depends(checks)]) -> Response:
        raise Unsupported(why)

    return refuse


EXISTING, ANY = ("/threads/{thread_id}", in_existing_thread), ("/threads/{thread_id}", in_any_thread)
CRONS, CRON = ("/runs/crons", outside_threads), ("/runs/crons/{cron_id}", of_cron)

NO_COPIES = "Threads cannot be copied: the host has no copies of runs."
NO_UPDATES = "The state of a thread cannot be changed: the host keeps it, and only adds to it."
NO_SIZES = "What a thread takes is not counted: the host keeps it."
NO_CRONS = "Nothing is run by the clock here."
NO_THREAD_STREAMS = "A thread cannot be followed as a whole: each of its runs has a stream of its own."
NO_COMMANDS = "Commands and their events are not spoken here: runs are started and followed under `/threads/{id}/runs`."

for (_place, _checks), _why, _scope, _method, _path, _name, _summary in (
    (EXISTING, NO_COPIES, WRITE, "POST", "/copy", "copy_thread", "Copy a thread"),
    (EXISTING, NO_UPDATES, WRITE, "POST", "/state", "update_thread_state", "Update the state of a thread"),
    (EXISTING, NO_UPDATES, WRITE, "PATCH", "/state", "patch_thread_state", "Update the metadata of a thread's state"),
    (EXISTING, NO_THREAD_STREAMS, READ, "GET", "/stream", "join_thread_stream", "Stream a thread"),
    (EXISTING, NO_SIZES, READ, "GET", "/storage", "get_thread_storage", "Get a thread's storage size"),
    (ANY, NO_COMMANDS, WRITE, "POST", "/commands", "command_thread", "Send a command"),
    (ANY, NO_COMMANDS, READ, "POST", "/stream", "stream_thread", "Stream a thread's channels"),
    (ANY, NO_COMMANDS, READ, "POST", "/stream/events", "follow_thread_events", "Stream the events of commands"),
    (EXISTING, NO_CRONS, WRITE, "POST", "/runs/crons", "create_cron_for_thread", "Create a cron job for a thread"),
    (CRONS, NO_CRONS, WRITE, "POST", "", "create_cron", "Create a cron job"),
    (CRONS, NO_CRONS, READ, "POST", "/search", "search_crons", "Search cron jobs"),
    (CRONS, NO_CRONS, READ, "POST", "/count", "count_crons", "Count cron jobs"),
    (CRON, NO_CRONS, READ, "GET", "", "get_cron", "Get a cron job"),
    (CRON, NO_CRONS, WRITE, "PATCH", "", "update_cron", "Update a cron job"),
    (CRON, NO_CRONS, WRITE, "DELETE", "", "delete_cron", "Delete a cron job"),
):
    router.add_api_route(
        _place + _path,
        _refusing(_checks, _why),
        methods=[_method],
        name=_name,
        description="Not offered.",
        status_code=501,
        **operation(_summary, _scope, responses.answers.never(_why)),
    )
