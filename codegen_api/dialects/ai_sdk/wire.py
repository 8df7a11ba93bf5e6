"""A turn as the chunks of one message, always from its beginning, because clients discard what they had. Errors.

The client rebuilds a message with every chunk, which takes long for long ones: so the older entries of a long turn come
as the data of a few chunks. Versions 5, 6 and 7 of the client end a stream at a chunk of a type that they do not know,
or with a null in an optional field. So only chunks that all versions know are sent, and fields without a value are left
out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from starlette.responses import Response

from codegen_api.conversations import EntryRepeated, Form, HoldingTeller, TurnChanges, TurnEntry, is_own_prompt
from codegen_api.dialects import pending_fields
from codegen_api.errors import Detail, GatewayError
from codegen_api.http.web import error_headers, status_of, timestamp
from codegen_api.runs import Json, LogEntry, Step, StepKind, to_json
from codegen_api.stores import Turn, TurnState
from codegen_api.upstreams import PendingRequest

Part = Mapping[str, Json]
"""A part of a message."""

ERROR_CODE = "X-Error-Code"
"""The header with an error's code. The body is a sentence, which the hook shows."""

OURS = "codegen_api"
"""The key of the gateway's own data in metadata."""

TOOL = "dynamic-tool"
"""The type of a part for a tool that the app does not know."""

DONE = b"data: [DONE]\n\n"

LOST = "The host did not answer, and it is not known whether the agent began."
NEVER = "The run stopped before the tool had answered."

FOLDED = 100
"""How many older entries come in one chunk."""

UNFOLDED = 200
"""How many of the latest entries always come in chunks of their own."""


def render_error(error: GatewayError) -> Response:
    """The answer to a failed request: a sentence, which the hook makes the message of its error, and apps show."""
    headers = {**error_headers(error), ERROR_CODE: error.code}
    return Response(error_text(error), status_of(error), headers, "text/plain")


def error_text(error: GatewayError) -> str:
    """The error's message, which names the first wrong field, and the other fields."""
    others = [f"{item.place}: {item.msg}" for item in error.details[1:] if isinstance(item, Detail)]
    return " ".join([error.message, *others])


def chunk(type: str, **fields: Json) -> bytes:  # noqa: A002 - the protocol's own word
    return b"data: %b\n\n" % to_json({"type": type, **fields})


def telling(parts: Iterable[Part], part_id: str = "") -> bytes:
    """The chunks that make parts, without outcomes of tools. ``part_id`` is the id for texts."""
    chunks: list[bytes] = []
    for part in parts:
        match part["type"]:
            case "text" | "reasoning" as kind:
                chunks.append(chunk(f"{kind}-start", id=part_id, providerMetadata=part["providerMetadata"]))
                chunks.append(chunk(f"{kind}-delta", id=part_id, delta=part["text"]))
                chunks.append(chunk(f"{kind}-end", id=part_id))
            case _ if part["type"] == TOOL:
                call = {name: part[name] for name in ("toolCallId", "toolName", "input")}
                chunks.append(chunk("tool-input-available", **call, **EXECUTED))
            case _:
                chunks.append(chunk(str(part["type"]), id=part["id"], data=part["data"]))
    return b"".join(chunks)


def answering(part: Part) -> bytes:
    """The chunk with the outcome of a tool's part; nothing for other parts, and for a tool without one."""
    for state, name in (("output-available", "output"), ("output-error", "errorText")):
        if part.get("state") == state:
            return chunk(f"tool-{state}", toolCallId=part["toolCallId"], **{name: part[name]}, **EXECUTED)
    return b""


EXECUTED: Mapping[str, Json] = {"providerExecuted": True, "dynamic": True}
"""Marks a tool as run by the host: without it the app would think that it has to run the tool."""


def ending(turn: Turn) -> list[bytes]:
    about = chunk("message-metadata", messageMetadata=metadata(turn))
    if is_fine(turn):
        return [about, chunk("finish", finishReason="stop"), DONE]
    if turn.state in (TurnState.CANCELLED, TurnState.WITHDRAWN):
        return [about, chunk("abort", reason="The run was stopped."), DONE]
    failure = LOST if turn.state is TurnState.UNKNOWN else turn.error or "The run has failed."
    return [about, chunk("error", errorText=failure), DONE]


