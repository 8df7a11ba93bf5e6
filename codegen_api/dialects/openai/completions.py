"""Chat Completions and models, for front ends. A chunk cannot be fetched again, nor corrected once it is sent.

Front ends send all of a chat every time, without ids. The chat continues after the turn that gave its last answer: in
the conversation with the client's name for the chat, or else in one whose user has said the same before. If there is
none, a new run gets the history in its prompt.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import Header, Path, Request
from starlette.responses import Response

from codegen_api.conversations import CallerConversations, HoldingTeller, Stretch, checked, frames, new_id, pending_of
from codegen_api.conversations.prompts import text_of
from codegen_api.conversations.repeats import LOOKED_THROUGH, TurnIds, heard_of
from codegen_api.dialects import TITLE_CHARACTERS, not_offered
from codegen_api.dialects.openai import responses, schemas
from codegen_api.dialects.openai.dependencies import MyConversations, OnlyOnce, routes_about
from codegen_api.dialects.openai.events import items_of, outcome, rendered
from codegen_api.dialects.openai.inputs import ASSISTANT, INSTRUCTIONS, USER, InputItem, new_words, parse_items
from codegen_api.dialects.openai.items import RESPONSE, Item, ResponseEntry, last_items
from codegen_api.dialects.openai.turns import begin
from codegen_api.dialects.openai.wire import DEFAULT, LOST, STATUSES, error_fields
from codegen_api.errors import GatewayError, NotFound, RunFailed
from codegen_api.http.sse import lasting
from codegen_api.http.web import WantedOrganization, json_response, operation
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Json, to_json
from codegen_api.stores import Query, Turn, TurnState
from codegen_api.upstreams import PendingRequest

router = routes_about("chat completions")

EVENTS = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"

CHAT = "chat_completions"
"""The key in a conversation's metadata for the client's name for the chat, and a digest of what its user has said."""

CONTENT, REASONING, SEPARATOR = "content", "reasoning_content", "\n\n"
"""The fields of an answer, and what separates two texts in one field."""

_TASK = re.compile(r"\s*(?:### Task:.*<chat_history>|Provide a concise, 5-word-or-less title .*?:\n)(.*)", re.DOTALL)
"""Prompts of Open WebUI and LibreChat for a chat's title, tags and the like. All other prompts go to the agent."""


@router.post("/v1/chat/completions", **operation("Create a chat completion", WRITE, responses.COMPLETED))
async def create_completion(
    request: Request,
    once: OnlyOnce,
    wanted: WantedOrganization,
    body: schemas.CreateCompletion,
    chat: Annotated[str | None, Header(alias="X-OpenWebUI-Chat-Id", description="Which chat it is.")] = None,
) -> Response:
    """Say something to the agent: its answer is `content`, its thoughts and tools are `reasoning_content`. The agent
    goes on when the client leaves.

    A chat that was told here goes on in the same run. If a front end asks for a title or the like, no run begins.
    """
    conversations, answer = once.conversations, task_answer(body)
    if answer is not None:
        about = CompletionTeller(body, conversations, Turn(new_id(), "", now := conversations.clock(), now))
        if body.stream:
            return Response(about.begin() + about.say([(CONTENT, answer)]) + about.end(), media_type=EVENTS)
        return json_response(to_json(about.whole({CONTENT: answer})))
    sent = {**body.model_dump(mode="json"), "chat": chat}
    turn = await once.begin(sent, lambda ids: begin_chat(conversations, wanted, body, chat, ids))
    if (error := failure(turn)) is not None:  # of a repeated request
        raise error

    def teller(_: bool) -> CompletionTeller:
        return CompletionTeller(body, conversations, turn)

    async def whole(over: Turn) -> dict[str, Json]:
        if (error := failure(over)) is not None:
            raise error
        return teller(True).whole(await texts_of(conversations, over))

    if not body.stream:
        return lasting(request, outcome(conversations, turn, whole), "application/json")
    return lasting(request, frames(conversations, turn, teller, failed=broken), EVENTS)


@router.get("/v1/models", **operation("List models", READ, responses.MODELS))
async def list_models(conversations: MyConversations) -> Response:
    """`default`, with which the host chooses, and the caller's agents. Other models of the host can be used as well."""
    return json_response(to_json({"object": "list", "data": [*(await _models(conversations)).values()]}))


@router.get("/v1/models/{model:path}", **operation("Get a model", READ, responses.MODELS))
async def get_model(conversations: MyConversations, model: Annotated[str, Path(description="Its id.")]) -> Response:
    """A model that is listed. Its id may have slashes."""
    return json_response(to_json(NotFound.unless((await _models(conversations)).get(model), "Model", model)))


def task_answer(body: schemas.CreateCompletion) -> str | None:
    """The answer to a front end's request for a title, tags or the like, which needs no agent; None for all others."""
    content = body.messages[-1].get("content")
    task = _TASK.match(content) if isinstance(content, str) else None
    if task is None:
        return None
    title = task[1].strip().partition("\n")[0].partition(": ")[2][:TITLE_CHARACTERS] or "Chat"
    answers: Json = {"title": title, "tags": [], "follow_ups": [], "queries": [], "text": ""}
    return to_json(answers).decode() if "JSON" in task[0] else title


