"""Starting runs. A run is a turn of a thread, which is created if necessary.

Fields that SDKs always send and that mean nothing here are ignored, unsupported ones refused: docs/clients.md.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Body
from pydantic import BaseModel, BeforeValidator, Field
from starlette.responses import Response

from codegen_api.conversations import (
    TRIES,
    Ask,
    CallerConversations,
    TurnCheckpoint,
    images_of,
    new_id,
    pending_of,
    said_ids,
    text_of,
)
from codegen_api.dialects import EMPTY, MAX_ITEMS, Ignored, is_blank, rejected
from codegen_api.dialects.agent_protocol import responses
from codegen_api.dialects.agent_protocol.assistants import find_assistant
from codegen_api.dialects.agent_protocol.dependencies import routes_about
from codegen_api.dialects.agent_protocol.events import MODES
from codegen_api.dialects.agent_protocol.messages import RESUME_PATH, decisions_of, parse_content, text_of_answer
from codegen_api.dialects.agent_protocol.run_responses import Responder, RunResponder, location_headers
from codegen_api.dialects.agent_protocol.schemas import Id, Object, check_storable
from codegen_api.dialects.agent_protocol.threads import new_thread, with_assistant
from codegen_api.dialects.agent_protocol.wire import GRAPH
from codegen_api.errors import Conflict, InvalidRequest, NotFound, NotOffered, Rejected
from codegen_api.http.sse import NoReconnect
from codegen_api.http.web import WantedOrganization, json_response, operation
from codegen_api.identity import WRITE
from codegen_api.runs import Json, to_json
from codegen_api.stores import Agent, Overtaken, Talk, Turn, TurnState
from codegen_api.upstreams import NewRun

router = routes_about("runs")

HUMAN = ("human", "user", "HumanMessage")
SYSTEM = ("system", "SystemMessage")
IMAGE_PROMPT = "See the image."
"""The prompt where a user sends images and no text."""


def _modes(value: object) -> object:
    """One mode, a list of modes, or a list as JSON, as browsers put it into a query. Empty strings are dropped."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return [value]
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str) and value[0].startswith("["):
        return _modes(value[0])
    if value is None:
        return []
    return [each for each in (value if isinstance(value, list) else [value]) if each != ""]


Modes = Annotated[list[str], Field(fail_fast=True), BeforeValidator(_modes)]


class RunBody(BaseModel):
    """A new run."""

    assistant_id: str | None = Field(
        default=None, description="The id of an assistant; `agent` by default.", examples=["agent"]
    )
    thread_id: Id | None = Field(default=None, description="In which thread, where the path names none.")
    agent_id: str | None = Field(default=None, description="The same, as the published protocol calls it.")
    messages: list[Any] | None = Field(default=None, description="The same as `input.messages`, by that protocol.")
    input: Object | None = Field(
        default=None,
        description="`messages`: what the user says.",
        examples=[{"messages": [{"role": "user", "content": "What is the weather in San Francisco?"}]}],
    )
    command: Object | None = Field(default=None, description="`resume`: the answer to an interrupt.")
    stream_mode: Modes = Field(
        default=[], description=f"Of {', '.join(MODES)}.", examples=[["values", "messages-tuple"]]
    )
    metadata: Object | None = Field(default=None, description="Goes to the host with a new run.")
    config: Object | None = Field(
        default=None, description="`configurable` may have `model`, `repo_id`, `agent_type` and `system_prompt`."
    )
    context: Object | None = Field(default=None, description="The same as `config.configurable`.")
    checkpoint: Object | None = Field(default=None, description="Where to go on: its `checkpoint_id`.")
    checkpoint_id: str | None = None
    multitask_strategy: str | None = Field(default=None, description="`enqueue` (default), `reject`, `interrupt`.")
    if_not_exists: str | None = Field(default=None, description="`reject`: do not make the thread.")
    on_disconnect: str | None = Field(default=None, description="`cancel`: stop the run when the client leaves.")
    on_completion: str | None = Field(default=None, description="`keep`: keep the thread of a stateless run.")
    webhook: Any = None
    after_seconds: Any = None
    interrupt_before: Any = None
    interrupt_after: Any = None
    stream_subgraphs: Ignored = None
    stream_resumable: Ignored = None
    checkpoint_during: Ignored = None
    durability: Ignored = None
    feedback_keys: Ignored = None
    langsmith_tracer: Ignored = None
    strict_resume: Ignored = None

    @property
    def assistant(self) -> str:
        """The id of the assistant.

        Raises:
            Rejected: two different ones are given.
        """
        if self.assistant_id and self.agent_id and self.assistant_id != self.agent_id:
            raise Rejected("`assistant_id` and `agent_id` name two.")
        return self.assistant_id or self.agent_id or GRAPH

    @property
    def stop_on_disconnect(self) -> bool:
        """Whether the run stops when its client leaves."""
        return self.on_disconnect == "cancel"

    @property
    def delete_thread(self) -> bool:
        """Whether a thread created for the run is deleted at its end."""
        return self.thread_id is None and self.on_completion != "keep"


