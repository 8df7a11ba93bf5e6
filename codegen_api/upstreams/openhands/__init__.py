"""OpenHands' agent server as an upstream: a run is one of its conversations, its log the conversation's events.

How a conversation stands is asked first and its log then, so that all that was there at an end is in the log beside it.
The facts about the host are in docs/hosts/openhands.md.
"""

from contextlib import suppress
from typing import Unpack

from codegen_api import errors
from codegen_api.identity import Credential
from codegen_api.runs import Json, LogEntry, Paging, Run, RunRef, Step
from codegen_api.upstreams import Decision, Images, InvalidOption, Listing, NewRun, PendingRequest, RunFilter, User
from codegen_api.upstreams.openhands.conversations import DOUBTFUL, resumed_run, run_of, unbegun, word_of
from codegen_api.upstreams.openhands.entries import pending_in, placeholder, step_of
from codegen_api.upstreams.openhands.logs import LATEST, MOST, ConversationLogs, count_of, items_of
from codegen_api.upstreams.openhands.orders import CONFIRM, WORKPLACE, agent_of, conversation_of, kept, said
from codegen_api.upstreams.over_http import (
    ONLY,
    ConnectArguments,
    Headers,
    Object,
    as_object,
    marked,
    nothing,
    refuse,
    user_of,
)

MOST_PAGES = 20
"""So many pages of the list are read to get to a place in it."""


