"""Chats as front ends have them, that send all of one every time, without ids.

A chat goes on behind the turn that told its last answer: in a conversation with the name that the client has for the
chat, or else in one whose user has said the same before. If there is none, a new run is told what was said.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace

from codegen_api.conversations import CallerConversations, Stretch, TurnIds, checked, heard_of, pending_of, text_of
from codegen_api.conversations.repeats import LOOKED_THROUGH
from codegen_api.dialects import TITLE_CHARACTERS, not_offered
from codegen_api.dialects.openai.inputs import ASSISTANT, INSTRUCTIONS, USER, InputItem, heard, new_words
from codegen_api.dialects.openai.items import RESPONSE, Item
from codegen_api.dialects.openai.schemas import CreateCompletion, CreateResponse
from codegen_api.dialects.openai.streams import items_of
from codegen_api.dialects.openai.turns import begin
from codegen_api.runs import Json, to_json
from codegen_api.stores import Query, Turn

CHAT = "chat_completions"
"""Under this name a conversation's metadata has the client's name for the chat, and what its user has said."""

CONTENT, REASONING, SEPARATOR = "content", "reasoning_content", "\n\n"
"""The fields of an answer, and what is between two texts in one."""

_TASK = re.compile(r"\s*(?:### Task:.*<chat_history>|Provide a concise, 5-word-or-less title .*?:\n)(.*)", re.DOTALL)
"""What Open WebUI and LibreChat ask for beside a chat, which is in it. Other tasks are what a user says."""


def task_answer(body: CreateCompletion) -> str | None:
    """The answer to a front end that asks for a title, tags or the like, for which no agent is needed; else None."""
    content = body.messages[-1].get("content")
    task = _TASK.match(content) if isinstance(content, str) else None
    if task is None:
        return None
    title = task[1].strip().partition("\n")[0].partition(": ")[2][:TITLE_CHARACTERS] or "Chat"
    answers: Json = {"title": title, "tags": [], "follow_ups": [], "queries": [], "text": ""}
    return to_json(answers).decode() if "JSON" in task[0] else title


async def begin_chat(
    conversations: CallerConversations, wanted: str | None, body: CreateCompletion, chat: str | None, ids: TurnIds
) -> Turn:
    """The turn of what the user says last. ``wanted`` is the organization, ``chat`` the client's name for the chat.
    Raises what ``begin`` does.
    """
    not_offered(**body.not_offered())
    given, items = body.messages, heard(body.messages, "messages")
    end = next((place for place in range(len(items), 0, -1) if items[place - 1].role == ASSISTANT), 0)
    checked([item.content for item in items])
    new_words(items[end:], None, "messages")  # else there is nothing new to be told
    previous = await _teller_of(conversations, items[:end], chat) if end else None
    response = CreateResponse(model=body.model, input=given, metadata=body.metadata)
    if previous is not None:
        response.previous_response_id = f"{RESPONSE}{previous.id}"
        response.input = [item for item in given[:end] if item["role"] in INSTRUCTIONS] + given[end:]
    mark: Json = {"chat": chat, "said": _digest(items)}
    return await begin(conversations, wanted, response, replace(ids, metadata={CHAT: mark}))


async def _teller_of(conversations: CallerConversations, items: Sequence[InputItem], chat: str | None) -> Turn | None:
    """The turn that told the answer with which ``items`` end."""
    mark = {"said": _digest(items)} if chat is None else {"chat": chat}
    query = Query(LOOKED_THROUGH, metadata={CHAT: mark}, sort="updated")
    for conversation in (await conversations.conversations(query)).items:
        turns = await conversations.turns(conversation.id, limit=1 if chat is None else LOOKED_THROUGH)
        for turn in filter(heard_of, turns):
            text, answer = items[-1].text.split(), (await told(conversations, turn))[CONTENT].split()
            # of a long answer the client may have the beginning, and of a whole one more around it; if there was none,
            # it shows why, and only the name of the chat tells whose that is
            is_around = " ".join(answer) in " ".join(text) and (answer or chat is not None)
            if answer[: len(text)] == text or is_around:
                return turn
    return None


def _digest(items: Sequence[InputItem]) -> str:
    """Of all that the user has said."""
    return hashlib.sha256(to_json([item.content for item in items if item.role == USER])).hexdigest()


async def told(conversations: CallerConversations, turn: Turn) -> dict[str, str]:
    """All that has come of a turn by now, by the field that it belongs to."""
    items = await items_of(conversations, Stretch(turn, None), await pending_of(conversations, turn))
    texts = [spoken(item) for item in items]
    return {name: SEPARATOR.join(text for field, text in texts if field == name) for name in (CONTENT, REASONING)}


def spoken(item: Item) -> tuple[str, str]:
    """The field that an item belongs to, and what it says there."""
    match item["type"]:
        case "message":
            return CONTENT, text_of(item)
        case "reasoning":
            return REASONING, text_of({"content": item["summary"]})
    return REASONING, f"{item['name']} {item['arguments']}"