def broken(error: GatewayError) -> bytes:
    """The last chunks of a stream whose turn cannot be followed."""
    return chunk("error", errorText=error_text(error)) + DONE


def parts_of(turn: Turn, offset: int, step: Step) -> list[Part]:
    """The parts of entry ``offset`` of a turn; none for the prompt, which the client has."""
    if is_own_prompt(turn, offset, step):
        return []
    match step.kind:
        case StepKind.ANSWER:
            return _words("text", step.text, offset)
        case StepKind.THOUGHT:
            return _words("reasoning", step.text, offset)
        case StepKind.ACTION:
            outcome: Part = {"state": "input-available"}
            if step.closed:
                outcome = {"state": "output-available", "output": step.output}
            return [*_words("reasoning", step.text, offset), _tool(turn, offset, step, outcome)]
        case StepKind.ERROR if step.tool is not None:
            return [_tool(turn, offset, step, {"state": "output-error", "errorText": step.text or "The tool failed."})]
        case _ if not step.text:
            return []
    said: Json = {"kind": step.kind.value, "host_kind": step.raw_kind, "text": step.text}
    return [data_part("entry", str(offset), said)]


def data_part(name: str, part_id: str, data: Json) -> Part:
    """A part of the gateway's own type. A later one with the same id replaces it."""
    return {"type": f"data-codegen-{name}", "id": f"{name}-{part_id}", "data": data}


def closed(part: Part, turn: Turn) -> Part:
    """A part as it is when its turn is over: a tool without an outcome gets one."""
    if part.get("state") != "input-available":
        return part
    if is_fine(turn):
        return {**part, "state": "output-available", "output": ""}
    return {**part, "state": "output-error", "errorText": NEVER}


def called(turn: Turn, offset: int) -> Part:
    """The fields that all parts of a called tool have in common, in the state before its outcome."""
    return {"type": TOOL, "toolCallId": f"call_{turn.id}_{offset}", "state": "input-available"}


def is_fine(turn: Turn) -> bool:
    return turn.state in (TurnState.COMPLETED, TurnState.WAITING)


def last_parts(turn: Turn, pending: Sequence[PendingRequest]) -> list[Part]:
    """Parts for an answer that is not in the log, and for what a turn waits for: as texts, and as data for apps."""
    words = [turn.answer or "", *(request.text for request in pending)]
    parts = [part for number, text in enumerate(words, 1) for part in _words("text", text, turn.length + number)]
    if turn.state is TurnState.WAITING:
        requests: Json = [*map(pending_fields, pending)]
        parts.append(data_part("waiting", str(turn.length), {"requests": requests}))
    return parts


def metadata(turn: Turn) -> dict[str, Json]:
    about: dict[str, Json] = {
        "status": "running" if turn.state.active else turn.state.value,
        "created_at": timestamp(turn.created),
    }
    if turn.run is not None:
        about |= {"run": turn.run.id, "organization": turn.run.organization}
    if turn.end is not None:
        about["entries"] = turn.length
    return {OURS: about}


def _words(kind: str, text: str, offset: int) -> list[Part]:
    about: Json = {OURS: {"entry": offset}}
    return [{"type": kind, "text": text, "state": "done", "providerMetadata": about}] if text else []


def _tool(turn: Turn, offset: int, step: Step, outcome: Part) -> Part:
    made = {"toolName": step.tool or "unknown", "input": {} if step.input is None else step.input}
    return {**called(turn, offset), **made, "providerExecuted": True, **outcome}


@dataclass(frozen=True, slots=True)
class ChatEntry:
    """An entry as chunks: its texts (``said``), its call of a tool, and the call's outcome. ``open``: the host is still
    writing it.
    """

    offset: int
    form: Form
    is_action: bool
    closed: bool
    open: bool
    said: bytes
    called: bytes
    outcome: bytes

    @property
    def size(self) -> int:
        """Its cost in memory, in bytes."""
        return 600 + len(self.said) + len(self.called) + len(self.outcome)

    @classmethod
    def of(cls, turn: Turn, came: TurnEntry, step: Step) -> "ChatEntry":
        parts = parts_of(turn, came.offset, step)
        tools = [part for part in parts if part["type"] == TOOL]
        return cls(
            came.offset,
            Form.of(came.entry, step),
            is_action=bool(tools),
            closed=step.closed,
            open=came.entry.open,
            said=telling([part for part in parts if part not in tools], str(came.offset)),
            called=telling(tools),
            outcome=b"".join(map(answering, tools)),
        )


