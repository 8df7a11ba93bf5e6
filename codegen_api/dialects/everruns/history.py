"""What has happened in a session by now: its turns, their events, and the messages among those."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from codegen_api.conversations import CallerConversations, Stretch, TurnEntry, heard_of
from codegen_api.dialects.everruns.events import SessionEvent, SessionTeller, Style, as_it_is, last_spot
from codegen_api.dialects.everruns.ids import START, Spot
from codegen_api.dialects.everruns.messages import SessionMessage
from codegen_api.stores import Turn

TURNS_AT_A_TIME = 50


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events: behind ``after`` and before ``before``, and those that ``suits``. Of these ``most``, the first or
    the ``newest``.
    """

    after: Spot = START
    before: Spot | None = None
    suits: Callable[[SessionEvent], bool] = lambda _: True
    most: int | None = None
    newest: bool = False

    def has(self, event: SessionEvent) -> bool:
        return self.after < event.spot and (self.before is None or event.spot < self.before) and self.suits(event)


async def turns_behind(conversations: CallerConversations, session: str, number: int) -> list[Turn]:
    """The turns of a session behind number ``number``, in order: as many are read as there are to tell."""
    found: list[Turn] = list(await conversations.turns(session, limit=1))
    while found and found[-1].number > number + 1:
        more = await conversations.turns(session, limit=TURNS_AT_A_TIME, offset=len(found))
        seen = {turn.id for turn in found}  # one that has begun meanwhile has shifted them
        found += [turn for turn in more if turn.id not in seen]
        if len(more) < TURNS_AT_A_TIME:
            break
    return [turn for turn in reversed(found) if turn.number > number]


async def messages_of(conversations: CallerConversations, session: str) -> list[SessionMessage]:
    """What was said in a session by now."""
    events = await events_of(conversations, session, Wanted())
    # one that was told again stands where it did
    return list({event.message.id: event.message for event in events if event.message is not None}.values())


async def events_of(conversations: CallerConversations, session: str, wanted: Wanted) -> list[SessionEvent]:
    """What has happened in a session by now, in order. Whoever has something of a turn that is not there has lost their
    place, and gets all of it.
    """
    turns = await turns_behind(conversations, session, max(0, wanted.after.turn - 1))
    if not turns and wanted.after > START:
        wanted = replace(wanted, after=START)
        turns = await turns_behind(conversations, session, 0)
    stretches: list[list[SessionEvent]] = []
    count = 0
    for turn in reversed(turns) if wanted.newest else turns:
        found = [event for event in await _events(conversations, turn, wanted) if wanted.has(event)]
        stretches.append(found)
        count += len(found)
        if wanted.most is not None and count >= wanted.most:
            break
    events = [event for found in (reversed(stretches) if wanted.newest else stretches) for event in found]
    if wanted.most is None:
        return events
    return events[max(0, len(events) - wanted.most) :] if wanted.newest else events[: wanted.most]


async def _events(conversations: CallerConversations, turn: Turn, wanted: Wanted) -> Sequence[SessionEvent]:
    if not heard_of(turn):
        return ()
    is_over = turn.state.over
    if (is_over and last_spot(turn) <= wanted.after) or (
        wanted.before is not None and wanted.before <= Spot(turn.number, 0, 0)
    ):
        return ()  # nobody need be asked
    style = Style(conversations.step, as_it_is)
    teller = SessionTeller(turn, style, conversations.changes_of(turn), wanted.after)
    entries = await conversations.entries(Stretch(turn, None))
    events = list(teller.take([TurnEntry(offset, entry) for offset, entry in enumerate(entries, 1)]))
    return [*events, *teller.over(turn)] if is_over else events
