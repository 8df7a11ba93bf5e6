"""The adapter for LangGraph servers and Aegra: a run is a thread, its log the messages in the thread's state.

Each prompt is one of the host's own runs in that thread. These runs and the thread are read first and the state last,
so an end is never older than the log beside it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Unpack

from codegen_api import errors
from codegen_api.identity import Credential
from codegen_api.runs import Cursor, Json, LogPage, Paging, Run, RunRef, RunStatus
from codegen_api.upstreams import Decision, Images, Listing, NewRun, PendingRequest, RunFilter, User
from codegen_api.upstreams.host_json import (
    MARKS,
    ONLY,
    Object,
    as_list,
    as_object,
    as_objects,
    listing_of,
    marked,
    member,
    new_uuid,
    not_none,
    not_offered,
    nothing,
    object_in,
    page_of,
    refuse,
    run_uuid,
    text_in,
)
from codegen_api.upstreams.langgraph import entries
from codegen_api.upstreams.over_http import ConnectArguments, Headers, OneOrganization, user_of

KEY = "codegen_gateway_key"
"""The key in a host run's metadata for the digest of its order's key."""
LOOKED_BACK = 10
"""Number of a thread's newest host runs among which to look for an order that may have been sent before."""


class LangGraphUpstream(OneOrganization):
    """A LangGraph server, or Aegra, as an ``Upstream`` that also ``Cancels``, ``Approves`` and ``TakesKeys``.

    ``base_url`` is that of the deployment. The option ``assistant`` is the default graph or assistant id for runs that
    name none; its own default is ``agent``.
    """

    name = "langgraph"
    page_size = 1000  # the state comes whole with each read, and a list has at most so many threads
    lags = False
    exchanges_per_read = 3
    keyed = frozenset({"create", "resume"})
    known_options = ("assistant",)
    run_id = staticmethod(run_uuid)
    step = staticmethod(entries.step_of)

    def __init__(self, base_url: str, **arguments: Unpack[ConnectArguments]) -> None:
        super().__init__(base_url, **arguments)
        self._assistant = self.options.get("assistant", "agent")
        self._can_select = True

    def authorization(self, credential: Credential) -> Headers:
        """Two headers: the hosted product reads ``X-Api-Key``, and a self-hosted server may read either."""
        return [*super().authorization(credential), ("X-Api-Key", credential.token)]

    async def identify(self, credential: Credential) -> User:
        """Try the credential with a search that finds nothing: the host has no users, but refuses strangers."""
        search: Object = {"metadata": {MARKS: "nobody"}, "limit": 1}
        await self.ask(credential, "identify", "POST", "/threads/search", as_list, body=search)
        return user_of(credential)

    async def create_run(self, credential: Credential, organization: str, new: NewRun) -> Run:
        """Create a thread and start a run in it; each only if this order has not done so before."""
        refuse(new, "repo_id", "model")
        thread_id, metadata = new_uuid("thread", new.key), marked(new.metadata, new.marks) or {}
        body: Object = {"thread_id": thread_id, "metadata": metadata, "if_exists": "do_nothing"}
        thread = await self.ask(credential, "create_run", "POST", "/threads", as_object, body=body)
        ref = RunRef(ONLY, thread_id)
        if new.key is not None and has_order(await self._runs(credential, "create_run", ref), new.key):
            return await self.get_run(credential, ref)
        prompt = graph_input(new.prompt, new.images, new.key)
        order: Object = {"assistant_id": new.agent_type or self._assistant, "input": prompt}
        try:
            await self._start(credential, "create_run", ref, order, new.key)
        except (errors.InvalidRequest, errors.NotFound, errors.Forbidden):  # no such assistant, or not for this caller
            with suppress(errors.GatewayError):
                await self.ask(credential, "create_run", "DELETE", self._path(ref), nothing, order=True)
            raise
        return entries.run_of(thread, RunStatus.PENDING)

    async def get_run(self, credential: Credential, ref: RunRef) -> Run:
        """The thread, with the status of its newest run, and from its state the answer or the question."""
        path = self._path(ref)
        newest = await self._newest(credential, "get_run", ref)
        thread = await self.ask(credential, "get_run", "GET", path, as_object)
        status = entries.status_of(newest, waiting=entries.waits(thread))
        if status not in (RunStatus.COMPLETED, RunStatus.WAITING):
            return entries.run_of(thread, status)
        state = await self.ask(credential, "get_run", "GET", f"{path}/state", as_object)
        return entries.whole_run(thread, status, state)

    async def list_runs(
        self, credential: Credential, organization: str, skip: int, limit: int, only: RunFilter
    ) -> Listing[Run]:
        """Threads, newest first; ``limit`` from 1 to 1000. Their statuses come from the threads alone.

        LangGraph also sends their states, unless asked to ``select`` fields; Aegra sends none, and knows no ``select``.
        """
        refuse(only, "source_type", "user_id")
        body: dict[str, Json] = {"limit": limit, "offset": skip, "sort_by": "created_at", "sort_order": "desc"}
        fields = ["thread_id", "created_at", "updated_at", "metadata", "status", "interrupts"]

        def listed(answer: Json) -> Listing[Run]:
            threads = as_list(answer)[:limit]
            paging = Paging(None, None, limit, None)
            return listing_of(threads, entries.listed_run, paging, at_end=len(threads) < limit)

        if self._can_select:
            try:
                selected = {**body, "select": fields}
                return await self.ask(credential, "list_runs", "POST", "/threads/search", listed, body=selected)
            except errors.Rejected:
                self._can_select = False
        return await self.ask(credential, "list_runs", "POST", "/threads/search", listed, body=body)

    async def resume_run(
        self, credential: Credential, ref: RunRef, prompt: str, images: Images, *, key: str | None = None
    ) -> Run:
        """Start another run in the thread, with the assistant of the last one. The prompt is a message, or the answer
        if the graph waits for one.

        Raises:
            Conflict: a run is in progress.
        """
        runs = await self._runs(credential, "resume_run", ref)
        if has_order(runs, key):
            return await self.get_run(credential, ref)
        newest = runs[0] if runs else None
        if entries.is_active(newest):  # Aegra would run both at once
            raise errors.Conflict("The run is at work: resume it when it has ended.")
        waiting, state = await self._state(credential, "resume_run", ref, newest)
        assistant = None if newest is None else newest.get("assistant_id")
        order: dict[str, Json] = {"assistant_id": assistant or self._assistant}
        interrupts = entries.interrupts_of(state) if waiting else []
        if interrupts and images:
            raise not_offered("body", "images")
        if interrupts:
            order["command"] = {"resume": entries.answered_by(prompt, interrupts)}
        else:
            order["input"] = graph_input(prompt, images, key)
        await self._start(credential, "resume_run", ref, order, key)
        return entries.run_of({"thread_id": self.run_id(ref.id)}, RunStatus.PENDING)

    async def cancel_run(self, credential: Credential, ref: RunRef) -> None:
        """Interrupt the thread's active runs, whose results so far stay.

        Raises:
            Conflict: no run is active because the graph waits for somebody, which the host cannot end.
        """
        active = [run for run in await self._runs(credential, "cancel_run", ref) if entries.is_active(run)]
        for run in active:
            stop = f"{self._path(ref)}/runs/{member(run, 'run_id', str)}/cancel"
            query: Mapping[str, str | int] = {"wait": 1, "action": "interrupt"}
            with suppress(errors.NotFound):  # the run has ended meanwhile
                await self.ask(credential, "cancel_run", "POST", stop, nothing, query, order=True)
        if not active and (await self.get_run(credential, ref)).status is RunStatus.WAITING:
            raise errors.Conflict("The run waits for an answer, and nothing is at work that could be stopped.")

    async def pending(self, credential: Credential, ref: RunRef) -> tuple[PendingRequest, ...]:
        newest = await self._newest(credential, "pending", ref)
        waiting, state = await self._state(credential, "pending", ref, newest)
        return tuple(each.request for each in entries.interrupts_of(state)) if waiting else ()

    async def decide(self, credential: Credential, ref: RunRef, request_id: str, decision: Decision) -> None:
        """Start another run in the thread, with this decision."""
        newest = await self._newest(credential, "decide", ref)
        waiting, state = await self._state(credential, "decide", ref, newest)
        interrupts = entries.interrupts_of(state) if waiting else []
        interrupt = next((each for each in interrupts if each.id == request_id), None)
        if interrupt is None or newest is None:
            raise errors.NotFound("Nothing of this id is waiting.")
        order: Object = {"assistant_id": newest.get("assistant_id"), "command": {"resume": interrupt.resume(decision)}}
        await self._start(credential, "decide", ref, order, None)

    async def read_log(
        self, credential: Credential, ref: RunRef, after: Cursor, limit: int, *, newest_first: bool = False
    ) -> LogPage:
        """A part of the messages; the host sends all of them each time. The run has little more than its status."""
        newest = await self._newest(credential, "read_log", ref)
        waiting, state = await self._state(credential, "read_log", ref, newest)
        status, messages = entries.status_of(newest, waiting=waiting), entries.messages_of(state)
        return page_of(
            entries.whole_run({"thread_id": self.run_id(ref.id)}, status, state),
            len(messages),
            after,
            limit,
            lambda start, stop: entries.between(messages, start, stop),
            newest_first=newest_first,
            revision=text_in(object_in(state, "checkpoint"), "checkpoint_id"),
        )

    def _path(self, ref: RunRef) -> str:
        self.organization_id(ref.organization)
        return f"/threads/{self.run_id(ref.id)}"

    async def _runs(self, credential: Credential, operation: str, ref: RunRef, most: int = LOOKED_BACK) -> list[Object]:
        """The host's runs in a thread, newest first. Aegra sends each with the state at its end.

        Raises:
            UpstreamError: one of them cannot be read. It could be active, or the order that is looked for.
        """
        return await self.ask(credential, operation, "GET", f"{self._path(ref)}/runs", as_objects, {"limit": most})

    async def _newest(self, credential: Credential, operation: str, ref: RunRef) -> Object | None:
        return next(iter(await self._runs(credential, operation, ref, most=1)), None)

    async def _state(
        self, credential: Credential, operation: str, ref: RunRef, newest: Object | None
    ) -> tuple[bool, Object]:
        """Whether the thread waits for somebody if its ``newest`` run is over, and its state, which is read last.

        Only the thread says whether a person or the graph interrupted a run.
        """
        path, waiting = self._path(ref), False
        if newest is not None and newest.get("status") == "interrupted":
            waiting = entries.waits(await self.ask(credential, operation, "GET", path, as_object))
        state = await self.ask(credential, operation, "GET", f"{path}/state", as_object)
        return waiting or entries.stopped_short(newest, state), state

    async def _start(self, credential: Credential, operation: str, ref: RunRef, order: Object, key: str | None) -> None:
        """Start a run in a thread that has no active run."""
        body = {**order, "config": {"metadata": key_metadata(key)}, "multitask_strategy": "reject"}
        try:
            await self.ask(credential, operation, "POST", f"{self._path(ref)}/runs", nothing, body=body, order=True)
        except errors.Conflict:
            if not has_order(await self._runs(credential, operation, ref), key):
                raise  # otherwise the active run is that of this order


def graph_input(prompt: str, images: Images, key: str | None) -> Object:
    """The input of a graph with messages. A repeated message has the same id, and replaces the first."""
    pictures: list[Json] = [{"type": "image_url", "image_url": {"url": image}} for image in images or ()]
    content: Json = [{"type": "text", "text": prompt}, *pictures] if pictures else prompt
    message_id = None if key is None else new_uuid("message", key)
    return {"messages": [not_none(role="user", content=content, id=message_id)]}


def key_metadata(key: str | None) -> Object:
    """Metadata by which ``has_order`` recognizes a run. It is in the run's config, since Aegra keeps no other."""
    return {} if key is None else {KEY: hashlib.sha256(key.encode()).hexdigest()[:32]}


def has_order(runs: Sequence[Object], key: str | None) -> bool:
    """Whether the order with this key started one of these runs."""
    found = [object_in(place, "metadata") for run in runs for place in (run, object_in(run, "config"))]
    return key is not None and any(metadata.get(KEY) == key_metadata(key)[KEY] for metadata in found)
