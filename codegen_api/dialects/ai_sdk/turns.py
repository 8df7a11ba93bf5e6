"""Which turn a client means that sends its messages: one that there is, or a new one."""

from collections.abc import Mapping, Sequence

from codegen_api.conversations import (
    BEFORE,
    Ask,
    CallerConversations,
    TurnCheckpoint,
    checked,
    heard_of,
    images_of,
    said_ids,
    text_of,
)
from codegen_api.dialects import TITLE_CHARACTERS, rejected
from codegen_api.dialects.ai_sdk.messages import instructions, said_last
from codegen_api.dialects.ai_sdk.schemas import SendMessages
from codegen_api.errors import Conflict, ConversationBusy, NotFound
from codegen_api.runs import Json
from codegen_api.stores import Agent, Conversation, Turn, TurnState
from codegen_api.upstreams import Decision, NewRun, require_few_bytes

REGENERATE = "regenerate-message"


async def turn_for(conversations: CallerConversations, wanted: str | None, body: SendMessages) -> Turn:
    """The turn of what the user said last. It is begun if that is new; ``wanted`` is the organization. Raises
    ``Conflict`` where nothing is to be said again or decided, and what ``CallerConversations.begin`` does.
    """
    said = said_last(body.messages)
    checked([body.id, said])
    require_few_bytes(body.metadata)
    known = await _turns(conversations, body.id)
    again = _to_say_again(body, said, known) if body.trigger == REGENERATE else None
    if again is None and (turn := _turn_of(said, known)) is not None:
        if said in turn.messages:
            return await _as_it_is(conversations, turn)
        again = turn  # its message was edited
    if said is None and again is None:
        _require_more(body, known)
    try:
        return await conversations.begin(wanted, body.id, await _ask(conversations, body, said, again, known))
    except ConversationBusy:  # perhaps with this very message, sent twice
        turn = None if body.trigger == REGENERATE else _turn_of(said, await _turns(conversations, body.id))
        if turn is None or said not in turn.messages:
            raise
        return await _as_it_is(conversations, turn)


async def _ask(
    conversations: CallerConversations,
    body: SendMessages,
    said: Mapping[str, Json] | None,
    again: Turn | None,
    known: Sequence[Turn],
) -> Ask:
    messages = [said] if said is not None else [] if again is None else list(again.messages)
    text = "\n\n".join(map(text_of, messages))
    agent = await _agent(conversations, body, text)
    return Ask(
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


async def _agent(conversations: CallerConversations, body: SendMessages, title: str) -> Agent | None:
    """With whom the chat is, which is made if it is not there. Raises ``NotFound``: there is no such agent."""
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
    """Those of which the host may have heard, newest first."""
    return [turn for turn in await conversations.turns(chat) if heard_of(turn)]


def _turn_of(said: Mapping[str, Json] | None, known: Sequence[Turn]) -> Turn | None:
    """The latest turn in which something was said under the same id."""
    return next((turn for turn in known if said is not None and said["id"] in said_ids([turn])), None)


def _to_say_again(body: SendMessages, said: Mapping[str, Json] | None, known: Sequence[Turn]) -> Turn:
    """The turn whose answer is to be another one."""
    named = next((turn for turn in known if turn.id == body.messageId), None)
    turn = named or _turn_of(said, known)
    if turn is None:
        raise Conflict("There is no such message to be said again.")
    return turn


def _require_more(body: SendMessages, known: Sequence[Turn]) -> None:
    """There is nothing new in the messages: then the agent is to go on, or somebody has decided something."""
    if not body.messages or not known:
        raise rejected("The last one must be the user's.", "no_user_message", "body", "messages")
    if body.decisions and known[0].state is not TurnState.WAITING:
        raise Conflict("The agent waits for no decision.")


async def _as_it_is(conversations: CallerConversations, turn: Turn) -> Turn:
    await conversations.require_right(turn)
    return await conversations.find_turn(turn.id)
