"""What is said in a session: messages to the agent, what was said by now, what happens, live or as a list."""

from collections.abc import Mapping

from fastapi import Request
from starlette.responses import Response

from codegen_api.conversations import Ask, images_of, said_before, text_of
from codegen_api.dialects import not_offered
from codegen_api.dialects.everruns import schemas
from codegen_api.dialects.everruns.event_types import chosen, kind_in
from codegen_api.dialects.everruns.events import DELTA, SessionEvent
from codegen_api.dialects.everruns.families import NESTED
from codegen_api.dialects.everruns.history import Wanted, events_of, messages_of
from codegen_api.dialects.everruns.ids import START, Spot, id_for, kept_id, spot_of
from codegen_api.dialects.everruns.messages import heard, inputs, message_fields
from codegen_api.dialects.everruns.responses import EVENT_STREAM
from codegen_api.dialects.everruns.sessions import Here
from codegen_api.dialects.everruns.storage import keepable
from codegen_api.dialects.everruns.streams import Listener, frames
from codegen_api.dialects.everruns.wire import event_fields, event_fields_below, listed, own, told
from codegen_api.errors import Detail, Rejected
from codegen_api.runs import Json, to_json
from codegen_api.sse import lasting
from codegen_api.stores import Turn, TurnState
from codegen_api.upstreams import NewRun
from codegen_api.web import REPLAYED, json_response

MOST_EVENTS = 10_000
"""So many events are listed at most; `after_sequence` goes on behind them."""


async def say(here: Here, body: schemas.CreateMessage, key: str | None) -> Response:
    """Say something to the agent. When this is answered the host has heard it, or may have.

    Raises:
        ConversationBusy: a turn is under way.
        IdempotencyKeyReused: something else was said with this key.
    """
    not_offered(**body.not_offered())
    content = heard(body.message.content)
    keepable(controls=body.controls, metadata=body.metadata)
    id = id_for(key, "message", here.conversations.owner, here.session.id)  # noqa: A001 - as everywhere
    message = {"id": id, "content": content, **told({"controls": body.controls, "metadata": body.metadata})}
    if key is not None:
        turn = await said_before(here.conversations, here.session.id, message)
        if turn is not None:
            return _heard(here, turn, REPLAYED)
    kept = own(here.session.metadata)
    agent = None
    if here.session.agent is not None:
        agent = await here.conversations.agent(here.session.agent)
    prompts = [agent.system_prompt if agent is not None else None, _text(kept, "system_prompt")]
    ask = Ask(
        messages=[message],
        text=text_of(message),
        images=images_of(message),
        agent=agent,
        system_prompt="\n\n".join(prompt for prompt in prompts if prompt) or None,
        run=NewRun("", body.metadata, model=_model(body.controls) or _text(kept, "model_id")),
    )
    turn = await here.conversations.begin(_text(kept, "organization"), here.session.id, ask)
    return _heard(here, turn)


async def list_messages(here: Here) -> Response:
    """What was said by now, oldest first."""
    messages = await messages_of(here.conversations, here.session.id)
    return listed([message_fields(here.family, here.session.id, message) for message in messages], len(messages))


async def export(here: Here) -> Response:
    """The same, each message on a line of its own."""
    messages = await messages_of(here.conversations, here.session.id)
    lines = [to_json(message_fields(here.family, here.session.id, message)) + b"\n" for message in messages]
    return Response(b"".join(lines), media_type="application/x-ndjson")


async def list_events(here: Here, query: schemas.EventsQuery) -> Response:
    """What has happened by now. Where an answer is told in pieces these are not listed, unless they are asked for.

    Raises:
        NotOffered: by something else than what is offered.
    """
    not_offered(**query.not_offered())
    after = last_seen(here, query.since_id, query.after_sequence)
    nested = here.family is NESTED
    chosen(here.family, types=query.types, exclude=query.exclude)
    turn_id = None if query.turn_id is None else kept_id(query.turn_id, "turn")

    def suits(event: SessionEvent) -> bool:
        kind = kind_in(here.family, event)
        wants = kind in query.types if query.types else kind not in (None, DELTA)
        return wants and kind not in query.exclude and turn_id in (None, event.turn.id)

    wanted = Wanted(
        after or START,
        None if query.before_sequence is None else Spot.of(query.before_sequence),
        suits,
        most=query.limit or MOST_EVENTS,
        newest=query.limit is not None and after is None,
    )
    events = await events_of(here.conversations, here.session.id, wanted)
    items: list[Json] = [event_fields_below(event) if nested else event_fields(event) for event in events]
    return listed(items[::-1] if query.order_desc else items, len(items))


def listen(request: Request, here: Here, query: schemas.StreamQuery, last_event_id: str | None) -> Response:
    """What happens from now on, and before that what the listener does not have yet.

    Raises:
        NotOffered: chosen by what can only choose among what has happened.
    """
    not_offered(**query.not_offered(), **(query.of_lists() if isinstance(query, schemas.EventsQuery) else {}))
    chosen(here.family, types=query.types, exclude=query.exclude)
    # a browser comes back with the URL that it came with first, and says in the header what it has by now
    after = last_seen(here, last_event_id or query.since_id, query.after_sequence)
    listener = Listener(here.conversations, here.family, here.session.id, after, query.types, query.exclude)
    return lasting(request, frames(listener), f"{EVENT_STREAM}; charset=utf-8")


def wants_stream(request: Request) -> bool:
    """Whether the client asks for live events where it could have a list as well."""
    return EVENT_STREAM in request.headers.get("accept", "").lower()


def last_seen(here: Here, event_id: str | None, sequence: int | None) -> Spot | None:
    """The last event that a client has; one that nobody knows is the beginning, so that nothing is missed."""
    if event_id:
        return spot_of(here.session.id, event_id) or START
    return None if sequence is None else Spot.of(sequence)


async def cancel(here: Here) -> Response:
    """Stop what the agent does.

    Raises:
        Unsupported: the host cannot stop a run.
        ConversationBusy: it is not known yet whether the host has begun it.
    """
    stopped = await here.conversations.clear(here.session.id)
    if stopped is None:
        return json_response(to_json({"status": "no_op", "message": "Nothing is under way in this session."}))
    if not stopped.state.active and stopped.state not in (TurnState.CANCELLED, TurnState.WITHDRAWN):
        return json_response(to_json({"status": "no_op", "message": "Nothing is under way in this session any more."}))
    return json_response(to_json({"status": "cancelled", "message": "The turn was stopped."}))


def _heard(here: Here, turn: Turn, headers: Mapping[str, str] | None = None) -> Response:
    return json_response(to_json(message_fields(here.family, here.session.id, inputs(turn)[0])), 201, headers)


def _text(kept: Mapping[str, Json], name: str) -> str | None:
    value = kept.get(name)
    return value if isinstance(value, str) else None


def _model(controls: Mapping[str, Json] | None) -> str | None:
    """
    Raises:
        Rejected: what is given is no name.
    """
    model = (controls or {}).get("model_id")
    if model is not None and not isinstance(model, str):
        raise Rejected(details=[Detail(("body", "controls", "model_id"), "Must be a text.", "string_type")])
    return model
