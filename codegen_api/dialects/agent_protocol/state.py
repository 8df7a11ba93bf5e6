"""The state of a thread: what was said up to some checkpoint, and which checkpoints there are."""

from collections.abc import Mapping, Sequence

from codegen_api.conversations import BEFORE, CallerConversations, Stretch, TurnCheckpoint
from codegen_api.dialects.agent_protocol.events import interrupt
from codegen_api.dialects.agent_protocol.messages import Message, answer, human, said
from codegen_api.runs import Json, Step
from codegen_api.stores import Turn, TurnState
from codegen_api.web import timestamp


async def thread_values(conversations: CallerConversations, thread: str) -> Mapping[str, Json]:
    """All that was said in a thread, by now."""
    return {"messages": await messages_of(conversations, await conversations.path(thread))}


async def turn_values(conversations: CallerConversations, turn: Turn) -> Mapping[str, Json]:
    """All that was said in a thread up to the end of a turn, or up to now."""
    return {"messages": await messages_of(conversations, await _leading_to(conversations, turn))}


async def messages_before(conversations: CallerConversations, turn: Turn) -> list[Message]:
    """What had been said when a turn began."""
    return await messages_of(conversations, (await _leading_to(conversations, turn))[:-1])


async def messages_of(conversations: CallerConversations, stretches: Sequence[Stretch]) -> list[Message]:
    """What was said in these stretches."""
    messages: list[Message] = []
    for stretch in stretches:
        messages += _messages_in(stretch, await conversations.steps(stretch))
    return messages


def _messages_in(stretch: Stretch, steps: Sequence[Step]) -> list[Message]:
    turn = stretch.turn
    messages = [*map(human, turn.messages)]
    for offset, step in enumerate(steps, 1):
        each = said(turn.id, offset, step)
        messages += [message for message in (each.ai, each.tool) if message is not None]
    if stretch.upto is None and turn.answer is not None:
        messages.append(answer(turn.id, turn.answer))
    return messages


async def current_state(conversations: CallerConversations, thread: str) -> Mapping[str, Json]:
    """The state of a thread at its end."""
    latest = await conversations.latest(thread)
    path = await conversations.path(thread)
    if not path:
        return state_fields(thread, None, [], None)
    last = path[-1]
    steps = await conversations.steps(last)
    messages = [*await messages_of(conversations, path[:-1]), *_messages_in(last, steps)]
    others = latest is not None and latest.state.begun and latest.id != last.turn.id
    never_begun = latest if others else None
    return state_fields(thread, last.turn, messages, TurnCheckpoint(last.turn.id, len(steps)), failed=never_begun)


async def state_at(conversations: CallerConversations, thread: str, checkpoint: TurnCheckpoint) -> Mapping[str, Json]:
    """The state of a thread at a checkpoint.

    Raises:
        NotFound: there is no such checkpoint.
    """
    path = await conversations.path(thread, checkpoint)
    turn = await conversations.find_turn(checkpoint.turn)
    return state_fields(thread, turn, await messages_of(conversations, path), checkpoint)


async def history(
    conversations: CallerConversations,
    thread: str,
    *,
    limit: int,
    before: TurnCheckpoint | None = None,
    at: TurnCheckpoint | None = None,
    metadata: Mapping[str, Json] | None = None,
) -> list[Mapping[str, Json]]:
    """The states of a thread, the newest first: those of abandoned branches, too. ``before`` is not among them."""
    await conversations.latest(thread)
    found: list[Mapping[str, Json]] = []
    passed = before is None
    for turn in await conversations.turns(thread):
        if turn.run is None and not turn.state.active:
            continue  # the host never began it
        if at is not None and at.turn != turn.id:
            continue
        if not passed and before is not None and before.turn != turn.id:
            continue
        earlier = await messages_before(conversations, turn)
        steps = await conversations.steps(Stretch(turn, None))
        messages = [*earlier, *map(human, turn.messages)]
        lengths = [len(messages)]  # of what had been said at each checkpoint
        for offset, step in enumerate(steps, 1):
            each = said(turn.id, offset, step)
            messages += [message for message in (each.ai, each.tool) if message is not None]
            lengths.append(len(messages))
        if turn.answer is not None:
            messages.append(answer(turn.id, turn.answer))
            lengths[-1] = len(messages)
        for offset in range(len(lengths) - 1, BEFORE - 1, -1):
            checkpoint = TurnCheckpoint(turn.id, offset)
            if not passed:
                passed = checkpoint == before
                continue
            if at is not None and checkpoint != at:
                continue
            held = earlier if offset == BEFORE else messages[: lengths[offset]]
            state = state_fields(thread, turn, held, checkpoint)
            if not (metadata or {}).items() <= dict(_metadata(thread, turn, checkpoint)).items():
                continue
            found.append(state)
            if len(found) == limit:
                return found
    return found


