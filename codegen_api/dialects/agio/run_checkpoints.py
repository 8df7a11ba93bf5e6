"""Places in runs, which clients call checkpoints: behind each step, and where the user has spoken and nothing has come.

They are there by themselves; what a client says of one is kept with the turn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from codegen_api.conversations import CallerConversations, TurnCheckpoint, checked
from codegen_api.dialects.agio.executions import Execution, find_run, note, own, run_id_of
from codegen_api.errors import Conflict, NotFound
from codegen_api.runs import Json, Step, StepKind
from codegen_api.stores import Turn
from codegen_api.web import timestamp

MOST_DESCRIBED = 100
"""Places of one turn that can have a description."""


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Behind step ``step`` of a run, which is entry ``offset`` of a turn's stretch. By then there have been so many
    ``messages`` in the run; ``spoken``: the agent has said or done something in that turn.
    """

    run: Execution
    turn: Turn
    offset: int
    step: int
    messages: int
    spoken: bool
    created: float

    @property
    def checkpoint(self) -> TurnCheckpoint:
        return TurnCheckpoint(self.turn.id, self.offset)

    @property
    def fields(self) -> dict[str, Json]:
        """The place as clients know it."""
        described = _described(self.turn).get(str(self.offset))
        said = described if isinstance(described, Mapping) else {}
        return {
            "id": str(self.checkpoint),
            "run_id": self.run.id,
            "step_num": self.step,
            "description": said.get("description"),
            "tags": said.get("tags") or [],
            "created_at": timestamp(self.created),
            "message_count": self.messages,
            "total_tokens": None,
        }


async def places_of(conversations: CallerConversations, run: Execution, turn: Turn | None = None) -> list[RunPlace]:
    """The places of a run, or those that lead to the end of one of its turns, the first one first."""
    places: list[RunPlace] = []
    step = messages = 0
    for stretch in run.leading_to(turn or run.latest):
        messages += len(stretch.turn.messages)
        spoken, created = False, stretch.turn.created
        if not places:  # where a run goes on there is a place already: that in which it was left
            places.append(RunPlace(run, stretch.turn, 0, step, messages, spoken, created))
        for offset, entry in enumerate(await conversations.entries(stretch), 1):
            said = conversations.step(entry)
            step, messages = step + 1, messages + _messages(said)
            spoken, created = spoken or said.kind is not StepKind.USER, entry.created or created
            places.append(RunPlace(run, stretch.turn, offset, step, messages, spoken, created))
    return places


async def find_place(conversations: CallerConversations, checkpoint_id: str) -> RunPlace:
    """
    Raises:
        NotFound: there is no such checkpoint.
    """
    wanted = TurnCheckpoint.of(checkpoint_id)
    turn = await conversations.turn(wanted.turn)
    if turn is not None:
        run = await find_run(conversations, run_id_of(turn))
        turn = next((each for each in run.turns if each.id == turn.id), turn)
        for place in await places_of(conversations, run, turn):
            if place.checkpoint == wanted:
                return place
    raise NotFound.named("TurnCheckpoint", checkpoint_id)


async def describe(
    conversations: CallerConversations, place: RunPlace, description: str | None, tags: Sequence[str]
) -> RunPlace:
    """The place, with what a client says of it.

    Raises:
        Conflict: enough was said of places of this turn.
    """
    checked([description, list(tags)])
    described = {**_described(place.turn), str(place.offset): {"description": description, "tags": list(tags)}}
    if len(described) > MOST_DESCRIBED:
        raise Conflict("Enough checkpoints of this run have a description.")
    return replace(place, turn=await note(conversations, place.turn.id, checkpoints=described))


def _described(turn: Turn) -> Mapping[str, Json]:
    described = own(turn.options).get("checkpoints")
    return described if isinstance(described, Mapping) else {}


def _messages(step: Step) -> int:
    """How many messages a step is: what the agent says or calls, and what its tool answers."""
    if step.kind is StepKind.USER:
        return 0
    if step.kind is StepKind.ACTION:
        return 2 if step.closed else 1
    return 1 if step.text else 0
