"""A run over a long-lived connection: its events as they come, or signs of life and then the outcome.

The stream of a paused run stays open, and is silent until the run goes on. If a stream breaks off before its last
event, the client reconnects with the last id.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from codegen_api.conversations import CallerConversations, CaughtUp, Stretch, TurnEnded, TurnEntry
from codegen_api.conversations.streams import PING, StreamLife, updates
from codegen_api.dialects.agio.events import BEGINNING, EventPosition, RunEvent, RunTeller, SharedEvents
from codegen_api.dialects.agio.executions import AgioStatus, Execution, find_run
from codegen_api.dialects.agio.wire import metrics_fields
from codegen_api.errors import Conflict, GatewayError, ShuttingDown, StreamCut
from codegen_api.http.sse import HEARTBEAT_SECONDS, with_heartbeats
from codegen_api.runs import Json, to_json
from codegen_api.stores import TurnState
from codegen_api.telemetry import note

UNFINISHED = b": unfinished, go on behind the last id\n\n"
SIGN_OF_LIFE = b"\n"
"""Whitespace before the JSON."""

EventBatches = AsyncGenerator[Sequence[RunEvent] | None, None]
"""Events as they come; None is a sign of life."""


class Reader:
    """Reads a run from position ``after`` to its end."""

    def __init__(
        self,
        conversations: CallerConversations,
        run: Execution,
        after: EventPosition = BEGINNING,
        shared: SharedEvents | None = None,
    ) -> None:
        self.run = run
        self._shared = shared or SharedEvents()
        self.teller = RunTeller(run.id, conversations.step, after, self._shared)
        self._conversations = conversations
        self._life = StreamLife(conversations)

    def events(self) -> EventBatches:
        """Yield all events to the end of the run. Raises ``StreamCut`` if this breaks off while the run goes on."""
        return with_heartbeats(self._events(), HEARTBEAT_SECONDS)

    async def so_far(self) -> list[RunEvent]:
        """The events until now, with the last one if the run has ended."""
        events = self.teller.begin(self.run.first.conversation, self.run.query)
        for stretch in self.run.stretches:
            self.teller.begin_turn()
            entries = await self._conversations.entries(stretch)
            events += self.teller.take([TurnEntry(offset, entry) for offset, entry in enumerate(entries, 1)])
            if stretch.turn.state.over:
                events += self._close(stretch)
        if self.run.latest.state.over and not self._waits_for_resume:
            events.append(ending(self.run, self.teller))
        return events

    async def _events(self) -> AsyncGenerator[Sequence[RunEvent], None]:
        try:
            yield self.teller.begin(self.run.first.conversation, self.run.query)
            stretches = self.run.stretches
            while stretches:
                for stretch in stretches:
                    async with aclosing(self._follow(stretch)) as batches:
                        async for batch in batches:
                            yield batch
                stretches = await self._wait_for_resume()
            key = (self.run.id, self.run.latest.id, self.run.status, self.teller.steps, self.teller.said)
            yield [self._shared.end(key, lambda: ending(self.run, self.teller))]
        except ShuttingDown as error:
            raise StreamCut from error
        except GatewayError as error:
            note(error.code, error.root_reason)
            yield [RunEvent("error", broken(self.run, self.teller, error.message, error.code))]

    async def _follow(self, stretch: Stretch) -> AsyncGenerator[Sequence[RunEvent], None]:
        """Yield the events of a stretch as they come."""
        upto = stretch.upto
        self.teller.begin_turn(self._conversations.changes_of(stretch.turn))
        async with aclosing(updates(self._conversations, stretch.turn)) as news:
            async for update in news:
                match update:
                    case TurnEnded(turn=turn):
                        self.run, stretch = self.run.updated(turn), replace(stretch, turn=turn)
                    case None | CaughtUp():
                        pass
                    case _:
                        entries = [each for each in update if upto is None or each.offset <= upto]
                        yield self.teller.take(entries)
                        if len(entries) < len(update):
                            break
        yield self._close(stretch)

    def _close(self, stretch: Stretch) -> list[RunEvent]:
        """The events that follow the entries of a stretch whose turn is over."""
        answer = stretch.turn.answer if stretch.upto is None else None
        return self.teller.close(stretch.turn) + (self.teller.conclude(answer) if answer else [])

    @property
    def _waits_for_resume(self) -> bool:
        return self.run.status == AgioStatus.PAUSED and self.run.is_paused

    async def _wait_for_resume(self) -> list[Stretch]:
        """If the run is paused, wait until it goes on, and return the stretches that follow; else none. Raises
        ``StreamCut`` when the stream is too old, and ``Conflict`` if the run went on from an earlier checkpoint.
        """
        last, number = self.run.latest, self.run.turns[-1].number
        if not self._waits_for_resume:
            return []
        async with self._conversations.attend() as attendant:
            while self._waits_for_resume and self.run.latest.id == last.id:
                self._life.check()
                begun = await self._conversations.turn_after(
                    last.conversation, number, within=HEARTBEAT_SECONDS, leaving=attendant.leaving
                )
                number = number if begun is None else begun.number
                self.run = await find_run(self._conversations, self.run.id)
        stretches = self.run.stretches
        for place, stretch in enumerate(stretches, 1):
            if stretch.turn.id == last.id and stretch.upto is None:
                return stretches[place:]
        raise Conflict("The run was taken back to an earlier checkpoint: read it from its beginning.")


def ending(run: Execution, teller: RunTeller) -> RunEvent:
    """The last event of a run. One that waits for its user has ``run_completed``: nothing comes until they answer."""
    if run.status == AgioStatus.FAILED:
        code = "outcome_unknown" if run.latest.state is TurnState.UNKNOWN else "run_failed"
        error = run.latest.error or "The run has failed."
        return RunEvent("error", {"error": error, "code": code, **outcome_fields(run, teller)})
    return RunEvent(
        "run_cancelled" if run.status == AgioStatus.CANCELLED else "run_completed", outcome_fields(run, teller)
    )


def broken(run: Execution, teller: RunTeller, error: str, code: str) -> dict[str, Json]:
    """The data of the last event if the run goes on, or cannot be followed."""
    return {"error": error, "code": code, **outcome_fields(run, teller), "response": None}


def outcome_fields(run: Execution, teller: RunTeller) -> dict[str, Json]:
    return {
        "run_id": run.id,
        "session_id": run.first.conversation,
        "status": run.status,
        "response": teller.response,
        "metrics": metrics(run, teller),
    }


def metrics(run: Execution, teller: RunTeller) -> dict[str, Json]:
    over = None if not run.latest.state.over else max(0.0, run.latest.updated - run.first.created)
    return metrics_fields(over if teller.seconds is None else teller.seconds, teller.calls, teller.steps)


async def frames(events: EventBatches) -> AsyncGenerator[bytes, None]:
    """Batches of events as server-sent events, each batch in one piece."""
    try:
        async with aclosing(events):
            async for some in events:
                yield b"".join(event.frame for event in some or ()) or PING
    except StreamCut:
        yield UNFINISHED
        raise


async def outcome(reader: Reader) -> AsyncGenerator[bytes, None]:
    """Yield signs of life, and then the data of the last event; or that the run goes on, if the stream is cut first."""
    last: Mapping[str, Json] = {}
    try:
        async with aclosing(reader.events()) as events:
            async for some in events:
                yield SIGN_OF_LIFE
                if some:
                    last = some[-1].data
    except StreamCut:
        error = f"The run goes on, and this answer ends before it: read /api/runs/{reader.run.id} later."
        last = broken(reader.run, reader.teller, error, "unfinished")
    yield to_json(last)
