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

_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}|[0-9a-fA-F]{32}", re.ASCII)
_NUMBER = re.compile(r"([0-9]{1,16})(?:\.([0-9a-f]{1,5})\.([0-9]{1,4}))?", re.ASCII)

PLACES_BITS, OFFSET_BITS = 8, 24
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

MOST_OWED = 20
"""So far back outputs are waited for: logs are not read again further back."""

_ALL_OWED = (1 << MOST_OWED) - 1
_MOST_AGAIN = 1 << 10
_MORE = 1 << 63
"""Where an id says more than a spot."""


class Reached(NamedTuple):
    """What a listener has: everything up to a spot, but for what came of the entries of its turn in ``owed``; and what
    was told ``again`` behind it, so often.
    """

    spot: Spot
    owed: tuple[int, ...] = ()
    again: int = 0

    @property
    def _bits(self) -> int:
        """Which of the last entries are in ``owed``."""
        return sum(1 << back for back in (self.spot.offset - each for each in self.owed) if 0 <= back < MOST_OWED)

    def hex(self, session: str) -> str:
        """As the id of an event: its spot, and what stands for the session, each in 16 hexadecimal digits; where there
        is more to be said, in the place of their first bits.
        """
        if not self.owed and not self.again:
            return event_hex(session, self.spot)
        first = _MORE | self.again % _MOST_AGAIN << 53 | self.spot.number
        return f"{first:016x}{self._bits:05x}{_digest(session)[5:]}"

    @property
    def number(self) -> str:
        """As the generation knows it that counts events."""
        more = f".{self._bits:x}.{self.again % _MOST_AGAIN}" if self.owed or self.again else ""
        return f"{self.spot.number}{more}"

    @classmethod
    def of(cls, number: int, owed: int = 0, again: int = 0) -> "Reached | None":
        """What an id says in its numbers; None when there can be no such event."""
        if number >= MOST_NUMBER:
            return None
        spot = Spot.of(number)
        back = [each for each in range(MOST_OWED) if owed >> each & 1 and spot.offset > each]
        return cls(spot, tuple(spot.offset - each for each in reversed(back)), again)


def kept_id(text: str, kind: str) -> str:
    """The id under which the ``kind`` of thing is kept that a client calls this.

    Raises:
        NotFound: there can be no such thing.
    """
    bare = text.removeprefix(f"{kind}_")
    if not _UUID.fullmatch(bare):
        raise NotFound.named(kind.capitalize(), text)
    return str(uuid.UUID(bare))


def derived_id(*of: str | int) -> str:
    """An id that is made of others: the same wherever it is made."""
    return str(uuid.uuid5(_NAMESPACE, "\n".join(map(str, of))))


def as_uuid(text: str) -> str:
    """``text`` if it is the id of something that we keep, else an id made of it: other dialects know other ids."""
    return str(uuid.UUID(text)) if _UUID.fullmatch(text) else derived_id("other", text)


def event_hex(session: str, spot: Spot) -> str:
    """An event's id: the spot, and what stands for the session, each in 16 hexadecimal digits."""
    return f"{spot.number:016x}{_digest(session)}"


def reached(session: str, text: str) -> Reached | None:
    """What who names this event of the session has, by its id in any of its forms; None when it can be none."""
    found = _NUMBER.fullmatch(text)
    if found is not None:
        return Reached.of(int(found[1]), int(found[2] or "0", 16) & _ALL_OWED, int(found[3] or 0))
    bare = text.removeprefix("event_")
    digits = bare.replace("-", "").lower()
    if not _UUID.fullmatch(bare):
        return None
    first, owed = int(digits[:16], 16), 0
    if first & _MORE:
        owed, digits = int(digits[16:21], 16), digits[:16] + _digest(session)[:5] + digits[21:]
    if digits[16:] != _digest(session):
        return None
    return Reached.of(first & (1 << 53) - 1 if first & _MORE else first, owed, first >> 53 & _MOST_AGAIN - 1)


def _digest(session: str) -> str:
    return hashlib.sha256(session.encode()).hexdigest()[:16]
