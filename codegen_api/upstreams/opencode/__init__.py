"""``opencode serve``, a coding agent on a machine of one's own, as an upstream: a run is one of its sessions.

Two APIs live in that server. Runs and logs are read from the newer one, below ``/api``; metadata, which it lacks, from
the older one. The facts about the host are in docs/hosts/opencode.md.
"""

import base64
import hashlib
import re
import secrets
from contextlib import suppress
from typing import Unpack

from codegen_api import errors
from codegen_api.identity import Credential
from codegen_api.runs import Json, LogEntry, Paging, Run, RunRef, RunStatus, Step
from codegen_api.upstreams import Decision, Images, InvalidOption, Listing, NewRun, PendingRequest, RunFilter, User
from codegen_api.upstreams.opencode.entries import (
    Standing,
    page_run,
    permission_of,
    placeholder,
    question_of,
    questions_in,
    run_of,
    step_of,
)
from codegen_api.upstreams.opencode.history import MOST
from codegen_api.upstreams.opencode.logs import SessionLogs, data_of
from codegen_api.upstreams.over_http import (
    ConnectArguments,
    Headers,
    Object,
    as_object,
    as_objects,
    marked,
    nothing,
    refusal,
    refuse,
    user_of,
)

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class OpencodeUpstream(SessionLogs):
    """An opencode server as an ``Upstream`` that also ``Cancels``, ``Approves``, ``TakesKeys`` and ``Streams``.

    The credential's token is the server's password. Options: ``directory``, the folder on the server's machine in which
    its agents work (else where the server was started), ``model`` as ``provider/model``, ``agent``, and ``username``.
    """

    name = "opencode"
    page_size = MOST
    lags = False
    exchanges_per_read = 8
    keyed = frozenset({"create", "resume"})
    known_options = ("directory", "model", "agent", "username")

    def __init__(self, base_url: str, **arguments: Unpack[ConnectArguments]) -> None:
        super().__init__(base_url, **arguments)
        options = self.options
        self._directory, self._agent = options.get("directory"), options.get("agent")
        if self._directory is not None and not re.match(r"/|[A-Za-z]:[\\/]", self._directory):
            raise InvalidOption("directory", "must be an absolute path on the machine of the host")
        self._model = options.get("model")
        if self._model is not None and not _model_of(self._model):
            raise InvalidOption("model", "must be provider/model")
        self._user = options.get("username", "opencode")
        if not self._user or ":" in self._user:
            raise InvalidOption("username", "must be a name without a colon")

    def authorization(self, credential: Credential) -> Headers:
        shown = base64.b64encode(f"{self._user}:{credential.token}".encode()).decode()
        return [("Authorization", f"Basic {shown}")]

    def refusal(self, status: int, answer: Json, retry_after: str | None, token: str) -> errors.GatewayError:
        """The older API has its sentence in ``data``, and none about a wrong password."""
        if status == 401 and answer is None:
            return errors.InvalidToken()
        data = answer.get("data") if isinstance(answer, dict) else None
        return refusal(status, data if isinstance(data, dict) else answer, retry_after, token)

    def placeholder(self, ref: RunRef) -> LogEntry:
        return placeholder()

    def step(self, entry: LogEntry) -> Step:
        return step_of(entry)

    async def identify(self, credential: Credential) -> User:
        """A server without a password lets everybody in."""
        await self.ask(credential, "identify", "GET", "/global/health", as_object)
        return user_of(credential)

    async def create_run(self, credential: Credential, organization: str, new: NewRun) -> Run:
        """The prompt comes last, so that no work begins before the marks are there. All of it may be repeated."""
        refuse(new, "repo_id")
        metadata = marked(new.metadata, new.marks)
        body = {
            "id": f"ses_{_name(new.key)}",
            "agent": new.agent_type or self._agent,
            "model": self._chosen(new.model),
            "location": None if self._directory is None else {"directory": self._directory},
        }
        body = {key: value for key, value in body.items() if value is not None}
        session = await self.ask(credential, "create_run", "POST", "/api/session", data_of, body=body)
        ref = run_of(session, None).ref
        if metadata:
            path, change = f"/session/{ref.id}", {"metadata": metadata}
            session = await self.ask(credential, "create_run", "PATCH", path, as_object, body=change)
        await self._prompt(credential, "create_run", ref, new.prompt, new.images, new.key)
        return run_of(session, Standing(RunStatus.PENDING))

    async def resume_run(
        self, credential: Credential, ref: RunRef, prompt: str, images: Images, *, key: str | None = None
    ) -> Run:
        """While the agent works, the prompt joins what it is at."""
        await self._prompt(credential, "resume_run", ref, prompt, images, key)
        try:
            return await self.get_run(credential, ref)
        except errors.GatewayError:  # the prompt was heard all the same
            return page_run(ref, Standing(RunStatus.PENDING))

    async def get_run(self, credential: Credential, ref: RunRef) -> Run:
        session = await self._session(credential, ref)
        standing, _ = await self._standing(credential, ref, await self._end(credential, ref, 0))
        return run_of(session, standing)

    async def list_runs(
        self, credential: Credential, organization: str, skip: int, limit: int, only: RunFilter
    ) -> Listing[Run]:
        """Of those that nobody works on, the list does not say how they ended. Sessions that agents have begun for
        parts of their work are left out.
        """
        refuse(only, "source_type", "user_id")
        query: dict[str, str | int] = {"limit": skip + limit, "roots": "true"}
        query |= {} if self._directory is None else {"directory": self._directory}
        sessions = await self.ask(credential, "list_runs", "GET", "/session", as_objects, query)
        working, running = await self._working(credential), Standing(RunStatus.RUNNING)
        items = tuple(run_of(each, running if each.get("id") in working else None) for each in sessions[skip:])
        return Listing(items, Paging(None, None, limit, None), at_end=len(sessions) < skip + limit)

    async def cancel_run(self, credential: Credential, ref: RunRef) -> None:
        path = f"{self._path(ref)}/interrupt"
        await self.ask(credential, "cancel_run", "POST", path, nothing, order=True)
        with suppress(errors.GatewayError):  # it was stopped all the same
            await self._mark_stopped(credential, ref)

    async def pending(self, credential: Credential, ref: RunRef) -> tuple[PendingRequest, ...]:
        permissions = await self._waiting(credential, ref, "permission")
        questions = await self._waiting(credential, ref, "question")
        return (*map(permission_of, permissions), *map(question_of, questions))

    async def decide(self, credential: Credential, ref: RunRef, request_id: str, decision: Decision) -> None:
        """Approval is for this once. Of several questions in one request, each line of the text answers one."""
        body: Object
        match request_id.partition("_")[0], decision.verdict:
            case "per", "approve":
                order, body = "permission/{}/reply", {"reply": "once"}
            case "per", "reject":
                order, body = "permission/{}/reply", {"reply": "reject"}
                body |= {"message": decision.text} if decision.text else {}
            case "que", "reject":
                order, body = "question/{}/reject", {}
            case "que", "answer":
                answers = await self._answers(credential, ref, request_id, decision.text or "")
                order, body = "question/{}/reply", {"answers": answers}
            case "per" | "que", _:
                detail = errors.Detail(("body", "verdict"), "Does not suit what the run waits for.", "unsuitable")
                raise errors.Rejected(details=[detail])
            case _:
                raise errors.NotFound
        if not re.fullmatch(r"[a-z]{3}_[A-Za-z0-9]{1,64}", request_id):
            raise errors.NotFound
        path = f"{self._path(ref)}/{order.format(request_id)}"
        await self.ask(credential, "decide", "POST", path, nothing, body=body, order=True)

    async def _answers(self, credential: Credential, ref: RunRef, request_id: str, text: str) -> list[list[str]]:
        """A list for each question of the request."""
        for request in await self._waiting(credential, ref, "question"):
            if request.get("id") == request_id:
                count = len(questions_in(request))
                lines = [text] if count == 1 else [line for line in text.splitlines() if line.strip()]
                if len(lines) != count or not text.strip():
                    what = (
                        f"Must have {count} lines, an answer to a question each." if count > 1 else "Must not be empty."
                    )
                    raise errors.Rejected(details=[errors.Detail(("body", "text"), what, "value_error")])
                return [[line.strip()] for line in lines]
        raise errors.NotFound

    async def _prompt(
        self,
        credential: Credential,
        operation: str,
        ref: RunRef,
        text: str,
        images: tuple[str, ...] | None,
        key: str | None,
    ) -> None:
        prompt: Object = {"text": text} | ({"files": [{"uri": image} for image in images]} if images else {})
        body: Object = {"id": f"msg_{_name(key)}", "prompt": prompt}
        await self.ask(credential, operation, "POST", f"{self._path(ref)}/prompt", nothing, body=body, order=True)

    def _chosen(self, model: str | None) -> Object | None:
        chosen = model or self._model
        found = None if chosen is None else _model_of(chosen)
        if chosen is not None and found is None:
            detail = errors.Detail(("body", "model"), "Must be provider/model.", "value_error")
            raise errors.Rejected(details=[detail])
        return found


def _model_of(text: str) -> Object | None:
    provider, _, model = text.partition("/")
    return {"providerID": provider, "id": model} if provider and model else None


def _name(key: str | None) -> str:
    """26 letters and digits, the same ones for the same key."""
    number = int.from_bytes(secrets.token_bytes(32) if key is None else hashlib.sha256(key.encode()).digest())
    letters = ""
    while len(letters) < 26:
        number, digit = divmod(number, len(_DIGITS))
        letters += _DIGITS[digit]
    return letters
