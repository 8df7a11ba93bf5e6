"""Starting runs: a run is a turn of a thread, or of one that is made for it."""

from contextlib import suppress
from dataclasses import replace
from typing import Annotated

from fastapi import Body, Depends, Request
from starlette.responses import Response

from codegen_api.conversations import TRIES, CallerConversations, pending_of
from codegen_api.dialects.agent_protocol import responses
from codegen_api.dialects.agent_protocol.agents import agent_for
from codegen_api.dialects.agent_protocol.dependencies import MyConversations, routes_about
from codegen_api.dialects.agent_protocol.interrupts import decisions_of
from codegen_api.dialects.agent_protocol.run_requests import RunBody, ask_of, refuse_what_is_not_offered
from codegen_api.dialects.agent_protocol.run_responses import RunAnswers, nothing, places_of
from codegen_api.dialects.agent_protocol.storage import keepable
from codegen_api.dialects.agent_protocol.streams import Ending
from codegen_api.dialects.agent_protocol.threads import new_thread, with_assistant
from codegen_api.errors import Conflict, NotFound, Rejected
from codegen_api.identity import WRITE
from codegen_api.runs import to_json
from codegen_api.sse import Begins
from codegen_api.stores import Agent, Overtaken, Talk, Turn, TurnState
from codegen_api.web import WantedOrganization, json_response, operation

router = routes_about("runs")


NewRunBody = Annotated[RunBody, Body()]


class RunStarter(RunAnswers):
    """Starts runs for one request. ``wanted`` is the organization that they are to be in."""

    def __init__(self, request: Request, conversations: CallerConversations, wanted: str | None) -> None:
        super().__init__(request, conversations)
        self._wanted = wanted

    async def begin(self, thread: str | None, body: RunBody) -> Turn:
        """A new turn of the thread, or of one that is made for it."""
        conversations = self.conversations
        refuse_what_is_not_offered(body)
        if body.thread_id not in (None, thread):
            raise Rejected("`thread_id` names another thread than the path.")
        keepable(metadata=body.metadata, config=body.config, context=body.context)
        agent = await agent_for(conversations, body.agent)
        for _ in range(TRIES):
            with suppress(Overtaken):
                return await self._begin(thread, body, agent)
        raise Conflict("Others are changing this, too; try again.")

    async def _begin(self, thread: str | None, body: RunBody, agent: Agent) -> Turn:
        conversations = self.conversations
        talk = None if thread is None else await conversations.settled_talk(thread)
        if talk is None and thread is not None and body.if_not_exists == "reject":
            raise NotFound.named("Thread", thread)
        turns = () if talk is None else talk.turns
        known = [turn for turn in turns if turn.state is not TurnState.WITHDRAWN]  # nothing of those was ever said
        ask = ask_of(body, agent, known)
        answer = (body.command or {}).get("resume")
        if answer is not None and (pending := await pending_of(conversations, known[0])):
            ask = replace(ask, decisions=decisions_of(answer, pending), if_busy="reject")
        talk = with_assistant(talk or Talk(new_thread(conversations, thread, {})), agent, ask.messages)
        return await conversations.begin(self._wanted, talk, ask)


async def starter(request: Request, conversations: MyConversations, wanted: WantedOrganization) -> RunStarter:
    return RunStarter(request, conversations, wanted)


Starter = Annotated[RunStarter, Depends(starter)]


@router.post("/threads/{thread_id}/runs", **operation("Start a run", WRITE, responses.STARTED))
async def create_run(starter: Starter, thread_id: str, body: NewRunBody) -> Response:
    """Start a run in a thread, which is made if it is not there. It goes on by itself."""
    turn = await starter.begin(thread_id, body)
    return json_response(to_json(starter.fields(turn)), headers=places_of(turn, "stream"))


@router.post("/threads/{thread_id}/runs/stream", **operation("Start a run and stream it", WRITE, responses.STREAMED))
async def stream_run(starter: Starter, _: Begins, thread_id: str, body: NewRunBody) -> Response:
    """Start a run in a thread and send its events. It goes on without its client, but for `on_disconnect: cancel`."""
    return starter.events(await starter.begin(thread_id, body), stops=body.on_disconnect == "cancel")


@router.post(
    "/threads/{thread_id}/runs/wait", **operation("Start a run and wait for its result", WRITE, responses.WAITED)
)
async def wait_for_run(starter: Starter, thread_id: str, body: NewRunBody) -> Response:
    """Start a run in a thread and give the thread's state at its end. White space comes first, as a sign of life."""
    return starter.outcome(await starter.begin(thread_id, body), stops=body.on_disconnect == "cancel")


@router.post("/runs", **operation("Start a stateless run", WRITE, responses.STARTED))
async def create_stateless_run(starter: Starter, body: NewRunBody) -> Response:
    """Start a run in a thread that is made for it, or in the one that `thread_id` names."""
    turn = await starter.begin(body.thread_id, body)
    return json_response(to_json(starter.fields(turn)), headers=places_of(turn, "stream"))


@router.post("/runs/stream", **operation("Start a stateless run and stream it", WRITE, responses.STREAMED))
async def stream_stateless_run(starter: Starter, _: Begins, body: NewRunBody) -> Response:
    """The thread is removed when the end has been sent, but for `on_completion: keep`."""
    turn, forget = await starter.begin(body.thread_id, body), _forgetting(starter.conversations, body)
    return starter.events(turn, at_end=forget, stops=body.on_disconnect == "cancel")


@router.post("/runs/wait", **operation("Start a stateless run and wait for its result", WRITE, responses.WAITED))
async def wait_for_stateless_run(starter: Starter, body: NewRunBody) -> Response:
    """The thread is removed when the outcome has been sent, but for `on_completion: keep`."""
    turn, forget = await starter.begin(body.thread_id, body), _forgetting(starter.conversations, body)
    return starter.outcome(turn, at_end=forget, stops=body.on_disconnect == "cancel")


@router.post("/runs/batch", **operation("Start a batch of stateless runs", WRITE, responses.BATCH))
async def create_batch(starter: Starter, bodies: Annotated[list[RunBody], Body(max_length=20)]) -> Response:
    """Start runs, each in a thread of its own. The first that cannot be started ends it; those before it go on."""
    turns = [await starter.begin(body.thread_id, body) for body in bodies]
    return json_response(to_json([starter.fields(turn) for turn in turns]))


def _forgetting(conversations: CallerConversations, body: RunBody) -> Ending:
    """What happens at the end of a run: a thread that was made for it goes."""
    if body.thread_id is not None or body.on_completion == "keep":
        return nothing

    async def forget(turn: Turn) -> None:
        await conversations.remove_conversation(turn.conversation)

    return forget
