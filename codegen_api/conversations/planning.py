"""How a turn is planned: where it continues, in which run, and with which prompt."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from codegen_api.conversations import checkpoints
from codegen_api.conversations.caller_store import CallerStore
from codegen_api.conversations.checkpoints import Stretch, TurnCheckpoint, end_of, parent_of
from codegen_api.conversations.progress import pending_in, read_behind
from codegen_api.conversations.prompts import as_text, storable_text, text_of, with_system_prompt, with_transcript
from codegen_api.conversations.starting import Decisions, Plan
from codegen_api.conversations.turns import Turns
from codegen_api.errors import Conflict, Detail, NotFound, Rejected
from codegen_api.gateway import Gateway
from codegen_api.identity import Caller
from codegen_api.runs import Cursor, Json, RunRef, StepKind, WaitReason
from codegen_api.stores import Agent, Conversation, Turn, TurnState
from codegen_api.upstreams import Decision, NewRun

USER = "User"
GO_ON = "Go on."
"""The prompt when there is neither a text nor an earlier one to repeat."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a client asks for: a new turn.

    ``messages`` are the user's, as they are shown; ``text`` and ``images`` are what the host gets of them. Without a
    text, the user's last one is sent again. The first prompt of a run begins with the ``agent``'s system prompt, or
    ``system_prompt`` instead. The turn continues from ``checkpoint``, by default from the end of the conversation.
    ``if_busy`` says what to do about a turn in progress: ``reject``, ``interrupt``, ``enqueue`` or ``rollback``.
    ``run`` has the other properties of a new run; ``fresh`` creates one even if the last could be resumed. ``options``
    belong to the dialect. ``decisions`` about the last run's pending requests are sent in place of the text. ``id``
    becomes the turn's; None generates one.
    """

    messages: Sequence[Mapping[str, Json]]
    text: str
    images: tuple[str, ...] = ()
    agent: Agent | None = None
    system_prompt: str | None = None
    checkpoint: TurnCheckpoint | None = None
    if_busy: str = "reject"
    run: NewRun = field(default_factory=lambda: NewRun(""))
    fresh: bool = False
    options: Mapping[str, Json] = field(default_factory=dict)
    decisions: Decisions = ()
    id: str | None = None


def new_id() -> str:
    return str(uuid.uuid4())


def turn_of(ask: Ask, conversation: str, now: float) -> Turn:
    """The turn of an ``Ask``, before it is planned."""
    agent = None if ask.agent is None else ask.agent.id
    id_ = ask.id or new_id()
    return Turn(id_, conversation, now, now, agent=agent, messages=ask.messages, options=ask.options)


@dataclass(frozen=True)
class Planning:
    """Plans turns, without storing or starting them. ``clock`` returns seconds since the epoch."""

    gateway: Gateway
    turns: Turns
    clock: Callable[[], float]

    async def plan(
        self, own: CallerStore, wanted: str | None, conversation: Conversation, ask: Ask, known: Sequence[Turn]
    ) -> Plan:
        """The plan of a turn. ``known`` are the conversation's turns, newest first. Raises what
        ``CallerConversations.begin`` does for a bad ``Ask``.
        """
        now, checkpoint = self.clock(), ask.checkpoint or latest_end(conversation, known)
        turn = replace(
            turn_of(ask, conversation.id, now),
            parent=None if checkpoint is None else str(checkpoint),
            mark=new_id(),
            prompt=ask.text if ask.text.strip() else "",
        )
        said = await checkpoints.path(own, checkpoint, known, asked_for=ask.checkpoint is not None)
        last = said[-1].turn if said else None
        may_resume = not ask.fresh and last is not None and _can_resume(last, checkpoint, conversation.id, known)
        if may_resume and last is not None and last.run is not None and last.end is not None:
            begin = await self._length(own.caller, last.run, last.end)
            if begin is not None:
                resumed = replace(turn, organization=last.run.organization, resumes=True, run=last.run, begin=begin)
                decisions = ask.decisions or await self._text_as_decision(own.caller, last.run, last.state, ask)
                prompt = "" if decisions else turn.prompt or GO_ON
                return Plan(replace(resumed, prompt=prompt), replace(ask.run, images=ask.images or None), decisions)
        organization = await self.gateway.accounts.organization(own.caller, wanted)
        system_prompt = ask.system_prompt or (None if ask.agent is None else ask.agent.system_prompt)
        transcript = [line for stretch in said for line in await self._transcript(own, stretch)]
        text = turn.prompt or (transcript.pop()[1] if transcript and transcript[-1][0] == USER else "")
        text = text if text.strip() else GO_ON
        prompt = storable_text(with_system_prompt(system_prompt, with_transcript(transcript, text)))
        model = ask.run.model or (None if ask.agent is None else ask.agent.model)
        new = replace(ask.run, prompt=prompt, images=ask.images or None, model=model)
        return Plan(replace(turn, organization=organization, prompt=prompt), new)

    async def _text_as_decision(self, caller: Caller, ref: RunRef, state: TurnState, ask: Ask) -> Decisions:
        """The decision that a plain text means for a waiting run. It answers the oldest question, and rejects an
        approval, because nobody has approved. Empty if the host does not tell what it waits for: it gets the text.
        """
        if state is not TurnState.WAITING:
            return ()
        pending = await pending_in(self.gateway, caller, ref)
        if not pending:
            return ()
        if not ask.text.strip():
            raise Conflict("The agent waits for an answer: say something.")
        if ask.images:
            what = "The agent waits for an answer, which cannot have images."
            raise Rejected(details=[Detail(("body",), what, "unsupported")])
        first = pending[0]
        verdict: Literal["reject", "answer"] = "reject" if first.reason is WaitReason.APPROVAL else "answer"
        return [(first.id, Decision(verdict, ask.text))]

    async def _length(self, caller: Caller, ref: RunRef, after: Cursor) -> Cursor | None:
        """The present length of a log that has at least ``after`` entries; None if its run has ended for good."""
        while True:
            page = await read_behind(self.gateway, caller, ref, after, self.gateway.page_size)
            if page.run.final:
                return None
            after = page.last
            if page.at_end:
                return after

    async def _transcript(self, own: CallerStore, stretch: Stretch) -> list[tuple[str, str]]:
        """A stretch as pairs of speaker and text, for a run that does not have it."""
        lines = [(USER, text_of(message)) for message in stretch.turn.messages]
        entries = await self.turns.entries(own, stretch)
        if stretch.upto is not None and len(entries) < stretch.upto:
            raise NotFound.named("TurnCheckpoint", f"{stretch.turn.id}.{stretch.upto}")
        for step in map(self.gateway.step, entries):
            if step.kind is StepKind.ACTION:
                lines.append((f"Tool {step.tool}", f"{step.text}\n{as_text(step.input)} -> {as_text(step.output)}"))
            elif step.kind is not StepKind.USER:
                lines.append(("Assistant", step.text))
        if stretch.upto is None and stretch.turn.answer:
            lines.append(("Assistant", stretch.turn.answer))
        return lines


def latest_end(conversation: Conversation | None, known: Sequence[Turn]) -> TurnCheckpoint | None:
    """The end of a conversation: of its latest turn, or what that continues if the host never started it, or for a
    conversation without turns the checkpoint that it is a fork of.
    """
    if known and known[0].end is not None:
        return end_of(known[0])
    child = known[0] if known else conversation
    return None if child is None else parent_of(child)


def _can_resume(last: Turn, checkpoint: TurnCheckpoint | None, conversation: str, known: Sequence[Turn]) -> bool:
    """Whether the run of ``last`` can be resumed from ``checkpoint``: it has not gone on since."""
    later = any(turn.run == last.run and turn.number > last.number and turn.end is not None for turn in known)
    return checkpoint == end_of(last) and last.conversation == conversation and not later
