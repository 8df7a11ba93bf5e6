"""The two generations of clients, each with its own words and ids for the same things. Pure functions.

The older, *nested* family has sessions below their agents in its paths; the present one, *flat*, has them beside. Both
share the agents. Stored ids are UUIDs. The nested family gets them unchanged, the flat one as ``agent_`` or
``session_`` and 32 hexadecimal digits; both forms are accepted everywhere.

An event's id is derived from its *spot*, its place in the session: the number of the turn, the number of the entry, and
the event's place among those of the entry. Nothing is stored for it: every instance computes the same id, and the spot
from an id.

A turn that ends waiting for the user leaves its session ready: the next message is the answer. The status
``waitingfortoolresults`` of the flat family is never used. It tells the client to run a tool and to send the result,
but clients have no tools here, and would find no calls to answer.
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
"""Maximum events of one entry."""

MOST_NUMBER = 1 << 53
"""Numbers below this are exact in every JSON parser."""

_NAMESPACE = uuid.UUID("0b3f2f0e-6f2c-5a55-9d0c-9c1c4c1f6a51")


@dataclass(frozen=True, slots=True)
class Family:
    """``statuses`` are a session's, by its latest turn's state (None: no turn). ``prefixed``: ids name their kind."""

    name: str
    agent_role: str
    statuses: Mapping[TurnState | None, str]
    prefixed: bool

    def id(self, kind: str, stored: str) -> str:
        """The id that these clients get for ``stored``, a UUID."""
        return f"{kind}_{uuid.UUID(stored).hex}" if self.prefixed else stored

    def status(self, latest: Turn | None) -> str:
        """The status of a session. A latest turn that the host never began leaves it ready."""
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
    """The place of an event in its session. Spots have the order in which events are sent."""

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
    """Whether this has the form of the id of a ``kind`` of resource."""
    return _UUID.fullmatch(text.removeprefix(f"{kind}_")) is not None


def stored_id(text: str, kind: str) -> str:
    """The stored id of the ``kind`` of resource that a client names.

    Raises:
        NotFound: this is not such an id.
    """
    if not is_id(text, kind):
        raise NotFound.named(kind.capitalize(), text)
    return str(uuid.UUID(text.removeprefix(f"{kind}_")))


def derived_id(*of: str | int) -> str:
    """An id that is a function of these values."""
    return str(uuid.uuid5(_NAMESPACE, "\n".join(map(str, of))))


def id_for_key(key: str | None, *of: str) -> str:
    """The id of what is created with an ``Idempotency-Key``, the same for a repeat; without a key, a new one.

    Raises:
        InvalidIdempotencyKey: the key is malformed.
    """
    return str(uuid.uuid4()) if key is None else derived_id("key", *of, checked_key(key))


def as_uuid(text: str) -> str:
    """``text`` if it is a UUID, else a UUID derived from it: other dialects have other ids."""
    return str(uuid.UUID(text)) if _UUID.fullmatch(text) else derived_id("other", text)


def event_hex(session: str, spot: Spot) -> str:
    """An event's id: its spot, and a digest of the session's id, each in 16 hexadecimal digits."""
    return f"{spot.number:016x}{_digest(session)}"


def parse_spot(session: str, text: str) -> Spot | None:
    """The spot in an event id of this session, in any of its forms; None if this is no such id."""
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
