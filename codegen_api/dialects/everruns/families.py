"""The two generations of clients, each with words and ids of its own for the same things. Pure functions.

The *nested* family has its sessions below their agents; the present one, *flat*, has them beside. What they share is
the agents. What is kept has UUIDs. The nested family knows them as they are, the flat one as ``agent_`` or ``session_``
and 32 hexadecimal digits; either is understood everywhere.

An event's id is made of its *spot*, its place in its session: the number of the turn, the entry of its log, and the
place among what the entry amounts to. Nothing is stored for it, so every instance gives an event the same id and every
id leads back.

A turn at whose end the host waits for its user leaves a session ready: the next message is the answer. The present
generation has the word ``waitingfortoolresults``, and no session here is ever that: it says that the client is to run a
tool and send what came of it, and clients have no tools here. Who waited for calls to answer would find none.
"""

import hashlib
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from codegen_api.conversations import heard_of
from codegen_api.errors import NotFound
from codegen_api.idempotency.keys import checked_key
from codegen_api.stores import Turn, TurnState

_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}|[0-9a-fA-F]{32}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,16}", re.ASCII)

PLACES_BITS, OFFSET_BITS = 15, 21
MOST_PLACES = 1 << PLACES_BITS
"""Events of one entry."""

MOST_NUMBER = 1 << 53
"""Every reader of JSON can hold the numbers below this."""

_NAMESPACE = uuid.UUID("0b3f2f0e-6f2c-5a55-9d0c-9c1c4c1f6a51")


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


# -- ids --------------------------------------------------------------------------------------------------------------


class Spot(NamedTuple):
    """The place of an event in its session; spots are in the order in which events are told."""

    turn: int
    offset: int
    place: int

    @property
    def number(self) -> int:
        """The spot as one number, in the same order."""
        return (self.turn << OFFSET_BITS | self.offset) << PLACES_BITS | self.place

    @classmethod
    def of(cls, number: int) -> "Spot":
        rest, place = divmod(number, MOST_PLACES)
        turn, offset = divmod(rest, 1 << OFFSET_BITS)
        return cls(turn, offset, place)


START = Spot(0, 0, 0)
"""Before all events."""


def is_id(text: str, kind: str) -> bool:
    """Whether a client can mean a ``kind`` of thing by this as an id."""
    return _UUID.fullmatch(text.removeprefix(f"{kind}_")) is not None


def kept_id(text: str, kind: str) -> str:
    """The id under which the ``kind`` of thing is kept that a client calls this.

    Raises:
        NotFound: there can be no such thing.
    """
    if not is_id(text, kind):
        raise NotFound.named(kind.capitalize(), text)
    return str(uuid.UUID(text.removeprefix(f"{kind}_")))


def derived_id(*of: str | int) -> str:
    """An id that is made of others: the same wherever it is made."""
    return str(uuid.uuid5(_NAMESPACE, "\n".join(map(str, of))))


def id_for(key: str | None, *of: str) -> str:
    """The id of what is made with an ``Idempotency-Key``, under which a repeat finds it; a new one without a key.

    Raises:
        InvalidIdempotencyKey: it cannot be one.
    """
    return str(uuid.uuid4()) if key is None else derived_id("key", *of, checked_key(key))


def as_uuid(text: str) -> str:
    """``text`` if it is the id of something that we keep, else an id made of it: other dialects know other ids."""
    return str(uuid.UUID(text)) if _UUID.fullmatch(text) else derived_id("other", text)


def event_hex(session: str, spot: Spot) -> str:
    """An event's id: the spot, and what stands for the session, each in 16 hexadecimal digits."""
    return f"{spot.number:016x}{_digest(session)}"


def spot_of(session: str, text: str) -> Spot | None:
    """Where the event of this session is that has this id, in any of its forms; None when it can have none."""
    if _NUMBER.fullmatch(text):
        number = int(text)
    else:
        bare = text.removeprefix("event_")
        digits = bare.replace("-", "").lower()
        if not _UUID.fullmatch(bare) or digits[16:] != _digest(session):
            return None
        number = int(digits[:16], 16)
    return Spot.of(number) if number < MOST_NUMBER else None


def _digest(session: str) -> str:
    return hashlib.sha256(session.encode()).hexdigest()[:16]
