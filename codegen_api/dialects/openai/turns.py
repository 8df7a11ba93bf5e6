"""Finds the turn of a response, and begins new ones where the client wants them to continue."""

from collections.abc import Sequence
from dataclasses import replace

from codegen_api.conversations import BEFORE, Ask, CallerConversations, TurnCheckpoint, TurnIds, heard_of, images_of
from codegen_api.dialects import TITLE_CHARACTERS, not_offered, rejected
from codegen_api.dialects.openai.inputs import InputItem, new_words, parse_items
from codegen_api.dialects.openai.items import CONVERSATION, RESPONSE
from codegen_api.dialects.openai.schemas import CreateResponse
from codegen_api.dialects.openai.wire import DEFAULT, OWN, REPEATED, own
from codegen_api.errors import Conflict, NotFound
from codegen_api.runs import Json
from codegen_api.stores import Conversation, Talk, Turn, TurnState
from codegen_api.upstreams import NewRun, require_few_bytes

MOST_LOOKUPS = 20
"""How many turns that the items of an input name are looked up, the last ones."""


async def find_turn(conversations: CallerConversations, response_id: str) -> Turn:
    """The turn of a response, brought up to date, if the caller may see it. Raises ``NotFound`` if there is none."""
    return await conversations.as_it_is(await _turn(conversations, response_id))


async def _turn(conversations: CallerConversations, response_id: str) -> Turn:
    return NotFound.unless(await conversations.turn(response_id.removeprefix(RESPONSE)), "Response", response_id)


async def begin(conversations: CallerConversations, wanted: str | None, body: CreateResponse, ids: TurnIds) -> Turn:
    """Begin the turn of a new response in the organization ``wanted``. Raises ``NotFound`` if the response or
    conversation to continue does not exist, what ``parse_items`` and ``new_words`` do, and what
    ``CallerConversations.begin`` does.
    """
    not_offered(**body.not_offered())
    require_few_bytes(body.metadata)
    if body.previous_response_id is not None and body.conversation is not None:
        what = "Cannot be given together with `conversation`."
        raise rejected(what, "mutually_exclusive", "body", "previous_response_id")
    previous, new = await _last_known(conversations, parse_items(body.input))
    if body.previous_response_id is not None:
        previous = await _turn(conversations, body.previous_response_id)
    words = new_words(new, body.instructions)
    model = None if body.model == DEFAULT else body.model
    agent = None if model is None else await conversations.agent(model)
    agent = None if agent is None or agent.archived else agent
    if body.conversation_id is not None:
        name = body.conversation_id.removeprefix(CONVERSATION)
        talk = NotFound.unless(await conversations.talk(name), "Conversation", body.conversation_id)
        previous = next((turn for turn in talk.turns if heard_of(turn)), None)
    else:
        talk = await _talk(conversations, previous, ids, words.text)
    if words.decisions and (previous is None or previous.state is not TurnState.WAITING):
        raise Conflict("The agent waits for no decision.")
    before = {} if previous is None else own(previous.options)
    kept: dict[str, Json] = {name: value for name in REPEATED if (value := getattr(body, name)) is not None}
    ask = Ask(
        words.messages,
        words.text,
        images_of(*words.messages),
        agent=agent,
        system_prompt=words.instructions,
        checkpoint=None if previous is None or body.conversation_id is not None else behind(previous),
        run=NewRun("", metadata=body.metadata, model=model if agent is None else None),
        fresh=before.get("model", body.model) != body.model,
        options={OWN: kept, **ids.options},
        decisions=words.decisions,
        id=ids.turn,
    )
    if ids.metadata:
        marked = replace(talk.conversation, metadata={**talk.conversation.metadata, **ids.metadata})
        talk = replace(talk, conversation=marked)
    return await conversations.begin(wanted, talk, ask)


async def _last_known(
    conversations: CallerConversations, items: Sequence[InputItem]
) -> tuple[Turn | None, Sequence[InputItem]]:
    """The turn of the last item that the gateway knows, and the items after it. Raises ``NotFound`` for a reference to
    an unknown item.
    """
    looked: dict[str, Turn | None] = {}
    for place in range(len(items), 0, -1):
        item = items[place - 1]
        if item.turn is not None:
            if item.turn not in looked and len(looked) < MOST_LOOKUPS:
                looked[item.turn] = await conversations.turn(item.turn)
            if (turn := looked.get(item.turn)) is not None:
                return turn, items[place:]
        if item.reference is not None:
            raise NotFound.named("Item", item.reference)
    return None, items


async def _talk(conversations: CallerConversations, previous: Turn | None, ids: TurnIds, title: str) -> Talk:
    """The conversation of the previous response, if that is its last turn; else a new one."""
    if previous is not None:
        talk = await conversations.settled_talk(previous.conversation)
        if talk is not None and next((turn.id for turn in talk.turns if heard_of(turn)), None) == previous.id:
            return talk
    now, parent = conversations.clock(), None if previous is None else str(behind(previous))
    made = Conversation(ids.conversation, now, now, title=title[:TITLE_CHARACTERS], parent=parent)
    return await conversations.talk(made.id) or Talk(made)  # stored already if the host refused this request before


def behind(turn: Turn) -> TurnCheckpoint:
    """The place after a turn; before it, if the host never started it."""
    return TurnCheckpoint(turn.id, BEFORE if turn.end is None and turn.state.over else turn.length)
