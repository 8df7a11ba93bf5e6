"""The states of a thread: the messages up to each of its checkpoints."""

from collections.abc import Mapping, Sequence
from itertools import chain

from codegen_api.conversations import BEFORE, CallerConversations, Stretch, TurnCheckpoint, parent_of, pending_of
from codegen_api.dialects.agent_protocol.messages import (
    Message,
    answer_message,
    entry_messages,
    human_message,
    interrupts,
)
from codegen_api.dialects.agent_protocol.wire import task_id
from codegen_api.http.web import timestamp
from codegen_api.runs import Json, Step
from codegen_api.stores import Turn, TurnState
from codegen_api.upstreams import PendingRequest


async def turn_values(conversations: CallerConversations, turn: Turn) -> Mapping[str, Json]:
    """The values of a thread at the end of a turn, or now: all messages up to there."""
    return {"messages": await messages_of(conversations, await _stretches_to(conversations, turn))}


async def messages_before(conversations: CallerConversations, turn: Turn) -> list[Message]:
    """The messages of a thread before a turn."""
    return await messages_of(conversations, (await _stretches_to(conversations, turn))[:-1])


async def messages_of(conversations: CallerConversations, stretches: Sequence[Stretch]) -> list[Message]:
    """The messages in these stretches."""
    messages: list[Message] = []
    for stretch in stretches:
        messages += chain(*_portions(stretch, await conversations.steps(stretch)))
    return messages


def _portions(stretch: Stretch, steps: Sequence[Step]) -> list[list[Message]]:
    """The new messages at each checkpoint of a turn: the user's, then those of each entry."""
    turn = stretch.turn
    portions = [[*map(human_message, turn.messages)]]
    portions += ([*filter(None, entry_messages(turn, offset, step))] for offset, step in enumerate(steps, 1))
    if stretch.upto is None and turn.answer is not None:
        portions[-1].append(answer_message(turn.id, turn.answer))
    return portions


async def current_state(conversations: CallerConversations, thread: str) -> Mapping[str, Json]:
    """The state of a thread at its end."""
    latest = await conversations.latest(thread)
    path = await conversations.path(thread)
    if not path:
        return _empty_state(thread)
    last = path[-1]
    steps = await conversations.steps(last)
    messages = [*await messages_of(conversations, path[:-1]), *chain(*_portions(last, steps))]
    never_begun = latest if latest is not None and latest.state.begun and latest.id != last.turn.id else None
    checkpoint = TurnCheckpoint(last.turn.id, len(steps))
    pending = await pending_of(conversations, last.turn)
    return state_fields(thread, last.turn, messages, checkpoint, pending, failed=never_begun)


async def state_at(conversations: CallerConversations, thread: str, checkpoint: TurnCheckpoint) -> Mapping[str, Json]:
    """The state of a thread at a checkpoint.

    Raises:
        NotFound: there is no such checkpoint.
    """
    path = await conversations.path(thread, checkpoint)
    turn = await conversations.find_turn(checkpoint.turn)
    pending = await pending_of(conversations, turn) if _is_end(turn, checkpoint) else ()
    return state_fields(thread, turn, await messages_of(conversations, path), checkpoint, pending)


async def history(
    conversations: CallerConversations,
    thread: str,
    *,
    limit: int,
    before: TurnCheckpoint | None,
    at: TurnCheckpoint | None,
    metadata: Mapping[str, Json],
) -> list[Mapping[str, Json]]:
    """The states of a thread, newest first, with those of abandoned branches. ``before`` itself is left out."""
    await conversations.latest(thread)
    states: list[Mapping[str, Json]] = []
    passed = before is None
    for turn in await conversations.turns(thread):
        if turn.run is None and not turn.state.active:
            continue  # the host never began it
        if not passed and before is not None and before.turn != turn.id:
            continue
        if at is not None and at.turn != turn.id:
            passed = True
            continue
        earlier, pending = await messages_before(conversations, turn), await pending_of(conversations, turn)
        whole = Stretch(turn, None)
        portions = [earlier, *_portions(whole, await conversations.steps(whole))]
        for offset in range(len(portions) + BEFORE - 1, BEFORE - 1, -1):
            checkpoint = TurnCheckpoint(turn.id, offset)
            if not passed:
                passed = checkpoint == before
                continue
            if at is not None and checkpoint != at:
                continue
            if not metadata.items() <= _metadata(thread, turn, checkpoint).items():
                continue
            messages = [*chain(*portions[: offset - BEFORE + 1])]
            states.append(state_fields(thread, turn, messages, checkpoint, pending))
            if len(states) == limit:
                return states
    return states


