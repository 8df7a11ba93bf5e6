"""What the run of a turn waits for."""

from collections.abc import Sequence

from codegen_api.conversations.conversations import CallerConversations
from codegen_api.errors import Unsupported
from codegen_api.stores import Turn, TurnState
from codegen_api.upstreams import PendingRequest


async def pending_of(conversations: CallerConversations, turn: Turn) -> Sequence[PendingRequest]:
    """What the run of a turn waits for, oldest first. Nothing where the host does not say so, and for a turn that is
    not the last of its conversation: what it waited for was decided.
    """
    if turn.state is not TurnState.WAITING or turn.run is None:
        return ()
    _, latest = (await conversations.ends([turn.conversation])).get(turn.conversation, (None, None))
    if latest is None or latest.id != turn.id:
        return ()
    try:
        return await conversations.shared.gateway.pending(conversations.caller, turn.run.organization, turn.run.id)
    except Unsupported:
        return ()
