"""The messages of a chat in the client's form, and the turn that a client's request begins or repeats."""

from collections.abc import Mapping, Sequence

from codegen_api.conversations import Ask, CallerConversations, checked, new_id, pending_of
from codegen_api.conversations.checkpoints import BEFORE, Stretch, TurnCheckpoint
from codegen_api.conversations.prompts import content_of, images_of, text_of
from codegen_api.conversations.repeats import heard_of, said_ids
from codegen_api.dialects import EMPTY, MAX_ITEMS, TITLE_CHARACTERS, heard_image, is_blank, rejected
from codegen_api.dialects.ai_sdk.schemas import SendMessages, UiMessage
from codegen_api.dialects.ai_sdk.wire import Part, closed, last_parts, metadata, parts_of
from codegen_api.errors import Conflict, ConversationBusy, NotFound
from codegen_api.runs import Json
from codegen_api.stores import Agent, Conversation, Turn, TurnState
from codegen_api.upstreams import Decision, NewRun, require_few_bytes

REGENERATE = "regenerate-message"
USER, SYSTEM = "user", "system"


async def turn_for(conversations: CallerConversations, wanted: str | None, body: SendMessages) -> Turn:
    """The turn of the user's last message, which is begun if that is new, in the organization ``wanted``. Raises
    ``Conflict`` if there is nothing to regenerate or to decide, and what ``CallerConversations.begin`` does.
    """
    said = said_last(body.messages)
    checked([body.id, said])
    require_few_bytes(body.metadata)
    known = await _turns(conversations, body.id)
    again = _turn_of(said, known)
    if body.trigger == REGENERATE:
        again = next((turn for turn in known if turn.id == body.messageId), again)
        if again is None:
            raise Conflict("There is no such message to be said again.")
    elif again is not None and said in again.messages:  # otherwise the message was edited
        return await conversations.as_it_is(again)
    if said is None and again is None:  # a decision, or a request to go on
        if not body.messages or not known:
            raise rejected("The last one must be the user's.", "no_user_message", "body", "messages")
        if body.decisions and known[0].state is not TurnState.WAITING:
            raise Conflict("The agent waits for no decision.")
    messages = [said] if said is not None else [] if again is None else list(again.messages)
    text = "\n\n".join(map(text_of, messages))
    agent = await _agent(conversations, body, text)
    ask = Ask(
        messages,
        text,
        images_of(*messages),
        agent=agent,
        system_prompt=instructions(body.messages),
        checkpoint=None if again is None else TurnCheckpoint(again.id, BEFORE),
        if_busy=body.if_busy,
        run=NewRun("", metadata=body.metadata, model=body.model),
        fresh=bool(known) and agent is not None and known[0].agent != agent.id,
        decisions=[(made.id, Decision(made.verdict, made.text)) for made in body.decisions],
    )
    try:
        return await conversations.begin(wanted, body.id, ask)
    except ConversationBusy:  # perhaps because of this very message, sent twice
        turn = None if body.trigger == REGENERATE else _turn_of(said, await _turns(conversations, body.id))
        if turn is None or said not in turn.messages:
            raise
        return await conversations.as_it_is(turn)


async def _agent(conversations: CallerConversations, body: SendMessages, title: str) -> Agent | None:
    """The agent of a chat, which is created if it does not exist. Raises ``NotFound`` if there is no such agent."""
    named = None
    if body.agent_id is not None:
        named = NotFound.unless(await conversations.agent(body.agent_id), "Agent", body.agent_id)
    now = conversations.clock()
    chat = Conversation(body.id, now, now, agent=body.agent_id, title=title[:TITLE_CHARACTERS])
    if await conversations.add_conversation(chat) or named is not None:
        return named
    kept = await conversations.conversation(body.id)
    return None if kept is None or kept.agent is None else await conversations.agent(kept.agent)


async def _turns(conversations: CallerConversations, chat: str) -> list[Turn]:
    """The turns of a chat that the host may have received, newest first."""
    return [turn for turn in await conversations.turns(chat) if heard_of(turn)]


def _turn_of(said: Mapping[str, Json] | None, known: Sequence[Turn]) -> Turn | None:
    """The latest turn with a message of the same id."""
    return next((turn for turn in known if said is not None and said["id"] in said_ids([turn])), None)


def said_last(messages: Sequence[UiMessage]) -> Mapping[str, Json] | None:
    """The user's last message, as it is stored; None if the last message is not theirs. Raises ``Rejected`` if it is
    empty, or has a part that cannot be sent to the host.
    """
    place = len(messages) - 1
    if place < 0 or messages[place].role != USER:
        return None
    said, where = messages[place], ("body", "messages", place)
    content = [kept for number, part in enumerate(said.parts) for kept in _kept(part, *where, "parts", number)]
    if len(content) > MAX_ITEMS:
        raise rejected(f"There may be {MAX_ITEMS} parts at most.", "too_long", *where)
    if all(part["type"] == "text" and is_blank(str(part["text"])) for part in content):
        raise rejected(EMPTY, "too_short", *where)
    return {"id": said.id or new_id(), "content": content}


def instructions(messages: Sequence[UiMessage]) -> str | None:
    """The texts of the app's system messages."""
    said = [part.get("text") for message in messages if message.role == SYSTEM for part in message.parts]
    return "\n\n".join(text for text in said if isinstance(text, str) and text.strip()) or None


async def messages_of(conversations: CallerConversations, chat: str) -> list[Json]:
    """All messages of a chat that lead to its end, oldest first."""
    messages: list[Json] = []
    await conversations.latest(chat)  # brings it up to date
    for stretch in await conversations.path(chat):
        said = stretch.turn.messages
        messages += [{"id": each.get("id"), "role": USER, "parts": [*map(_shown, content_of(each))]} for each in said]
        messages.append(await _agent_message(conversations, stretch))
    return messages


async def _agent_message(conversations: CallerConversations, stretch: Stretch) -> Json:
    turn = stretch.turn
    steps = await conversations.steps(stretch)
    parts = [part for offset, step in enumerate(steps, 1) for part in parts_of(turn, offset, step)]
    if turn.state.over and stretch.upto is None:
        parts = [closed(part, turn) for part in parts] + last_parts(turn, await pending_of(conversations, turn))
    return {"id": turn.id, "role": "assistant", "metadata": metadata(turn), "parts": parts}


def _shown(part: Mapping[str, Json]) -> Json:
    if part.get("type") != "image":
        return {"type": "text", "text": part.get("text", "")}
    url = str(part.get("url"))
    return {"type": "file", "mediaType": url[len("data:") :].partition(";")[0], "url": url}


def _kept(part: Part, *where: str | int) -> list[dict[str, Json]]:
    """What is stored of a part: texts and images. Parts that only the page shows are left out."""
    match part.get("type"):
        case "text" if isinstance(part.get("text"), str):
            return [{"type": "text", "text": part["text"]}]
        case "file":
            return [heard_image(part.get("url"), *where, "url")]
        case str() as kind if kind.startswith("data-") or kind == "step-start":
            return []
    raise rejected("Must be a text or a file.", "content_not_supported", *where)
