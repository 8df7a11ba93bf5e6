"""Checkpoints: places in runs, one after each step, and one after the user's first message.

They exist without being created; a client's description of one is stored with the turn. The host has none. To continue
from one, in the same session (restore) or in a new one (fork), takes a new run at the host, with a transcript in its
prompt. Only the end of a run can be continued in the host's same run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Path
from starlette.responses import Response

from codegen_api.conversations import BEFORE, GO_ON, Ask, CallerConversations, TurnCheckpoint, checked, new_id
from codegen_api.conversations.prompts import text_of, with_transcript
from codegen_api.dialects import TITLE_CHARACTERS
from codegen_api.dialects.agio import responses, schemas
from codegen_api.dialects.agio.agents import Agents, Known, Limit, Offset
from codegen_api.dialects.agio.dependencies import MyConversations, routes_about
from codegen_api.dialects.agio.executions import OWN, Execution, continued, find_run, note, own, user_of
from codegen_api.dialects.agio.runs import RunId, message_of
from codegen_api.dialects.agio.wire import page
from codegen_api.errors import Conflict, NotFound, NotOffered
from codegen_api.http.web import WantedOrganization, json_response, operation, timestamp
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Json, Step, StepKind, to_json
from codegen_api.stores import Conversation, Turn

router = routes_about("checkpoints")

CheckpointId = Annotated[str, Path(description="The id of a checkpoint: the run and how many steps of it, `{run}.3`.")]

OF_RUN = "/api/checkpoints/runs/{run_id}/checkpoints"
"""The path says the word twice."""

MOST_DESCRIBED = 100
"""How many places of one turn can have a description."""

SYSTEM = ("system", "developer")
SPEAKERS = {**dict.fromkeys(schemas.USER, "User"), "tool": "Tool", "function": "Tool"}


@dataclass(frozen=True, slots=True)
class RunPlace:
    """The place after step ``step`` of a run, which is entry ``offset`` of a turn. ``messages`` counts the run's
    messages until there. ``spoken``: the agent has said or done something in that turn.
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
    """The places of a run, or those that lead to the end of one of its turns, oldest first."""
    places: list[RunPlace] = []
    step = messages = 0
    for stretch in run.leading_to(turn or run.latest):
        messages += len(stretch.turn.messages)
        spoken, created = False, stretch.turn.created
        if not places:  # later turns begin at a place that is listed: the one that they continue from
            places.append(RunPlace(run, stretch.turn, 0, step, messages, spoken, created))
        for offset, entry in enumerate(await conversations.entries(stretch), 1):
            meaning = conversations.step(entry)
            step, messages = step + 1, messages + _messages(meaning)
            spoken, created = spoken or meaning.kind is not StepKind.USER, entry.created or created
            places.append(RunPlace(run, stretch.turn, offset, step, messages, spoken, created))
    return places


async def find_place(conversations: CallerConversations, checkpoint_id: str) -> RunPlace:
    """The place of a checkpoint. Raises ``NotFound`` if there is none."""
    wanted = TurnCheckpoint.of(checkpoint_id)
    turn = await conversations.turn(wanted.turn)
    if turn is not None:
        run = await find_run(conversations, continued(turn) or turn.id)
        turn = next((each for each in run.turns if each.id == turn.id), turn)
        for place in await places_of(conversations, run, turn):
            if place.checkpoint == wanted:
                return place
    raise NotFound.named("TurnCheckpoint", checkpoint_id)


def _described(turn: Turn) -> Mapping[str, Json]:
    described = own(turn.options).get("checkpoints")
    return described if isinstance(described, Mapping) else {}


def _messages(step: Step) -> int:
    """How many messages a step counts for: a text or a call is one, and a tool's answer is another."""
    if step.kind is StepKind.USER:
        return 0
    if step.kind is StepKind.ACTION:
        return 2 if step.closed else 1
    return 1 if step.text else 0


@router.get(OF_RUN, **operation("List the checkpoints of a run", READ, responses.PLACES))
async def list_checkpoints(
    conversations: MyConversations, run_id: RunId, limit: Limit = 20, offset: Offset = 0
) -> Response:
    """One behind each step of the run, and one before the first."""
    places = await places_of(conversations, await find_run(conversations, run_id))
    return page([place.fields for place in places[offset : offset + limit]], len(places), limit, offset)


@router.post(OF_RUN, **operation("Create a checkpoint", WRITE, responses.NAMED), status_code=201)
async def create_checkpoint(
    conversations: MyConversations, run_id: RunId, body: schemas.NewCheckpoint | None = None
) -> Response:
    """The checkpoint behind the latest step, with a description if one is given. It would be there without, too."""
    place = (await places_of(conversations, await find_run(conversations, run_id)))[-1]
    if body is not None and (body.description or body.tags):
        checked([body.description, body.tags])
        described = {**_described(place.turn), str(place.offset): body.model_dump()}
        if len(described) > MOST_DESCRIBED:
            raise Conflict("Enough checkpoints of this run have a description.")
        place = replace(place, turn=await note(conversations, place.turn.id, checkpoints=described))
    done: dict[str, Json] = {"success": True, "message": f"Checkpoint '{place.checkpoint}' created successfully"}
    return json_response(to_json({**done, **place.fields}), 201)