def state_fields(
    thread: str,
    turn: Turn,
    messages: list[Message],
    checkpoint: TurnCheckpoint,
    pending: Sequence[PendingRequest] = (),
    *,
    failed: Turn | None = None,
) -> Mapping[str, Json]:
    """A state as clients know it. ``pending``: what the turn waits for at its end. ``failed``: a later turn that the
    host never began.
    """
    at_end = _is_end(turn, checkpoint)
    waits_for = interrupts(turn, pending) if at_end and turn.state is TurnState.WAITING else []
    next_nodes: list[Json] = [] if at_end and not waits_for else ["agent"]
    if checkpoint.offset == BEFORE:
        next_nodes = ["__start__"]
    if at_end and turn.state in (TurnState.FAILED, TurnState.UNKNOWN):
        failed = failed or turn
    tasks: list[Json] = []
    if waits_for or failed is not None:
        tasks = [
            {
                "id": task_id(turn),
                "name": "agent",
                "error": None if failed is None else failed.error or "The run has failed.",
                "interrupts": waits_for,
                "checkpoint": None,
                "state": None,
                "result": None,
            }
        ]
    values: dict[str, Json] = {"messages": list(messages)}
    if waits_for:
        values["__interrupt__"] = waits_for
    parent = TurnCheckpoint(turn.id, checkpoint.offset - 1) if checkpoint.offset > BEFORE else parent_of(turn)
    return {
        "values": values,
        "next": next_nodes,
        "tasks": tasks,
        "interrupts": waits_for,
        "metadata": _metadata(thread, turn, checkpoint),
        "created_at": timestamp(turn.updated if at_end else turn.created),
        "checkpoint": checkpoint_fields(thread, checkpoint),
        "parent_checkpoint": None if parent is None else checkpoint_fields(thread, parent),
        "checkpoint_id": str(checkpoint),
        "parent_checkpoint_id": None if parent is None else str(parent),
    }


def _empty_state(thread: str) -> Mapping[str, Json]:
    """The state of a thread without messages."""
    nothing = dict.fromkeys(("created_at", "checkpoint", "parent_checkpoint", "checkpoint_id", "parent_checkpoint_id"))
    return {"values": {}, "next": [], "tasks": [], "interrupts": [], "metadata": {"thread_id": thread}, **nothing}


def checkpoint_fields(thread: str, checkpoint: TurnCheckpoint) -> Json:
    return {"thread_id": thread, "checkpoint_ns": "", "checkpoint_id": str(checkpoint)}


def _metadata(thread: str, turn: Turn, checkpoint: TurnCheckpoint) -> Mapping[str, Json]:
    source = "input" if checkpoint.offset == BEFORE else "loop"
    return {"thread_id": thread, "run_id": turn.id, "source": source, "step": checkpoint.offset}


def _is_end(turn: Turn, checkpoint: TurnCheckpoint) -> bool:
    return checkpoint.offset == turn.length and not turn.state.active


async def _stretches_to(conversations: CallerConversations, turn: Turn) -> list[Stretch]:
    """The stretches up to the end of a turn, its own the last. Those of its whole thread, if it has not begun."""
    if not turn.state.begun:
        return await conversations.path(turn.conversation)
    parent = parent_of(turn)
    before = [] if parent is None else await conversations.leading_to(parent, turn.conversation)
    return [*before, Stretch(turn, None)]
