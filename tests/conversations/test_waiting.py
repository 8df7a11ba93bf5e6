"""What somebody says to a run that waits for somebody, at a host that says for what."""

from typing import Any

import pytest

from codegen_api.conversations import is_own_prompt
from codegen_api.dialects.agent_protocol import messages as agent_protocol
from codegen_api.dialects.everruns import messages as everruns
from codegen_api.errors import Conflict, Rejected
from codegen_api.runs import LogEntry, Step, StepKind, WaitReason
from codegen_api.stores import Turn, TurnState
from codegen_api.upstreams import Decision
from tests.conversations.world import Host, conversing
from tests.conversations.world import Step as Due
from tests.fakehost import Hosted

pytestmark = pytest.mark.virtual_time

APPROVAL, QUESTION = WaitReason.APPROVAL, WaitReason.QUESTION


class Asking(Host):
    """Its agent asks for this before it answers, the oldest first."""

    def __init__(self, *reasons: WaitReason) -> None:
        super().__init__(script=self.asks)
        self.reasons = reasons

    def asks(self, hosted: Hosted, prompt: str) -> list[Due]:
        def wait(run: Hosted) -> None:
            run.append(text="May I?")
            for number, reason in enumerate(self.reasons):
                run.wait(f"{number}", reason)

        return [(1, wait)]

    async def decide(self, credential: Any, ref: Any, request_id: str, decision: Decision) -> None:
        await super().decide(credential, ref, request_id, decision)
        hosted = self.runs[ref.id]

        def answer() -> None:
            hosted.append(type="ANSWER", text=f"So {decision.verdict} it is.")
            hosted.status = "COMPLETE"

        if not hosted.pending:
            self.later(1, answer)


@pytest.mark.parametrize(("reason", "verdict"), [(QUESTION, "answer"), (APPROVAL, "reject")])
@pytest.mark.parametrize("if_busy", ["reject", "enqueue"])
async def test_it_answers_a_question_and_approves_nothing(reason: WaitReason, verdict: Any, if_busy: str) -> None:
    host = Asking(reason)
    async with conversing(host) as (world, process):
        first = await process.say("Tidy up")
        if if_busy == "reject":
            first = await process.wait(first)
        second = await process.wait(await process.say("Only the shed", if_busy=if_busy))
        first, second = world.turns()
        assert (first.state, second.state) == (TurnState.WAITING, TurnState.COMPLETED)
        assert host.decisions == [("0", Decision(verdict, "Only the shed"))]
        assert [prompt for _, prompt in host.prompts] == ["Tidy up"]
        assert (second.run, second.prompt, second.begin) == (first.run, "", first.end)
        assert "So " in (await process.told(second))[0]


async def test_of_several_the_oldest_is_meant_and_the_run_waits_on() -> None:
    host = Asking(QUESTION, QUESTION)
    async with conversing(host) as (_, process):
        await process.wait(await process.say("Tidy up"))
        assert (await process.wait(await process.say("Mine"))).state is TurnState.WAITING
        assert (await process.wait(await process.say("Yours"))).state is TurnState.COMPLETED
    assert host.decisions == [("0", Decision("answer", "Mine")), ("1", Decision("answer", "Yours"))]


async def test_nothing_said_and_images_are_no_answer() -> None:
    host = Asking(QUESTION)
    async with conversing(host) as (world, process):
        await process.wait(await process.say("Tidy up"))
        with pytest.raises(Conflict, match="waits for an answer"):
            await process.say("")
        with pytest.raises(Rejected, match="cannot have images"):
            await process.say("This one", images=("data:image/png;base64,AA==",))
        assert [turn.state for turn in world.turns()] == [TurnState.WAITING]
        assert host.decisions == []
        assert (await process.wait(await process.say("Mine"))).state is TurnState.COMPLETED


@pytest.mark.parametrize("offset", [1, 3])
def test_the_prompt_is_shown_once_wherever_the_host_has_it(offset: int) -> None:
    turn = Turn("t", "c", 0, 0, messages=[], prompt="These are your instructions: ...\n\nTidy up")
    own = Step(StepKind.USER, "prompted", f"{turn.prompt}\n")
    other = Step(StepKind.USER, "prompted", "And the shed")
    entry = LogEntry(b"{}", None, open=False, amendable=False)
    assert is_own_prompt(turn, offset, own)
    assert agent_protocol.entry_messages(turn, offset, own) == (None, None)
    assert everruns.entry_messages(turn, offset, entry, own) == (None, None)
    assert is_own_prompt(turn, offset, other) == (offset == 1)
    assert (agent_protocol.entry_messages(turn, offset, other) != (None, None)) == (offset != 1)
