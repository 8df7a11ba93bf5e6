"""A turn as the chunks of one message, from its beginning: the client puts away what it had of it. Parts, and errors.

The client puts a message together anew with every chunk, so a long one takes it long: of a turn that has come far,
the older entries come as the data of a few chunks. Versions 5, 6 and 7 of the client end a stream at a chunk whose
type they do not know, or in which an optional field is null. So there are only the chunks here that all of them know,
and a field that has no value is left out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from starlette.responses import Response

from codegen_api.conversations import EntryRepeated, Form, HoldingTeller, TurnChanges, TurnEntry, is_own_prompt
from codegen_api.dialects import pending_fields
from codegen_api.errors import Detail, GatewayError
from codegen_api.runs import Json, LogEntry, Step, StepKind, to_json
from codegen_api.stores import Turn, TurnState
from codegen_api.upstreams import PendingRequest
from codegen_api.web import error_headers, status_of, timestamp

Part = Mapping[str, Json]
"""A part of a message."""

ERROR_CODE = "X-Error-Code"
"""The header with an error's code: the body is the sentence that the hook shows."""

OURS = "codegen_api"
"""The name under which the gateway's own data stands in metadata."""

TOOL = "dynamic-tool"
"""The type of the part of a tool that the app does not know."""

DONE = b"data: [DONE]\n\n"

LOST = "The host did not answer, and it is not known whether the agent began."
NEVER = "The run stopped before the tool had answered."

FOLDED = 100
"""So many older entries come in one chunk."""

UNFOLDED = 200
"""So many of the latest entries come each by itself."""


def render_error(error: GatewayError) -> Response:
    """A sentence: the hook makes the body of the answer the message of its error, and apps show that."""
    headers = {**error_headers(error), ERROR_CODE: error.code}
    return Response(error_text(error), status_of(error), headers, "text/plain")


def error_text(error: GatewayError) -> str:
    """What went wrong, and in which fields: the first of them is in the message."""
    others = [f"{item.place}: {item.msg}" for item in error.details[1:] if isinstance(item, Detail)]
    return " ".join([error.message, *others])


def chunk(type: str, **fields: Json) -> bytes:  # noqa: A002 - the protocol's own word
    return b"data: %b\n\n" % to_json({"type": type, **fields})


def telling(parts: Iterable[Part], part_id: str = "") -> bytes:
    """The chunks that make parts, but for what came of a tool. ``part_id`` is that of words."""
    told: list[bytes] = []
    for part in parts:
        match part["type"]:
            case "text" | "reasoning" as kind:
                told.append(chunk(f"{kind}-start", id=part_id, providerMetadata=part["providerMetadata"]))
                told.append(chunk(f"{kind}-delta", id=part_id, delta=part["text"]))
                told.append(chunk(f"{kind}-end", id=part_id))
            case _ if part["type"] == TOOL:
                call = {name: part[name] for name in ("toolCallId", "toolName", "input")}
                told.append(chunk("tool-input-available", **call, **EXECUTED))
            case _:
                told.append(chunk(str(part["type"]), id=part["id"], data=part["data"]))
    return b"".join(told)


def answering(part: Part) -> bytes:
    """The chunk with what came of a tool; nothing for other parts, and while nothing has."""
    for state, name in (("output-available", "output"), ("output-error", "errorText")):
        if part.get("state") == state:
            return chunk(f"tool-{state}", toolCallId=part["toolCallId"], **{name: part[name]}, **EXECUTED)
    return b""


EXECUTED: Mapping[str, Json] = {"providerExecuted": True, "dynamic": True}
"""The tool is not one of the app's, which else would think that it has to run it."""


def ending(turn: Turn) -> list[bytes]:
    about = chunk("message-metadata", messageMetadata=metadata(turn))
    if is_fine(turn):
        return [about, chunk("finish", finishReason="stop"), DONE]
    if turn.state in (TurnState.CANCELLED, TurnState.WITHDRAWN):
        return [about, chunk("abort", reason="The run was stopped."), DONE]
    failure = LOST if turn.state is TurnState.UNKNOWN else turn.error or "The run has failed."
    return [about, chunk("error", errorText=failure), DONE]


def broken(error: GatewayError) -> bytes:
    """The last chunks where nobody can say how the turn goes on."""
    return chunk("error", errorText=error_text(error)) + DONE


def parts_of(turn: Turn, offset: int, step: Step) -> list[Part]:
    """The parts of an entry, the ``offset``-th of its turn; none for the prompt, which the client has."""
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
    """A part of the gateway's own. One with the same id takes its place."""
    return {"type": f"data-codegen-{name}", "id": f"{name}-{part_id}", "data": data}


def closed(part: Part, turn: Turn) -> Part:
    """A part of a turn that is over: no tool answers any more."""
    if part.get("state") != "input-available":
        return part
    if is_fine(turn):
        return {**part, "state": "output-available", "output": ""}
    return {**part, "state": "output-error", "errorText": NEVER}


def called(turn: Turn, offset: int) -> Part:
    """The part of a tool that was called in an entry and has not answered, as far as it is the same for all."""
    return {"type": TOOL, "toolCallId": f"call_{turn.id}_{offset}", "state": "input-available"}


def is_fine(turn: Turn) -> bool:
    return turn.state in (TurnState.COMPLETED, TurnState.WAITING)


def last_parts(turn: Turn, pending: Sequence[PendingRequest]) -> list[Part]:
    """What a turn says beside its log, and what it waits for: for people, and for apps."""
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
    """An entry in chunks: what is ``said`` in it, the tool that is ``called``, and the ``outcome`` of that. ``open``:
    the host is still writing it.
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
        """What holding it costs, in bytes."""
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
    """Tells one reader a turn. ``step`` says what an entry means, and ``render`` gives its chunks."""

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
        self._so_far: dict[int, TurnEntry] | None = {}  # what was there when the reader came, its latest entries
        self._folded = 0  # up to here entries came as data
        self._unanswered: set[int] = set()

    def begin(self) -> bytes:
        """The beginning of the message; the second time, what was there when the reader came."""
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

    def _again(self, event: EntryRepeated[ChatEntry]) -> bytes:
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
        """An entry whose parts cannot be replaced, as it is now; a tool's can, unless they came as data."""
        is_folded = came.offset <= self._folded
        parts = [part for part in self._parts(came) if is_folded or part["type"] != TOOL]
        data: Json = {"entry": came.offset, "parts": parts}
        return telling([data_part("changed", str(came.offset), data)])

    def _parts(self, came: TurnEntry) -> list[Part]:
        return parts_of(self._turn, came.offset, self._step(came.entry))
