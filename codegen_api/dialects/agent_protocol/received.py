"""What a reader of a turn has by now, as the ids of events say it.

Every id is ``{turn}_event_{n}``: its reader has everything up to event n. Where an entry was told before its output was
there, ids name it (``{turn}.4.7_event_{n}``), so that who comes back with one is given that output. What is told again
stands behind event n, as the how-manieth (``{turn}~1_event_{n}``).
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from codegen_api.dialects.agent_protocol.wording import Frames

MOST_OWED = 20
"""So far back outputs are waited for: logs are not read again further back."""

_ID = re.compile(r"((?:\.[0-9]{1,9}){0,20})(?:~([0-9]{1,9}))?_event_([0-9]{1,18})", re.ASCII)


class Seen(NamedTuple):
    """What a reader has: everything up to event ``number``, but for the outputs of the entries in ``owed``; and what
    was told ``again`` behind it, so often.
    """

    number: int = 0
    owed: tuple[int, ...] = ()
    again: int = 0


def position(turn_id: str, text: str | None) -> Seen:
    """What an event id of this turn says; nothing, from where everything is told, for any other text."""
    if text is None or not text.startswith(turn_id):
        return Seen()
    found = _ID.fullmatch(text[len(turn_id) :])
    if found is None:
        return Seen()
    return Seen(int(found[3]), tuple(map(int, found[1].split(".")[1:])), int(found[2] or 0))


class Received:
    """What a reader has, who had ``seen`` something when they came. ``after``: they have everything up to there."""

    def __init__(self, turn_id: str, seen: Seen) -> None:
        self.after = seen.number
        self.paying = False
        """Something that they lacked is being told, and ids do not say yet that they have it."""
        self._id = turn_id.encode()
        self._last, self._again = seen.number, seen.again
        self._owed = list(seen.owed)
        self._paid: set[int] = set()

    def new(self, n: int, frame: bytes) -> bytes:
        """An event as they get it, if they do not have it."""
        if n <= self.after:
            return b""
        if self.paying:
            self._owed = [each for each in self._owed if each not in self._paid]
            self.paying = False
        self._last, self._again = n, 0
        return self._named(frame) if self._owed else frame

    def all(self, frames: Frames) -> bytes:
        """The same for events of which they have none, or all."""
        if self._owed or not frames.each or frames.each[0][0] <= self.after:
            return b"".join(self.new(n, frame) for n, frame in frames.each)
        self._last, self._again = frames.each[-1][0], 0
        return frames.whole

    def again(self, frames: Sequence[bytes], out: list[bytes], *, pays: int | None = None) -> None:
        """Events as they are now, which they have as they were. ``pays``: with the last of these, and not before, as
        they may be cut off, they have the output of that entry.
        """
        out += map(self._once_more, frames[:-1])
        if pays in self._owed:
            self._owed.remove(pays)
        out += map(self._once_more, frames[-1:])

    def owe(self, offset: int) -> None:
        """An entry comes whose output is not there."""
        if offset not in self._owed:
            self._owed.append(offset)

    def lacks(self, offset: int) -> bool:
        """Whether they lack the output of an entry that comes, or comes again; those before it are not waited for any
        more when they are too far back.
        """
        if self._owed:
            self._owed = [each for each in self._owed if each > offset - MOST_OWED]
        return offset in self._owed

    def pay(self, offset: int) -> None:
        """They are being told what they lacked; they have all of it when something new has come."""
        self._paid.add(offset)
        self.paying = True

    def _once_more(self, frame: bytes) -> bytes:
        self._again += 1
        return self._named(frame)

    def _named(self, frame: bytes) -> bytes:
        owed = b"".join(b".%d" % offset for offset in self._owed[-MOST_OWED:])
        again = b"~%d" % self._again if self._again else b""
        return b"%b\nid: %b%b%b_event_%d\n\n" % (frame[: frame.rindex(b"\nid: ")], self._id, owed, again, self._last)