async def begin_chat(
    conversations: CallerConversations,
    wanted: str | None,
    body: schemas.CreateCompletion,
    chat: str | None,
    ids: TurnIds,
) -> Turn:
    """Begin the turn of the user's last message in the organization ``wanted``. ``chat`` is the client's name for the
    chat. Raises what ``begin`` does.
    """
    not_offered(**body.not_offered())
    given, items = body.messages, parse_items(body.messages, "messages")
    end = next((place for place in range(len(items), 0, -1) if items[place - 1].role == ASSISTANT), 0)
    checked([item.content for item in items])
    new_words(items[end:], None, "messages")  # raises if nothing is new
    previous = await _answered_by(conversations, items[:end], chat) if end else None
    response = schemas.CreateResponse(model=body.model, input=given, metadata=body.metadata)
    if previous is not None:
        response.previous_response_id = f"{RESPONSE}{previous.id}"
        response.input = [item for item in given[:end] if item["role"] in INSTRUCTIONS] + given[end:]
    mark: Json = {"chat": chat, "said": _digest(items)}
    return await begin(conversations, wanted, response, replace(ids, metadata={CHAT: mark}))


async def _answered_by(conversations: CallerConversations, items: Sequence[InputItem], chat: str | None) -> Turn | None:
    """The turn that gave the answer with which ``items`` end."""
    mark = {"said": _digest(items)} if chat is None else {"chat": chat}
    query = Query(LOOKED_THROUGH, metadata={CHAT: mark}, sort="updated")
    for conversation in (await conversations.conversations(query)).items:
        turns = await conversations.turns(conversation.id, limit=1 if chat is None else LOOKED_THROUGH)
        for turn in filter(heard_of, turns):
            text, answer = items[-1].text.split(), (await texts_of(conversations, turn))[CONTENT].split()
            # the client may have only the beginning of a long answer, or add text around it; for a turn without an
            # answer it shows the error, which only the chat's name relates to the turn
            is_around = " ".join(answer) in " ".join(text) and (answer or chat is not None)
            if answer[: len(text)] == text or is_around:
                return turn
    return None


def _digest(items: Sequence[InputItem]) -> str:
    """A digest of all that the user has said."""
    return hashlib.sha256(to_json([item.content for item in items if item.role == USER])).hexdigest()


async def texts_of(conversations: CallerConversations, turn: Turn) -> dict[str, str]:
    """The present texts of a turn, by the field that they belong to."""
    items = await items_of(conversations, Stretch(turn, None), await pending_of(conversations, turn))
    texts = [spoken(item) for item in items]
    return {name: SEPARATOR.join(text for field, text in texts if field == name) for name in (CONTENT, REASONING)}


def spoken(item: Item) -> tuple[str, str]:
    """The field that an item belongs to, and its text there."""
    match item["type"]:
        case "message":
            return CONTENT, text_of(item)
        case "reasoning":
            return REASONING, text_of({"content": item["summary"]})
    return REASONING, f"{item['name']} {item['arguments']}"


class CompletionTeller(HoldingTeller[ResponseEntry]):
    """Makes a completion of a turn, whole or in chunks. An entry is sent when the host has finished writing it."""

    def __init__(self, body: schemas.CreateCompletion, conversations: CallerConversations, turn: Turn) -> None:
        super().__init__(partial(rendered, conversations, turn))
        about: dict[str, Json] = {"id": f"chatcmpl-{turn.id}", "created": int(turn.created), "model": body.model}
        self._about = {**about, "object": "chat.completion.chunk", "usage": None}  # the host does not tell the usage
        self._with_usage = bool((body.stream_options or {}).get("include_usage"))
        self._has_begun = False
        self._said: set[str] = set()

    def whole(self, texts: Mapping[str, str]) -> dict[str, Json]:
        message: Json = {"role": "assistant", "refusal": None, CONTENT: "", **texts}
        choice: Json = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return {**self._about, "object": "chat.completion", "choices": [choice]}

    def begin(self) -> bytes:
        is_first, self._has_begun = not self._has_begun, True
        return self._chunk({"role": "assistant", CONTENT: ""}) if is_first else b""

    def over(self, turn: Turn, pending: Sequence[PendingRequest] = ()) -> bytes:
        last = self._release() + self.say(map(spoken, last_items(turn, pending)))
        error = failure(turn)
        return last + (self.end() if error is None else broken(error))

    def say(self, texts: Iterable[tuple[str, str]]) -> bytes:
        pieces: list[bytes] = []
        for field, text in texts:
            pieces.append(self._chunk({field: SEPARATOR + text if field in self._said else text}))
            self._said.add(field)
        return b"".join(pieces)

    def end(self) -> bytes:
        usage = _data({**self._about, "choices": []}) if self._with_usage else b""
        return self._chunk({}, "stop") + usage + DONE

    def _added(self, entry: ResponseEntry) -> bytes:
        return self.say(map(spoken, entry.items))

    def _chunk(self, delta: Json, finish: str | None = None) -> bytes:
        choice: Json = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return _data({**self._about, "choices": [choice]})


def failure(turn: Turn) -> RunFailed | None:
    """Why a turn that is over has no answer; None if it has one or is not over."""
    if STATUSES[turn.state] == "cancelled":
        return RunFailed("The run was stopped.")
    error = LOST if turn.state is TurnState.UNKNOWN else turn.error
    return RunFailed(error) if STATUSES[turn.state] == "failed" else None


def broken(error: GatewayError) -> bytes:
    """The last chunks of a stream that fails: clients raise the error."""
    return _data(error_fields(error)) + DONE


def _data(fields: Json) -> bytes:
    return b"data: %b\n\n" % to_json(fields)


async def _models(conversations: CallerConversations) -> dict[str, Json]:
    agents = (await conversations.agents(Query(limit=1000, archived=False))).items
    made = [(DEFAULT, 0.0), *((agent.id, agent.created) for agent in agents)]
    return {name: {"id": name, "object": "model", "created": int(at), "owned_by": "codegen"} for name, at in made}
