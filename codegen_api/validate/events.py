"""Reading server-sent events: bytes in, events out. Lines end in LF or CRLF, not in a bare CR."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

LONGEST = 32 * 1024 * 1024
"""How many bytes a line may have before this is no stream of events any more."""


class NotEvents(Exception):
    """What came is not a stream of events."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event. ``retry`` is what the stream last asked for, in milliseconds."""

    name: str
    data: str
    id: str | None
    retry: int | None


async def read_events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[ServerEvent, None]:
    """The events in ``chunks``, as they come. What stands behind the last empty line is no event and is left out."""
    rest, fields, retry = b"", dict[str, str](), None
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > LONGEST:
            raise NotEvents
        for line in lines:
            # not str.splitlines: U+2028 and its like may stand unescaped in JSON
            name, _, value = line.removesuffix(b"\r").decode(errors="replace").partition(":")
            value = value.removeprefix(" ")
            if name == "data" and "data" in fields:
                fields["data"] += "\n" + value
            elif name == "retry":
                retry = int(value) if value.isascii() and value.isdigit() else retry
            elif name in ("id", "event", "data"):
                fields[name] = value
            elif not line.strip():
                if "data" in fields:
                    yield ServerEvent(fields.get("event", "message"), fields["data"], fields.get("id"), retry)
                fields = {}
