"""Going on from a checkpoint: in the same session (restore) or in a new one (fork), with what is to be otherwise.

The host knows no checkpoints. It gets a new run, and is told what had been said and done until then; only where a run
is to go on from its very end does the host's run go on, too.
"""

from collections.abc import Mapping, Sequence

from codegen_api.conversations import BEFORE, GO_ON, Ask, TurnCheckpoint, checked, new_id, text_of, with_transcript
from codegen_api.dialects import TITLE_CHARACTERS
from codegen_api.dialects.agio.agents import Agents
from codegen_api.dialects.agio.chat import message_of
from codegen_api.dialects.agio.executions import OWN, user_of
from codegen_api.dialects.agio.run_checkpoints import RunPlace
from codegen_api.dialects.agio.schemas import USER, Fork, Message, Modifications, Restore
from codegen_api.runs import Json, to_json
from codegen_api.stores import Conversation, Turn

SYSTEM = ("system", "developer")
SPEAKERS = {**dict.fromkeys(USER, "User"), "tool": "Tool", "function": "Tool"}


async def restore(agents: Agents, wanted: str | None, place: RunPlace, asked: Restore) -> Mapping[str, Json]:
    """Go on from a place in its own session: with a new run, or with the same one.

    Raises:
        ConversationBusy: something is under way there.
        GatewayError: the host has not begun it.
    """
    session_id = place.run.first.conversation
    turn = await _begin(agents, wanted, place, asked, session_id, same=not asked.create_new_run)
    return _restored(place, turn, None if not asked.create_new_run else turn.id)


async def fork(agents: Agents, wanted: str | None, place: RunPlace, asked: Fork) -> Mapping[str, Json]:
    """Go on from a place in a session of its own.

    Raises:
        Rejected: what is to be otherwise cannot be kept.
        GatewayError: the host has not begun it.
    """
    checked(asked.model_dump())  # or the session would be left behind
    now, first = agents.conversations.clock(), place.run.first
    session = Conversation(
        new_id(),
        now,
        now,
        agent=first.agent,
        title=place.run.query[:TITLE_CHARACTERS],
        parent=str(place.checkpoint),
    )
    await agents.conversations.add_conversation(session)
    turn = await _begin(agents, wanted, place, asked, session.id, same=False)
    return _restored(place, turn, turn.id)


async def _begin(
    agents: Agents,
    wanted: str | None,
    place: RunPlace,
    asked: Fork,
    session_id: str,
    *,
    same: bool,
) -> Turn:
    changes = asked.modifications or Modifications()
    checkpoint, query, system_prompt = place.checkpoint, changes.modified_query, changes.system_prompt
    text = query or ""
    if changes.modified_messages is not None:
        # nothing of what was said before holds any more
        root = (await agents.conversations.leading_to(place.checkpoint))[0].turn
        checkpoint = TurnCheckpoint(root.id, BEFORE)
        said, last = _said(changes.modified_messages)
        query = query or last
        text = with_transcript(said, query)
        system_prompt = system_prompt or _instructions(changes.modified_messages)
    elif text and not place.spoken:
        checkpoint = TurnCheckpoint(place.turn.id, BEFORE)  # said instead of what the user had just said
    own: dict[str, Json] = {"continues": place.run.id} if same else {"query": query or place.run.query}
    if user_of(place.run.first) is not None and not same:
        own["user_id"] = user_of(place.run.first)
    if asked.description is not None:
        own["checkpoints"] = {"0": {"description": asked.description, "tags": []}}
    ask = Ask(
        [message_of(text)] if text else [],
        text,
        agent=await agents.known(place.run.first.agent),
        system_prompt=system_prompt or None,
        checkpoint=checkpoint,
        fresh=not same or bool(system_prompt),
        options={OWN: own},
    )
    return await agents.conversations.begin(wanted or place.turn.organization or None, session_id, ask)


def _restored(place: RunPlace, turn: Turn, new_run_id: str | None) -> Mapping[str, Json]:
    run_id = new_run_id or place.run.id
    return {
        "success": True,
        "message": f"Run '{run_id}' goes on from checkpoint '{place.checkpoint}'",
        "run_id": run_id,
        "new_run_id": new_run_id,
        "session_id": turn.conversation,
        "checkpoint_id": str(place.checkpoint),
    }


def _said(messages: Sequence[Message]) -> tuple[list[tuple[str, str]], str]:
    """Who said what, and the last words of the user behind that."""
    said = [(SPEAKERS.get(each.role, "Assistant"), _text(each)) for each in messages if each.role not in SYSTEM]
    last = said.pop()[1] if said and said[-1][0] == SPEAKERS["user"] else ""
    return said, last if last.strip() else GO_ON


def _instructions(messages: Sequence[Message]) -> str | None:
    return "\n\n".join(_text(each) for each in messages if each.role in SYSTEM) or None


def _text(message: Message) -> str:
    if isinstance(message.content, str | None):
        return message.content or ""
    return text_of({"content": message.content}) or to_json(message.content).decode()