@router.post("/threads/{thread_id}/runs", **operation("Start a run", WRITE, responses.STARTED))
async def create_run(responder: Responder, wanted: WantedOrganization, thread_id: str, body: RunBody) -> Response:
    """Start a run in a thread, which is made if it is not there. It goes on by itself."""
    return _started(responder, await begin(responder, wanted, thread_id, body))


@router.post("/threads/{thread_id}/runs/stream", **operation("Start a run and stream it", WRITE, responses.STREAMED))
async def stream_run(
    responder: Responder, wanted: WantedOrganization, _: NoReconnect, thread_id: str, body: RunBody
) -> Response:
    """Start a run in a thread and send its events. It goes on without its client, but for `on_disconnect: cancel`."""
    return responder.events(await begin(responder, wanted, thread_id, body), stop_on_disconnect=body.stop_on_disconnect)


@router.post(
    "/threads/{thread_id}/runs/wait", **operation("Start a run and wait for its result", WRITE, responses.WAITED)
)
async def wait_for_run(responder: Responder, wanted: WantedOrganization, thread_id: str, body: RunBody) -> Response:
    """Start a run in a thread and give the thread's state at its end. White space comes first, as a sign of life."""
    turn = await begin(responder, wanted, thread_id, body)
    return responder.outcome(turn, stop_on_disconnect=body.stop_on_disconnect)


@router.post("/runs", **operation("Start a stateless run", WRITE, responses.STARTED))
async def create_stateless_run(responder: Responder, wanted: WantedOrganization, body: RunBody) -> Response:
    """Start a run in a thread that is made for it, or in the one that `thread_id` names."""
    return _started(responder, await begin(responder, wanted, body.thread_id, body))


@router.post("/runs/stream", **operation("Start a stateless run and stream it", WRITE, responses.STREAMED))
async def stream_stateless_run(
    responder: Responder, wanted: WantedOrganization, _: NoReconnect, body: RunBody
) -> Response:
    """The thread is removed when the end has been sent, but for `on_completion: keep`."""
    turn = await begin(responder, wanted, body.thread_id, body)
    return responder.events(turn, delete_thread=body.delete_thread, stop_on_disconnect=body.stop_on_disconnect)


@router.post("/runs/wait", **operation("Start a stateless run and wait for its result", WRITE, responses.WAITED))
async def wait_for_stateless_run(responder: Responder, wanted: WantedOrganization, body: RunBody) -> Response:
    """The thread is removed when the outcome has been sent, but for `on_completion: keep`."""
    turn = await begin(responder, wanted, body.thread_id, body)
    return responder.outcome(turn, delete_thread=body.delete_thread, stop_on_disconnect=body.stop_on_disconnect)


@router.post("/runs/batch", **operation("Start a batch of stateless runs", WRITE, responses.BATCH))
async def create_batch(
    responder: Responder, wanted: WantedOrganization, bodies: Annotated[list[RunBody], Body(max_length=20)]
) -> Response:
    """Start runs, each in a thread of its own. The first that cannot be started ends it; those before it go on."""
    turns = [await begin(responder, wanted, body.thread_id, body) for body in bodies]
    return json_response(to_json([responder.fields(turn) for turn in turns]))


async def begin(responder: RunResponder, wanted: str | None, thread: str | None, body: RunBody) -> Turn:
    """Begin a turn of the thread, or of a new one. A new run belongs to the organization ``wanted``."""
    _refuse_unsupported(body)
    if body.thread_id not in (None, thread):
        raise Rejected("`thread_id` names another thread than the path.")
    check_storable(metadata=body.metadata, config=body.config, context=body.context)
    agent = await find_assistant(responder.conversations, body.assistant)
    for _ in range(TRIES):
        with suppress(Overtaken):
            return await _begin(responder.conversations, wanted, thread, body, agent)
    raise Conflict("Others are changing this, too; try again.")


async def _begin(
    conversations: CallerConversations, wanted: str | None, thread: str | None, body: RunBody, agent: Agent
) -> Turn:
    talk = None if thread is None else await conversations.settled_talk(thread)
    if talk is None and thread is not None and body.if_not_exists == "reject":
        raise NotFound.named("Thread", thread)
    turns = () if talk is None else talk.turns
    known = [turn for turn in turns if turn.state is not TurnState.WITHDRAWN]  # the host never got their messages
    ask = _ask_of(body, agent, known)
    answer = (body.command or {}).get("resume")
    if answer is not None and (pending := await pending_of(conversations, known[0])):
        ask = replace(ask, decisions=decisions_of(answer, pending), if_busy="reject")
    talk = with_assistant(talk or Talk(new_thread(conversations, thread, {})), agent, ask.messages)
    return await conversations.begin(wanted, talk, ask)


def _started(responder: RunResponder, turn: Turn) -> Response:
    return json_response(to_json(responder.fields(turn)), headers=location_headers(turn, "stream"))


# -- requests ---------------------------------------------------------------------------------------------------------