class ChatTeller(HoldingTeller[ChatEntry]):
    """Makes the chunks of a turn for one reader. ``step`` parses an entry, and ``render`` returns its chunks."""

    def __init__(
        self,
        turn: Turn,
        step: Callable[[LogEntry], Step],
        render: Callable[[TurnEntry], ChatEntry],
        changes: TurnChanges,
    ) -> None:
        super().__init__(render, changes, repeats=True)
        self._turn = turn
        self._step = step
        self._has_begun = False
        self._so_far: dict[int, TurnEntry] | None = {}  # entries from before the reader came that are not yet sent
        self._folded = 0  # the last entry that was sent as data
        self._unanswered: set[int] = set()

    def begin(self) -> bytes:
        """The beginning of the message; the second time, the entries that existed when the reader came."""
        if self._has_begun:
            return self._catch_up()
        self._has_begun = True
        return chunk("start", messageId=self._turn.id, messageMetadata=metadata(self._turn))

    def take(self, entries: Sequence[TurnEntry]) -> bytes:
        changed = b"".join(self._changed(came) for came in entries if came.offset <= self._folded)
        later = [came for came in entries if came.offset > self._folded]
        if self._so_far is None:
            return changed + super().take(later)
        self._so_far.update((came.offset, came) for came in later)
        while len(self._so_far) >= UNFOLDED + FOLDED:
            changed += self._fold(self._so_far, sorted(self._so_far)[:FOLDED])
        return changed

    def over(self, turn: Turn, pending: Sequence[PendingRequest] = ()) -> bytes:
        last = [self._catch_up(), *map(self._tell, self._telling.close()), self._release()]
        last += map(self._tell, self._telling.rest())
        last += [answering(closed(called(turn, offset), turn)) for offset in sorted(self._unanswered)]
        return b"".join([*last, telling(last_parts(turn, pending), "end"), *ending(turn)])

    def _catch_up(self) -> bytes:
        so_far, self._so_far = self._so_far or {}, None
        return super().take([so_far[offset] for offset in sorted(so_far)])

    def _fold(self, so_far: dict[int, TurnEntry], offsets: Sequence[int]) -> bytes:
        parts: list[Json] = [part for offset in offsets for part in self._parts(so_far.pop(offset))]
        self._folded = offsets[-1]
        data: Json = {"from": offsets[0], "to": offsets[-1], "parts": parts}
        return telling([data_part("earlier", str(offsets[0]), data)])

    def _added(self, entry: ChatEntry) -> bytes:
        if entry.is_action:
            self._unanswered.add(entry.offset)
        return entry.said + entry.called

    def _repeated(self, event: EntryRepeated[ChatEntry]) -> bytes:
        entry = event.rendered
        told = self._release() if self._held is not None and not self._held.open else b""
        if not entry.is_action or event.text:
            told += self._changed(event.came)
        if entry.is_action and event.call:
            self._unanswered.add(entry.offset)
            told += entry.called
        return told + (self._answered(entry) if event.words | event.outcome else b"")

    def _answered(self, entry: ChatEntry) -> bytes:
        if entry.outcome:
            self._unanswered.discard(entry.offset)
        return entry.outcome

    def _changed(self, came: TurnEntry) -> bytes:
        """The new version of an entry as data, as parts cannot be replaced; only a tool's can, unless sent as data."""
        is_folded = came.offset <= self._folded
        parts = [part for part in self._parts(came) if is_folded or part["type"] != TOOL]
        data: Json = {"entry": came.offset, "parts": parts}
        return telling([data_part("changed", str(came.offset), data)])

    def _parts(self, came: TurnEntry) -> list[Part]:
        return parts_of(self._turn, came.offset, self._step(came.entry))
