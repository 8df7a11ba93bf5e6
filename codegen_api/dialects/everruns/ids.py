"""Ids as clients see them and as they are kept, and where in a session an event has its place. Pure functions.

What is kept has UUIDs. An older generation of clients knows them as they are, the present one as ``agent_`` or
``session_`` and 32 hexadecimal digits; either is understood everywhere.

A *spot* is the place of an event in its session: the number of the turn, the entry of its log, and the place among what
the entry amounts to. Nothing is stored for it, so every instance gives an event the same id and every id leads back.
"""

import hashlib
import re
import uuid
from typing import NamedTuple

from codegen_api.errors import NotFound
from codegen_api.idempotency.keys import checked_key

_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}|[0-9a-fA-F]{32}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,16}", re.ASCII)

PLACES_BITS, OFFSET_BITS = 15, 21
MOST_PLACES = 1 << PLACES_BITS
"""Events of one entry."""

MOST_NUMBER = 1 << 53
"""Every reader of JSON can hold the numbers below this."""

_NAMESPACE = uuid.UUID("0b3f2f0e-6f2c-5a55-9d0c-9c1c4c1f6a51")


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