def _refuse_unsupported(body: RunBody) -> None:
    """
    Raises:
        NotOffered: the request uses features that the gateway does not support.
    """
    command = body.command or {}
    never = ("webhook", "after_seconds", "interrupt_before", "interrupt_after")
    refused = [name for name in never if getattr(body, name)]
    refused += [f"command.{name}" for name in ("goto", "update") if command.get(name)]
    refused += [f"stream_mode {mode}" for mode in body.stream_mode if mode not in MODES]
    if body.multitask_strategy not in (None, "", "reject", "interrupt", "enqueue", "rollback"):
        refused.append(f"multitask_strategy {body.multitask_strategy}")
    if refused:
        raise NotOffered(f"The gateway cannot do this: {', '.join(refused)[:500]}.")


def _ask_of(body: RunBody, agent: Agent, known: Sequence[Turn]) -> Ask:
    """The turn that a request asks for. ``known`` are the turns of the thread, newest first.

    Raises:
        Rejected: it has no message for the host.
        InvalidRequest: it answers an interrupt, and there is none.
    """
    configurable = (body.config or {}).get("configurable")
    settings = {**(configurable if isinstance(configurable, dict) else {}), **(body.context or {})}
    repository, place = settings.get("repo_id"), body.checkpoint_id or (body.checkpoint or {}).get("checkpoint_id")
    system, messages = _new_messages(body, known)
    checkpoint = TurnCheckpoint.of(place) if isinstance(place, str) and place else None
    text = "\n\n".join(text for text in map(text_of, messages) if text)
    images = images_of(*messages)
    if not messages and checkpoint is None:
        raise rejected("There must be a message of the user in it.", "missing", "body", "input", "messages")
    return Ask(
        messages,
        text or (IMAGE_PROMPT if images else ""),
        images,
        agent,
        system_prompt=_setting(settings, "system_prompt") or system,
        checkpoint=checkpoint,
        if_busy=body.multitask_strategy or "enqueue",
        run=NewRun(
            "",
            metadata=body.metadata or None,
            repo_id=repository if type(repository) is int else None,
            model=_setting(settings, "model"),
            agent_type=_setting(settings, "agent_type"),
        ),
        options={
            "assistant_id": agent.id,
            "stream_mode": body.stream_mode or ["values"],
            "metadata": body.metadata or {},
            "config": body.config or {},
            "context": body.context or {},
            "multitask_strategy": body.multitask_strategy or "enqueue",
        },
    )


def _new_messages(body: RunBody, known: Sequence[Turn]) -> tuple[str | None, list[Mapping[str, Json]]]:
    """The system prompt among the messages, and the user's messages that are new."""
    answer = (body.command or {}).get("resume")
    if answer is not None:
        if body.input or body.messages:
            raise Rejected("A run has an input or a command, not both.")
        text = text_of_answer(answer)
        if is_blank(text):
            raise rejected(EMPTY, "empty", *RESUME_PATH)
        if not known or known[0].state is not TurnState.WAITING:
            raise InvalidRequest("Cannot resume: the thread is not interrupted.")
        return None, [{"id": new_id(), "content": [{"type": "text", "text": text}]}]
    given = (body.input or {}).get("messages") or []
    if given and body.messages:
        raise Rejected("What is said stands in `messages` or in `input.messages`, not in both.")
    given = given or body.messages or []
    if not isinstance(given, list):
        given = [given]
    if len(given) > MAX_ITEMS:
        raise rejected(f"There may be {MAX_ITEMS} messages at most.", "too_long", "body", "input", "messages")
    known_ids = said_ids(known)
    system: list[str] = []
    messages: list[Mapping[str, Json]] = []
    for index, item in enumerate(given):
        where = ("body", "input", "messages", index)
        kind, id, content = _parse_message(item, where)  # noqa: A001 - the wire's own word
        if kind in SYSTEM:
            system.append(text_of({"content": parse_content(content, where)}))
        elif kind in HUMAN and (id is None or id not in known_ids):
            message: Mapping[str, Json] = {"id": id or new_id(), "content": parse_content(content, where)}
            if is_blank(text_of(message)) and not images_of(message):
                raise rejected(EMPTY, "empty", *where, "content")
            messages.append(message)
    return "\n\n".join(system) or None, messages


def _parse_message(item: Any, where: tuple[str | int, ...]) -> tuple[str, str | None, Json]:
    """The role, id and content of a message in any form that LangChain accepts."""
    match item:
        case str():
            return "human", None, item
        case [str(kind), content]:
            return kind, None, content
        case dict():
            kind, id = item.get("type") or item.get("role") or "human", item.get("id")  # noqa: A001
            content = item.get("content")
            if isinstance(kind, str) and (id is None or isinstance(id, str)):
                return kind, id or None, "" if content is None else content
    raise rejected("Must be a message.", "message_type", *where)


def _setting(settings: Mapping[str, Json], name: str) -> str | None:
    value = settings.get(name)
    return value if isinstance(value, str) and value else None
