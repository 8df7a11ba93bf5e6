"""What the protocol has and this gateway does not do, said by name instead of as a route that is not there."""

from collections.abc import Awaitable, Callable

from starlette.responses import Response

from codegen_api.dialects.agent_protocol import responses
from codegen_api.dialects.agent_protocol.dependencies import Asker, MyConversations, routes_about
from codegen_api.dialects.agent_protocol.threads import ThreadId, thread_of
from codegen_api.errors import Unsupported
from codegen_api.identity import READ, WRITE
from codegen_api.web import operation

router = routes_about("not offered")

NO_COPIES = "Threads cannot be copied: the host has no copies of runs."
NO_UPDATES = "The state of a thread cannot be changed: the host keeps it, and only adds to it."
NO_SIZES = "What a thread takes is not counted: the host keeps it."
NO_CRONS = "Nothing is run by the clock here."
NO_THREAD_STREAMS = "A thread cannot be followed as a whole: each of its runs has a stream of its own."
NO_COMMANDS = "Commands and their events are not spoken here: runs are started and followed under `/threads/{id}/runs`."


def _in_a_thread(why: str) -> Callable[..., Awaitable[Response]]:
    async def refuse(conversations: MyConversations, thread_id: ThreadId) -> Response:
        await thread_of(conversations, thread_id)
        raise Unsupported(why)

    return refuse


def _in_one_to_be_made(why: str) -> Callable[..., Awaitable[Response]]:
    async def refuse(caller: Asker, thread_id: ThreadId) -> Response:
        raise Unsupported(why)

    return refuse


def _anywhere(why: str) -> Callable[..., Awaitable[Response]]:
    async def refuse(caller: Asker) -> Response:
        raise Unsupported(why)

    return refuse


def _of_one(why: str) -> Callable[..., Awaitable[Response]]:
    async def refuse(caller: Asker, cron_id: str) -> Response:
        raise Unsupported(why)

    return refuse


THREAD, CRONS = "/threads/{thread_id}", "/runs/crons"
IN, NEW, ANY, ONE = _in_a_thread, _in_one_to_be_made, _anywhere, _of_one

OPERATIONS = (
    ("POST", f"{THREAD}/copy", "copy_thread", "Copy a thread", NO_COPIES, WRITE, IN),
    ("POST", f"{THREAD}/state", "update_thread_state", "Update the state of a thread", NO_UPDATES, WRITE, IN),
    (
        "PATCH",
        f"{THREAD}/state",
        "patch_thread_state",
        "Update the metadata of a thread's state",
        NO_UPDATES,
        WRITE,
        IN,
    ),
    ("GET", f"{THREAD}/stream", "join_thread_stream", "Stream a thread", NO_THREAD_STREAMS, READ, IN),
    ("GET", f"{THREAD}/storage", "get_thread_storage", "Get a thread's storage size", NO_SIZES, READ, IN),
    ("POST", f"{THREAD}/commands", "command_thread", "Send a command", NO_COMMANDS, WRITE, NEW),
    ("POST", f"{THREAD}/stream", "stream_thread", "Stream a thread's channels", NO_COMMANDS, READ, NEW),
    (
        "POST",
        f"{THREAD}/stream/events",
        "follow_thread_events",
        "Stream the events of commands",
        NO_COMMANDS,
        READ,
        NEW,
    ),
    ("POST", f"{THREAD}{CRONS}", "create_cron_for_thread", "Create a cron job for a thread", NO_CRONS, WRITE, IN),
    ("POST", CRONS, "create_cron", "Create a cron job", NO_CRONS, WRITE, ANY),
    ("POST", f"{CRONS}/search", "search_crons", "Search cron jobs", NO_CRONS, READ, ANY),
    ("POST", f"{CRONS}/count", "count_crons", "Count cron jobs", NO_CRONS, READ, ANY),
    ("GET", f"{CRONS}/{{cron_id}}", "get_cron", "Get a cron job", NO_CRONS, READ, ONE),
    ("PATCH", f"{CRONS}/{{cron_id}}", "update_cron", "Update a cron job", NO_CRONS, WRITE, ONE),
    ("DELETE", f"{CRONS}/{{cron_id}}", "delete_cron", "Delete a cron job", NO_CRONS, WRITE, ONE),
)
"""Method, path, name, what it would do, why it does not, who may ask, and what it is about."""

for _method, _path, _name, _summary, _why, _scope, _about in OPERATIONS:
    router.add_api_route(
        _path,
        _about(_why),
        methods=[_method],
        name=_name,
        description="Not offered.",
        status_code=501,
        **operation(_summary, _scope, responses.answers.never(_why)),
    )
