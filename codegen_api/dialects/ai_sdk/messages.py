"""What was said in a chat, as the client keeps it; and what of that which it sends is new."""

from collections.abc import Mapping, Sequence

from codegen_api.conversations import CallerConversations, Stretch, content_of, new_id, pending_of
from codegen_api.dialects import EMPTY, MOST_SAID, heard_image, rejected, says_nothing
from codegen_api.dialects.ai_sdk.schemas import UiMessage
from codegen_api.dialects.ai_sdk.wire import Part, closed, last_parts, metadata, parts_of
from codegen_api.runs import Json

USER, SYSTEM = "user", "system"


def said_last(messages: Sequence[UiMessage]) -> Mapping[str, Json] | None:
    """What the user said last, as it is kept; None where the last message is not theirs. Raises ``Rejected`` where a
    part of it cannot be told to the host, or nothing is said.
    """
    place = len(messages) - 1
    if place < 0 or messages[place].role != USER:
        return None
    said, where = messages[place], ("body", "messages", place)
    content = [kept for number, part in enumerate(said.parts) for kept in _kept(part, *where, "parts", number)]
    if len(content) > MOST_SAID:
        raise rejected(f"There may be {MOST_SAID} parts at most.", "too_long", *where)
    if all(part["type"] == "text" and says_nothing(str(part["text"])) for part in content):
        raise rejected(EMPTY, "too_short", *where)
    return {"id": said.id or new_id(), "content": content}


def instructions(messages: Sequence[UiMessage]) -> str | None:
    """What the app tells the agent in a message of the system."""
    said = [part.get("text") for message in messages if message.role == SYSTEM for part in message.parts]
    return "\n\n".join(text for text in said if isinstance(text, str) and text.strip()) or None


async def messages_of(conversations: CallerConversations, chat: str) -> list[Json]:
    """All messages of a chat that lead to its end, oldest first."""
    messages: list[Json] = []
    await conversations.latest(chat)  # which finds out how it is now
    for stretch in await conversations.path(chat):
        messages += [_user_message(message) for message in stretch.turn.messages]
        messages.append(await _agent_message(conversations, stretch))
    return messages


async def _agent_message(conversations: CallerConversations, stretch: Stretch) -> Json:
    turn = stretch.turn
    steps = enumerate(await conversations.steps(stretch), 1)
    parts = [part for offset, step in steps for part in parts_of(turn, offset, step)]
    if turn.state.over and stretch.upto is None:
        parts = [closed(part, turn) for part in parts] + last_parts(turn, await pending_of(conversations, turn))
    return {"id": turn.id, "role": "assistant", "metadata": metadata(turn), "parts": parts}


def _user_message(message: Mapping[str, Json]) -> Json:
    return {"id": message.get("id"), "role": USER, "parts": [_shown(part) for part in content_of(message)]}


def _shown(part: Mapping[str, Json]) -> Json:
    if part.get("type") != "image":
        return {"type": "text", "text": part.get("text", "")}
    url = str(part.get("url"))
    return {"type": "file", "mediaType": url[len("data:") :].partition(";")[0], "url": url}


def _kept(part: Part, *where: str | int) -> list[dict[str, Json]]:
    """What is kept of a part: words, and images. What only the page is to show is neither."""
    match part.get("type"):
        case "text" if isinstance(part.get("text"), str):
            return [{"type": "text", "text": part["text"]}]
        case "file":
            return [heard_image(part.get("url"), *where, "url")]
        case str() as kind if kind.startswith("data-") or kind == "step-start":
            return []
    raise rejected("Must be a text or a file.", "content_not_supported", *where)