class OpenHandsUpstream(ConversationLogs):
    """An agent server as an ``Upstream`` that also ``Cancels``, ``Approves`` and ``TakesKeys``.

    The credential's token is the server's session key. Options: ``agent``, JSON of the agent with the settings of its
    model, a secret; ``directory``, the folder on the server's machine in which its agents work; ``confirm``, which of
    their actions somebody has to approve: ``never``, ``risky`` ones, ``always``.
    """

    name = "openhands"
    page_size = MOST
    exchanges_per_read = 5
    keyed = frozenset({"create"})
    known_options = ("agent", "directory", "confirm")

    def __init__(self, base_url: str, **arguments: Unpack[ConnectArguments]) -> None:
        super().__init__(base_url, **arguments)
        self._agent = agent_of(self.options.get("agent", ""))
        self._directory = self.options.get("directory", WORKPLACE)
        if (confirm := self.options.get("confirm", "never")) not in CONFIRM:
            raise InvalidOption("confirm", f"must be {', '.join(CONFIRM)}")
        self._confirm = CONFIRM[confirm]

    def authorization(self, credential: Credential) -> Headers:
        return [("X-Session-API-Key", credential.token)]

    def placeholder(self, ref: RunRef) -> LogEntry:
        return placeholder()

    def step(self, entry: LogEntry) -> Step:
        return step_of(entry)

    async def identify(self, credential: Credential) -> User:
        """A server without a session key lets everybody in."""
        await self.ask(credential, "identify", "GET", "/conversations/count", count_of)
        return user_of(credential)

    async def create_run(self, credential: Credential, organization: str, new: NewRun) -> Run:
        """The same key makes the same conversation, which the server takes for the one that it has."""
        refuse(new, "repo_id", "model", "agent_type")
        body: Object = {
            "conversation_id": conversation_of(new.key),
            "workspace": {"kind": "LocalWorkspace", "working_dir": self._directory},
            "agent": self._agent,
            "initial_message": said(new.prompt, new.images),
            "tags": kept(marked(new.metadata, new.marks)),
            **self._confirm,
        }
        return await self.ask(credential, "create_run", "POST", "/conversations", _created, body=body)

    async def get_run(self, credential: Credential, ref: RunRef) -> Run:
        """The conversation; its last events or its answer are asked for only where they say more of its status."""
        return await self._described(credential, "get_run", ref)

    async def list_runs(
        self, credential: Credential, organization: str, skip: int, limit: int, only: RunFilter
    ) -> Listing[Run]:
        """Conversations, newest first. A list does not say which of those that are ``paused`` were stopped.

        Raises:
            Unsupported: the list is read from its front, so not far behind it.
        """
        refuse(only, "source_type", "user_id")
        place, token = 0, None
        for pieces in range(1, MOST_PAGES + 1):
            here = place == skip
            query: dict[str, str | int] = {"limit": min(limit if here else skip - place, MOST)}
            query |= {} if token is None else {"page_id": token}
            page = await self.ask(credential, "list_runs", "GET", "/conversations/search", items_of, query)
            if here or page.following is None:
                items = tuple(map(run_of, page.items)) if here else ()
                return Listing(items, Paging(None, None, limit, None), page.following is None, pieces=pieces)
            place, token = place + len(page.items), page.following
        raise errors.Unsupported(f"The host's list can be read from its front only, up to {MOST_PAGES} pages.")

    async def resume_run(
        self, credential: Credential, ref: RunRef, prompt: str, images: Images, *, key: str | None = None
    ) -> Run:
        """While the agent works, the prompt joins what it is at.

        Raises:
            Conflict: an action waits for approval, or could by now: the server would take the prompt for that.
            UpstreamRateLimited: the server has no room for more runs. It has kept the prompt, so one that comes again
                only sets the agent to work.
        """
        try:
            conversation = await self._conversation(credential, "resume_run", ref)
            word = word_of(conversation)
            stopped = word in (*DOUBTFUL, "idle")
            newest = await self._newest(credential, "resume_run", ref, LATEST) if stopped else []
        except errors.UpstreamFailure as error:
            error.may_have_acted = False
            raise
        policy = conversation.get("confirmation_policy")
        never = isinstance(policy, dict) and policy.get("kind") == "NeverConfirm"
        if word == "waiting_for_confirmation" or (word == "running" and not never):
            raise errors.Conflict("The run is at work, or waits for a decision: resume it when it has ended.")
        if unbegun(newest) == prompt and not images:
            await self._go_on(credential, "resume_run", ref)
        else:
            await self._say(credential, ref, said(prompt, images))
        try:
            return await self.get_run(credential, ref)
        except errors.GatewayError:  # the prompt was heard all the same
            return resumed_run(RunRef(ONLY, self.run_id(ref.id)))

    async def cancel_run(self, credential: Credential, ref: RunRef) -> None:
        """What waits for approval is rejected, since an interrupt alone leaves it waiting."""
        path = self._path(ref)
        if word_of(await self._conversation(credential, "cancel_run", ref)) == "waiting_for_confirmation":
            await self._respond(credential, "cancel_run", ref, accept=False, reason="The run was stopped.")
        await self.ask(credential, "cancel_run", "POST", f"{path}/interrupt", nothing, order=True)

    async def pending(self, credential: Credential, ref: RunRef) -> tuple[PendingRequest, ...]:
        """The actions that wait: the server takes one decision on all of them."""
        if word_of(await self._conversation(credential, "pending", ref)) != "waiting_for_confirmation":
            return ()
        return pending_in(await self._newest(credential, "pending", ref, MOST))

    async def decide(self, credential: Credential, ref: RunRef, request_id: str, decision: Decision) -> None:
        """After a rejection the agent is told to go on, which the server leaves to whoever rejects."""
        if request_id not in [request.id for request in await self.pending(credential, ref)]:
            raise errors.NotFound
        if decision.verdict == "answer":
            detail = errors.Detail(("body", "verdict"), "Does not suit what the run waits for.", "unsuitable")
            raise errors.Rejected(details=[detail])
        accept = decision.verdict == "approve"
        await self._respond(credential, "decide", ref, accept=accept, reason=None if accept else decision.text)
        if not accept:
            await self._go_on(credential, "decide", ref)

    async def _say(self, credential: Credential, ref: RunRef, message: Object) -> None:
        try:
            path = f"{self._path(ref)}/events"
            await self.ask(credential, "resume_run", "POST", path, nothing, body=message, order=True)
        except errors.UpstreamRateLimited as error:
            if "Message saved" not in error.message:
                raise
            full = "The host has no room for more runs. It has kept the prompt: resume with the same one later."
            raise errors.UpstreamRateLimited(full, retry_after=error.retry_after, reason=error.reason) from error

    async def _go_on(self, credential: Credential, operation: str, ref: RunRef) -> None:
        with suppress(errors.Conflict):  # it is at work already
            await self.ask(credential, operation, "POST", f"{self._path(ref)}/run", nothing, order=True)

    async def _respond(
        self, credential: Credential, operation: str, ref: RunRef, *, accept: bool, reason: str | None = None
    ) -> None:
        body: Object = {"accept": accept} | ({"reason": reason} if reason else {})
        path = f"{self._path(ref)}/events/respond_to_confirmation"
        await self.ask(credential, operation, "POST", path, nothing, body=body, order=True)


def _created(answer: Json) -> Run:
    return run_of(as_object(answer))
