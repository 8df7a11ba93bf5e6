"""The output and input items of a response. Their ids are made from the turn and the entry."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from codegen_api.conversations import Form, TurnEntry, arguments_of, content_of, is_own_prompt, output_of
from codegen_api.runs import Json, Step, StepKind, to_json
from codegen_api.stores import Turn
from codegen_api.upstreams import PendingRequest

Item: TypeAlias = Mapping[str, Json]

RESPONSE, CONVERSATION = "resp_", "conv_"

SERVER = "codegen"
"""The server to which all tools are said to belong: the host."""

WRITING = "in_progress"
"""The status of an item while the host is still writing it, or a tool works."""

_ITEM_ID = re.compile(r"(?:msg|rs|mcp)_(.{1,200})_(i?)([0-9]{1,15})", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class ResponseEntry:
    """An entry as items: its text, and its call of a tool. ``open``: the host is still writing it."""

    offset: int
    form: Form
    open: bool
    closed: bool
    said: Item | None
    call: Item | None
    _frames: dict[str, tuple[int, list[bytes]]] = field(default_factory=dict)

    @property
    def is_action(self) -> bool:
        return self.call is not None

    @property
    def items(self) -> list[Item]:
        return [item for item in (self.said, self.call) if item is not None]

    @property
    def size(self) -> int:
        """Its cost in memory, in bytes, with the events that are made from it."""
        return 3_500 + 4 * sum(len(to_json(item)) for item in self.items)

    def frames(self, kind: str, index: int, make: Callable[["ResponseEntry", int], list[bytes]]) -> list[bytes]:
        """The events of a ``kind``, made once for all readers for whom its items have the same ``index``."""
        known = self._frames.get(kind)
        if known is None or known[0] != index:
            known = self._frames[kind] = index, make(self, index)
        return known[1]

    @classmethod
    def of(cls, turn: Turn, came: TurnEntry, step: Step) -> "ResponseEntry":
        place = f"{turn.id}_{came.offset}"
        form, is_open = Form.of(came.entry, step), came.entry.open
        said, call = None, None
        if is_own_prompt(turn, came.offset, step):
            pass  # the client has it
        elif step.kind is StepKind.ACTION or (step.kind is StepKind.ERROR and step.tool is not None):
            has_failed, is_open = step.kind is StepKind.ERROR, False
            said = reasoning(place, step.text) if step.text and not has_failed else None
            call = _call(place, step, has_failed=has_failed)
        elif step.kind is StepKind.ANSWER:
            said = message(place, step.text, is_open=is_open) if step.text or is_open else None
        elif step.text or is_open:
            said = reasoning(place, step.text, is_open=is_open)
        return cls(came.offset, form, is_open, call is None or step.closed, said, call)


def message(place: str, text: str, *, is_open: bool = False) -> Item:
    content: Json = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    about: Item = {"type": "message", "role": "assistant", "phase": "final_answer", "content": content}
    return {"id": f"msg_{place}", **about, "status": WRITING if is_open else "completed"}


def reasoning(place: str, text: str, *, is_open: bool = False) -> Item:
    summary: Json = [{"type": "summary_text", "text": text}]
    status = WRITING if is_open else "completed"
    return {"id": f"rs_{place}", "type": "reasoning", "summary": summary, "status": status}


def _call(place: str, step: Step, *, has_failed: bool) -> Item:
    """A call of a tool by the host, shown as one of an MCP server: clients think that other tools are theirs to run."""
    error: Item = {"type": "mcp_tool_execution_error", "content": step.text or "The tool failed."}
    return {
        "id": f"mcp_{place}",
        "type": "mcp_call",
        "server_label": SERVER,
        "name": step.tool or "unknown",
        "arguments": to_json(arguments_of(step)).decode(),
        "output": output_of(step) if step.closed and not has_failed else None,
        "error": error if has_failed else None,
        "approval_request_id": None,
        "status": "failed" if has_failed else "completed" if step.closed else WRITING,
    }


def settled(item: Item) -> Item:
    """An item as it is when nothing more can come of it."""
    return {**item, "status": "incomplete"} if item["status"] == WRITING else item


def last_items(turn: Turn, pending: Sequence[PendingRequest]) -> list[Item]:
    """Messages for an answer that is not in the log, and for what the turn asks, numbered after the last entry."""
    words = [text for text in (turn.answer, *(request.text for request in pending)) if text]
    return [message(f"{turn.id}_{turn.length + number}", text) for number, text in enumerate(words, 1)]


def input_items(turn: Turn) -> list[Item]:
    about: Item = {"type": "message", "role": "user", "status": "completed"}
    messages = [[_shown(part) for part in content_of(said)] for said in turn.messages]
    return [{"id": f"msg_{turn.id}_i{number}", **about, "content": each} for number, each in enumerate(messages, 1)]


def turn_of_item(item_id: str) -> str | None:
    """The turn's id in an item's id; None if the gateway did not make it."""
    found = _ITEM_ID.fullmatch(item_id)
    return None if found is None else found[1]


def _shown(part: Mapping[str, Json]) -> Json:
    if part.get("type") == "image":
        return {"type": "input_image", "image_url": part.get("url"), "file_id": None, "detail": "auto"}
    return {"type": "input_text", "text": part.get("text", "")}
