"""Chat: something is said to an agent, and what comes of it is sent as it comes, or whole."""

from collections.abc import Mapping

from fastapi import Request
from starlette.responses import Response

from codegen_api.conversations import Ask, CallerConversations, checked, new_id
from codegen_api.dialects import TITLE_CHARACTERS
from codegen_api.dialects.agio import responses, schemas
from codegen_api.dialects.agio.agents import Known, is_enabled
from codegen_api.dialects.agio.dependencies import routes_about
from codegen_api.dialects.agio.events import BEGINNING, EventPosition, SharedEvents
from codegen_api.dialects.agio.executions import OWN, Execution
from codegen_api.dialects.agio.streams import Reader, frames, outcome
from codegen_api.errors import Conflict
from codegen_api.identity import WRITE
from codegen_api.parts import parts_of
from codegen_api.runs import Json
from codegen_api.sse import STREAM_HEADERS, Begins, lasting
from codegen_api.stores import Conversation
from codegen_api.upstreams import NewRun, require_few_bytes
from codegen_api.web import WantedOrganization, operation

router = routes_about("chat")

EVENTS_TYPE = "text/event-stream; charset=utf-8"


@router.post("/api/chat", **operation("Chat with an agent", WRITE, responses.CHAT))
async def chat(request: Request, _: Begins, wanted: WantedOrganization, agents: Known, body: schemas.Chat) -> Response:
    """Say something to an agent. The run goes on when the client leaves: `GET /api/runs/{run_id}/events` goes on with
    the stream.

    An `EventSource` can only GET: read the stream with `fetch`.
    """
    agent = await agents.get(body.agent_id)
    if not is_enabled(agent):
        raise Conflict(f"Agent '{agent.id}' is disabled.")
    require_few_bytes(body.metadata)
    session_id = body.session_id or new_id()
    checked([session_id, body.message])
    now = agents.conversations.clock()
    session = Conversation(session_id, now, now, agent=agent.id, title=body.message[:TITLE_CHARACTERS])
    is_new = await agents.conversations.add_conversation(session)
    last = [] if is_new else await agents.conversations.turns(session_id, limit=1)
    own: dict[str, Json] = {} if body.user_id is None else {"user_id": body.user_id}
    ask = Ask(
        [message_of(body.message)],
        body.message,
        agent=agent,
        run=NewRun("", metadata=body.metadata),
        fresh=any(turn.agent != agent.id for turn in last),  # somebody else was talked to
        options={OWN: own},
    )
    turn = await agents.conversations.begin(wanted, session_id, ask)
    return answered(request, agents.conversations, Execution((turn,)), stream=body.stream)


def answered(
    request: Request,
    conversations: CallerConversations,
    run: Execution,
    *,
    after: EventPosition = BEGINNING,
    stream: bool = True,
) -> Response:
    """A run as it comes, or whole."""
    reader = Reader(conversations, run, after, parts_of(request).kept("agio_shared", SharedEvents))
    headers = {**STREAM_HEADERS, "Location": f"{request.scope.get('root_path', '')}/api/runs/{run.id}"}
    if stream:
        return lasting(request, frames(reader.events()), EVENTS_TYPE, headers)
    return lasting(request, outcome(reader), "application/json", headers)


def message_of(text: str) -> Mapping[str, Json]:
    """What a user said, as it is kept."""
    return {"id": new_id(), "content": [{"type": "text", "text": text}]}