@router.get("/api/checkpoints/{checkpoint_id}", **operation("Get a checkpoint", READ, responses.PLACE))
async def get_checkpoint(conversations: MyConversations, checkpoint_id: CheckpointId) -> Response:
    """A place in a run."""
    return json_response(to_json((await find_place(conversations, checkpoint_id)).fields))


@router.post("/api/checkpoints/{checkpoint_id}/restore", **operation("Restore a checkpoint", WRITE, responses.RESTORED))
async def restore_checkpoint(
    wanted: WantedOrganization, agents: Known, checkpoint_id: CheckpointId, body: schemas.Restore | None = None
) -> Response:
    """Take the session back to a checkpoint and go on from there, with a new run or the same one."""
    place, asked = await find_place(agents.conversations, checkpoint_id), body or schemas.Restore()
    session_id, same = place.run.first.conversation, not asked.create_new_run
    return await go_on(agents, wanted, place, asked, session_id, same=same)


@router.post("/api/checkpoints/{checkpoint_id}/fork", **operation("Fork from a checkpoint", WRITE, responses.RESTORED))
async def fork_checkpoint(
    wanted: WantedOrganization, agents: Known, checkpoint_id: CheckpointId, body: schemas.Fork | None = None
) -> Response:
    """Go on from a checkpoint in a new session, with a new run. The old ones stay as they are, also if they go on."""
    if body is not None and not body.create_new_run:
        what = "A fork makes a new run: `create_new_run` cannot be false here. Restore the checkpoint for that."
        raise NotOffered(what)
    place, asked = await find_place(agents.conversations, checkpoint_id), body or schemas.Fork()
    checked(asked.model_dump())  # or the session would be left behind
    now, run = agents.conversations.clock(), place.run
    title, parent = run.query[:TITLE_CHARACTERS], str(place.checkpoint)
    session = Conversation(new_id(), now, now, agent=run.first.agent, title=title, parent=parent)
    await agents.conversations.add_conversation(session)
    return await go_on(agents, wanted, place, asked, session.id, same=False)


async def go_on(
    agents: Agents, wanted: str | None, place: RunPlace, asked: schemas.Fork, session_id: str, *, same: bool
) -> Response:
    """Continue from a place in a session, with the ``same`` run or a new one. Raises what ``begin`` does."""
    changes = asked.modifications or schemas.Modifications()
    checkpoint, query, system_prompt = place.checkpoint, changes.modified_query, changes.system_prompt
    text = query or ""
    if changes.modified_messages is not None:
        # these messages replace the whole history
        root = (await agents.conversations.leading_to(place.checkpoint))[0].turn
        checkpoint = TurnCheckpoint(root.id, BEFORE)
        said, last = _said(changes.modified_messages)
        query = query or last
        text = with_transcript(said, query)
        instructions = [_text(each) for each in changes.modified_messages if each.role in SYSTEM]
        system_prompt = system_prompt or "\n\n".join(instructions)
    elif text and not place.spoken:
        checkpoint = TurnCheckpoint(place.turn.id, BEFORE)  # the text replaces the user's message there
    kept: dict[str, Json] = {"continues": place.run.id} if same else {"query": query or place.run.query}
    if user_of(place.run.first) is not None and not same:
        kept["user_id"] = user_of(place.run.first)
    if asked.description is not None:
        kept["checkpoints"] = {"0": {"description": asked.description, "tags": []}}
    ask = Ask(
        [message_of(text)] if text else [],
        text,
        agent=await agents.known(place.run.first.agent),
        system_prompt=system_prompt or None,
        checkpoint=checkpoint,
        fresh=not same or bool(system_prompt),
        options={OWN: kept},
    )
    turn = await agents.conversations.begin(wanted or place.turn.organization or None, session_id, ask)
    run_id = place.run.id if same else turn.id
    body: dict[str, Json] = {
        "success": True,
        "message": f"Run '{run_id}' goes on from checkpoint '{place.checkpoint}'",
        "run_id": run_id,
        "new_run_id": None if same else run_id,
        "session_id": turn.conversation,
        "checkpoint_id": str(place.checkpoint),
    }
    return json_response(to_json(body))


def _said(messages: Sequence[schemas.Message]) -> tuple[list[tuple[str, str]], str]:
    """The transcript as pairs of speaker and text, and the user's last message after it."""
    said = [(SPEAKERS.get(each.role, "Assistant"), _text(each)) for each in messages if each.role not in SYSTEM]
    last = said.pop()[1] if said and said[-1][0] == SPEAKERS["user"] else ""
    return said, last if last.strip() else GO_ON


def _text(message: schemas.Message) -> str:
    if isinstance(message.content, str | None):
        return message.content or ""
    return text_of({"content": message.content}) or to_json(message.content).decode()
