"""People who have something in every dialect that keeps conversations: a session is a thread, and a turn is a run."""

from dataclasses import dataclass, field
from typing import Any

from codegen_api.build_parts import DIALECTS
from codegen_api.conversations import Ask, Conversations, owner_of
from codegen_api.dialects.everruns.families import Spot, event_hex
from codegen_api.stores import Agent, Conversation, Turn
from tests.dialects.routes import methods, routes, wants_caller
from tests.dialects.site import gateway_app
from tests.fakehost import FakeHost
from tests.stores.model import ModelStore

CONVERSATIONS = tuple(name for name, dialect in DIALECTS.items() if dialect.load().conversations)
SERVED = gateway_app(dialects=CONVERSATIONS)
"""Its routes are built once, which takes a second; what is behind them is another each time."""

TABLE = [route for route in routes(SERVED) if wants_caller(route)]
PREFIXES = [prefix for name in CONVERSATIONS for prefix in DIALECTS[name].load().prefixes]
ROUTES = {
    (method, route.path): route
    for route in TABLE
    for method in methods(route)
    if any(f"{route.path}/".startswith(f"{prefix}/") for prefix in PREFIXES)
}


OPENAI = DIALECTS["openai"].load().prefixes

KINDS = {
    "agent_id": "agent",
    "assistant_id": "agent",
    "session_id": "session",
    "thread_id": "session",
    "chat_id": "session",
    "conversation_id": "session",
    "run_id": "turn",
    "response_id": "turn",
    "previous_response_id": "turn",
    "checkpoint_id": "checkpoint",
    "turn_id": "turn",
    "since_id": "event",
}
"""What the names in paths, queries and bodies mean."""


@dataclass
class Person:
    """Somebody, and what they have: two sessions, in the first of which a turn goes on."""

    token: str
    word: str
    owner: str = ""
    names: dict[str, str] = field(default_factory=dict)

    async def settle(self, app: Any, host: FakeHost, first: str, second: str) -> None:
        talk: Conversations = app.state.parts.conversations
        caller = await app.state.parts.callers.authenticate(self.token)
        self.owner = owner_of(caller)
        now = talk.clock()
        agent = Agent(f"{first[:-1]}a", f"{self.word} agent", now, now, configuration={"everruns": {}})
        assert await talk.store.add_agent(self.owner, agent)

        async def say(session: str) -> Turn:
            message: dict[str, Any] = {
                "id": f"{first[:-1]}b",
                "content": [{"type": "text", "text": f"What of {self.word}?"}],
            }
            turn = await talk.of(caller).begin(None, session, Ask([message], f"What of {self.word}?", agent=agent))
            assert turn.run is not None
            host.runs[turn.run.id].append(2, text=f"Much of {self.word}.")
            return turn

        for session in (first, second):
            kept = Conversation(session, now, now, agent=agent.id, title=self.word, metadata={"everruns": {}})
            assert await talk.store.add_conversation(self.owner, kept)
            turn = await say(session)
            assert turn.run is not None
            host.runs[turn.run.id].append(type="ANSWER", text=f"All of {self.word}.")
            host.runs[turn.run.id].status = "COMPLETE"
            await talk.of(caller).latest(session)
            self.names |= {"elsewhere": session} if session == second else {"session": session, "turn": turn.id}
        running = await say(first)
        self.names |= {
            "running": running.id,
            "prefixed": f"session_{first.replace('-', '')}",
            "checkpoint": f"{self.names['turn']}.1",
            "agent": agent.id,
            "event": f"event_{event_hex(first, Spot(1, 2, 1))}",
            "number": str(Spot(1, 2, 1).number),
        }

    def has(self, store: ModelStore, host: FakeHost) -> Any:
        """All that is there of theirs."""
        kept: list[dict[Any, Any]] = [store._agents, store._conversations, store._turns]
        theirs = [{name: thing for name, thing in each.items() if name[0] == self.owner} for each in kept]
        runs = {turn.run.id for turn in theirs[2].values() if turn.run is not None}
        return theirs, {id_: (host.runs[id_].status, host.runs[id_].encoded()) for id_ in runs}
