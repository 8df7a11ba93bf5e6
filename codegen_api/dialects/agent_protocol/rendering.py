"""What log entries amount to as messages, encoded once for all who read them."""

from collections.abc import Callable
from dataclasses import dataclass

from cachetools import LRUCache

from codegen_api.conversations import Came
from codegen_api.dialects.agent_protocol.messages import chunk, said
from codegen_api.runs import LogEntry, Step, to_json
from codegen_api.stores import Turn

CACHED_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Rendered:
    """An entry's messages as JSON, and as its log has it."""

    entry: LogEntry
    closed: bool
    ai: bytes | None
    ai_chunk: bytes | None
    ai_id: bytes
    tool: bytes | None
    tool_id: bytes


class Renderings:
    """What entries amount to, encoded once for all who read them. ``step`` says what an entry means."""

    def __init__(self, step: Callable[[LogEntry], Step], *, max_bytes: int = CACHED_BYTES) -> None:
        self._step = step
        self._kept: LRUCache[tuple[str, int], Rendered] = LRUCache(max_bytes, getsizeof=_size)

    def of(self, turn: Turn, came: Came) -> Rendered:
        key = (turn.id, came.offset)
        kept = self._kept.get(key)
        if kept is None or kept.entry != came.entry:
            kept = self._render(turn, came)
            if _size(kept) <= self._kept.maxsize:
                self._kept[key] = kept
        return kept

    def _render(self, turn: Turn, came: Came) -> Rendered:
        step = self._step(came.entry)
        messages = said(turn.id, came.offset, step)
        ai, tool = messages.ai, messages.tool
        return Rendered(
            came.entry,
            step.closed,
            None if ai is None else to_json(ai),
            None if ai is None else to_json(chunk(ai)),
            b"" if ai is None else to_json(ai["id"]),
            None if tool is None else to_json(tool),
            b"" if tool is None else to_json(tool["id"]),
        )


def _size(rendered: Rendered) -> int:
    parts = (rendered.ai, rendered.ai_chunk, rendered.tool)
    return 400 + rendered.entry.size + sum(len(part) for part in parts if part is not None)
