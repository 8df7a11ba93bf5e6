"""Pause, resume and cancel. A pause is a stop that means to go on: the run keeps its id, and the host's log its run.

What is already as it was to be is no error. What cannot be is a conflict.
"""

from codegen_api.conversations import Ask, CallerConversations
from codegen_api.dialects.agio.agents import Agents
from codegen_api.dialects.agio.chat import message_of
from codegen_api.dialects.agio.executions import (
    CANCELLED,
    OWN,
    PAUSED,
    RUNNING,
    STARTING,
    Execution,
    find_run,
    is_paused,
    note,
)
from codegen_api.errors import Conflict, ConversationBusy, GatewayError, Unsupported, UpstreamFailure
from codegen_api.stores import TurnState


async def pause(conversations: CallerConversations, run: Execution) -> Execution:
    """The run, paused.

    Raises:
        Unsupported: the host cannot stop a run.
        Conflict: there is nothing to pause any more, or it has not stopped yet.
    """
    _require_stopping(conversations)
    if run.status not in (STARTING, RUNNING, PAUSED):
        raise _refused("pause", run)
    if run.latest.state is TurnState.QUEUED:
        raise Conflict(f"Cannot pause run '{run.id}': it waits for another one.")
    if run.latest.state.active:
        # noted before it is stopped: who sees it stop is to know what that means
        turn = await note(conversations, run.latest.id, paused=True)
        try:
            await _stopped(conversations, run.as_now(turn))
        except UpstreamFailure:
            raise  # it may stop yet
        except GatewayError as error:
            if not isinstance(error, ConversationBusy):
                await note(conversations, turn.id, paused=None)
            raise
        run = await find_run(conversations, run.id)
    if run.status != PAUSED:
        raise _refused("pause", run)
    return run


async def resume(agents: Agents, run: Execution, message: str | None) -> Execution:
    """The run, going on.

    Raises:
        Conflict: it is not paused, or its session has gone on with another run.
        GatewayError: the host has not begun it; it is paused as before.
    """
    if run.status != PAUSED:
        raise _refused("resume", run)
    ask = Ask(
        [] if message is None else [message_of(message)],
        message or "",
        agent=await agents.known(run.first.agent),
        options={OWN: {"continues": run.id}},
    )
    turn = await agents.conversations.begin(run.latest.organization or None, run.first.conversation, ask)
    return Execution((*run.turns, turn))


async def cancel(conversations: CallerConversations, run: Execution) -> Execution:
    """The run, cancelled.

    Raises:
        Unsupported: the host cannot stop a run.
        Conflict: it is over, or has not stopped yet.
    """
    _require_stopping(conversations)
    if run.status not in (STARTING, RUNNING, PAUSED, CANCELLED):
        raise _refused("cancel", run)
    if is_paused(run.latest):
        run = run.as_now(await note(conversations, run.latest.id, paused=None))
    if not run.latest.state.over:
        await _stopped(conversations, run)
    elif run.latest.state is TurnState.WAITING:
        await _stop_waiting(conversations, run)
    run = await find_run(conversations, run.id)
    if run.status != CANCELLED:
        raise _refused("cancel", run)
    return run


async def _stopped(conversations: CallerConversations, run: Execution) -> None:
    turn = await conversations.stop(run.latest, wait=True)
    if turn.state.active:
        raise ConversationBusy("The run was told to stop, and has not ended yet; ask again.")


async def _stop_waiting(conversations: CallerConversations, run: Execution) -> None:
    """Stop a run at the host that waits for its user: the turn is over already, and this is what became of it."""
    await conversations.cancel_run(run.latest)
    await note(conversations, run.latest.id, cancelled=True)


def _require_stopping(conversations: CallerConversations) -> None:
    if not conversations.can_stop:
        raise Unsupported("The host cannot stop a run.")


def _refused(what: str, run: Execution) -> Conflict:
    return Conflict(f"Cannot {what} run '{run.id}': it is {run.status}.")
