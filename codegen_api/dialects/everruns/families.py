"""The two generations of clients, each with words of its own for the same things.

The *nested* family has its sessions below their agents; the present one, *flat*, has them beside. What they share is
the agents.

A turn at whose end the host waits for its user leaves a session ready: the next message is the answer. The present
generation has the word ``waitingfortoolresults``, and no session here is ever that: it says that the client is to run a
tool and send what came of it, and clients have no tools here. Who waited for calls to answer would find none.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from codegen_api.conversations import heard_of
from codegen_api.stores import Turn, TurnState


@dataclass(frozen=True, slots=True)
class Family:
    """``statuses`` are a session's, by its latest turn (None: there is none). ``prefixed``: ids say what of."""

    name: str
    agent_role: str
    statuses: Mapping[TurnState | None, str]
    prefixed: bool

    def id(self, kind: str, kept: str) -> str:
        """An id as these clients know it. ``kept`` is a UUID."""
        return f"{kind}_{uuid.UUID(kept).hex}" if self.prefixed else kept

    def status(self, latest: Turn | None) -> str:
        """What a session is. A turn that the host never began leaves it as ready as it was."""
        if latest is not None and not heard_of(latest):
            return self.statuses[TurnState.COMPLETED]
        return self.statuses[None if latest is None else latest.state]


_UNDER_WAY = (TurnState.QUEUED, TurnState.STARTING, TurnState.RUNNING)

NESTED = Family(
    "nested",
    "assistant",
    {
        **dict.fromkeys((None, *TurnState), "pending"),
        **dict.fromkeys(_UNDER_WAY, "running"),
        **dict.fromkeys((TurnState.FAILED, TurnState.UNKNOWN), "failed"),
    },
    prefixed=False,
)

FLAT = Family(
    "flat",
    "agent",
    {None: "started", **dict.fromkeys(TurnState, "idle"), **dict.fromkeys(_UNDER_WAY, "active")},
    prefixed=True,
)
