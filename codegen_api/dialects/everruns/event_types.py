"""The kinds of events, by which clients choose some of them. Pure functions.

What nobody ever sends is refused: whoever waited for it would wait for ever.
"""

from codegen_api.dialects.everruns.events import DELTA, SessionEvent
from codegen_api.dialects.everruns.families import NESTED, Family
from codegen_api.dialects.everruns.messages import Role
from codegen_api.errors import Detail, InvalidRequest

TOLD = frozenset(
    {
        "input.message",
        "session.activated",
        "turn.started",
        "output.message.started",
        DELTA,
        "output.message.completed",
        "tool.started",
        "tool.completed",
        "turn.completed",
        "turn.failed",
        "turn.cancelled",
        "session.idled",
    }
)
"""What the present family is told of."""

ELSEWHERE = frozenset(
    f"{of}.{what}"
    for of, kinds in {
        "act": "started completed",
        "budget": "warning paused exhausted resumed",
        "capability": "usage",
        "context": "compacting compacted compaction.skipped compaction.failed",
        "file": "written",
        "llm": "generation",
        "output.message": "replaced",
        "reason": "started completed recovered item thinking.started thinking.delta thinking.completed",
        "schedule": "triggered",
        "session": "started title.updated model.changed",
        "tool": "progress output.delta call_requested call_repaired",
        "transcript": "repaired",
        "turn": "sealed",
        "voice": "session.started session.ended session.failed input_transcript.delta input_transcript.completed"
        " output_transcript.delta output_transcript.completed",
    }.items()
    for what in kinds.split()
)
"""What Everruns tells of besides: its clients leave out some of it, or ask for all that there is."""

BELOW = {Role.USER: "message.user", Role.AGENT: "message.assistant", Role.TOOL_RESULT: "message.tool_result"}
"""What the nested family is told of."""

BELOW_ELSEWHERE = frozenset({"message.tool_call"})
"""What it knows besides: a call, which is a part of the agent's message here."""


def kind_in(family: Family, event: SessionEvent) -> str | None:
    """What a family calls an event; None when it does not know it."""
    if family is not NESTED:
        return event.kind
    return None if event.message is None else BELOW[event.message.role]


def chosen(family: Family, **kinds: list[str]) -> None:
    """The kinds that a client wants or does not want, by the name of the parameter.

    Raises:
        InvalidRequest: one is no kind of event.
    """
    known = BELOW_ELSEWHERE.union(BELOW.values()) if family is NESTED else TOLD | ELSEWHERE
    for name, given in kinds.items():
        if not known.issuperset(given):
            raise InvalidRequest(
                f"`{name}` names a type of event that there is not.",
                details=[Detail(("query", name), f"Must be among {', '.join(sorted(known))}.", "enum")],
            )
