"""What the run of a turn waits for."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from codegen_api.errors import Unsupported
from codegen_api.gateway import Gateway
from codegen_api.identity import Caller
from codegen_api.runs import RunRef
from codegen_api.stores import Turn, TurnState
from codegen_api.upstreams import PendingRequest

if TYPE_CHECKING:  # they plan with this
    from codegen_api.conversations.conversations import CallerConversations


async def pending_of(conversations: "CallerConversations", turn: Turn) -> Sequence[PendingRequest]:
    """What the run of a turn waits for, oldest first. Nothing where the host does not say so, and for a turn that is
    not the last of its conversation: what it waited for was decided.
    """
    if turn.state is not TurnState.WAITING or turn.run is None:
        return ()
    _, latest = (await conversations.ends([turn.conversation])).get(turn.conversation, (None, None))
    if latest is None or latest.id != turn.id:
        return ()
    return await pending_in(conversations.shared.gateway, conversations.caller, turn.run)


async def pending_in(gateway: Gateway, caller: Caller, ref: RunRef) -> Sequence[PendingRequest]:
    """What a run that waits waits for, oldest first. Nothing where the host does not say so."""
    try:
        return await gateway.pending(caller, ref.organization, ref.id)
    except Unsupported:
        return ()