def state_fields(
    thread: str,
    turn: Turn | None,
    messages: list[Message],
    checkpoint: TurnCheckpoint | None,
    *,
    failed: Turn | None = None,
) -> Mapping[str, Json]:
    """A state as clients know it. ``failed``: a later turn that the host never began."""
    at_end = turn is not None and checkpoint is not None and _is_end(turn, checkpoint)
    waiting = turn is not None and at_end and turn.state is TurnState.WAITING
    interrupts: list[Json] = [interrupt(turn)] if waiting and turn is not None else []
    going_on = turn is not None and not (at_end and not turn.state.active)
    following: list[Json] = []
    if checkpoint is not None and checkpoint.offset == BEFORE:
        following = ["__start__"]
    elif going_on or waiting:
        following = ["agent"]
    if turn is not None and at_end and turn.state in (TurnState.FAILED, TurnState.UNKNOWN):
        failed = failed or turn
    tasks: list[Json] = []
    if turn is not None and (waiting or failed is not None):
        tasks = [
            {
                "id": f"{turn.id}-task",
                "name": "agent",
                "error": None if failed is None else failed.error or "The run has failed.",
                "interrupts": interrupts,
                "checkpoint": None,
                "state": None,
                "result": None,
            }
        ]
    parent = _parent(turn, checkpoint)
    values: dict[str, Json] = {"messages": list(messages)} if checkpoint is not None else {}
    if interrupts:
        values["__interrupt__"] = interrupts
    return {
        "values": values,
        "next": following,
        "tasks": tasks,
        "interrupts": interrupts,
        "metadata": _metadata(thread, turn, checkpoint),
        "created_at": None if turn is None else timestamp(turn.updated if at_end else turn.created),
        "checkpoint": None if checkpoint is None else checkpoint_fields(thread, checkpoint),
        "parent_checkpoint": None if parent is None else checkpoint_fields(thread, parent),
        "checkpoint_id": None if checkpoint is None else str(checkpoint),
        "parent_checkpoint_id": None if parent is None else str(parent),
    }


def checkpoint_fields(thread: str, checkpoint: TurnCheckpoint) -> Json:
    return {"thread_id": thread, "checkpoint_ns": "", "checkpoint_id": str(checkpoint)}


def _metadata(thread: str, turn: Turn | None, checkpoint: TurnCheckpoint | None) -> Mapping[str, Json]:
    if turn is None or checkpoint is None:
        return {"thread_id": thread}
    source = "input" if checkpoint.offset == BEFORE else "loop"
    return {"thread_id": thread, "run_id": turn.id, "source": source, "step": checkpoint.offset}


def _parent(turn: Turn | None, checkpoint: TurnCheckpoint | None) -> TurnCheckpoint | None:
    if turn is None or checkpoint is None:
        return None
    if checkpoint.offset > BEFORE:
        return TurnCheckpoint(turn.id, checkpoint.offset - 1)
    return None if turn.parent is None else TurnCheckpoint.of(turn.parent)


def _is_end(turn: Turn, checkpoint: TurnCheckpoint) -> bool:
    return checkpoint.offset == turn.length and not turn.state.active


async def _leading_to(conversations: CallerConversations, turn: Turn) -> list[Stretch]:
    """The stretches that lead to the end of a turn, its own the last; of one that has not begun, to where its thread
    is.
    """
    if not turn.state.begun:
        return await conversations.path(turn.conversation)
    before: list[Stretch] = []
    if turn.parent is not None:
        before = await conversations.leading_to(TurnCheckpoint.of(turn.parent))
    return [*before, Stretch(turn, None)]
